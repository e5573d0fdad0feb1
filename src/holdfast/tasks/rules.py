"""Decides how a task may change, whether a request starts, resumes or waits, and when it is done.

Pure: no I/O, no clock, no chance. Nothing here knows where tasks are kept or how an owner's life
is seen.

Invariants:
    1. An ended task accepts no change.
    2. Work begins only where no living owner holds the subject.
    3. A task that stops although it was not done is CANCELLED if someone had asked for that, else
       INTERRUPTED; so an interrupted task never has a cancellation pending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from holdfast.errors import StateError
from holdfast.model.ids import TaskId
from holdfast.tasks.model import Task, TaskState


class TaskChange(StrEnum):
    """What can happen to a task's state; also the name of the event that records it."""

    STARTED = "started"
    RESUMED = "resumed"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """Another request took its place before it went on."""
    ABANDONED = "abandoned"
    """Nobody will go on with it."""


_TRANSITIONS: Final[dict[TaskState, dict[TaskChange, TaskState]]] = {
    TaskState.PENDING: {
        TaskChange.STARTED: TaskState.RUNNING,
        TaskChange.CANCELLED: TaskState.CANCELLED,
        TaskChange.SUPERSEDED: TaskState.FAILED,
        TaskChange.ABANDONED: TaskState.FAILED,
    },
    TaskState.RUNNING: {
        TaskChange.INTERRUPTED: TaskState.INTERRUPTED,
        TaskChange.COMPLETED: TaskState.COMPLETED,
        TaskChange.FAILED: TaskState.FAILED,
        TaskChange.CANCELLED: TaskState.CANCELLED,
    },
    TaskState.INTERRUPTED: {
        TaskChange.RESUMED: TaskState.RUNNING,
        TaskChange.CANCELLED: TaskState.CANCELLED,
        TaskChange.SUPERSEDED: TaskState.FAILED,
        TaskChange.ABANDONED: TaskState.FAILED,
    },
    TaskState.COMPLETED: {},
    TaskState.FAILED: {},
    TaskState.CANCELLED: {},
}


def next_state(state: TaskState, change: TaskChange) -> TaskState:
    """Return the state after a change.

    Raises:
        StateError: `task-finished` for an ended task, else `bad-transition`.
    """
    accepted = _TRANSITIONS[state]
    if change in accepted:
        return accepted[change]
    raise StateError(
        f"a task that is {state} cannot be {change}",
        code="bad-transition" if accepted else "task-finished",
        advice="look at it with 'holdfast tasks show'",
        state=state,
    )


def change_on_stop(*, cancel_requested: bool) -> TaskChange:
    """Return what happened to a running task that stopped before its work was done."""
    return TaskChange.CANCELLED if cancel_requested else TaskChange.INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Make a new task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Go on with this task."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Supersede:
    """End this task as superseded, then make a new one."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Do nothing. The task is None where its owner has yet to write it down."""

    task_id: TaskId | None


Admission = Start | Resume | Supersede | Busy


def decide_admission(
    unfinished: Task | None, *, is_owner_alive: bool, is_same_work: bool
) -> Admission:
    """Decide what a request for work on a subject leads to.

    Args:
        unfinished: The subject's task that has not ended; there is at most one.
        is_owner_alive: Whether some process holds the subject.
        is_same_work: Whether kind and request of `unfinished` are those asked for.
    """
    if is_owner_alive:
        return Busy(task_id=unfinished.id if unfinished else None)
    if unfinished is None:
        return Start()
    if is_same_work:
        return Resume(task_id=unfinished.id)
    return Supersede(task_id=unfinished.id)


RATE_WINDOW_NS: Final = 30_000_000_000
"""The rate is taken over the last half minute: long enough to be calm, short enough to follow."""
RATE_SPACING_NS: Final = 500_000_000
"""Samples nearer together than this replace each other, which bounds them to about sixty."""


class Sample(NamedTuple):
    """Bytes done at a moment of one monotonic clock."""

    at_ns: int
    bytes_done: int


def add_sample(samples: Sequence[Sample], sample: Sample) -> tuple[Sample, ...]:
    """Return the samples to keep; a count that fell is another stretch of work and starts anew."""
    if samples and sample.bytes_done < samples[-1].bytes_done:
        return (sample,)
    kept = tuple(s for s in samples if sample.at_ns - s.at_ns <= RATE_WINDOW_NS)
    # After a long wait the last sample stays, or the rate would be unknown just then.
    kept = kept or tuple(samples[-1:])
    if len(kept) >= 2 and kept[-1].at_ns - kept[-2].at_ns < RATE_SPACING_NS:
        kept = kept[:-1]
    return (*kept, sample)


def estimate_rate(samples: Sequence[Sample]) -> float | None:
    """Return bytes per second over the samples; None before there is anything to tell it from."""
    if len(samples) < 2 or samples[-1].at_ns <= samples[0].at_ns:
        return None
    moved_bytes = samples[-1].bytes_done - samples[0].bytes_done
    return moved_bytes * 1e9 / (samples[-1].at_ns - samples[0].at_ns)


def estimate_eta(
    *, bytes_done: int, bytes_total: int | None, rate_bytes_per_s: float | None
) -> float | None:
    """Return the seconds left; None when unknown, which a standstill is too."""
    if bytes_total is None:
        return None
    if bytes_done >= bytes_total:
        return 0.0
    if not rate_bytes_per_s:
        return None
    return (bytes_total - bytes_done) / rate_bytes_per_s
