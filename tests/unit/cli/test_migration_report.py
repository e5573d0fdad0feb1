"""Goal: what a command on migrations says and exits with follows from what the node answered.

Method: objects as the node has them, with members missing, unknown and hostile.
"""

import pytest

from holdfast.cli.exits import Exit
from holdfast.cli.migration_report import (
    PassLines,
    ended_lines,
    entry_line,
    exit_of_task,
    status_lines,
    task_line,
)
from holdfast.errors import CapacityError


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"state": "completed"}, Exit.DONE),
        ({"state": "completed", "detail": {"state": "COMPLETED"}}, Exit.DONE),
        ({"state": "completed", "detail": {"state": "FAILED"}}, Exit.DAMAGED),
        ({"state": "completed", "result": {"state": "FAILED"}}, Exit.DAMAGED),
        ({"state": "cancelled"}, Exit.INTERRUPTED),
        ({"state": "failed", "error": {"kind": CapacityError.kind}}, Exit.CAPACITY),
        ({"state": "failed", "error": {"kind": "new-kind"}}, Exit.BUG),
        ({"state": "failed"}, Exit.BUG),
    ],
)
def test_exit_follows_from_the_end(task: dict[str, object], expected: Exit) -> None:
    assert exit_of_task(task) is expected


def test_each_pass_is_told_once_when_it_ended() -> None:
    told = PassLines()
    passes: list[dict[str, object]] = [{"iteration": 0, "state": "DOWNLOADING"}]
    assert list(told.new_lines({"detail": {"iterations": passes}})) == []
    passes[0] |= {"state": "DOWNLOAD_COMPLETE", "filesDownloaded": 1, "bytesDownloaded": 2048}
    passes.append({"iteration": 1, "state": "FAILED", "reason": "bad\x1b[2Jname"})
    lines = list(told.new_lines({"detail": {"iterations": passes}}))
    assert lines == [
        "pass 0    DOWNLOAD_COMPLETE: 1 entry copied, 2.0 KiB",
        "pass 1    FAILED: 0 entries copied, 0 B (bad\\x1b[2Jname)",
    ]
    assert list(told.new_lines({"detail": {"iterations": passes}})) == []


@pytest.mark.parametrize("odd", [None, 3, "x", [1, None], {"iterations": 3}, {"trend": []}])
def test_odd_answers_are_told_as_far_as_they_go(odd: object) -> None:
    task = {"id": "t", "state": "completed", "detail": odd, "result": odd, "error": odd}
    assert list(ended_lines(task))[-1] == "task      t completed"
    assert list(PassLines().new_lines(task)) == []
    assert task_line({}).startswith("None")


def test_names_cannot_command_the_terminal() -> None:
    entry = {"outcome": "failed", "directory": "data/0", "path": "a\nb\x1b[2J", "detail": "x"}
    assert entry_line(entry) == "failed: data/0/a\\nb\\x1b[2J (x)"


def test_status_names_the_part_of_each_instance() -> None:
    node = {
        "name": "n",
        "version": "1",
        "instances": [{"name": "main", "host": "h", "isSource": True, "isDestination": False}, 3],
    }
    lines = list(status_lines(node, {"state": "NOT_COMPLETED", "endTime": None}, []))
    assert lines == [
        "node      n, holdfast 1",
        "instance  main at h: source",
        "status    NOT_COMPLETED",
    ]
