"""Tasks as Sidecar's answers show them. Pure.

Invariants:

1. A task that ended never shows a state that a client would wait on.
2. A task that was asked to stop shows as cancelled from then on, unless it ended otherwise.
"""

from collections.abc import Mapping
from typing import Final

from holdfast.files.http.names import task_uuid
from holdfast.files.migration.model import (
    UNKNOWN,
    IterationState,
    VerificationState,
)
from holdfast.files.results import plain_object
from holdfast.tasks.model import Task, TaskState

Json = dict[str, object]

_COUNTERS: Final = (
    "filesNotFoundAtSource",
    "filesNotFoundAtDestination",
    "metadataMatched",
    "metadataMismatches",
    "digestMismatches",
    "digestVerificationFailures",
    "filesMatched",
)
_FINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
_ITERATION_FINAL: Final = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
_ITERATION_NOT_BEGUN: Final[Json] = {
    "iteration": 0,
    "state": IterationState.STARTING.value,
    "totalSize": UNKNOWN,
    "totalFiles": UNKNOWN,
    "bytesToDownload": UNKNOWN,
    "filesToDownload": UNKNOWN,
    "filesDownloaded": 0,
    "downloadFailures": 0,
    "bytesDownloaded": 0,
}


def copy_view(task: Task) -> Json:
    """Return a data copy."""
    asked = _asked(task)
    return {
        "taskId": task_uuid(task.id),
        "source": task.request.get("source"),
        "port": task.request.get("port"),
        "maxIterations": asked.get("maxIterations"),
        "successThreshold": asked.get("successThreshold"),
        "maxConcurrency": asked.get("maxConcurrency"),
        "status": _iterations(task),
        "progress": _progress(task),
        "trend": task.detail.get("trend"),
        "reason": _reason(task),
    }


def verification_view(task: Task) -> Json:
    """Return a verification."""
    asked = _asked(task)
    view: Json = {
        "id": task_uuid(task.id),
        "digestAlgorithm": asked.get("digestAlgorithm"),
        "seed": asked.get("seed"),
        "state": _verification_state(task),
        "source": task.request.get("source"),
        "port": task.request.get("port"),
    }
    view |= {name: task.detail.get(name, 0) for name in _COUNTERS}
    return view | {"progress": _progress(task), "reason": _reason(task)}


def _asked(task: Task) -> Mapping[str, object]:
    asked = task.request.get("request")
    return asked if isinstance(asked, dict) else {}


def _iterations(task: Task) -> list[Json]:
    told = task.detail.get("iterations")
    iterations = [_in_order(one) for one in told] if isinstance(told, list) else []
    iterations = iterations or [dict(_ITERATION_NOT_BEGUN)]
    last = iterations[-1]
    ending = _ending(task)
    # DOWNLOAD_COMPLETE ends a pass, and a client waits for the next one.
    if ending is not None and last.get("state") not in _ITERATION_FINAL:
        last["state"] = ending.value
    return iterations


def _in_order(told: Json) -> Json:
    """Return a pass with Sidecar's members first, in its order; the journal sorts by name."""
    return {name: told[name] for name in _ITERATION_NOT_BEGUN if name in told} | told


def _ending(task: Task) -> IterationState | None:
    match task.state:
        case TaskState.COMPLETED:
            return IterationState.SUCCESS
        case TaskState.FAILED:
            return IterationState.FAILED
        case TaskState.CANCELLED:
            return IterationState.CANCELLED
        case _:
            return IterationState.CANCELLED if task.cancel_requested else None


def _verification_state(task: Task) -> str:
    told = task.detail.get("state")
    match task.state:
        case TaskState.PENDING:
            return VerificationState.NOT_STARTED
        case TaskState.COMPLETED:
            return str(told) if told in _FINAL else VerificationState.FAILED
        case TaskState.FAILED:
            return VerificationState.FAILED
        case TaskState.CANCELLED:
            return VerificationState.CANCELLED
        case _:
            is_stopping = task.cancel_requested
            return VerificationState.CANCELLED if is_stopping else VerificationState.IN_PROGRESS


def _progress(task: Task) -> object:
    return task.detail.get("progress") or plain_object(task.progress)


def _reason(task: Task) -> object:
    if task.error is not None:
        return task.error.get("message")
    if task.state is TaskState.INTERRUPTED:
        return "interrupted; it goes on when the node starts it again"
    return task.detail.get("reason")
