"""Verifies a tree against another, or against the entries of a proof: reads, judges, remembers.

The target is judged by the source, or by the rows a proof was loaded into. Results go to the
ledger as they come, so that findings can be paged, repaired and proven afterwards; memory is that
of two walks and of the batches in flight. A trusted digest (invariant 5 of rules.py) saves a
reading on either side.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.errors import CancelledError, HoldfastError
from holdfast.files.evidence import Evidence
from holdfast.files.hashing import (
    Hasher,
    HashItem,
    HashResult,
    Reading,
    Side,
    describe_damage,
    find_damage,
)
from holdfast.files.ledger import Known, Ledger, with_known
from holdfast.files.listing import Exclusions, Listed, Walk, join_listings
from holdfast.files.model import (
    DAMAGE,
    CacheUse,
    Fidelity,
    Finding,
    VerifyOptions,
    VerifyOutcome,
    VerifyReport,
)
from holdfast.files.rules import (
    ends_run,
    is_trusted,
    judge_digests,
    judge_metadata,
    judge_rest,
    sample_confidence,
    verdict_of,
)
from holdfast.files.sampling import EVERYTHING, Sample, choose_sample
from holdfast.files.watching import TaskWatch
from holdfast.model.limits import FILE_BYTES_LARGE
from holdfast.model.tree import ROOT_PATH, FileKind, Signature, Stat, parent_of, signature_of
from holdfast.ports import Clock, Pace, PaceControl, ReadableDirectory, StartWorkers
from holdfast.proof.statement import VerificationMode

_ROWS_PAGE = 2048
_BATCH_FILES = 256
_LOCATED_MAX = 1000
"""Damaged files whose damaged blocks are looked for; of more, only the names are told."""
_ONLY_AT_TARGET = (VerifyOutcome.EXTRA, VerifyOutcome.MISSING_AT_SOURCE)

Pair = tuple[bytes, Stat | None, Stat | None, Known | None]
Explain = Callable[[bytes], tuple[VerifyOutcome, str] | None]


@dataclass(slots=True, kw_only=True)
class Verifying:
    """One verification. Owned by the task; run once."""

    source: ReadableDirectory | None
    """None: the rows already in the ledger say what the target must be."""
    target: ReadableDirectory
    ledger: Ledger
    options: VerifyOptions
    exclusions: Exclusions
    fidelity: Fidelity
    pace: PaceControl
    clock: Clock
    start_workers: StartWorkers
    context: TaskWatch
    entries_expected: int | None
    bytes_expected: int | None
    """What an earlier listing of the source counted, for the progress display; None if unknown."""
    paths: Iterator[bytes] | None = None
    """Verify these only, given in path order, and leave all other rows as they are."""
    explain: Explain = lambda _path: None
    """Says of a path what it is that looks like damage but is known to be something else."""
    on_judged: Callable[[Evidence, VerifyOutcome], None] = lambda _evidence, _outcome: None
    """Told of each entry's one outcome; not of parts that could not be listed."""
    listing_findings: list[Finding] = field(default_factory=list)
    _counts: Counter[VerifyOutcome] = field(default_factory=Counter)
    _error_kinds: Counter[str] = field(default_factory=Counter)
    _reading: dict[int, Evidence] = field(default_factory=dict)
    _rows: list[Known] = field(default_factory=list)
    _unlisted: set[bytes] = field(default_factory=set)
    _number: int = 0
    _entries: int = 0
    _files: int = 0
    _sampled: int = 0
    _trusted: int = 0
    _sample: Sample = EVERYTHING
    _run: int = 0
    _moved_before: int = 0
    _seen_bytes: int = 0
    _asked_bytes: int = 0

    def run(self) -> VerifyReport:
        """Do it and remember each entry's outcome; raises CancelledError when asked to stop."""
        began_ns = self.clock.monotonic_ns()
        self._moved_before = self.pace.moved_bytes()
        self._sample = choose_sample(self.options, self.source or self.target, self.exclusions)
        self._run = self.ledger.run() if self.paths is not None else self.ledger.next_run()
        self._read_all()
        self._flush_rows()
        if self.paths is None:
            self.ledger.entries.drop_stale(self._run)
        self._locate_damage()
        counts = dict(self._counts)
        is_sample = self.options.mode is VerificationMode.SAMPLE
        return VerifyReport(
            verdict=verdict_of(counts, self.options.mode),
            mode=self.options.mode,
            counts=counts,
            entries=self._entries,
            hashed_bytes=self.pace.moved_bytes() - self._moved_before,
            trusted=self._trusted,
            cache_dropped=self.options.cache is CacheUse.DROP,
            confidence=sample_confidence(self._sampled, self._files) if is_sample else "",
            error_kinds=dict(self._error_kinds),
            duration_s=(self.clock.monotonic_ns() - began_ns) / 1e9,
        )

    def _read_all(self) -> None:
        hasher = Hasher(
            source=self.source,
            target=self.target,
            algorithm=self.options.algorithm,
            cache=self.options.cache,
            pace=self.pace,
            clock=self.clock,
            seed=self.options.digest_seed,
        )
        unknown = 1 << 62
        workers = self.start_workers(
            hasher.read,
            entries=unknown if self.entries_expected is None else self.entries_expected,
            size_bytes=unknown if self.bytes_expected is None else self.bytes_expected,
        )
        for results in workers.run(self._batches(), self._show_progress):
            for result in results:
                self._take(result)
        assert not self._reading

    def _walk(self, directory: ReadableDirectory) -> Iterator[Listed]:
        return iter(
            Walk(directory=directory, exclusions=self.exclusions, on_failure=self._on_failure)
        )

    def _on_failure(self, path: bytes, error: HoldfastError) -> None:
        """A part that cannot be listed is an entry that failed: it must not go unnoticed."""
        self._entries += 1
        self._unlisted.add(path)
        self._counts[VerifyOutcome.FAILED] += 1
        self._error_kinds[error.kind] += 1
        if len(self.listing_findings) < _LOCATED_MAX:
            self.listing_findings.append(Finding(path, VerifyOutcome.FAILED, error.message))

    def _show_progress(self) -> None:
        bytes_total = None
        if self.bytes_expected is not None:
            # What is not yet listed may have to be read on both sides; what is, is known.
            ahead = max(0, self.bytes_expected - self._seen_bytes)
            bytes_total = self._asked_bytes + 2 * ahead
        self.context.progress(
            entries_done=sum(self._counts.values()),
            entries_total=self.entries_expected,
            bytes_done=self.pace.moved_bytes() - self._moved_before,
            bytes_total=bytes_total,
        )

    def _pairs(self) -> Iterator[Pair]:
        rows = self.ledger.entries.all()
        if self.source is None:
            return expected_pairs(rows, self._walk(self.target))
        if self.paths is not None:
            return with_known(_stat_pairs(self.paths, self.source, self.target), rows)
        return with_known(join_listings(self._walk(self.source), self._walk(self.target)), rows)

    def _batches(self) -> Iterator[tuple[HashItem, ...]]:
        """Judge what needs no reading, and yield batches of what does."""
        batch: list[HashItem] = []
        size_bytes = 0
        for path, source, target, known in self._pairs():
            self._entries += 1
            evidence = Evidence(path=path, source_stat=source, target_stat=target, known=known)
            for item in self._open(evidence):
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

    def _open(self, evidence: Evidence) -> list[HashItem]:
        """Judge an entry by its metadata, or return what must be read to judge it."""
        outcome = self._judge_metadata(evidence)
        if outcome is not None:
            self._close(evidence, outcome)
            return []
        self._files += 1
        size_bytes = evidence.target_stat.size_bytes if evidence.target_stat else 0
        self._seen_bytes += size_bytes
        if not self._sample.holds(evidence.path, size_bytes):
            self._close(evidence, self._judge_unread(evidence))
            return []
        self._sampled += 1
        return self._ask_for(evidence)

    def _judge_metadata(self, evidence: Evidence) -> VerifyOutcome | None:
        source, target = evidence.source_stat, evidence.target_stat
        same_xattrs = True
        try:
            if source and target and source.kind is target.kind is FileKind.SYMLINK:
                evidence.link_target = self._source_link(evidence)
                found = self.target.read_link(evidence.path)
                evidence.same_link = evidence.link_target == found
            elif source and target and source.kind is target.kind is FileKind.DIRECTORY:
                same_xattrs = self._same_xattrs(evidence.path)
        except HoldfastError as error:
            if ends_run(error):
                raise
            return VerifyOutcome.CHANGED
        return judge_metadata(
            source,
            target,
            one_way=self.options.one_way,
            same_link=evidence.same_link,
            same_xattrs=same_xattrs,
            fidelity=self.fidelity,
        )

    def _judge_unread(self, evidence: Evidence) -> VerifyOutcome:
        """Judge a file outside the sample by what its listing shows."""
        source, target = evidence.source_stat, evidence.target_stat
        assert source is not None
        assert target is not None
        found = judge_rest(source, target, same_xattrs=True, fidelity=self.fidelity)
        return VerifyOutcome.NOT_SAMPLED if found is VerifyOutcome.MATCHED else found

    def _source_link(self, evidence: Evidence) -> bytes | None:
        if self.source is not None:
            return self.source.read_link(evidence.path)
        return evidence.known.link_target if evidence.known else None

    def _same_xattrs(self, path: bytes) -> bool:
        if self.source is None or not self.fidelity.xattrs:
            return True
        return self.source.xattrs(path) == self.target.xattrs(path)

    def _ask_for(self, evidence: Evidence) -> list[HashItem]:
        """Take what may be trusted, and return what must be read."""
        source, target, known = evidence.source_stat, evidence.target_stat, evidence.known
        assert source is not None
        assert target is not None
        if known and known.digest is not None:
            if self.source is None:
                evidence.source = Reading(known.digest, None, b"", False, "", "")
            if self.options.mode is VerificationMode.INCREMENTAL:
                evidence.source = evidence.source or _trusted(known, known.source, source)
                evidence.target = _trusted(known, known.target, target)
        if evidence.source is None:
            evidence.waiting |= Side.SOURCE
        if evidence.target is None:
            evidence.waiting |= Side.TARGET
        if not evidence.waiting:
            evidence.trusted = True
            self._judge(evidence)
            return []
        number = self._number
        self._number += 1
        self._reading[number] = evidence
        size_bytes = max(source.size_bytes, target.size_bytes)
        self._asked_bytes += size_bytes * len(evidence.waiting)
        if size_bytes < FILE_BYTES_LARGE:
            return [HashItem(number, evidence.path, evidence.waiting, size_bytes)]
        sides = [side for side in Side if side in evidence.waiting]
        return [HashItem(number, evidence.path, side, size_bytes) for side in sides]

    def _take(self, result: HashResult) -> None:
        evidence = self._reading[result.number]
        if result.source is not None:
            evidence.source = result.source
            evidence.waiting &= ~Side.SOURCE
        if result.target is not None:
            evidence.target = result.target
            evidence.waiting &= ~Side.TARGET
        if not evidence.waiting:
            del self._reading[result.number]
            self._judge(evidence)

    def _judge(self, evidence: Evidence) -> None:
        """Judge an entry whose contents are known on both sides."""
        source, target, known = evidence.source, evidence.target, evidence.known
        assert source is not None
        assert target is not None
        self._trusted += evidence.trusted
        for reading in (source, target):
            if reading.error_kind:
                self._error_kinds[reading.error_kind] += 1
                self._close(evidence, VerifyOutcome.FAILED, reading.detail)
                return
            if reading.changed:
                self._close(evidence, VerifyOutcome.CHANGED, reading.detail)
                return
        assert source.digest is not None
        assert target.digest is not None
        assert evidence.source_stat is not None
        assert evidence.target_stat is not None
        was = None
        if known and is_trusted(known.source, signature_of(evidence.source_stat)):
            was = known.digest
        outcome = judge_digests(source.digest, target.digest, was)
        detail = ""
        if outcome is VerifyOutcome.SOURCE_DAMAGED:
            detail = "the source is not what was copied, though nothing says it was written"
        elif outcome is VerifyOutcome.MATCHED:
            ignore_xattrs = self.source is None or not self.fidelity.xattrs
            outcome = judge_rest(
                evidence.source_stat,
                evidence.target_stat,
                same_xattrs=ignore_xattrs or source.xattrs == target.xattrs,
                fidelity=self.fidelity,
            )
        self._close(evidence, outcome, detail)

    def _close(self, evidence: Evidence, outcome: VerifyOutcome, detail: str = "") -> None:
        """Count an entry's one outcome and put it among the rows to be written."""
        if outcome in DAMAGE:
            outcome, detail = self._excuse(evidence, outcome, detail)
        self._counts[outcome] += 1
        self.on_judged(evidence, outcome)
        self._rows.append(evidence.row(outcome, detail, expectation=self.source is None))
        if len(self._rows) >= _ROWS_PAGE:
            self._flush_rows()

    def _excuse(
        self, evidence: Evidence, outcome: VerifyOutcome, detail: str
    ) -> tuple[VerifyOutcome, str]:
        """Return what looks like damage as what it is: a source that is being written, or told."""
        explained = self.explain(evidence.path)
        if explained is not None:
            return explained
        if self._is_unlisted(evidence.path):
            return VerifyOutcome.FAILED, "the directory it is in could not be listed"
        if self.source is not None and self._moved_since(self.source, evidence):
            return VerifyOutcome.CHANGED, "changed at the source meanwhile"
        return outcome, detail

    def _is_unlisted(self, path: bytes) -> bool:
        """Say whether it lies in a part of either tree that could not be listed."""
        while self._unlisted and path not in self._unlisted and path:
            path = parent_of(path)
        return path in self._unlisted

    def _moved_since(self, source: ReadableDirectory, evidence: Evidence) -> bool:
        """Say whether the source changed this entry, or the way to it, while it was copied."""
        since, listed, path = self.options.changed_after_ns, evidence.source_stat, evidence.path
        now = _stat_or_none(source, path)
        if listed is not None:
            if now is None or signature_of(listed) != signature_of(now) or now.ctime_ns >= since:
                return True
            if evidence.target_stat is not None:
                return False
            return any(above.ctime_ns >= since for above in _directories_above(source, path))
        if now is not None:
            return True  # It is there after all: it came after the listing.
        # Who removed it moved the directory it was in, or else what is left of the way to it.
        above = next(_directories_above(source, path), None) or source.stat(ROOT_PATH)
        return above.ctime_ns >= since

    def _flush_rows(self) -> None:
        if self._rows:
            with self.ledger.transaction():
                self.ledger.entries.put(self._rows, self._run)
            self._rows.clear()

    def _locate_damage(self) -> None:
        """Say of each damaged file which of its blocks are damaged."""
        if self.source is None:
            return
        damaged = self.ledger.entries.findings(_LOCATED_MAX, (VerifyOutcome.DIGEST_DIFFERS,))
        for finding in damaged:
            detail = locate_damage(self.source, self.target, finding.path, self.pace)
            if detail:
                self.ledger.entries.describe(finding.path, detail)


def locate_damage(
    source: ReadableDirectory, target: ReadableDirectory, path: bytes, pace: Pace
) -> str:
    """Describe where two files of equal size differ; empty where that cannot be said."""
    try:
        left = source.open_file(path)
        try:
            right = target.open_file(path)
            try:
                size_bytes = left.stat().size_bytes
                if right.stat().size_bytes != size_bytes:
                    return ""
                return describe_damage(find_damage(left, right, size_bytes, pace))
            finally:
                right.close()
        finally:
            left.close()
    except CancelledError:
        raise
    except HoldfastError:
        return ""


def expected_pairs(rows: Iterator[Known], target: Iterator[Listed]) -> Iterator[Pair]:
    """Join the rows a proof was loaded into with a listing.

    A proof says nothing of owner and time, so these are taken to be as they are.
    """
    # The join holds one entry of each side back, so its rows are remembered until it gives them.
    held: dict[bytes, Known] = {}

    def remember() -> Iterator[Listed]:
        for row in rows:
            if row.outcome not in _ONLY_AT_TARGET:
                held[row.path] = row
                yield Listed(row.path, _expected_stat(row))

    for path, left, right in join_listings(remember(), target):
        known = held.pop(path, None) if left is not None else None
        if left is not None and right is not None:
            left = left._replace(mtime_ns=right.mtime_ns, uid=right.uid, gid=right.gid)
        yield path, left, right, known


def _expected_stat(row: Known) -> Stat:
    return Stat(row.kind, row.size_bytes, 0, 0, 0, 0, row.mode, 0, 0, 1, row.size_bytes)


def _stat_pairs(
    paths: Iterator[bytes], source: ReadableDirectory, target: ReadableDirectory
) -> Iterator[tuple[bytes, Stat | None, Stat | None]]:
    for path in paths:
        left, right = _stat_or_none(source, path), _stat_or_none(target, path)
        if left is not None or right is not None:
            yield path, left, right


def _stat_or_none(directory: ReadableDirectory, path: bytes) -> Stat | None:
    try:
        return directory.stat(path)
    except HoldfastError as error:
        if ends_run(error):
            raise
        return None


def _directories_above(directory: ReadableDirectory, path: bytes) -> Iterator[Stat]:
    """Yield the directories on the way to a path that are there, nearest first, not the root."""
    while path := parent_of(path):
        stat = _stat_or_none(directory, path)
        if stat is not None and stat.kind is FileKind.DIRECTORY:
            yield stat


def _trusted(known: Known, signature: Signature | None, stat: Stat) -> Reading | None:
    if not is_trusted(signature, signature_of(stat)):
        return None
    return Reading(known.digest, signature, known.xattrs, False, "", "")


def fidelity_of(ledger: Ledger) -> Fidelity:
    """Return what this user has been able to keep at the target of this pair."""
    return Fidelity.after(_losses(ledger))


def remember_losses(ledger: Ledger, losses: Iterable[str]) -> None:
    """Add to what this user has not been able to keep; another, such as root, tries anew."""
    ledger.set(_losses_name(), ",".join(sorted({*losses, *_losses(ledger)})))


def _losses(ledger: Ledger) -> list[str]:
    losses = ledger.get(_losses_name())
    return losses.split(",") if losses else []


def _losses_name() -> str:
    return f"losses of {os.geteuid()}"
