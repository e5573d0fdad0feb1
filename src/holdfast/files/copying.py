"""Carries out the plan in a ledger: directories, contents, links, metadata, then deletions.

Order of the stages, and why each may be cut off: a later run lists both trees again and plans what
is left, so a stage need only never leave something worse than it found.

1. Directories are made (mode 0700, times later) and flushed, so that no settled file can lose the
   way to it. Cut off: empty directories.
2. Contents are settled in batches by workers (transfer.py). Cut off: whole files or none.
3. Further names of hard link groups are made beside and renamed over. Cut off: old or new names.
4. Metadata of entries whose content was right is set. Cut off: some old, found again by listing.
5. Deletions move entries into the quarantine, deepest first, and only if all before went well.
   Cut off: each entry is in the tree or in the quarantine.
6. Directories get mode and times, deepest first, because everything before moved them.

Every step is flushed before its outcome is recorded in the ledger.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from holdfast.errors import ConflictError, HoldfastError, NotFoundError
from holdfast.files.ledger import Ledger
from holdfast.files.model import (
    Action,
    CopyOutcome,
    CopyReport,
    PlanItem,
    SettleResult,
    failed_result,
    no_result,
)
from holdfast.files.rules import ends_run, may_delete
from holdfast.files.side_directory import (
    PARTIAL_DIRECTORY,
    displace,
    make_directories,
    partial_path,
    remove_if_there,
    remove_side_directory,
    remove_tree,
)
from holdfast.files.transfer import Batch, Transfer
from holdfast.files.watching import TaskWatch
from holdfast.model.limits import BATCH_BYTES_MAX, BATCH_FILES_MAX, FILE_BYTES_LARGE
from holdfast.model.rows import Rows
from holdfast.model.tree import (
    ROOT_PATH,
    FileKind,
    MetadataLoss,
    Stat,
    display_path,
    join_path,
    metadata_of,
    parent_of,
)
from holdfast.ports import Clock, Directory, PaceControl, ReadableDirectory, StartWorkers

_CHUNK_ITEMS = 2048
_CHUNK_DIRECTORIES = 128
_BATCH_FILES_MIN = 128


@dataclass(slots=True, kw_only=True)
class Copying:
    """Carries out one plan. Owned by the task; run once."""

    source: ReadableDirectory
    target: Directory
    ledger: Ledger
    transfer: Transfer
    pace: PaceControl
    clock: Clock
    start_workers: StartWorkers
    context: TaskWatch
    fetch_bytes: int
    items_total: int
    listing_failures: int
    defer_deletions: bool = False
    """Leave them open, for a run of their own."""
    on_made: Callable[[Sequence[SettleResult]], None] = lambda _results: None
    """Told of what became of entries that were to be made or fetched, as it becomes known."""
    _counts: Counter[CopyOutcome] = field(default_factory=Counter)
    _losses: Counter[str] = field(default_factory=Counter)
    _error_kinds: Counter[str] = field(default_factory=Counter)
    _files_read: int = 0
    _read_bytes: int = 0
    _written_bytes: int = 0
    _moved_before: int = 0
    _unsettled_partials: set[bytes] = field(default_factory=set)

    def run(self) -> CopyReport:
        """Do it; when this returns, everything counted as settled survives loss of power.

        Raises:
            CapacityError: `disk-full`; what was settled stays.
            CancelledError: Asked to stop; what was settled stays.
        """
        began_ns = self.clock.monotonic_ns()
        self._moved_before = self.pace.moved_bytes()
        make_directories(self.target, PARTIAL_DIRECTORY)
        self._prepare_partials()
        self._record_special()
        self._in_chunks(
            self._open(Action.MAKE_DIRECTORY), self._make_directory, on_settled=self.on_made
        )
        self._open_up_directories()
        self._transfer_contents()
        self._in_chunks(self._open(Action.SET_METADATA), self._set_metadata)
        self._in_chunks(self._open(Action.RELINK), self._relink, on_settled=self.on_made)
        withheld = self._delete()
        self._remove_partials()
        self._finish_directories()
        return CopyReport(
            counts=dict(self._counts),
            files_read=self._files_read,
            read_bytes=self._read_bytes,
            written_bytes=self._written_bytes,
            losses=dict(self._losses),
            error_kinds=dict(self._error_kinds),
            duration_s=(self.clock.monotonic_ns() - began_ns) / 1e9,
            deletions_withheld=withheld,
        )

    def _open(self, *actions: Action) -> Iterator[PlanItem]:
        return self.ledger.plan.open_items(*actions)

    def _record(self, results: list[SettleResult]) -> None:
        """Write outcomes; called only after what they say is durable."""
        with self.ledger.transaction():
            self.ledger.plan.record(results)
            self.ledger.entries.settle(results)
        for result in results:
            self._counts[result.outcome] += 1
            if result.losses:
                self._losses.update(result.losses)
            if result.digest is not None:
                self._files_read += 1
                self._read_bytes += result.size_bytes
            self._written_bytes += result.written_bytes
            if result.error_kind:
                self._error_kinds[result.error_kind] += 1
            if result.outcome is CopyOutcome.CHANGED and result.size_bytes >= FILE_BYTES_LARGE:
                self._unsettled_partials.add(partial_path(result.path))
        self._show_progress()

    def _show_progress(self) -> None:
        moved = self.pace.moved_bytes() - self._moved_before
        self.context.progress(
            entries_done=sum(self._counts.values()),
            entries_total=self.items_total,
            bytes_done=moved,
            bytes_total=max(self.fetch_bytes, moved),
        )

    def _in_chunks(
        self,
        items: Iterable[PlanItem],
        do: Callable[[PlanItem], SettleResult],
        on_settled: Callable[[Sequence[SettleResult]], None] = lambda _results: None,
    ) -> None:
        """Do items here, one by one, making each chunk durable before its outcomes are written."""
        results: list[SettleResult] = []
        for item in items:
            self.pace.take(0)
            try:
                results.append(do(item))
            except HoldfastError as error:
                if error.code == "disk-full" or ends_run(error):
                    raise
                results.append(failed_result(item, error))
            if len(results) >= _CHUNK_ITEMS:
                self._settle_chunk(results, on_settled)
        self._settle_chunk(results, on_settled)

    def _settle_chunk(
        self,
        results: list[SettleResult],
        on_settled: Callable[[Sequence[SettleResult]], None],
    ) -> None:
        if results:
            if any(result.outcome is CopyOutcome.SETTLED for result in results):
                self.target.flush_all()
            self._record(results)
            on_settled(results)
            results.clear()

    def _record_special(self) -> None:
        chunk: list[SettleResult] = []
        for item in self._open(Action.SKIP, Action.REFUSE):
            if item.action is Action.SKIP:
                chunk.append(
                    no_result(item, CopyOutcome.SKIPPED, f"a {item.kind} cannot be copied")
                )
            else:
                chunk.append(
                    failed_result(
                        item,
                        ConflictError(
                            f"{display_path(item.path)}: a directory stands in its place and is "
                            "not removed without --delete, nor with excluded entries in it",
                            code="type-conflict",
                        ),
                    )
                )
        if chunk:
            self._record(chunk)

    def _make_directory(self, item: PlanItem) -> SettleResult:
        if item.displaces is not None:
            displace(self.target, item.path, self.transfer.quarantine, flush=True)
        try:
            self.target.make_directory(item.path)
            self.ledger.plan.touched.mark_made(item.path)
        except ConflictError as error:
            if error.code != "exists" or not self._is_directory(item.path):
                raise
        return no_result(item, CopyOutcome.SETTLED)

    def _is_directory(self, path: bytes) -> bool:
        return self.target.stat(path).kind is FileKind.DIRECTORY

    def _open_up_directories(self) -> None:
        """Let the owner write into directories that will be changed; their mode is set at the end.

        Cut off here, a directory is more open to its owner than it should be, until the next run.
        """
        for path in self.ledger.plan.touched:
            try:
                stat = self.target.stat(path)
                if stat.kind is FileKind.DIRECTORY and stat.mode & 0o700 != 0o700:
                    opened = stat._replace(mode=stat.mode | 0o700)
                    self.target.set_metadata(
                        path, stat.kind, metadata_of(opened, self.target.xattrs(path))
                    )
            except HoldfastError:
                continue  # Whatever is wrong with it will be told for the entry that needs it.

    def _transfer_contents(self) -> None:
        workers = self.start_workers(
            self.transfer.settle, entries=self.items_total, size_bytes=self.fetch_bytes
        )
        for results in workers.run(self._batches(), self._show_progress):
            self._record(results)
            self.on_made(results)

    def _batches(self) -> Iterator[Batch]:
        """Yield large files one by one and small ones in batches, in turns, so that both flow."""
        actions = (Action.FETCH, Action.MAKE_SYMLINK)
        large = self.ledger.plan.open_items(*actions, large_from=FILE_BYTES_LARGE)
        small = self._small_batches(
            self.ledger.plan.open_items(*actions, small_below=FILE_BYTES_LARGE)
        )
        while True:
            item = next(large, None)
            if item is not None:
                yield Batch(Rows([item]), frozenset())
            batch = next(small, None)
            if batch is not None:
                yield batch
            if item is None and batch is None:
                return

    def _small_batches(self, items: Iterator[PlanItem]) -> Iterator[Batch]:
        files_max = min(BATCH_FILES_MAX, max(_BATCH_FILES_MIN, self.items_total // 8))
        batch: Rows[PlanItem] = Rows()
        fresh: set[bytes] = set()
        size_bytes = 0
        directory = None
        for item in items:
            parent = parent_of(item.path)
            full = max(len(batch) / files_max, size_bytes / BATCH_BYTES_MAX)
            # Cut between two directories if that is not too far, so that one can be placed whole.
            if full >= 2 or (full >= 1 and parent != directory):
                yield Batch(batch, frozenset(fresh))
                batch, fresh, size_bytes, directory = Rows(), set(), 0, None
            if parent != directory:
                directory = parent
                if self.ledger.plan.touched.is_made(parent):
                    fresh.add(parent)
            batch.append(item)
            size_bytes += item.size_bytes
        if batch:
            yield Batch(batch, frozenset(fresh))

    def _set_metadata(self, item: PlanItem) -> SettleResult:
        source = self._source_stat(item.path)
        if source is None:
            return no_result(item, CopyOutcome.VANISHED, "left the source meanwhile")
        if source.kind is not item.kind:
            return no_result(item, CopyOutcome.CHANGED, f"became a {source.kind}")
        target = self.target.stat(item.path)
        if item.kind is FileKind.FILE and _content_key(source) != _content_key(target):
            # Its time would hide from the next listing that its content is another by now.
            return no_result(item, CopyOutcome.CHANGED, "changed after it was listed")
        return self._put_metadata(item, source)

    def _source_stat(self, path: bytes) -> Stat | None:
        try:
            return self.source.stat(path)
        except (NotFoundError, ConflictError) as error:
            if ends_run(error):
                raise
            return None

    def _put_metadata(self, item: PlanItem, source: Stat) -> SettleResult:
        if item.kind is FileKind.DIRECTORY:
            return no_result(item, CopyOutcome.SETTLED)  # Set at the end, with all touched ones.
        xattrs = {} if item.kind is FileKind.SYMLINK else self.source.xattrs(item.path)
        losses = self.target.set_metadata(item.path, item.kind, metadata_of(source, xattrs))
        return no_result(item, CopyOutcome.SETTLED)._replace(losses=tuple(losses))

    def _relink(self, item: PlanItem) -> SettleResult:
        assert item.leader is not None
        row = self.ledger.plan.row_of(item.leader)
        leader = None if row is None else row[1]
        if leader not in (None, CopyOutcome.SETTLED):
            return no_result(item, leader, f"as {display_path(item.leader)}, which it is a name of")
        one, other = self._source_stat(item.leader), self._source_stat(item.path)
        if one is None or other is None or (one.device, one.inode) != (other.device, other.inode):
            return no_result(item, CopyOutcome.CHANGED, "no longer a name of the same file")
        partial = partial_path(item.path)
        remove_if_there(self.target, partial)
        self.target.make_hard_link(item.leader, partial)
        if item.displaces is not None:
            displace(self.target, item.path, self.transfer.quarantine, flush=True)
        self.target.rename(partial, item.path)
        # Renaming one name of an inode over another does nothing and leaves both.
        remove_if_there(self.target, partial)
        return no_result(item, CopyOutcome.SETTLED)

    def _delete(self) -> int:
        """Move what only the target has into the quarantine; return how many were withheld."""
        if self.defer_deletions:
            return 0
        items = self.ledger.plan.newest_first(Action.DELETE)
        if may_delete(self._counts) and not self.listing_failures:
            self._in_chunks(items, self._delete_one)
            return 0
        return sum(1 for _ in items)

    def _delete_one(self, item: PlanItem) -> SettleResult:
        if self._came_back(item.path):
            return no_result(
                item, CopyOutcome.CHANGED, "appeared at the source after it was listed"
            )
        try:
            if item.kind is not FileKind.DIRECTORY:
                displace(self.target, item.path, self.transfer.quarantine, flush=False)
            else:
                place = join_path(self.transfer.quarantine, item.path)
                make_directories(self.target, place)
                self.target.remove_directory(item.path)
        except NotFoundError:
            return no_result(item, CopyOutcome.VANISHED, "left the target by itself")
        except ConflictError as error:
            if error.code != "not-empty":
                raise
            return no_result(item, CopyOutcome.SKIPPED, "holds entries that are not to be deleted")
        return no_result(item, CopyOutcome.SETTLED)

    def _came_back(self, path: bytes) -> bool:
        return self._source_stat(path) is not None

    def _prepare_partials(self) -> None:
        """Leave of an earlier run's partials only what may be written to.

        One that was cut off may have left a symlink, or a second name of a file that is settled by
        now, where this run will write; or a file that not even its owner may write.
        """
        for name, is_directory in self.target.list_names(PARTIAL_DIRECTORY):
            path = join_path(PARTIAL_DIRECTORY, name)
            if is_directory:
                remove_tree(self.target, path)
                continue
            stat = self.target.stat(path)
            if stat.kind is not FileKind.FILE or stat.links_count > 1:
                remove_if_there(self.target, path)
            elif stat.mode & 0o600 != 0o600:
                opened = stat._replace(mode=stat.mode | 0o600)
                self.target.set_metadata(path, stat.kind, metadata_of(opened, {}))

    def _remove_partials(self) -> None:
        """Remove what earlier runs left in the side directory, but what a later run can use."""
        for name, is_directory in self.target.list_names(PARTIAL_DIRECTORY):
            path = join_path(PARTIAL_DIRECTORY, name)
            if is_directory:
                remove_tree(self.target, path)
            elif path not in self._unsettled_partials:
                remove_if_there(self.target, path)
        remove_side_directory(self.target)

    def _finish_directories(self) -> None:
        below = (path for path in self.ledger.plan.touched if path != ROOT_PATH)
        paths = chain(below, [ROOT_PATH])
        while page := list(islice(paths, _CHUNK_DIRECTORIES)):
            self.source.expect_metadata(page)
            for path in page:
                self._finish_directory(path)
        self.target.flush_all()

    def _finish_directory(self, path: bytes) -> None:
        try:
            self._losses.update(finish_directory(self.source, self.target, path))
        except HoldfastError as error:
            if ends_run(error):
                raise
            before = self.ledger.plan.fail_directory(path, error.message, error.kind)
            if before is not None:
                self._counts[before] -= 1
            self._counts[CopyOutcome.FAILED] += 1
            self._error_kinds[error.kind] += 1


def finish_directory(
    source: ReadableDirectory, target: Directory, path: bytes
) -> list[MetadataLoss]:
    """Give a directory its source's mode, owner, attributes and times, if it still has a source."""
    try:
        stat = source.stat(path)
        if stat.kind is FileKind.DIRECTORY:
            return target.set_metadata(path, stat.kind, metadata_of(stat, source.xattrs(path)))
    except (NotFoundError, ConflictError) as error:
        if ends_run(error):
            raise
        # It left; the next listing tells.
    return []


def _content_key(stat: Stat) -> tuple[int, int]:
    return stat.size_bytes, stat.mtime_ns
