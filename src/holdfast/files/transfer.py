"""Settles batches of entries at the target: bytes and digest in one pass, durable, then named.

Runs in worker processes; decides nothing about which entries. Order of writes for a batch, and what
each crash between them leaves:

1. Each entry's content and metadata go into a partial file in the side directory. A crash leaves
   partial files, which no listing shows; the next run overwrites or goes on with them.
2. The contents are flushed: file by file for a few, the whole file system for many.
3. Each partial is renamed onto its final name, old content being readable until then. A crash
   leaves some old and some new files, every one whole, for the new were flushed before. Files of a
   directory that this run made are made ready in a directory of their own, which then takes the
   place of the empty one by one rename; where that is not empty any more, they go one by one.
4. The directories are flushed. Only now the outcome `settled` is reported.

Invariants:
1. Under a final name stands either what stood there before or a whole new file, at any moment.
2. A file whose size, times or inode moved while it was read is never named: its outcome is CHANGED.
   Nor is one that came otherwise than its source says it was sent: it is read again, then FAILED.
3. After a failed flush the partial files of the batch are removed and made anew by a later run;
   they are never flushed again, for the kernel may have forgotten what it could not write.
"""

import contextlib
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.errors import (
    CancelledError,
    CapacityError,
    ConflictError,
    HoldfastError,
    IntegrityError,
    NotFoundError,
    StorageFailedError,
)
from holdfast.files.content import LargeCopy, cut_short, mismatch
from holdfast.files.model import (
    CopyOutcome,
    PlanItem,
    Reason,
    SettleResult,
    failed_result,
    no_result,
)
from holdfast.files.patching import patch_file
from holdfast.files.rules import attempts_for, ends_run, is_racy
from holdfast.files.side_directory import (
    PARTIAL_DIRECTORY,
    displace,
    flush_directories,
    make_directories,
    partial_path,
    remove_if_there,
    remove_tree,
)
from holdfast.model.limits import (
    ATTEMPTS_CHANGED_MAX,
    BLOCK_BYTES,
    FILE_BYTES_LARGE,
    FLUSH_EACH_MAX,
)
from holdfast.model.rows import Rows
from holdfast.model.tree import (
    FileKind,
    MetadataLoss,
    Stat,
    digest_xattrs,
    display_path,
    join_path,
    metadata_of,
    parent_of,
    signature_of,
)
from holdfast.ports import (
    Clock,
    Directory,
    ExpectedFile,
    Pace,
    ReadableDirectory,
    ReadableFile,
    SmallFile,
    WritableFile,
)
from holdfast.proof.digests import Algorithm, digest_of

_RETRY_AFTER_S = 0.05


class Batch(NamedTuple):
    """Entries settled together."""

    items: Rows[PlanItem]
    fresh: frozenset[bytes]
    """Of their directories those that this run made: such a one may be put in place whole."""


class _Staged(NamedTuple):
    """An entry whose partial file is complete and not yet durable."""

    item: PlanItem
    partial: bytes
    writer: WritableFile | None
    """Open only where it will be flushed by itself."""
    result: SettleResult
    """What became of it, once it is durable."""


class _ChangedError(Exception):
    """The entry moved while it was read."""


class _VanishedError(Exception):
    """The entry left the source after it was listed."""


@dataclass(slots=True, kw_only=True)
class Transfer:
    """Settles batches from one tree to another; one in each worker process."""

    source: ReadableDirectory
    target: Directory
    algorithm: Algorithm
    pace: Pace
    clock: Clock
    quarantine: bytes
    """Path of this task's quarantine at the target."""
    _buffers: tuple[memoryview, memoryview] | None = None
    _staging: bytes = PARTIAL_DIRECTORY
    """Where the partial files of this batch go."""
    _fresh: frozenset[bytes] = frozenset()
    _observed_ns: int = 0
    """When this batch began, by the clock that stamps the source: nothing was read before."""
    _whole: dict[bytes, bytes] = field(default_factory=dict)
    """Fresh directories of this batch, and where they are made ready under their entries' names."""

    def settle(self, batch: Batch) -> Rows[SettleResult]:
        """Settle a batch of FETCH and MAKE_SYMLINK items; every item ends in one result.

        When this returns, every entry whose outcome is SETTLED survives loss of power.

        Raises:
            CancelledError: Asked to stop. Nothing of this batch is named; partial files of large
                entries stay for the next run.
            CapacityError: `disk-full`: the target is. The rest would fail too.
        """
        # A directory for each batch: workers that make and rename in one wait for one another.
        self._staging = join_path(PARTIAL_DIRECTORY, b"batch-%d" % batch.items[0].number)
        self._whole = {}
        make_directories(self.target, self._staging)
        flush_each = len(batch.items) <= FLUSH_EACH_MAX
        self._observed_ns = self.clock.now_ns() + self.source.capabilities().clock_ahead_ns
        self._fresh = frozenset() if flush_each else batch.fresh
        try:
            return Rows(self._settle(batch.items, flush_each=flush_each))
        finally:
            # What cannot be removed now is removed by the next run, and no listing shows it.
            with contextlib.suppress(HoldfastError):
                remove_tree(self.target, self._staging)

    def _settle(self, items: list[PlanItem], *, flush_each: bool) -> list[SettleResult]:
        self._expect(items, whole=not flush_each)
        results: list[SettleResult] = []
        staged: list[_Staged] = []
        for item in items:
            try:
                patched = self._patch(item)
                if patched is not None:
                    results.append(patched)
                    continue
                staged.append(self._stage(item, keep_open=flush_each))
            except CancelledError:
                self._discard(staged)
                raise
            except _ChangedError:
                results.append(no_result(item, CopyOutcome.CHANGED, "changed while it was read"))
            except _VanishedError:
                results.append(no_result(item, CopyOutcome.VANISHED, "left the source meanwhile"))
            except HoldfastError as error:
                if error.code == "disk-full" or ends_run(error):
                    self._discard(staged)
                    raise
                results.append(failed_result(item, error))
        for result in results:
            # What is there of it must not get a name with the rest of its directory.
            self._whole.pop(parent_of(result.path), None)
        try:
            self._flush(staged, flush_each=flush_each)
        except StorageFailedError as error:
            self._discard(staged)
            for each in staged:
                remove_if_there(self.target, each.partial)
            return results + [failed_result(each.item, error) for each in staged]
        return results + self._publish(staged)

    def _expect(self, items: list[PlanItem], *, whole: bool) -> None:
        """Tell the source which files will be read whole, in one call each."""
        files = [
            ExpectedFile(item.path, item.size_bytes)
            for item in items
            if whole
            and item.kind is FileKind.FILE
            and item.size_bytes <= BLOCK_BYTES
            and item.reason is not Reason.DAMAGED
        ]
        self.source.expect(files, self.algorithm)

    def _patch(self, item: PlanItem) -> SettleResult | None:
        if item.reason is not Reason.DAMAGED:
            return None
        return patch_file(self.source, self.target, self.algorithm, self.pace, item)

    def _stage(self, item: PlanItem, *, keep_open: bool) -> _Staged:
        """Make one partial file, reading again while the source changes."""
        if item.kind is FileKind.SYMLINK:
            return self._stage_symlink(item)
        # Garbled once, then found to be so in what that left, then read anew.
        attempts = ATTEMPTS_CHANGED_MAX
        for attempt in range(attempts):
            if attempt:
                self.clock.sleep(_RETRY_AFTER_S * 2**attempt)
            try:
                staged = self._stage_once(item, keep_open=keep_open)
            except IntegrityError as error:
                if error.code != "digest-mismatch" or attempt + 1 == attempts:
                    raise
                continue
            if staged is not None:
                return staged
            if attempt + 1 >= attempts_for(item.size_bytes):
                break
        raise _ChangedError

    def _stage_once(self, item: PlanItem, *, keep_open: bool) -> _Staged | None:
        """Read a file once into its partial; None if it changed meanwhile."""
        if item.size_bytes <= BLOCK_BYTES and not keep_open:
            small = self._read_small(item.path)
            if small is not None:
                return self._write_small(item, small) if small.is_steady else None
        try:
            reader = self.source.open_file(item.path)
        except (NotFoundError, ConflictError) as error:
            raise _gone(error) from error
        try:
            return self._stage_file(item, reader, keep_open=keep_open)
        except ConflictError as error:
            if error.code in ("replaced-while-read", "cut-short"):
                return None
            raise
        finally:
            reader.close()

    def _read_small(self, path: bytes) -> SmallFile | None:
        try:
            return self.source.read_small(path, self._block(0))
        except (NotFoundError, ConflictError) as error:
            raise _gone(error) from error

    def _write_small(self, item: PlanItem, small: SmallFile) -> _Staged:
        self.pace.take(small.size_bytes)
        stat, size_bytes = small.stat, small.size_bytes
        data = self._block(0)[:size_bytes]
        digest = digest_of(self.algorithm, data)
        _compare(item, digest, small.digest)
        partial = self._partial_of(item)
        losses = self.target.write_small(partial, data, metadata_of(stat, small.xattrs))
        self.pace.moved(size_bytes)
        result = self._settled(
            item, stat, digest, written_bytes=size_bytes, xattrs=small.xattrs, losses=losses
        )
        return _Staged(item, partial, None, result)

    def _stage_file(
        self, item: PlanItem, reader: ReadableFile, *, keep_open: bool
    ) -> _Staged | None:
        """Copy one open file into its partial; None if it changed meanwhile."""
        before = reader.stat()
        signature = signature_of(before)
        size_bytes = before.size_bytes
        if size_bytes > item.size_bytes:
            self._check_growth(item, before)
        partial = self._partial_of(item)
        writer = self.target.create_file(
            partial, resume=item.size_bytes >= FILE_BYTES_LARGE, mode=before.mode & 0o777
        )
        keep = False
        try:
            if size_bytes <= BLOCK_BYTES and before.allocated_bytes >= size_bytes:
                digest, written = self._copy_small(reader, writer, size_bytes)
            else:
                blocks = self._block(0), self._block(1)
                digest, written = LargeCopy(
                    algorithm=self.algorithm, pace=self.pace, blocks=blocks
                ).run(reader, writer, size_bytes)
            if reader.signature() != signature:
                return None
            _compare(item, digest, reader.given_digest())
            xattrs = reader.xattrs()
            losses = writer.set_metadata(metadata_of(before, xattrs))
            keep = keep_open
            result = self._settled(
                item, before, digest, written_bytes=written, xattrs=xattrs, losses=losses
            )
            return _Staged(item, partial, writer if keep_open else None, result)
        finally:
            if not keep:
                writer.close()

    def _settled(
        self,
        item: PlanItem,
        read: Stat,
        digest: bytes,
        *,
        written_bytes: int,
        xattrs: dict[bytes, bytes],
        losses: list[MetadataLoss],
    ) -> SettleResult:
        """Return what is to be told of a file once it is durable."""
        signature = signature_of(read)
        return SettleResult(
            item.number,
            item.path,
            CopyOutcome.SETTLED,
            "",
            "",
            read.size_bytes,
            written_bytes,
            None if is_racy(signature, self._observed_ns) else signature,
            digest,
            digest_xattrs(xattrs),
            tuple(losses),
        )

    def _check_growth(self, item: PlanItem, now: Stat) -> None:
        """Refuse a file that grew, or says so, beyond what there is room for; others go on."""
        free_bytes = self.target.space().free_bytes
        if min(now.size_bytes, now.allocated_bytes) - item.size_bytes > free_bytes:
            raise CapacityError(
                f"{display_path(item.path)}: it grew to {now.size_bytes} bytes; "
                f"{free_bytes} are free at the target",
                code="disk-would-fill",
                advice="free some space there, or look why the file grows",
            )

    def _copy_small(
        self, reader: ReadableFile, writer: WritableFile, size_bytes: int
    ) -> tuple[bytes, int]:
        self.pace.take(size_bytes)
        block = self._block(0)[:size_bytes]
        done = reader.read_into(block, 0) if size_bytes else 0
        if done < size_bytes:
            raise cut_short(done, size_bytes)
        if done:
            writer.write_at(block, 0)
        self.pace.moved(done)
        return digest_of(self.algorithm, block), done

    def _stage_symlink(self, item: PlanItem) -> _Staged:
        try:
            stat = self.source.stat(item.path)
            target = self.source.read_link(item.path)
        except (NotFoundError, ConflictError) as error:
            raise _gone(error) from error
        partial = self._partial_of(item)
        remove_if_there(self.target, partial)
        losses = self.target.make_symlink(partial, target, metadata_of(stat, {}))
        result = no_result(item, CopyOutcome.SETTLED)._replace(
            size_bytes=len(target), written_bytes=len(target), losses=tuple(losses)
        )
        return _Staged(item, partial, None, result)

    def _flush(self, staged: list[_Staged], *, flush_each: bool) -> None:
        if not staged:
            return
        if not flush_each or any(each.writer is None for each in staged):
            self.target.flush_all()
        for each in staged:
            if each.writer is not None:
                each.writer.flush()
                each.writer.close()

    def _publish(self, staged: list[_Staged]) -> list[SettleResult]:
        """Name what is durable, then make the names durable."""
        results: list[SettleResult] = []
        named: list[_Staged] = []
        placed = {directory for directory in self._whole if self._place(directory)}
        for each in staged:
            if parent_of(each.item.path) in placed:
                named.append(each)
                continue
            try:
                if each.item.displaces is not None:
                    displace(self.target, each.item.path, self.quarantine, flush=True)
                self.target.rename(each.partial, each.item.path)
                named.append(each)
            except HoldfastError as error:
                remove_if_there(self.target, each.partial)
                results.append(failed_result(each.item, error))
        directories = {parent_of(each.item.path) for each in named} - placed
        try:
            # The contents of what was put in place whole were flushed before, with their names.
            flush_directories(self.target, directories | {parent_of(path) for path in placed})
        except StorageFailedError as error:
            return results + [failed_result(each.item, error) for each in named]
        return results + [each.result for each in named]

    def _place(self, directory: bytes) -> bool:
        """Put a directory in place of the empty one this run made; return whether that could be.

        It cannot once anything is in it: then its entries are renamed one by one.
        """
        try:
            self.target.rename(self._whole[directory], directory)
        except HoldfastError:
            return False
        return True

    def _discard(self, staged: list[_Staged]) -> None:
        """Let go of what will not be named; a large partial file stays for a later run."""
        for each in staged:
            if each.writer is not None:
                each.writer.close()

    def _partial_of(self, item: PlanItem) -> bytes:
        """Return where the partial file of an item goes; that of a large one can be found again."""
        if item.size_bytes >= FILE_BYTES_LARGE:
            return partial_path(item.path)
        directory, _, name = item.path.rpartition(b"/")
        if directory not in self._fresh:
            return b"%s/%d" % (self._staging, item.number)
        ready = self._whole.get(directory)
        if ready is None:
            ready = b"%s/directory-%d" % (self._staging, item.number)
            self._whole[directory] = ready
            self.target.make_directory(ready)
        return ready + b"/" + name

    def _block(self, which: int) -> memoryview:
        if self._buffers is None:
            self._buffers = (memoryview(bytearray(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES)))
        return self._buffers[which]


def _gone(error: HoldfastError) -> Exception:
    """Return what to raise for an entry that is not there any more, or not as a file."""
    if ends_run(error):
        return error
    return _VanishedError() if isinstance(error, NotFoundError) else _ChangedError()


def _compare(item: PlanItem, digest: bytes, given: bytes | None) -> None:
    """Raise IntegrityError if what came is not what the source says it sent."""
    if given is not None and given != digest:
        raise mismatch(f"{display_path(item.path)}: what arrived is not what the source sent")
