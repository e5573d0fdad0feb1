"""Decides what a copy does with each entry and what a verification says of it. Pure.

No input or output, no clock, no chance: listings go in, decisions come out.

Invariants:
1. Without `delete`, nothing that only the target has is ever moved or removed: a directory in the
   way of a file is refused.
2. A plan that would delete more than its limit, or that would empty the target because the source
   is empty, is refused as a whole, before anything is done.
3. Nothing is deleted when any part of the source could not be listed, or any planned entry failed.
4. A verdict is `proven` only if every entry of a kind that is copied was examined and equal, and
   there was at least one. Those of other kinds are counted as skipped, never as equal.
5. A digest is trusted only while size, times and inode are what they were when it was taken, and
   the change time then was old enough that a later write must have moved it.
"""

import hashlib
from collections.abc import Mapping

from holdfast.errors import HoldfastError, InvalidRequestError, StateError, UnavailableError
from holdfast.files.model import (
    DAMAGE,
    FULL_FIDELITY,
    OPEN,
    Action,
    CopyOutcome,
    Decision,
    DeleteLimit,
    Fidelity,
    Pass,
    PlanSummary,
    Reason,
    Trend,
    Verdict,
    VerifyOutcome,
)
from holdfast.model.limits import (
    ATTEMPTS_CHANGED_MAX,
    DELETE_COUNT_FLOOR,
    DELETE_PERCENT,
    DISK_RESERVE_BYTES,
    FILE_BYTES_LARGE,
    RACY_NS,
)
from holdfast.model.tree import FileKind, Signature, Space, Stat, StatColumns
from holdfast.proof.statement import VerificationMode

_MAKE = {
    FileKind.FILE: Action.FETCH,
    FileKind.DIRECTORY: Action.MAKE_DIRECTORY,
    FileKind.SYMLINK: Action.MAKE_SYMLINK,
}


_CONTENT = slice(1, 3)
"""Of a Stat: size and mtime."""
_MODES = slice(6, 9)
"""Of a Stat: mode, uid and gid."""
assert ",".join(Stat._fields[_CONTENT] + Stat._fields[_MODES]) == "size_bytes,mtime_ns,mode,uid,gid"


def decide(
    source: Stat | None,
    target: Stat | None,
    *,
    delete: bool = False,
    same_link: bool = True,
    same_xattrs: bool = True,
    fidelity: Fidelity = FULL_FIDELITY,
) -> Decision:
    """Say what a copy does with one path.

    Args:
        source: None when only the target has it.
        target: None when only the source has it. Not both.
        delete: Whether what only the target has may go.
        same_link: Of two symlinks: whether their targets are the same.
        same_xattrs: Of two files or directories: whether their extended attributes are the same.
        fidelity: What the target can keep, so that a copy does not try for ever what it cannot.
    """
    if source is None:
        assert target is not None
        return Decision(Action.DELETE if delete else Action.KEEP, Reason.EXTRA)
    make = _MAKE.get(source.kind)
    if make is None:
        return Decision(Action.SKIP, Reason.SPECIAL)
    if target is None:
        return Decision(make, Reason.MISSING)
    if source.kind is not target.kind:
        if target.kind is FileKind.DIRECTORY and not delete:
            return Decision(Action.REFUSE, Reason.WOULD_DELETE_TREE)
        # Only where a directory is involved can the one not simply be renamed over the other.
        either = FileKind.DIRECTORY in (source.kind, target.kind)
        return Decision(make, Reason.KIND, target.kind if either else None)
    return _decide_same_kind(
        source,
        target,
        same_link=same_link,
        same_time=same_times(source, target, fidelity),
        same_metadata=same_xattrs and same_modes(source, target, fidelity),
    )


def is_same_file(source: Stat, target: Stat) -> bool:
    """Say at once of two files with no other names that `decide` would keep them, as most are.

    False says nothing: the target may not be able to keep what differs.
    """
    return (
        source.kind is target.kind is FileKind.FILE
        and source[_CONTENT] == target[_CONTENT]
        and source[_MODES] == target[_MODES]
        and source.links_count == 1 == target.links_count
    )


def are_same_files(source: StatColumns, target: StatColumns) -> bool:
    """Say of as many entries on both sides that is_same_file holds for each."""
    count = len(source.kind)
    return (
        source.kind.count(FileKind.FILE) == target.kind.count(FileKind.FILE) == count
        and source[_CONTENT] == target[_CONTENT]
        and source[_MODES] == target[_MODES]
        and source.links_count.count(1) == target.links_count.count(1) == count
    )


def _decide_same_kind(
    source: Stat, target: Stat, *, same_link: bool, same_time: bool, same_metadata: bool
) -> Decision:
    if source.kind is FileKind.FILE:
        if source.size_bytes != target.size_bytes:
            return Decision(Action.FETCH, Reason.SIZE)
        if not same_time:
            return Decision(Action.FETCH, Reason.TIME)
    if source.kind is FileKind.SYMLINK and not same_link:
        return Decision(Action.MAKE_SYMLINK, Reason.LINK_TARGET)
    if not (same_metadata and same_time):
        return Decision(Action.SET_METADATA, Reason.METADATA)
    return Decision(Action.KEEP, Reason.SAME)


def same_modes(source: Stat, target: Stat, fidelity: Fidelity) -> bool:
    """Say whether mode and owner agree, as far as the target can keep them.

    A symlink's mode means nothing.
    """
    if fidelity.owner and (source.uid, source.gid) != (target.uid, target.gid):
        return False
    if not fidelity.mode or source.kind is FileKind.SYMLINK:
        return True
    mask = 0o7777 if fidelity.set_id else 0o1777
    return source.mode & mask == target.mode & mask


def same_times(source: Stat, target: Stat, fidelity: Fidelity) -> bool:
    """Say whether modification times agree, as finely as the source can tell them."""
    if not fidelity.directory_times and source.kind is FileKind.DIRECTORY:
        return True
    unit_ns = fidelity.mtime_unit_ns
    return source.mtime_ns // unit_ns == target.mtime_ns // unit_ns


def decide_follower(leader: Action, *, same_inode: bool, own: Decision) -> Decision:
    """Say what becomes of a further name of a hard link group, given what its first name does.

    Args:
        leader: The action planned for the first name of the group in path order.
        same_inode: Whether the target already has both names on one inode.
        own: What `decide` said of this name by itself.
    """
    leader_stays = leader in (Action.KEEP, Action.SET_METADATA)
    if leader_stays and same_inode:
        return Decision(Action.KEEP, Reason.SAME)
    if own.action in (Action.REFUSE, Action.SKIP):
        return own
    return Decision(Action.RELINK, Reason.LINK_GROUP, own.displaces)


def decide_linked(own: Decision, target: Stat | None) -> Decision:
    """Say what becomes of a file that has further names at the target.

    Setting its metadata there would set that of names nobody asked about; so it is made anew.
    """
    if own.action is Action.SET_METADATA and target is not None and target.links_count > 1:
        return Decision(Action.FETCH, Reason.LINK_GROUP)
    return own


def decide_shared(own: Decision) -> Decision:
    """Say what becomes of a file that shares its inode at the target, and not at the source.

    Left so, a later write to the one name, or its repair, would change the other.
    """
    stays = own.action in (Action.KEEP, Action.SET_METADATA)
    return Decision(Action.FETCH, Reason.LINK_GROUP) if stays else own


def check_deletions(
    plan: PlanSummary, limit: DeleteLimit, *, source_is_empty: bool, target_name: str
) -> None:
    """Return if a plan may delete what it says; else raise StateError, and nothing has been done.

    Raises:
        StateError: `listing-incomplete`, `source-empty` or `too-many-deletions`.
    """
    wanted = plan.counts.get(Action.DELETE, 0) + plan.goes_along
    if not wanted:
        return
    if plan.listing_failures:
        raise StateError(
            f"{plan.listing_failures} parts of the source could not be listed, so what to delete "
            f"is not known; {target_name} was left as it is",
            code="listing-incomplete",
            advice="make them readable, or run without --delete",
        )
    if source_is_empty:
        raise StateError(
            f"the source is empty and {wanted} entries of {target_name} would be deleted",
            code="source-empty",
            advice="check that the source is mounted; empty the target yourself if it is meant so",
        )
    allowed = deletions_allowed(limit, plan.target_entries)
    if wanted > allowed:
        raise StateError(
            f"{wanted} of {plan.target_entries} entries of {target_name} would be deleted, "
            f"more than the {allowed} allowed",
            code="too-many-deletions",
            advice="look at 'holdfast copy --plan'; allow it with --max-delete",
            wanted=wanted,
            allowed=allowed,
        )


def deletions_allowed(limit: DeleteLimit, target_entries: int) -> int:
    """Return how many entries a plan may delete."""
    if limit.count is None and limit.percent is None:
        return max(DELETE_COUNT_FLOOR, target_entries * DELETE_PERCENT // 100)
    bounds = []
    if limit.count is not None:
        bounds.append(limit.count)
    if limit.percent is not None:
        bounds.append(int(target_entries * limit.percent / 100))
    return min(bounds)


def may_delete(counts: Mapping[CopyOutcome, int]) -> bool:
    """Say whether the transfer went well enough for deletions: nothing failed, nothing moved."""
    return not (counts.get(CopyOutcome.FAILED) or counts.get(CopyOutcome.CHANGED))


def bytes_short(plan: PlanSummary, space: Space) -> int:
    """Return how many bytes the target lacks for a plan; 0 where there is room."""
    if not plan.room_bytes:
        return 0
    return max(0, plan.room_bytes + DISK_RESERVE_BYTES - space.free_bytes)


def trend_of(before: Pass | None, now: Pass) -> Trend:
    """Compare a finished pass with the one before it, and predict the last one.

    What a pass fetched had changed since the pass before it began; at that rate, what changed
    while this one ran is what a last pass would find. It would also plan as long as this one did.
    """
    final_pass_s = None
    if before is not None:
        since_s = max((now.began_ns - before.began_ns) / 1e9, 1e-3)
        # The share of this pass's work that came up again while it was at it.
        again = min(1.0, (now.planning_s + now.copying_s) / since_s)
        final_pass_s = now.planning_s + now.copying_s * again
    return Trend(
        number=now.number,
        files=now.files,
        size_bytes=now.size_bytes,
        size_bytes_before=None if before is None else before.size_bytes,
        final_pass_s=final_pass_s,
    )


def ends_run(error: HoldfastError) -> bool:
    """Say whether an error is of a source as a whole, so that every further entry would meet it."""
    return isinstance(error, UnavailableError) or error.code == "source-replaced"


def attempts_for(size_bytes: int) -> int:
    """Return how often to read an entry that changes under the reading."""
    return ATTEMPTS_CHANGED_MAX if size_bytes < FILE_BYTES_LARGE else 1


def is_trusted(known: Signature | None, now: Signature) -> bool:
    """Say whether a digest taken when the entry looked like `known` still holds (invariant 5).

    A tree that cannot tell inodes (0) is never trusted: its times alone do not show every change.
    """
    return known is not None and known == now and known.inode != 0


def is_racy(signature: Signature, observed_ns: int) -> bool:
    """Say whether a write right after `observed_ns` (wall clock) might leave no trace.

    File systems stamp changes in ticks of up to two seconds; a file whose last change is not older
    than that when it is read may change again without looking different.
    """
    return max(signature.ctime_ns, signature.mtime_ns) > observed_ns - RACY_NS


def judge_metadata(
    source: Stat | None,
    target: Stat | None,
    *,
    one_way: bool,
    same_link: bool,
    same_xattrs: bool,
    fidelity: Fidelity,
) -> VerifyOutcome | None:
    """Say what a verification finds without reading content; None when content decides.

    A size is metadata, as everywhere in Sidecar's counters: where it differs, nothing is read.
    """
    if source is None:
        return VerifyOutcome.EXTRA if one_way else VerifyOutcome.MISSING_AT_SOURCE
    if source.kind not in _MAKE:
        return VerifyOutcome.SKIPPED
    if target is None:
        return VerifyOutcome.MISSING_AT_TARGET
    if source.kind is not target.kind:
        return VerifyOutcome.METADATA_DIFFERS
    if source.kind is FileKind.FILE and source.size_bytes != target.size_bytes:
        return VerifyOutcome.METADATA_DIFFERS
    if not same_link:
        return VerifyOutcome.METADATA_DIFFERS
    if source.kind is FileKind.FILE:
        return None
    return judge_rest(source, target, same_xattrs=same_xattrs, fidelity=fidelity)


def judge_rest(
    source: Stat, target: Stat, *, same_xattrs: bool, fidelity: Fidelity
) -> VerifyOutcome:
    """Say what is left to say of two entries with equal content."""
    same = (
        same_xattrs
        and same_times(source, target, fidelity)
        and same_modes(source, target, fidelity)
    )
    return VerifyOutcome.MATCHED if same else VerifyOutcome.METADATA_DIFFERS


def judge_digests(source: bytes, target: bytes, known_source: bytes | None) -> VerifyOutcome:
    """Say what two digests prove.

    Args:
        source: Of the source's content, read now or trusted.
        target: Of the target's content, read now or trusted.
        known_source: Of the source's content when it was copied, if its signature has not moved
            since. Where the target still agrees with that and the source no longer does, it is the
            source that is damaged.
    """
    if source == target:
        return VerifyOutcome.MATCHED
    if known_source is not None and known_source == target:
        return VerifyOutcome.SOURCE_DAMAGED
    return VerifyOutcome.DIGEST_DIFFERS


def verdict_of(counts: Mapping[VerifyOutcome, int], mode: VerificationMode) -> Verdict:
    """Say how a verification ends (invariant 4)."""
    if any(counts.get(outcome) for outcome in DAMAGE):
        return Verdict.DAMAGED
    if any(counts.get(outcome) for outcome in OPEN) or not counts.get(VerifyOutcome.MATCHED):
        return Verdict.INCOMPLETE
    return Verdict.SAMPLED if mode is VerificationMode.SAMPLE else Verdict.PROVEN


SAMPLE_BUCKETS = 4096
"""Shares a sample by bytes is measured out in."""


def sample_bucket(path: bytes, seed: int) -> int:
    """Return where a path falls, evenly over SAMPLE_BUCKETS; always the same for one seed."""
    key = seed.to_bytes(8, "big")
    drawn = hashlib.blake2b(path, digest_size=8, key=key).digest()
    return int.from_bytes(drawn, "big") * SAMPLE_BUCKETS >> 64


def is_sampled(path: bytes, fraction: float, seed: int) -> bool:
    """Say whether an entry belongs to a sample: always the same for one path, fraction and seed."""
    key = seed.to_bytes(8, "big")
    drawn = int.from_bytes(hashlib.blake2b(path, digest_size=8, key=key).digest(), "big")
    return drawn < fraction * 2**64


def sample_fraction(percent: float | None, budget_bytes: int | None, buckets: list[int]) -> float:
    """Return the share of entries to read for a percentage or within a byte budget.

    Args:
        percent: Of the files; so also of the bytes, in the mean.
        budget_bytes: Not to be exceeded, as long as the first bucket alone does not.
        buckets: For a budget: bytes of the files of each bucket, those over the budget left out.

    Raises:
        InvalidRequestError: `bad-sample`; not exactly one given, or out of range.
    """
    if (percent is None) == (budget_bytes is None):
        raise _bad_sample("a sample needs either a percentage or a byte budget")
    if percent is not None and 0 < percent <= 100:
        return percent / 100
    if budget_bytes is None or budget_bytes <= 0:
        raise _bad_sample("a sample must be more than nothing and at most everything")
    total_bytes = 0
    for taken, size_bytes in enumerate(buckets):
        total_bytes += size_bytes
        if total_bytes > budget_bytes:
            share = taken / len(buckets)
            return share or budget_bytes / sum(buckets)
    return 1.0


def _bad_sample(message: str) -> InvalidRequestError:
    return InvalidRequestError(
        message, code="bad-sample", advice="say for example --sample 5% or --sample 10GiB"
    )


def sample_confidence(sampled: int, files: int) -> str:
    """Say in words what a clean sample means: the chance to have missed one damaged file in 100."""
    if sampled >= files:
        return f"all {files} files were read"
    missed = 0.99**sampled
    return (
        f"{sampled} of {files} files were read; had one file in a hundred been damaged, "
        f"this would have found it with a probability of {1 - missed:.2%}"
    )
