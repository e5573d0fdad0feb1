"""Goal: order, retention and the choice of what is read are as checkpoints/rules.py says.

Method: its invariants 1 to 3 on examples and on graphs, histories and memories made by hypothesis.
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.checkpoints.model import (
    BankId,
    Budget,
    Checkpoint,
    CheckpointId,
    CheckpointState,
    ChunkId,
    ChunkMemory,
    ChunkResult,
    Depth,
    PlanId,
    Resource,
    Retention,
    Verdict,
    Verified,
)
from holdfast.checkpoints.rules import (
    Hook,
    Step,
    check_deletable,
    check_restorable,
    choose_chunks,
    is_verified_good,
    judge,
    plan_retention,
    plan_walk,
    tells_more,
)
from holdfast.errors import InvalidRequestError, StateError

DAY_NS = 86_400 * 10**9
NOW_NS = 20_000 * DAY_NS


def graph(edges: dict[str, list[str]]) -> list[Resource]:
    return [
        Resource(type="T", id=name, depends_on=tuple(f"T#{child}" for child in children))
        for name, children in edges.items()
    ]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    count = draw(st.integers(1, 7))
    return {
        str(n): [str(c) for c in range(n + 1, count) if draw(st.booleans())] for n in range(count)
    }


@given(graphs())
def test_every_hook_comes_after_what_it_must_come_after(edges: dict[str, list[str]]) -> None:
    """Invariant 1."""
    walk = plan_walk(graph(edges))
    at = {step: number for number, step in enumerate(walk)}

    assert len(walk) == len(at) == 4 * len(edges)
    for name, children in edges.items():
        own = [at[Step(hook, f"T#{name}")] for hook in Hook]
        assert own == sorted(own)
        for child in children:
            assert at[Step(Hook.BEGIN, f"T#{name}")] < at[Step(Hook.BEGIN, f"T#{child}")]
            assert at[Step(Hook.FINISH, f"T#{child}")] < at[Step(Hook.FINISH, f"T#{name}")]
            assert at[Step(Hook.COMPLETE, f"T#{child}")] < at[Step(Hook.COMPLETE, f"T#{name}")]


@pytest.mark.parametrize(
    "edges", [{"a": ["a"]}, {"a": ["b"], "b": ["c"], "c": ["a"]}, {"a": ["nobody"]}]
)
def test_what_is_no_graph_is_refused(edges: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidRequestError, match="no graph"):
        plan_walk(graph(edges))
    with pytest.raises(InvalidRequestError, match="twice"):
        plan_walk([*graph({"a": []}), *graph({"a": []})])


def checkpoint(number: int, age_days: float = 0, **changed: object) -> Checkpoint:
    made = Checkpoint(
        id=CheckpointId(f"{number:08x}-0000-0000-0000-000000000000"),
        plan_id=PlanId("p"),
        plan_name="p",
        bank_id=BankId("b"),
        created_ns=NOW_NS - int(age_days * DAY_NS),
        state=CheckpointState.AVAILABLE,
        task_id="t",
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def verified(verdict: Verdict, depth: Depth = Depth.DIGEST) -> Verified:
    return Verified(at_ns=1, depth=depth, verdict=verdict, coverage_percent=100.0, task_id="v")


def kept(checkpoints: list[Checkpoint], retention: Retention) -> set[int]:
    fates = plan_retention(checkpoints, retention, NOW_NS)
    assert all(fate.reasons for fate in fates)
    return {int(fate.checkpoint.id[:8], 16) for fate in fates if fate.keep}


def test_periods_keep_the_newest_of_each() -> None:
    daily = [checkpoint(n, age_days=n / 2) for n in range(20)]

    assert kept(daily, Retention(last=3)) == {0, 1, 2}
    assert kept(daily, Retention(daily=3)) == {0, 1, 3}
    assert kept(daily, Retention(days=2)) == {0, 1, 2, 3}
    assert kept(daily, Retention(max_backups=4)) == {0, 1, 2, 3}
    assert kept(daily, Retention()) == set(range(20))


def test_failed_ones_take_no_place() -> None:
    """Invariant 2: neither in error nor with a bad verdict do they count."""
    history = [
        checkpoint(0, 0, state=CheckpointState.ERROR),
        checkpoint(1, 1, verified=verified(Verdict.FAIL)),
        checkpoint(2, 2),
        checkpoint(3, 3),
    ]

    assert kept(history, Retention(last=1)) == {1, 2}


@given(
    st.lists(
        st.tuples(
            st.floats(0, 900, allow_nan=False),
            st.sampled_from([None, Verdict.SUCCESS, Verdict.FAIL, Verdict.PARTIAL]),
            st.sampled_from(list(Depth)),
            st.booleans(),
            st.sampled_from([CheckpointState.AVAILABLE, CheckpointState.ERROR]),
        ),
        max_size=12,
    ),
    st.builds(
        Retention,
        last=st.integers(0, 3),
        daily=st.integers(0, 3),
        monthly=st.integers(0, 2),
        max_backups=st.integers(0, 3),
        days=st.integers(0, 5),
    ),
)
def test_the_last_good_one_is_never_dropped(
    rows: list[tuple[float, Verdict | None, Depth, bool, CheckpointState]], retention: Retention
) -> None:
    """Invariant 2, whatever the history and the rules."""
    history = [
        checkpoint(
            number,
            age,
            verified=verified(verdict, depth) if verdict else None,
            is_protected=held,
            state=state,
        )
        for number, (age, verdict, depth, held, state) in enumerate(rows)
    ]
    fates = plan_retention(history, retention, NOW_NS)
    newest_first = sorted(history, key=lambda c: (c.created_ns, c.id), reverse=True)
    stays = {fate.checkpoint.id for fate in fates if fate.keep}

    good = [each for each in newest_first if is_verified_good(each)]
    available = [c for c in newest_first if c.state is CheckpointState.AVAILABLE]
    assert all(first.id in stays for first in good[:1] + available[:1])
    assert all(each.id in stays for each in history if each.is_protected)


def test_failed_verifications_drop_nothing_that_the_rules_would_keep() -> None:
    """One damaged chunk that all share may be healed: it must not cost the whole history."""
    rotten = [checkpoint(n, n, verified=verified(Verdict.FAIL)) for n in range(6)]
    newer = [checkpoint(n + 10, n / 10) for n in range(2)]

    assert kept(rotten, Retention(last=3)) == {0, 1, 2}
    assert kept([*newer, *rotten], Retention(last=3)) == {10, 11, 0}
    assert kept(rotten, Retention(max_backups=2)) == {0, 1}
    partly = checkpoint(7, 9, state=CheckpointState.ERROR, manifest_digest="d")
    never = checkpoint(8, 9, state=CheckpointState.ERROR)
    assert kept([*rotten, partly, never], Retention()) == {0, 1, 2, 3, 4, 5, 7}


def test_newest_that_holds_some_resources_is_kept_where_nothing_newer_holds_all() -> None:
    """Invariant 2: a plan one of whose resources always fails is not left with nothing."""
    partly = {"state": CheckpointState.ERROR, "manifest_digest": "d"}
    history = [
        checkpoint(1, 4, state=CheckpointState.ERROR),
        checkpoint(2, 5, **partly),
        checkpoint(3, 6, **partly),
        checkpoint(4, 7),
        checkpoint(5, 8, **partly),
    ]

    def kept(rows: list[Checkpoint]) -> list[str]:
        fates = plan_retention(rows, Retention(last=1), NOW_NS)
        return [fate.checkpoint.id for fate in fates if fate.keep]

    assert kept(history) == [history[1].id, history[3].id]
    assert kept(history[:3]) == [history[1].id]
    assert kept(history[3:]) == [history[3].id]


@pytest.mark.parametrize(
    ("before", "now", "counts"),
    [
        (None, (Verdict.PARTIAL, Depth.PRESENCE), True),
        ((Verdict.PARTIAL, Depth.DIGEST), (Verdict.SUCCESS, Depth.PRESENCE), True),
        ((Verdict.SUCCESS, Depth.PRESENCE), (Verdict.PARTIAL, Depth.DIGEST), True),
        ((Verdict.SUCCESS, Depth.DIGEST), (Verdict.SUCCESS, Depth.PRESENCE), False),
        ((Verdict.SUCCESS, Depth.RESTORE), (Verdict.PARTIAL, Depth.DIGEST), False),
        ((Verdict.SUCCESS, Depth.RESTORE), (Verdict.SUCCESS, Depth.DIGEST), True),
        ((Verdict.SUCCESS, Depth.RESTORE), (Verdict.FAIL, Depth.PRESENCE), True),
        ((Verdict.FAIL, Depth.PRESENCE), (Verdict.SUCCESS, Depth.PRESENCE), False),
        ((Verdict.FAIL, Depth.RESTORE), (Verdict.PARTIAL, Depth.RESTORE), False),
        ((Verdict.FAIL, Depth.RESTORE), (Verdict.SUCCESS, Depth.DIGEST), True),
    ],
)
def test_lesser_verification_does_not_count(
    before: tuple[Verdict, Depth] | None, now: tuple[Verdict, Depth], counts: bool
) -> None:
    """Invariant 4."""
    known = None if before is None else verified(*before)

    assert tells_more(verified(*now), known) is counts


def memory(number: int, checked_ns: int, result: ChunkResult | None, size: int = 10) -> ChunkMemory:
    return ChunkMemory(ChunkId(number.to_bytes(8, "big") + bytes(24)), size, checked_ns, result)


def test_bad_then_never_then_oldest() -> None:
    """Invariant 3."""
    chunks = [
        memory(0, 5, ChunkResult.GOOD),
        memory(1, 3, ChunkResult.GOOD),
        memory(2, 0, None),
        memory(3, 9, ChunkResult.DAMAGED),
    ]

    def chosen(budget: Budget) -> list[int]:
        return [int.from_bytes(c.id[:8], "big") for c in choose_chunks(chunks, budget, 10)]

    assert chosen(Budget()) == [3, 2, 1, 0]
    assert chosen(Budget(size_bytes=20)) == [3, 2]
    assert chosen(Budget(size_bytes=1)) == [3]
    assert chosen(Budget(percent=75)) == [3, 2, 1]
    assert chosen(Budget(skip_younger_s=6e-9)) == [3, 2, 1]
    both = chosen(Budget(slice=(1, 2))) + chosen(Budget(slice=(2, 2)))
    assert sorted(both) == [0, 1, 2, 3, 3]


def test_nothing_but_everything_is_success() -> None:
    assert judge(bad=0, examined_bytes=10, total_bytes=10) == (Verdict.SUCCESS, 100.0)
    assert judge(bad=0, examined_bytes=5, total_bytes=10) == (Verdict.PARTIAL, 50.0)
    assert judge(bad=1, examined_bytes=10, total_bytes=10)[0] is Verdict.FAIL


def test_what_failed_is_restored_by_force_only() -> None:
    bad = checkpoint(1, verified=verified(Verdict.FAIL))

    with pytest.raises(StateError, match="verification"):
        check_restorable(bad, force=False)
    check_restorable(bad, force=True)
    with pytest.raises(StateError):
        check_restorable(checkpoint(1, state=CheckpointState.DELETED), force=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"is_protected": True},
        {"locked_until_ns": NOW_NS + 1},
        {"state": CheckpointState.PROTECTING},
    ],
)
def test_what_is_held_is_not_deleted(changed: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        check_deletable(replace(checkpoint(1), **changed), NOW_NS)
    check_deletable(checkpoint(1), NOW_NS)
