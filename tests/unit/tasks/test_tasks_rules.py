"""Goal: the decisions about tasks are what the docstrings of rules.py say, for every input.

Method: all pairs of state and change against a table written out by hand; all inputs of admission;
estimates against arithmetic.
"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import StateError
from holdfast.model.ids import TaskId
from holdfast.tasks.model import UNFINISHED, Task, TaskState
from holdfast.tasks.rules import (
    RATE_WINDOW_NS,
    Busy,
    Resume,
    Sample,
    Start,
    Supersede,
    TaskChange,
    add_sample,
    change_on_stop,
    decide_admission,
    estimate_eta,
    estimate_rate,
    next_state,
)

S, C = TaskState, TaskChange
ACCEPTED = {
    (S.PENDING, C.STARTED): S.RUNNING,
    (S.PENDING, C.CANCELLED): S.CANCELLED,
    (S.PENDING, C.SUPERSEDED): S.FAILED,
    (S.PENDING, C.ABANDONED): S.FAILED,
    (S.RUNNING, C.INTERRUPTED): S.INTERRUPTED,
    (S.RUNNING, C.COMPLETED): S.COMPLETED,
    (S.RUNNING, C.FAILED): S.FAILED,
    (S.RUNNING, C.CANCELLED): S.CANCELLED,
    (S.INTERRUPTED, C.RESUMED): S.RUNNING,
    (S.INTERRUPTED, C.CANCELLED): S.CANCELLED,
    (S.INTERRUPTED, C.SUPERSEDED): S.FAILED,
    (S.INTERRUPTED, C.ABANDONED): S.FAILED,
}
TASK = Task(
    id=TaskId("task-" + "0" * 32),
    kind="files.copy",
    subject="/t",
    request={},
    state=S.INTERRUPTED,
    created_ns=1,
    updated_ns=1,
)
NS = 1_000_000_000


@pytest.mark.parametrize(("state", "change"), [*itertools.product(TaskState, TaskChange)])
def test_every_state_answers_every_change(state: TaskState, change: TaskChange) -> None:
    if (state, change) in ACCEPTED:
        assert next_state(state, change) is ACCEPTED[state, change]
        return
    with pytest.raises(StateError) as caught:
        next_state(state, change)
    # Invariant 1 of rules.py: the ends accept nothing.
    assert caught.value.code == ("bad-transition" if state in UNFINISHED else "task-finished")


def test_every_unfinished_state_can_end_and_only_ends_cannot() -> None:
    ways_out = {state: {c for s, c in ACCEPTED if s is state} for state in TaskState}
    assert {state for state, changes in ways_out.items() if changes} == UNFINISHED
    assert all(C.CANCELLED in ways_out[state] for state in UNFINISHED)


def test_a_stop_is_a_cancellation_only_if_asked_for() -> None:
    """Invariant 3 of rules.py."""
    assert change_on_stop(cancel_requested=True) is C.CANCELLED
    assert change_on_stop(cancel_requested=False) is C.INTERRUPTED


@pytest.mark.parametrize("is_same_work", [True, False])
def test_a_living_owner_is_never_disturbed(is_same_work: bool) -> None:
    """Invariant 2 of rules.py."""
    found = decide_admission(TASK, is_owner_alive=True, is_same_work=is_same_work)
    assert found == Busy(task_id=TASK.id)
    unwritten = decide_admission(None, is_owner_alive=True, is_same_work=is_same_work)
    assert unwritten == Busy(task_id=None)


def test_without_owner_the_same_work_goes_on_and_other_work_replaces_it() -> None:
    def decide(task: Task | None, is_same_work: bool) -> object:
        return decide_admission(task, is_owner_alive=False, is_same_work=is_same_work)

    assert decide(None, False) == Start()
    assert decide(TASK, True) == Resume(task_id=TASK.id)
    assert decide(TASK, False) == Supersede(task_id=TASK.id)


def test_rate_and_eta_of_steady_work() -> None:
    samples: tuple[Sample, ...] = ()
    for second in range(100):
        samples = add_sample(samples, Sample(second * NS, second * 250))
    assert estimate_rate(samples) == 250
    assert estimate_eta(bytes_done=24_750, bytes_total=25_000, rate_bytes_per_s=250) == 1


def test_the_rate_follows_a_change_of_speed_within_its_window() -> None:
    samples: tuple[Sample, ...] = ()
    for second in range(101):
        samples = add_sample(samples, Sample(second * NS, second * 10_000))
    for second in range(1, 41):
        samples = add_sample(samples, Sample((100 + second) * NS, 1_000_000 + second * 10))
    assert estimate_rate(samples) == 10


def test_eta_is_unknown_without_total_without_rate_and_at_a_standstill() -> None:
    assert estimate_eta(bytes_done=5, bytes_total=None, rate_bytes_per_s=10.0) is None
    assert estimate_eta(bytes_done=5, bytes_total=9, rate_bytes_per_s=None) is None
    assert estimate_eta(bytes_done=5, bytes_total=9, rate_bytes_per_s=0.0) is None
    assert estimate_eta(bytes_done=9, bytes_total=9, rate_bytes_per_s=None) == 0
    assert estimate_rate([]) is None
    assert estimate_rate([Sample(7, 7)]) is None
    assert estimate_rate([Sample(7, 7), Sample(7, 9)]) is None


def test_a_count_that_falls_begins_anew() -> None:
    samples = add_sample((Sample(0, 0), Sample(NS, 900)), Sample(2 * NS, 100))
    assert samples == (Sample(2 * NS, 100),)


def test_after_a_long_wait_the_rate_is_low_not_unknown() -> None:
    samples = add_sample((Sample(0, 0), Sample(NS, 100)), Sample(101 * NS, 200))
    assert estimate_rate(samples) == 1


@given(st.lists(st.tuples(st.integers(0, 40 * NS), st.integers(-50, 10**12)), max_size=200))
def test_samples_are_bounded_and_the_rate_is_never_negative(steps: list[tuple[int, int]]) -> None:
    samples: tuple[Sample, ...] = ()
    at_ns = bytes_done = 0
    for wait_ns, moved_bytes in steps:
        at_ns, bytes_done = at_ns + wait_ns // 100, max(0, bytes_done + moved_bytes)
        samples = add_sample(samples, Sample(at_ns, bytes_done))
        assert samples[-1] == Sample(at_ns, bytes_done)
        assert len(samples) <= 2 * RATE_WINDOW_NS // NS + 3
        assert (estimate_rate(samples) or 0) >= 0
