"""Goal: what a person may do to a task while it runs, and what passes and reports tell.

Method: the real command as a process, and others beside it on the same state directory.
"""

import json
import os
import time
from pathlib import Path

from tests.support.command import Holdfast

MIB = 1 << 20
WAIT_S = 30.0


def running_task(holdfast: Holdfast) -> str:
    """Wait until a task moves bytes, and return its id."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for task in holdfast.tasks():
            if task["state"] == "running" and task["progress"]["bytesDone"]:
                return str(task["id"])
    raise AssertionError("no task moved anything")


def test_rate_of_a_running_copy_can_be_lifted(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """At 1 MiB/s the copy would take a minute; lifted after it began, it takes a few seconds."""
    source.mkdir()
    (source / "large").write_bytes(os.urandom(60 * MIB))
    began = time.monotonic()
    process = holdfast.start("copy", source, target, "--bwlimit", "1M", "--json", "--no-verify")
    task = running_task(holdfast)
    limited = holdfast("tasks", "limit", task, "none", "--json")
    assert (limited.exit, limited.json["rateRequested"]) == (0, 0)
    stdout, _ = process.communicate(timeout=WAIT_S)
    assert json.loads(stdout)["exit"] == 0
    assert time.monotonic() - began < WAIT_S
    events = holdfast("tasks", "show", task, "--json").json["events"]
    assert {"bytesPerS": 0} in [e["data"] for e in events if e["name"] == "rate-requested"]


def test_limit_of_a_task_that_ended_is_refused(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    source.mkdir()
    (source / "file").write_text("content")
    task = holdfast.copy(source, target).json["taskId"]
    refused = holdfast("tasks", "limit", task, "10M")
    assert refused.exit == 13
    assert task in refused.stderr
    assert holdfast("tasks", "limit", task, "fast").exit == 2


def test_second_pass_is_compared_with_the_first(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    source.mkdir()
    for number in range(20):
        (source / f"file{number}").write_bytes(os.urandom(1000))
    first = holdfast.copy(source, target).json["pass"]
    assert (first["number"], first["files"], first["sizeBytes"]) == (1, 20, 20_000)
    assert (first["sizeBytesBefore"], first["finalPassS"]) == (None, None)
    (source / "file3").write_bytes(os.urandom(500))
    second = holdfast.copy(source, target).json["pass"]
    assert (second["number"], second["files"], second["sizeBytes"]) == (2, 1, 500)
    assert second["sizeBytesBefore"] == 20_000
    assert 0 < second["finalPassS"] < WAIT_S


def test_report_holds_every_finding_and_names_outside_utf_8(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    """A result tells the first findings only; the report all of them, so that scripts can act."""
    source.mkdir()
    for number in range(60):
        (source / f"file{number:02}").write_text("content")
    (Path(os.fsdecode(os.fsencode(source) + b"/bad\xff"))).write_text("content")
    target.mkdir()
    report = tmp_path / "report.jsonl"
    done = holdfast.verify(source, target, "--report", report)
    assert done.exit == 3
    assert len(done.json["findings"]) == 25
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(lines) == 61
    assert {line["outcome"] for line in lines} == {"missing-at-target"}
    assert [line["pathBase64"] for line in lines if "pathBase64" in line] == ["YmFk/w=="]


def test_copy_that_gives_way_runs_at_the_lowest_priority(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    source.mkdir()
    (source / "large").write_bytes(os.urandom(20 * MIB))
    process = holdfast.start("copy", source, target, "--nice", "--bwlimit", "4M", "--quiet")
    try:
        running_task(holdfast)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_S)
