"""Decides order of hooks, retention, what a verification reads, and states; pure.

Invariants:
1. A hook comes after every hook it must come after: parent begin before child begin, child finish
   before parent finish, begin, finish, main, complete within one resource, child complete before
   parent complete. A shared child is visited once.
2. Retention never drops the newest verified-good checkpoint, nor the newest available one, nor a
   newer one in which only some resources failed, nor a protected or locked one. Checkpoints in
   error, or whose last verification failed, never take the place of a good one; the latter stay
   as long as they would if it had not.
3. A verification within a budget takes known-bad chunks first, then those never checked, then the
   one checked longest ago; the first chunk is taken even where it is over the budget.
4. What a verification found stands until another tells more: a failure until every byte was read
   and found right, and that until something bad is found.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from holdfast.checkpoints.model import (
    Budget,
    Checkpoint,
    CheckpointState,
    ChunkMemory,
    ChunkResult,
    Depth,
    Resource,
    Retention,
    Verdict,
    Verified,
)
from holdfast.errors import InvalidRequestError, StateError
from holdfast.model.limits import RESOURCES_MAX

_DAY_NS: Final = 86_400 * 1_000_000_000
BAD: Final = frozenset({ChunkResult.MISSING, ChunkResult.DAMAGED})


class Hook(StrEnum):
    """A moment in an operation on one resource."""

    BEGIN = "begin"
    FINISH = "finish"
    MAIN = "main"
    COMPLETE = "complete"


class Step(NamedTuple):
    """One hook of one resource."""

    hook: Hook
    key: str


def plan_walk(resources: Sequence[Resource]) -> list[Step]:
    """Return every hook of every resource in an order that keeps invariant 1.

    Raises:
        InvalidRequestError: `bad-graph`: a resource twice, a dependency unknown, or a loop;
            `too-many-resources`.
    """
    if len(resources) > RESOURCES_MAX:
        raise InvalidRequestError(
            f"{len(resources)} resources are more than a plan takes",
            code="too-many-resources",
            advice=f"make several plans of up to {RESOURCES_MAX}",
        )
    known: dict[str, Resource] = {}
    for resource in resources:
        if resource.key in known:
            raise _bad_graph(f"{resource.key} is named twice")
        known[resource.key] = resource
    order = _children_first(known)
    down = [Step(Hook.BEGIN, key) for key in reversed(order)]
    up = [Step(Hook.FINISH, key) for key in order]
    mains = [Step(Hook.MAIN, key) for key in order]
    return [*down, *up, *mains, *(Step(Hook.COMPLETE, key) for key in order)]


def _children_first(known: Mapping[str, Resource]) -> list[str]:
    order: list[str] = []
    done: set[str] = set()
    for root in known:
        # An explicit stack: a chain of a thousand resources is deeper than Python likes.
        stack: list[tuple[str, Iterator[str]]] = []
        under_way: set[str] = set()
        _enter(root, known, stack, under_way, done)
        while stack:
            key, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                under_way.discard(key)
                done.add(key)
                order.append(key)
            else:
                _enter(child, known, stack, under_way, done)
    return order


def _enter(
    key: str,
    known: Mapping[str, Resource],
    stack: list[tuple[str, Iterator[str]]],
    under_way: set[str],
    done: set[str],
) -> None:
    if key in under_way:
        raise _bad_graph(f"{key} depends on itself")
    if key in done:
        return
    if key not in known:
        raise _bad_graph(f"{key} is depended on and not part of the plan")
    under_way.add(key)
    stack.append((key, iter(known[key].depends_on)))


def _bad_graph(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the resources make no graph that can be walked: {what}",
        code="bad-graph",
        advice="name each resource once, with dependencies that are resources of the plan",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What retention decides of one checkpoint, and why."""

    checkpoint: Checkpoint
    keep: bool
    reasons: tuple[str, ...]


_PERIODS: Final = {
    "hourly": "%Y-%m-%dT%H",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}


def is_verified_good(checkpoint: Checkpoint) -> bool:
    """Say whether every byte of it was once read and found right, and nothing bad since."""
    verified = checkpoint.verified
    return (
        checkpoint.state is CheckpointState.AVAILABLE
        and verified is not None
        and verified.verdict is Verdict.SUCCESS
        and verified.depth is not Depth.PRESENCE
    )


def plan_retention(
    checkpoints: Iterable[Checkpoint], retention: Retention, now_ns: int
) -> list[Fate]:
    """Decide which checkpoints of one plan stay, newest first, each with its reasons.

    Times are UTC. Without any rule all stay that hold anything. What is being made or deleted is
    left alone.
    """
    newest_first = sorted(checkpoints, key=lambda c: (c.created_ns, c.id), reverse=True)
    settled = [c for c in newest_first if c.state in _SETTLED]
    available = [c for c in settled if c.state is CheckpointState.AVAILABLE]
    failed = {c.id for c in available if c.verified and c.verified.verdict is Verdict.FAIL}
    kept = _kept_by_rules([c for c in available if c.id not in failed], retention, now_ns)
    for each_id, reasons in _kept_by_rules(available, retention, now_ns).items():
        if each_id in failed:
            # Damage is often of what all share, and can be healed: it must not cost the history.
            kept[each_id] = [*reasons, "takes no place, for its last verification failed"]
    if retention.is_empty:
        held = [c for c in settled if c.state is CheckpointState.ERROR and c.manifest_digest]
        kept |= {c.id: ["no rule asks to drop it"] for c in held}
    for first, why in (
        (next(iter(available), None), "the newest"),
        (next(filter(is_verified_good, settled), None), "the newest that is verified good"),
        (_newest_in_part(settled), "the newest, though not all of it was protected"),
    ):
        if first is not None:
            kept.setdefault(first.id, []).append(why)
    for each in settled:
        if each.is_protected:
            kept.setdefault(each.id, []).append("protected")
        if each.locked_until_ns > now_ns:
            kept.setdefault(each.id, []).append(f"locked until {_time(each.locked_until_ns)}")
    return [
        Fate(
            checkpoint=c,
            keep=c.id in kept,
            reasons=tuple(kept.get(c.id) or [_why_dropped(c, retention)]),
        )
        for c in settled
    ]


def _newest_in_part(newest_first: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return the newest checkpoint that has a manifest, if it is newer than any available one."""
    for each in newest_first:
        if each.state is CheckpointState.AVAILABLE:
            return None
        if each.state is CheckpointState.ERROR and each.manifest_digest:
            return each
    return None


_SETTLED: Final = (
    CheckpointState.AVAILABLE,
    CheckpointState.ERROR,
    CheckpointState.ERROR_DELETING,
)


def _kept_by_rules(
    sound: list[Checkpoint], retention: Retention, now_ns: int
) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {}
    asked = any([retention.last, retention.days, *(getattr(retention, p) for p in _PERIODS)])
    for number, each in enumerate(sound):
        if retention.max_backups and number >= retention.max_backups:
            break
        reasons = []
        if not asked:
            reasons.append("no rule asks to drop it")
        if number < retention.last:
            reasons.append(f"last {number + 1} of {retention.last}")
        if retention.days and now_ns - each.created_ns < retention.days * _DAY_NS:
            reasons.append(f"younger than {retention.days} days")
        if reasons:
            kept[each.id] = reasons
    limit = retention.max_backups or len(sound)
    for period, pattern in _PERIODS.items():
        seen: set[str] = set()
        for each in sound[:limit]:
            name = datetime.fromtimestamp(each.created_ns // 10**9, UTC).strftime(pattern)
            if len(seen) < getattr(retention, period) and name not in seen:
                seen.add(name)
                kept.setdefault(each.id, []).append(f"{period} {name}")
    return kept


def _why_dropped(checkpoint: Checkpoint, retention: Retention) -> str:
    if checkpoint.state is not CheckpointState.AVAILABLE:
        return f"its state is {checkpoint.state}"
    if retention.max_backups:
        return f"no rule keeps it, or {retention.max_backups} newer ones are kept"
    return "no rule keeps it"


def _time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def choose_chunks(chunks: Sequence[ChunkMemory], budget: Budget, now_ns: int) -> list[ChunkMemory]:
    """Return what a verification is to read, in the order in which it is most worth it."""
    chosen = sorted(chunks, key=_worth)
    if budget.skip_younger_s is not None:
        horizon_ns = now_ns - int(budget.skip_younger_s * 1e9)
        chosen = [
            c for c in chosen if c.result is not ChunkResult.GOOD or c.checked_ns <= horizon_ns
        ]
    if budget.slice is not None:
        number, of = budget.slice
        chosen = [
            c
            for c in chosen
            if c.result in BAD or int.from_bytes(c.id[:8], "big") % of == number - 1
        ]
    limit = budget.size_bytes
    if budget.percent is not None:
        share = int(sum(c.size_bytes for c in chunks) * budget.percent / 100)
        limit = share if limit is None else min(limit, share)
    if limit is None:
        return chosen
    taken: list[ChunkMemory] = []
    total_bytes = 0
    for each in chosen:
        if taken and total_bytes + each.size_bytes > limit:
            break
        taken.append(each)
        total_bytes += each.size_bytes
    return taken


def _worth(chunk: ChunkMemory) -> tuple[bool, int, bytes]:
    return (chunk.result not in BAD, chunk.checked_ns, chunk.id)


def judge(*, bad: int, examined_bytes: int, total_bytes: int) -> tuple[Verdict, float]:
    """Return the verdict of a verification and how much of it was looked at, in percent."""
    coverage = 100.0 if total_bytes == 0 else 100.0 * examined_bytes / total_bytes
    if bad:
        return Verdict.FAIL, coverage
    return (Verdict.SUCCESS if examined_bytes >= total_bytes else Verdict.PARTIAL), coverage


def tells_more(now: Verified, before: Verified | None) -> bool:
    """Say whether what a verification found takes the place of what was known before.

    What is bad always does. What is good in part, or by presence alone, neither takes back a
    failure nor hides that every byte was once read and found right.
    """
    if before is None or now.verdict is Verdict.FAIL:
        return True
    if now.verdict is Verdict.SUCCESS and now.depth is not Depth.PRESENCE:
        return True
    is_deeper = before.verdict is Verdict.SUCCESS and before.depth is not Depth.PRESENCE
    return before.verdict is not Verdict.FAIL and not is_deeper


def check_deletable(checkpoint: Checkpoint, now_ns: int) -> None:
    """Return if a checkpoint may be deleted.

    Raises:
        StateError: `protected`, `locked`, or `bad-state` while it is being made.
    """
    why, code = "", "bad-state"
    if checkpoint.is_protected:
        why, code = "is protected", "protected"
    elif checkpoint.locked_until_ns > now_ns:
        why, code = f"is locked until {_time(checkpoint.locked_until_ns)}", "locked"
    elif checkpoint.state is CheckpointState.PROTECTING:
        why = "is being made"
    if why:
        raise StateError(
            f"checkpoint {checkpoint.id} {why}",
            code=code,
            advice="look at it with 'holdfast checkpoints show'",
        )


def check_targets(keys: Sequence[str], parameters: Mapping[str, Mapping[str, object]]) -> None:
    """Return if no two resources of these keys are to be restored into one place.

    Raises:
        InvalidRequestError: `ambiguous-target`.
    """
    for kind, given in parameters.items():
        if "target" in given and sum(key.startswith(f"{kind}#") for key in keys) > 1:
            raise InvalidRequestError(
                "one target cannot hold several resources",
                code="ambiguous-target",
                advice="name one with --resource; see 'holdfast checkpoints show'",
            )


def check_restorable(checkpoint: Checkpoint, *, force: bool) -> None:
    """Return if a checkpoint may be restored.

    Raises:
        StateError: `not-available`, or `verification-failed` without `force`.
    """
    if checkpoint.state is not CheckpointState.AVAILABLE:
        raise StateError(
            f"checkpoint {checkpoint.id} is {checkpoint.state}",
            code="not-available",
            advice="restore another one; see 'holdfast checkpoints list'",
        )
    verified = checkpoint.verified
    if verified is not None and verified.verdict is Verdict.FAIL and not force:
        raise StateError(
            f"the last verification of checkpoint {checkpoint.id} failed"
            + (f" in {', '.join(verified.bad)}" if verified.bad else ""),
            code="verification-failed",
            advice="restore another one, heal it, or restore what is good of it with --force",
        )
