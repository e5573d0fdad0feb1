"""Verifies one tree against another: joins both listings, has contents read, judges, remembers.

The target is judged by the source. Results go to the ledger as they come, so that findings can be
paged, repaired and proven afterwards; memory is that of two walks and of the batches in flight.
A trusted digest (invariant 5 of rules.py) saves a reading on either side.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from holdfast.errors import HoldfastError
from holdfast.files.hashing import (
    Hasher,
    HashItem,
    HashResult,
    Reading,
    Side,
    describe_damage,
    find_damage,
)
from holdfast.files.ledger import Known, Ledger
from holdfast.files.listing import Exclusions, Walk, join_listings
from holdfast.files.model import (
    DAMAGE,
    CacheUse,
    Fidelity,
    Finding,
    VerifyOptions,
    VerifyOutcome,
    VerifyReport,
)
from holdfast.files.planning import with_known
from holdfast.files.rules import (
    is_sampled,
    is_trusted,
    judge_digests,
    judge_metadata,
    judge_rest,
    sample_confidence,
    sample_fraction,
    verdict_of,
)
from holdfast.model.limits import FILE_BYTES_LARGE
from holdfast.model.tree import FileKind, Signature, Stat, parent_of, signature_of
from holdfast.ports import Clock, PaceControl, ReadableDirectory, StartWorkers
from holdfast.proof.statement import VerificationMode
from holdfast.tasks.runner import TaskContext

_ROWS_PAGE = 2048
_BATCH_FILES = 256
_LOCATED_MAX = 1000
"""Damaged files whose damaged blocks are looked for; of more, only the names are told."""


@dataclass(slots=True)
class _Pending:
    """An entry whose contents are being read."""

    path: bytes
    source_stat: Stat
    target_stat: Stat
    known: Known | None
    source: Reading | None
    target: Reading | None
    waiting: Side
    trusted: bool


@dataclass(slots=True, kw_only=True)
class Verifying:
    """One verification. Owned by the task; run once."""

    source: ReadableDirectory
    target: ReadableDirectory
    ledger: Ledger
    options: VerifyOptions
    fidelity: Fidelity
    pace: PaceControl
    clock: Clock
    start_workers: StartWorkers
    context: TaskContext
    entries_expected: int | None
    bytes_expected: int | None
    """What an earlier listing of the source counted, for the progress display; None if unknown."""
    listing_findings: list[Finding] = field(default_factory=list)
    _counts: Counter[VerifyOutcome] = field(default_factory=Counter)
    _error_kinds: Counter[str] = field(default_factory=Counter)
    _pending: dict[int, _Pending] = field(default_factory=dict)
    _rows: list[Known] = field(default_factory=list)
    _number: int = 0
    _entries: int = 0
    _files: int = 0
    _sampled: int = 0
    _trusted: int = 0
    _fraction: float = 1.0
    _run: int = 0
    _excluded: int = 0

    def run(self) -> VerifyReport:
        """Do it and remember each entry's outcome; raises CancelledError when asked to stop."""
        began_ns = self.clock.monotonic_ns()
        moved_before = self.pace.moved_bytes()
        if self.options.mode is VerificationMode.SAMPLE:
            self._fraction = self._choose_fraction()
        self._run = self.ledger.next_run()
        hasher = Hasher(
            source=self.source,
            target=self.target,
            algorithm=self.options.algorithm,
            cache=self.options.cache,
            pace=self.pace,
            clock=self.clock,
        )
        workers = self.start_workers(
            hasher.read,
            entries=self.entries_expected if self.entries_expected is not None else 1 << 62,
            size_bytes=self.bytes_expected or 0,
        )
        for results in workers.run(self._batches(), self._show_progress):
            for result in results:
                self._take(result)
        assert not self._pending
        self._flush_rows()
        self.ledger.entries.drop_stale(self._run)
        self._locate_damage()
        counts = dict(self._counts)
        return VerifyReport(
            verdict=verdict_of(counts, self.options.mode),
            mode=self.options.mode,
            counts=counts,
            entries=self._entries,
            hashed_bytes=self.pace.moved_bytes() - moved_before,
            trusted=self._trusted,
            cache_dropped=self.options.cache is CacheUse.DROP,
            confidence=self._confidence(),
            error_kinds=dict(self._error_kinds),
            duration_s=(self.clock.monotonic_ns() - began_ns) / 1e9,
        )

    def _confidence(self) -> str:
        if self.options.mode is not VerificationMode.SAMPLE:
            return ""
        return sample_confidence(self._sampled, self._files)

    def _choose_fraction(self) -> float:
        total = 0
        if self.options.sample_bytes is not None:
            self.context.enter("counting")
            for listed in self._walk(self.source, lambda _path, _error: None):
                total += listed.stat.size_bytes if listed.stat.kind is FileKind.FILE else 0
        self.context.enter("verifying")
        return sample_fraction(self.options.sample_percent, self.options.sample_bytes, total)

    def _walk(
        self, directory: ReadableDirectory, on_failure: Callable[[bytes, HoldfastError], None]
    ) -> Walk:
        exclusions = Exclusions(self.options.exclude)
        return Walk(directory=directory, exclusions=exclusions, on_failure=on_failure)

    def _on_failure(self, path: bytes, error: HoldfastError) -> None:
        """A part that cannot be listed is an entry that failed: it must not go unnoticed."""
        self._entries += 1
        self._error_kinds[error.kind] += 1
        if len(self.listing_findings) < _LOCATED_MAX:
            self.listing_findings.append(Finding(path, VerifyOutcome.FAILED, error.message))
        self._counts[VerifyOutcome.FAILED] += 1

    def _show_progress(self) -> None:
        self.context.progress(
            entries_done=sum(self._counts.values()),
            entries_total=self.entries_expected,
            bytes_done=self.pace.moved_bytes(),
            bytes_total=self.bytes_expected,
        )

    def _batches(self) -> Iterator[tuple[HashItem, ...]]:
        """Walk both trees; judge what needs no reading, and yield batches of what does."""
        pairs = join_listings(
            iter(self._walk(self.source, self._on_failure)),
            iter(self._walk(self.target, self._on_failure)),
        )
        batch: list[HashItem] = []
        size_bytes = 0
        for path, source, target, known in with_known(pairs, self.ledger.entries.all()):
            self._entries += 1
            items = self._open_pair(path, source, target, known)
            for item in items:
                if item.size_bytes >= FILE_BYTES_LARGE:
                    yield (item,)
                    continue
                batch.append(item)
                size_bytes += item.size_bytes
            if len(batch) >= _BATCH_FILES or size_bytes >= FILE_BYTES_LARGE:
                yield tuple(batch)
                batch, size_bytes = [], 0
        if batch:
            yield tuple(batch)

    def _open_pair(
        self, path: bytes, source: Stat | None, target: Stat | None, known: Known | None
    ) -> list[HashItem]:
        """Judge a pair by its metadata, or return what must be read to judge it."""
        outcome, link_target = self._judge_metadata(path, source, target)
        if outcome is not None:
            self._close(path, source, target, outcome, "", link_target=link_target)
            return []
        assert source is not None
        assert target is not None
        self._files += 1
        if self._is_left_out(path):
            self._close(path, source, target, VerifyOutcome.NOT_SAMPLED, "")
            return []
        self._sampled += 1
        return self._read_pair(path, source, target, known)

    def _is_left_out(self, path: bytes) -> bool:
        if self.options.mode is not VerificationMode.SAMPLE:
            return False
        return not is_sampled(path, self._fraction, self.options.sample_seed)

    def _judge_metadata(
        self, path: bytes, source: Stat | None, target: Stat | None
    ) -> tuple[VerifyOutcome | None, bytes | None]:
        same_link, same_xattrs, link_target = True, True, None
        try:
            if source and target and source.kind is target.kind is FileKind.SYMLINK:
                link_target = self.source.read_link(path)
                same_link = link_target == self.target.read_link(path)
            elif source and target and source.kind is target.kind is FileKind.DIRECTORY:
                same_xattrs = not self.fidelity.xattrs or (
                    self.source.xattrs(path) == self.target.xattrs(path)
                )
        except HoldfastError:
            return VerifyOutcome.CHANGED, None
        outcome = judge_metadata(
            source,
            target,
            one_way=self.options.one_way,
            same_link=same_link,
            same_xattrs=same_xattrs,
            fidelity=self.fidelity,
        )
        return outcome, link_target

    def _read_pair(
        self, path: bytes, source: Stat, target: Stat, known: Known | None
    ) -> list[HashItem]:
        trusted_source = trusted_target = None
        if self.options.mode is VerificationMode.INCREMENTAL and known and known.digest:
            trusted_source = _trusted(known, known.source, source)
            trusted_target = _trusted(known, known.target, target)
        sides = Side(0)
        if trusted_source is None:
            sides |= Side.SOURCE
        if trusted_target is None:
            sides |= Side.TARGET
        pending = _Pending(
            path, source, target, known, trusted_source, trusted_target, sides, not sides
        )
        if not sides:
            self._judge(pending)
            return []
        number = self._number
        self._number += 1
        self._pending[number] = pending
        size_bytes = max(source.size_bytes, target.size_bytes)
        if size_bytes < FILE_BYTES_LARGE:
            return [HashItem(number, path, sides, size_bytes)]
        return [HashItem(number, path, side, size_bytes) for side in Side if side in sides]

    def _take(self, result: HashResult) -> None:
        pending = self._pending[result.number]
        if result.source is not None:
            pending.source = result.source
            pending.waiting &= ~Side.SOURCE
        if result.target is not None:
            pending.target = result.target
            pending.waiting &= ~Side.TARGET
        if not pending.waiting:
            del self._pending[result.number]
            self._judge(pending)

    def _judge(self, pending: _Pending) -> None:
        """Judge an entry whose contents are known on both sides."""
        source, target = pending.source, pending.target
        assert source is not None
        assert target is not None
        self._trusted += pending.trusted
        for reading in (source, target):
            if reading.error_kind:
                self._error_kinds[reading.error_kind] += 1
                self._close_read(pending, VerifyOutcome.FAILED, reading.detail)
                return
            if reading.changed:
                self._close_read(pending, VerifyOutcome.CHANGED, reading.detail)
                return
        assert source.digest is not None
        assert target.digest is not None
        known = pending.known
        was = None
        if known and is_trusted(known.source, signature_of(pending.source_stat)):
            was = known.digest
        outcome = judge_digests(source.digest, target.digest, was)
        detail = ""
        if outcome is VerifyOutcome.SOURCE_DAMAGED:
            detail = "the source is not what was copied, though nothing says it was written"
        elif outcome is VerifyOutcome.MATCHED:
            outcome = judge_rest(
                pending.source_stat,
                pending.target_stat,
                same_xattrs=not self.fidelity.xattrs or source.xattrs == target.xattrs,
                fidelity=self.fidelity,
            )
        self._close_read(pending, outcome, detail)

    def _close_read(self, pending: _Pending, outcome: VerifyOutcome, detail: str) -> None:
        self._close(
            pending.path, pending.source_stat, pending.target_stat, outcome, detail, pending
        )

    def _close(
        self,
        path: bytes,
        source: Stat | None,
        target: Stat | None,
        outcome: VerifyOutcome,
        detail: str,
        pending: _Pending | None = None,
        link_target: bytes | None = None,
    ) -> None:
        """Count an entry's one outcome and put it among the rows to be written."""
        if outcome in DAMAGE and self._moved_since(path, source):
            outcome, detail = VerifyOutcome.CHANGED, "changed at the source meanwhile"
        self._counts[outcome] += 1
        stat = target or source
        assert stat is not None
        digest, xattrs, source_signature, target_signature = _remembered(pending, outcome)
        self._rows.append(
            Known(
                path,
                stat.kind,
                stat.size_bytes,
                stat.mode,
                link_target,
                digest,
                xattrs,
                source_signature,
                target_signature,
                outcome,
                detail or _describe(source, target, outcome),
            )
        )
        if len(self._rows) >= _ROWS_PAGE:
            self._flush_rows()

    def _moved_since(self, path: bytes, source: Stat | None) -> bool:
        """Say whether a difference comes from a source that was written meanwhile."""
        since = self.options.changed_after_ns
        if source is not None:
            return source.ctime_ns >= since
        try:
            return self.source.stat(parent_of(path)).ctime_ns >= since
        except HoldfastError:
            return True  # Its directory went too.

    def _flush_rows(self) -> None:
        if self._rows:
            with self.ledger.transaction():
                self.ledger.entries.put(self._rows, self._run)
            self._rows.clear()

    def _locate_damage(self) -> None:
        """Say of each damaged file which of its blocks are damaged."""
        damaged = self.ledger.entries.findings(_LOCATED_MAX, (VerifyOutcome.DIGEST_DIFFERS,))
        with self.ledger.transaction():
            for finding in damaged:
                self.pace.take(0)
                detail = locate_damage(self.source, self.target, finding.path)
                if detail:
                    self.ledger.entries.describe(finding.path, detail)


def locate_damage(source: ReadableDirectory, target: ReadableDirectory, path: bytes) -> str:
    """Describe where two files of equal size differ; empty where that cannot be said."""
    try:
        left = source.open_file(path)
        try:
            right = target.open_file(path)
            try:
                size_bytes = left.stat().size_bytes
                if right.stat().size_bytes != size_bytes:
                    return ""
                runs = find_damage(left, right, size_bytes)
                return describe_damage(runs) if runs else ""
            finally:
                right.close()
        finally:
            left.close()
    except HoldfastError:
        return ""


def _trusted(known: Known, signature: Signature | None, stat: Stat) -> Reading | None:
    if not is_trusted(signature, signature_of(stat)):
        return None
    return Reading(known.digest, signature, known.xattrs, False, "", "")


def _remembered(
    pending: _Pending | None, outcome: VerifyOutcome
) -> tuple[bytes | None, bytes, Signature | None, Signature | None]:
    """Return digests, and the signatures beside which they may be trusted later."""
    if pending is None or pending.source is None or pending.target is None:
        return None, b"", None, None
    source, target = pending.source, pending.target
    if outcome is VerifyOutcome.SOURCE_DAMAGED:
        known = pending.known
        return (
            (known.digest, known.xattrs, known.source, None) if known else (None, b"", None, None)
        )
    same = (
        source.digest is not None
        and source.digest == target.digest
        and source.xattrs == target.xattrs
    )
    return source.digest, source.xattrs, source.signature, target.signature if same else None


def _describe(source: Stat | None, target: Stat | None, outcome: VerifyOutcome) -> str:
    """Say in words what differs in the metadata of a pair."""
    if outcome in (VerifyOutcome.MATCHED, VerifyOutcome.NOT_SAMPLED):
        return ""
    if source is None:
        return "only at the target"
    if outcome is VerifyOutcome.SKIPPED:
        return f"a {source.kind} is not copied"
    if target is None:
        return "only at the source"
    if source.kind is not target.kind:
        return f"a {source.kind} at the source, a {target.kind} at the target"
    parts = []
    if source.size_bytes != target.size_bytes:
        parts.append(f"size {source.size_bytes} and {target.size_bytes}")
    if source.mode != target.mode:
        parts.append(f"mode {source.mode:04o} and {target.mode:04o}")
    if (source.uid, source.gid) != (target.uid, target.gid):
        parts.append(f"owner {source.uid}:{source.gid} and {target.uid}:{target.gid}")
    if source.mtime_ns != target.mtime_ns:
        parts.append("modification time")
    if not parts and outcome is VerifyOutcome.METADATA_DIFFERS:
        parts.append("link target" if source.kind is FileKind.SYMLINK else "extended attributes")
    return ", ".join(parts) + (" differ" if parts else "")


def fidelity_of(ledger: Ledger) -> Fidelity:
    """Return what the target of this pair has shown it can keep."""
    losses = ledger.get("losses")
    return Fidelity.after(losses.split(",") if losses else ())


def remember_losses(ledger: Ledger, losses: Iterator[str]) -> None:
    """Add to what the target of this pair has shown it cannot keep."""
    before = ledger.get("losses")
    ledger.set("losses", ",".join(sorted({*losses, *(before.split(",") if before else ())})))


def with_start(options: VerifyOptions, now_ns: int) -> VerifyOptions:
    """Return options for which a change at the source from now on is no damage."""
    return replace(options, changed_after_ns=now_ns)
