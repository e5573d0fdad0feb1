"""What a task is: a persisted piece of long work that can be resumed, and what happened to it.

Values only; who may change what, and when, stands in `rules.py` and `journal.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from holdfast.errors import InvalidRequestError
from holdfast.model.ids import TaskId
from holdfast.model.limits import (
    TASK_DETAIL_BYTES_MAX,
    TASK_REQUEST_BYTES_MAX,
    TASK_RESULT_BYTES_MAX,
)


class TaskState(StrEnum):
    """Where a task stands. The last three are ends: such a task never changes again."""

    PENDING = "pending"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Its process died or was told to stop; the same request goes on from there."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({TaskState.PENDING, TaskState.RUNNING, TaskState.INTERRUPTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the present stage of a task is. None is unknown, never zero."""

    entries_done: int = 0
    entries_total: int | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What work told of itself and is to be written down; None leaves what is there."""

    progress: Progress | None = None
    detail: Mapping[str, object] | None = None


NOTHING_TOLD = Told()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task as the journal had it at one moment."""

    id: TaskId
    kind: str
    """What is done, such as `files.copy`."""
    subject: str
    """What no two tasks may work on at once, such as the root of the target."""
    request: Mapping[str, object]
    """What was asked, as JSON; with the kind it decides whether a later run is the same work."""
    state: TaskState
    stage: str = ""
    attempt: int = 1
    """Number of the present run, from 1; each resumption adds one."""
    progress: Progress = field(default_factory=Progress)
    detail: Mapping[str, object] = field(default_factory=dict)
    """What the work tells of itself beside its progress, in words of its own; kept at its end."""
    created_ns: int
    started_ns: int | None = None
    """When the first attempt began."""
    updated_ns: int
    ended_ns: int | None = None
    result: Mapping[str, object] | None = None
    error: Mapping[str, object] | None = None
    """Why it failed: the members of HoldfastError.as_problem."""
    cancel_requested: bool = False
    rate_requested: int | None = None
    """Bytes a second asked for while it ran, 0 for no limit; None: as it was started."""

    @property
    def is_ended(self) -> bool:
        """Whether it will never change again."""
        return self.state not in UNFINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Some tasks, newest first, and where the next page begins (None: nowhere)."""

    tasks: tuple[Task, ...]
    cursor_next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that happened to a task; `sequence` counts from 1 and is never used again."""

    task_id: TaskId
    sequence: int
    at_ns: int
    name: str
    """Past tense, such as `file-copied`."""
    data: Mapping[str, object]


_LIMITS: Final = {"detail": TASK_DETAIL_BYTES_MAX, "result": TASK_RESULT_BYTES_MAX}


def encode_json(value: Mapping[str, object], *, what: str) -> str:
    """Spell a JSON object in the one way that makes equal objects equal texts.

    Raises:
        InvalidRequestError: `not-json`, or `too-large`: over TASK_REQUEST_BYTES_MAX, for a result
            TASK_RESULT_BYTES_MAX, for a detail TASK_DETAIL_BYTES_MAX.
    """
    limit_bytes = _LIMITS.get(what, TASK_REQUEST_BYTES_MAX)
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"the {what} of a task cannot be written as JSON: {error}",
            code="not-json",
            advice="use objects, lists, text, whole and finite numbers, true, false and null",
        ) from error
    if len(text) > limit_bytes:
        raise InvalidRequestError(
            f"the {what} of a task is {len(text)} bytes of JSON, over {limit_bytes}",
            code="too-large",
            advice="put long lists in a file and name the file",
            limit_bytes=limit_bytes,
        )
    return text
