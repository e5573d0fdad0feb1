"""What a command on live migrations tells a person, and with which code it exits.

From the objects that the node answers: what is missing in them is left out, never guessed.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from holdfast.cli.exits import EXITS, Exit
from holdfast.cli.output import (
    ProgressDisplay,
    format_bytes,
    format_count,
    format_duration,
    printable,
)
from holdfast.cli.times import format_time
from holdfast.files.migration.model import MigrationKind, VerificationState
from holdfast.tasks.model import TaskState

Json = Mapping[str, object]

_EXIT_OF_KIND: Final = {kind.kind: code for kind, code in EXITS.items()}
_ENDS: Final = ("SUCCESS", "FAILED", "CANCELLED", "DOWNLOAD_COMPLETE")
_BAD_COUNTERS: Final = {
    "filesNotFoundAtDestination": "missing at the target",
    "filesNotFoundAtSource": "only at the target",
    "metadataMismatches": "with other metadata",
    "digestMismatches": "with other content",
    "digestVerificationFailures": "that could not be read",
}


def exit_of_task(task: Json) -> Exit:
    """Return the exit code of an ended task."""
    match task.get("state"):
        case TaskState.COMPLETED.value:
            states = member(task, "detail").get("state"), member(task, "result").get("state")
            is_bad = VerificationState.FAILED.value in states
            return Exit.DAMAGED if is_bad else Exit.DONE
        case TaskState.CANCELLED.value:
            return Exit.INTERRUPTED
        case _:
            return _EXIT_OF_KIND.get(str(member(task, "error").get("kind")), Exit.BUG)


def show_progress(display: ProgressDisplay, told: Json) -> None:
    """Draw how far a task is."""
    progress = member(member(told, "detail"), "progress") or member(told, "progress")
    stage = str(told.get("stage") or "")
    if not stage:
        return
    total = progress.get("bytesTotal")
    display.enter_stage(stage, total if isinstance(total, int) else None)
    entries = number(progress, "filesDone")
    note = format_count(int(entries), "entry", "entries") if entries else ""
    display.update(int(number(progress, "bytesDone")), note)


class PassLines:
    """Tells each pass of a copy once, when it ends."""

    def __init__(self) -> None:
        self._told = 0

    def new_lines(self, told: Json) -> Iterator[str]:
        """Yield a line for each pass that ended since the last call."""
        passes = objects(member(told, "detail"), "iterations")
        while self._told < len(passes) and passes[self._told].get("state") in _ENDS:
            yield pass_line(passes[self._told])
            self._told += 1


def pass_line(told: Json) -> str:
    """Tell one pass of a copy."""
    line = (
        f"pass {told.get('iteration')}    {told.get('state')}: "
        f"{format_count(int(number(told, 'filesDownloaded')), 'entry', 'entries')} copied, "
        f"{format_bytes(number(told, 'bytesDownloaded'))}"
    )
    for name, words in (
        ("entriesChanged", "changed meanwhile"),
        ("deleted", "deleted"),
        ("downloadFailures", "failed"),
    ):
        if number(told, name):
            line += f"; {int(number(told, name)):,} {words}"
    took_s = number(told, "planningS") + number(told, "copyingS")
    if took_s:
        line += f" in {format_duration(took_s)}"
    reason = told.get("reason")
    return printable(f"{line} ({reason})" if reason else line)


def ended_lines(task: Json) -> Iterator[str]:
    """Tell the end of a task."""
    detail, result = member(task, "detail"), member(task, "result")
    if detail.get("iterations"):
        yield from _trend_lines(member(detail, "trend"))
    if "filesMatched" in detail:
        yield from counter_lines(detail)
    if task.get("kind") == MigrationKind.REPAIR.value:
        yield from _repair_lines(result)
    for directory in objects(result, "directories"):
        proof = member(directory, "proof")
        if proof:
            yield printable(f"proof     {proof.get('path')}")
    error = member(task, "error")
    if error:
        yield printable(f"failed    {error.get('message')}; {error.get('advice')}")
    yield printable(f"task      {task.get('id')} {task.get('state')}")


def _repair_lines(result: Json) -> Iterator[str]:
    for directory in objects(result, "directories"):
        name = directory.get("directory")
        for entry in objects(directory, "repaired"):
            yield printable(f"repaired  {name}/{entry.get('path')}")
        for entry in objects(directory, "findings"):
            yield printable(f"left      {name}/{entry.get('path')}: {entry.get('outcome')}")
    if result.get("state") == VerificationState.COMPLETED.value:
        yield "verdict   what was repaired was read again on both hosts and is equal"
    else:
        yield "verdict   DAMAGED: not everything could be repaired"


def _trend_lines(trend: Json) -> Iterator[str]:
    final = trend.get("finalPassS")
    if isinstance(final, int | float):
        yield f"trend     with the source stopped now, one more pass takes {format_duration(final)}"


def counter_lines(counters: Json) -> Iterator[str]:
    """Tell what a verification counted."""
    matched = int(number(counters, "filesMatched"))
    yield f"verified  {format_count(matched, 'file')} equal"
    for name, words in _BAD_COUNTERS.items():
        if number(counters, name):
            amount = format_count(int(number(counters, name)), "entry", "entries")
            yield f"          {amount} {words}"
    if counters.get("state") == "FAILED":
        yield "verdict   DAMAGED: 'holdfast files results TASK' names each, repair mends them"
    elif counters.get("state") == "COMPLETED":
        yield "verdict   every entry was examined and is equal"


def status_lines(node: Json, latch: Json, tasks: Iterable[Json]) -> Iterator[str]:
    """Tell what a node is, whether its migration is over, and its last tasks."""
    yield printable(f"node      {node.get('name')}, holdfast {node.get('version')}")
    for instance in objects(node, "instances"):
        parts = [
            word
            for name, word in (("isSource", "source"), ("isDestination", "target"))
            if instance.get(name)
        ]
        part = " and ".join(parts) or "in no migration"
        yield printable(f"instance  {instance.get('name')} at {instance.get('host')}: {part}")
    yield latch_line(latch)
    for task in tasks:
        yield task_line(task)


def latch_line(latch: Json) -> str:
    """Tell whether a migration is marked complete."""
    state, end_ms = latch.get("state"), latch.get("endTime")
    when = f" since {format_time(end_ms * 1_000_000)}" if isinstance(end_ms, int) else ""
    return printable(f"status    {state}{when}")


def task_line(task: Json) -> str:
    """Tell one task."""
    created_ns = task.get("createdNs")
    when = format_time(created_ns) if isinstance(created_ns, int) else ""
    stage = f" {task.get('stage')}" if task.get("state") == TaskState.RUNNING.value else ""
    return printable(
        f"{task.get('id')}  {when}  {task.get('kind')}  {task.get('state')}{stage}  "
        f"{task.get('subject')}"
    )


def entry_line(entry: Json) -> str:
    """Tell what became of one entry."""
    detail = entry.get("detail") or entry.get("reason")
    line = f"{entry.get('outcome')}: {entry.get('directory')}/{entry.get('path')}"
    return printable(f"{line} ({detail})" if detail else line)


def member(told: Json, name: str) -> Json:
    """Return an object within an object; an empty one if there is none."""
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def number(told: Json, name: str) -> float:
    """Return a number within an object; 0 if it is missing or unknown."""
    value = told.get(name)
    return max(0, value) if isinstance(value, int | float) else 0


def objects(told: Json, name: str) -> list[Json]:
    """Return a list of objects within an object; an empty one if there is none."""
    value = told.get(name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
