"""Decides how a migration goes on: when a pass has succeeded, when another is worth it. Pure.

Invariants:
1. SUCCESS is reached only from a plan over fresh listings of every directory, listed whole, that
   has nothing left to make or fetch, or so little that the threshold allows to leave it.
2. With a threshold of 1 nothing is left: such a success means that both sides were equal.
3. What no further pass can cure ends the copy at once, another tree in the source's place among
   it; an absent source is waited for, at most OUTAGE_S_MAX without a sign of it, and costs no pass.
4. Nothing is deleted in a pass in which any directory failed, changed or could not be listed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from holdfast.errors import HoldfastError, StateError
from holdfast.files.migration.model import Counters, Iteration, IterationState
from holdfast.files.model import (
    Action,
    CopyOutcome,
    CopyReport,
    DeleteLimit,
    Fidelity,
    Pass,
    PlanSummary,
    VerifyOutcome,
)
from holdfast.files.rules import (
    bytes_short,
    check_deletions,
    deletions_allowed,
    judge_rest,
    may_delete,
)
from holdfast.model.tree import FileKind, Space, Stat

MAKING: Final = (Action.MAKE_DIRECTORY, Action.MAKE_SYMLINK, Action.FETCH, Action.RELINK)
"""What Sidecar counts as to be downloaded."""
BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_S_MAX: Final = 60.0
OUTAGE_S_MAX: Final = 600.0
"""How long a source may be away before a task gives up."""
BEGINNINGS_MAX: Final = 10
"""How often a verification or repair that came to read something begins: after an absence it must
begin all over."""
_CURABLE: Final = frozenset({"unavailable", "outcome-unknown", "integrity", "conflict"})


class Judgement(StrEnum):
    """What a plan over all directories comes to."""

    EQUAL = "equal"
    """Nothing to make or fetch; metadata and deletions may be left to do."""
    GOOD_ENOUGH = "good-enough"
    """Less is missing than the threshold asks for."""
    DOWNLOAD = "download"
    OVER = "over"
    """Something is missing and no pass that downloads is left."""
    UNLISTED = "unlisted"
    """Nothing to fetch as far as could be listed, which was not all."""


def making_count(counts: Mapping[Action, int]) -> int:
    """Return how many entries are to be made or fetched."""
    return sum(counts.get(action, 0) for action in MAKING)


def judge_plans(
    plans: Sequence[PlanSummary], *, iteration: int, max_iterations: int, threshold: float
) -> Judgement:
    """Say what a pass does, given the plans of all directories (invariants 1 and 2)."""
    wanted = sum(making_count(plan.counts) for plan in plans)
    failures = sum(plan.listing_failures for plan in plans)
    if not wanted:
        return Judgement.UNLISTED if failures else Judgement.EQUAL
    total_bytes = sum(plan.source_bytes for plan in plans)
    missing_bytes = sum(plan.fetch_bytes for plan in plans)
    if missing_bytes and not failures and (total_bytes - missing_bytes) / total_bytes > threshold:
        return Judgement.GOOD_ENOUGH
    return Judgement.OVER if iteration >= max_iterations else Judgement.DOWNLOAD


def is_success(reports: Sequence[CopyReport]) -> bool:
    """Say whether what was left to do beside downloads went well, so that the pass succeeded."""
    return all(may_delete(report.counts) and not report.deletions_withheld for report in reports)


def may_delete_all(reports: Sequence[CopyReport], plans: Sequence[PlanSummary]) -> bool:
    """Say whether deletions may be done (invariant 4)."""
    return not any(plan.listing_failures for plan in plans) and all(
        may_delete(report.counts) for report in reports
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Make another pass after a wait."""

    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """Done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """No further pass will be made."""


Next = Again | Succeeded | GiveUp


def decide_next(iterations: Sequence[Iteration], max_iterations: int, draw: float) -> Next:
    """Say what follows the last of these passes, which has ended without an error.

    Args:
        iterations: All passes so far.
        max_iterations: Passes that may download.
        draw: Chance, 0 to 1.
    """
    last = iterations[-1]
    match last.state:
        case IterationState.SUCCESS:
            return Succeeded()
        case _ if last.iteration >= max_iterations:
            return GiveUp()
        case IterationState.DOWNLOAD_COMPLETE if not last.entries_changed:
            return Again(after_s=0.0)
        case _:
            # What changed while it was copied changes again at once if nobody waits a little.
            return Again(after_s=back_off_s(failed_in_a_row(iterations), draw))


def failed_in_a_row(iterations: Sequence[Iteration]) -> int:
    """Return how many of the last passes did not go well; at least 1."""
    count = 0
    for iteration in reversed(iterations):
        if iteration.state is IterationState.DOWNLOAD_COMPLETE and not iteration.entries_changed:
            break
        count += 1
    return max(1, count)


def back_off_s(failures: int, draw: float) -> float:
    """Return how long to wait after so many failures in a row: doubling, capped, with jitter."""
    whole = min(BACK_OFF_S_MAX, BACK_OFF_FIRST_S * (1 << min(failures - 1, 16)))
    return whole * (0.5 + draw / 2)


def is_curable(error: HoldfastError) -> bool:
    """Say whether another pass may go better (invariant 3)."""
    return error.kind in _CURABLE and error.code != "source-replaced"


def is_outage(error: HoldfastError) -> bool:
    """Say whether it is the source that is away."""
    return error.kind == "unavailable"


def check_migration_deletions(
    names: Sequence[str],
    plans: Sequence[PlanSummary],
    limit: DeleteLimit,
    allow_emptied: Sequence[str],
) -> None:
    """Return if the plans may delete what they say; else raise StateError, and nothing was done.

    The limit holds for all directories together. Where a part of the source could not be listed,
    nothing is refused here, for nothing is deleted then.

    Raises:
        StateError: `source-empty`, `too-many-deletions`.
    """
    if any(plan.listing_failures for plan in plans):
        return
    for name, plan in zip(names, plans, strict=True):
        if name not in allow_emptied:
            check_deletions(
                plan,
                DeleteLimit(percent=100.0),
                source_is_empty=not plan.source_entries,
                target_name=name,
            )
    wanted = sum(plan.counts.get(Action.DELETE, 0) + plan.goes_along for plan in plans)
    entries = sum(plan.target_entries for plan in plans)
    allowed = deletions_allowed(limit, entries)
    if wanted > allowed:
        raise StateError(
            f"{wanted} of {entries} entries of {', '.join(names)} would be deleted, "
            f"more than the {allowed} allowed",
            code="too-many-deletions",
            advice="look at what left the source; allow it with maxDelete",
            wanted=wanted,
            allowed=allowed,
        )


def room_short(
    plans: Sequence[PlanSummary], devices: Sequence[int], spaces: Sequence[Space]
) -> dict[int, int]:
    """Return how many bytes each file system lacks for all that goes to it; none where it fits.

    Args:
        plans: Of each directory.
        devices: On which file system each directory lies.
        spaces: What is free there, what partial files hold added.
    """
    short: dict[int, int] = {}
    for device in set(devices):
        here = [at for at, found in enumerate(devices) if found == device]
        # The same file system, seen from several roots: partial files of each count.
        free_bytes = max(spaces[at].free_bytes for at in here)
        together = _summed([plans[at] for at in here])
        lacking = bytes_short(together, spaces[here[0]]._replace(free_bytes=free_bytes))
        if lacking:
            short[device] = lacking
    return short


def _summed(plans: Sequence[PlanSummary]) -> PlanSummary:
    counts: dict[Action, int] = {}
    for plan in plans:
        for action, count in plan.counts.items():
            counts[action] = counts.get(action, 0) + count
    return PlanSummary(
        counts=counts,
        fetch_bytes=sum(plan.fetch_bytes for plan in plans),
        room_bytes=sum(plan.room_bytes for plan in plans),
        source_entries=sum(plan.source_entries for plan in plans),
        source_bytes=sum(plan.source_bytes for plan in plans),
        target_entries=sum(plan.target_entries for plan in plans),
        goes_along=sum(plan.goes_along for plan in plans),
        excluded=sum(plan.excluded for plan in plans),
        listing_failures=sum(plan.listing_failures for plan in plans),
    )


def pass_of_all(passes: Sequence[Pass]) -> Pass | None:
    """Return the passes of all directories of an instance as one; None if there are none."""
    if not passes:
        return None
    return Pass(
        number=max(each.number for each in passes),
        began_ns=min(each.began_ns for each in passes),
        planning_s=sum(each.planning_s for each in passes),
        copying_s=sum(each.copying_s for each in passes),
        files=sum(each.files for each in passes),
        size_bytes=sum(each.size_bytes for each in passes),
    )


def tally_made(
    iteration: Iteration, outcomes: Sequence[tuple[CopyOutcome, int]]
) -> tuple[int, int, int, int]:
    """Return downloaded, bytes, failures and changed of an iteration after these outcomes."""
    files, size_bytes = iteration.files_downloaded, iteration.bytes_downloaded
    failures, changed = iteration.download_failures, iteration.entries_changed
    for outcome, entry_bytes in outcomes:
        match outcome:
            case CopyOutcome.SETTLED:
                files += 1
                size_bytes += entry_bytes
            case CopyOutcome.FAILED:
                failures += 1
            case CopyOutcome.CHANGED | CopyOutcome.VANISHED:
                changed += 1
            case CopyOutcome.SKIPPED:
                pass
    return files, size_bytes, failures, changed


class MetadataFinding(StrEnum):
    """What the metadata stage of a verification finds of one entry, in Sidecar's terms."""

    NOT_AT_SOURCE = "not-at-source"
    NOT_AT_DESTINATION = "not-at-destination"
    MATCHED = "matched"
    MISMATCH = "mismatch"
    SPECIAL = "special"
    """A kind that is not copied; Sidecar lists none."""


_COPIED: Final = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK)


def judge_listed(source: Stat | None, target: Stat | None, fidelity: Fidelity) -> MetadataFinding:
    """Say what two listings show of one entry; at least one has it.

    Beyond size, type and time, mode and owner are compared where the source can tell them.
    """
    if source is None:
        return MetadataFinding.NOT_AT_SOURCE
    if source.kind not in _COPIED:
        return MetadataFinding.SPECIAL
    if target is None:
        return MetadataFinding.NOT_AT_DESTINATION
    same = source.kind is target.kind and (
        source.kind is not FileKind.FILE or source.size_bytes == target.size_bytes
    )
    if same:
        found = judge_rest(source, target, same_xattrs=True, fidelity=fidelity)
        same = found is VerifyOutcome.MATCHED
    return MetadataFinding.MATCHED if same else MetadataFinding.MISMATCH


class Tally:
    """Sidecar's counters, being counted. The metadata stage counts first, then the digests."""

    def __init__(self) -> None:
        self._listed = dict.fromkeys(MetadataFinding, 0)
        self._matched = 0
        self._differ = 0
        self._failed = 0

    def count_listed(self, finding: MetadataFinding) -> None:
        """Count an entry of the metadata stage."""
        self._listed[finding] += 1

    def count_read(self, listed: MetadataFinding, outcome: VerifyOutcome, kind: FileKind) -> None:
        """Count what a reading found of an entry.

        Args:
            listed: What its listings show, as of this reading.
            outcome: What was found.
            kind: Of the entry.
        """
        if kind is FileKind.DIRECTORY:
            if listed is MetadataFinding.MATCHED and outcome is VerifyOutcome.METADATA_DIFFERS:
                self._moved_to_mismatch()  # Extended attributes, which no listing shows.
            return
        match outcome:
            case VerifyOutcome.MATCHED:
                self._matched += 1
            case VerifyOutcome.DIGEST_DIFFERS | VerifyOutcome.SOURCE_DAMAGED:
                self._differ += listed is MetadataFinding.MATCHED
            case VerifyOutcome.FAILED | VerifyOutcome.CHANGED:
                self._failed += 1
            case VerifyOutcome.METADATA_DIFFERS if listed is MetadataFinding.MATCHED:
                self._moved_to_mismatch()
            case _:
                pass

    def count_unlisted(self, count: int) -> None:
        """Count parts of either tree that could not be listed."""
        self._failed += count

    def _moved_to_mismatch(self) -> None:
        self._listed[MetadataFinding.MATCHED] -= 1
        self._listed[MetadataFinding.MISMATCH] += 1

    def counters(self) -> Counters:
        """Return them as they are now."""
        return Counters(
            files_not_found_at_source=self._listed[MetadataFinding.NOT_AT_SOURCE],
            files_not_found_at_destination=self._listed[MetadataFinding.NOT_AT_DESTINATION],
            metadata_matched=self._listed[MetadataFinding.MATCHED],
            metadata_mismatches=self._listed[MetadataFinding.MISMATCH],
            digest_mismatches=self._differ,
            digest_verification_failures=self._failed,
            files_matched=self._matched,
        )
