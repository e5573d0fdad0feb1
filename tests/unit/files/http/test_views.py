"""Goal: a task shows in Sidecar's words what it is, and never a state that a client would wait on
for ever (invariants of views.py).

Method: tasks of every state with every detail a run may have left.
"""

import itertools
from collections.abc import Mapping

import pytest

from holdfast.files.http.views import copy_view, verification_view
from holdfast.files.migration.model import IterationState
from holdfast.model.ids import TaskId
from holdfast.tasks.model import Task, TaskState

COPY = {"maxIterations": 3, "successThreshold": 0.9, "maxConcurrency": 4}
VERIFICATION = {"maxConcurrency": 4, "digestAlgorithm": "mD5", "seed": None}
BEFORE_DOWNLOAD = ("totalSize", "totalFiles", "bytesToDownload", "filesToDownload")


def make_task(
    state: TaskState,
    detail: Mapping[str, object],
    request: Mapping[str, object] = COPY,
    *,
    cancel_requested: bool = False,
) -> Task:
    return Task(
        id=TaskId("task-000102030405060708090a0b0c0d0e0f"),
        kind="files.migrate",
        subject="instance a",
        request={"instance": "a", "source": "s", "port": 9043, "request": request},
        state=state,
        detail=detail,
        created_ns=1,
        updated_ns=2,
        error={"message": "the disk is gone"} if state is TaskState.FAILED else None,
        cancel_requested=cancel_requested,
    )


def iteration(state: str, number: int = 0) -> dict[str, object]:
    return {"iteration": number, "state": state, "totalSize": 5}


def test_a_copy_has_sidecars_members() -> None:
    view = copy_view(make_task(TaskState.RUNNING, {}))
    assert view["taskId"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert (view["source"], view["port"]) == ("s", 9043)
    assert {name: view[name] for name in COPY} == COPY
    status = view["status"]
    assert isinstance(status, list)
    assert [one["state"] for one in status] == ["STARTING"]
    assert [status[0][name] for name in BEFORE_DOWNLOAD] == [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ("state", "last", "shown"),
    [
        (TaskState.RUNNING, "DOWNLOADING", "DOWNLOADING"),
        (TaskState.RUNNING, "DOWNLOAD_COMPLETE", "DOWNLOAD_COMPLETE"),
        (TaskState.INTERRUPTED, "DOWNLOADING", "DOWNLOADING"),
        (TaskState.COMPLETED, "SUCCESS", "SUCCESS"),
        (TaskState.FAILED, "SUCCESS", "SUCCESS"),
        (TaskState.FAILED, "DOWNLOADING", "FAILED"),
        (TaskState.FAILED, "DOWNLOAD_COMPLETE", "FAILED"),
        (TaskState.CANCELLED, "PREPARING", "CANCELLED"),
        (TaskState.CANCELLED, "FAILED", "FAILED"),
    ],
)
def test_the_last_iteration_tells_how_the_task_ended(
    state: TaskState, last: str, shown: str
) -> None:
    told = {"iterations": [iteration("DOWNLOAD_COMPLETE"), iteration(last, 1)]}
    status = copy_view(make_task(state, told))["status"]
    assert [one["state"] for one in status] == ["DOWNLOAD_COMPLETE", shown]  # type: ignore[attr-defined]
    assert told["iterations"][1]["state"] == last, "the task itself is not touched"


def test_an_ended_task_is_waited_on_by_nobody() -> None:
    """Invariant 1."""
    ends = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)
    for state, last in itertools.product(ends, [None, *IterationState]):
        told = {} if last is None else {"iterations": [iteration(last)]}
        status = copy_view(make_task(state, told))["status"]
        assert status[-1]["state"] in ("SUCCESS", "FAILED", "CANCELLED")  # type: ignore[index]
    for state, said in itertools.product(ends, [None, "IN_PROGRESS", "NOT_STARTED", 7]):
        view = verification_view(make_task(state, {"state": said}, VERIFICATION))
        assert view["state"] in ("COMPLETED", "FAILED", "CANCELLED")


def test_what_was_asked_to_stop_shows_as_cancelled() -> None:
    """Invariant 2."""
    asked = make_task(TaskState.RUNNING, {"iterations": [iteration("DOWNLOADING")]})
    asked = make_task(asked.state, asked.detail, cancel_requested=True)
    assert copy_view(asked)["status"][-1]["state"] == "CANCELLED"  # type: ignore[index]
    stopping = make_task(TaskState.RUNNING, {}, VERIFICATION, cancel_requested=True)
    assert verification_view(stopping)["state"] == "CANCELLED"


def test_a_verification_has_sidecars_members() -> None:
    counters = {"metadataMatched": 379, "filesMatched": 323, "state": "COMPLETED"}
    view = verification_view(make_task(TaskState.COMPLETED, counters, VERIFICATION))
    assert list(view)[:13] == [
        "id",
        "digestAlgorithm",
        "seed",
        "state",
        "source",
        "port",
        "filesNotFoundAtSource",
        "filesNotFoundAtDestination",
        "metadataMatched",
        "metadataMismatches",
        "digestMismatches",
        "digestVerificationFailures",
        "filesMatched",
    ]
    assert (view["state"], view["digestAlgorithm"], view["seed"]) == ("COMPLETED", "mD5", None)
    assert (view["metadataMatched"], view["filesMatched"], view["digestMismatches"]) == (
        379,
        323,
        0,
    )


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (TaskState.PENDING, "NOT_STARTED"),
        (TaskState.RUNNING, "IN_PROGRESS"),
        (TaskState.INTERRUPTED, "IN_PROGRESS"),
        (TaskState.FAILED, "FAILED"),
        (TaskState.CANCELLED, "CANCELLED"),
    ],
)
def test_a_verification_stands_as_its_task_does(state: TaskState, shown: str) -> None:
    assert verification_view(make_task(state, {}, VERIFICATION))["state"] == shown


def test_a_failure_says_why() -> None:
    assert copy_view(make_task(TaskState.FAILED, {}))["reason"] == "the disk is gone"
    failed = verification_view(make_task(TaskState.FAILED, {}, VERIFICATION))
    assert failed["reason"] == "the disk is gone"
