"""Goal: one subject has one worker whatever processes do, and nothing recorded is lost by a death.

Method: real processes on real files. They are told apart by pipes, not by waiting: a process says
on its standard output how far it is, and holds until its standard input is closed. Power loss is
SQLite's promise; that its flushes are in force is tested with the journal.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.errors import ConflictError
from holdfast.model.ids import TaskId
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task, TaskState
from holdfast.tasks.runner import Runner

PRELUDE = """
import os, select, signal, sys
from pathlib import Path
from holdfast.errors import ConflictError
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.runner import Runner

state = Path(sys.argv[1])

def open_runner():
    journal = TaskJournal(state / "tasks.sqlite", SystemClock(), SystemEntropy())
    return Runner(journal, state / "locks", SystemClock())
"""

# The children have nothing in common but the gate and the pipe by which the losers report.
CROWD = """
gate_read, gate_write = os.pipe()
report_read, report_write = os.pipe()

def work(context):
    with open(state / "workers", "a") as workers:
        workers.write(f"{os.getpid()}\\n")
    for _ in range(49):
        os.read(report_read, 1)
    return {}

children = []
for _ in range(50):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.close(gate_write)
    os.read(gate_read, 1)
    status = 1
    try:
        open_runner().run("files.copy", "/subject", {"a": 1}, work)
        status = 0
    except ConflictError as error:
        if error.code == "busy":
            status = 9
            os.write(report_write, b".")
    finally:
        os._exit(status)
os.close(gate_read)
os.close(gate_write)
statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(sorted(statuses) == [0] + [9] * 49, sorted(statuses))
"""

HOLDING = """
def work(context):
    context.enter("copying")
    context.event("file-copied", name="a")
    context.progress(entries_done=1, bytes_done=10, bytes_total=20)
    print("working", flush=True)
    # Looks up between waits: a signal that comes just before a blocking read would be seen late.
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        pass
    return {}

open_runner().run("files.copy", "/subject", {"a": 1}, work)
"""

FORKING = """
ready_read, ready_write = os.pipe()

def work(context):
    if os.fork() == 0:
        os.write(ready_write, b".")
        sys.stdin.read()
        os._exit(0)
    os.read(ready_read, 1)
    print("working", flush=True)
    if KILLED:
        signal.pause()
    return {}

open_runner().run("files.copy", "/subject", {"a": 1}, work)
"""

COUNTING = """
def work(context):
    number = 0
    while True:
        number += 1
        context.event("file-copied", n=number)
        print(number, flush=True)

open_runner().run("files.copy", "/subject", {"a": 1}, work)
"""


@contextmanager
def running(program: str, state: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def wait_until_working(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def journal(state: Path) -> Iterator[TaskJournal]:
    journal = TaskJournal(state / "tasks.sqlite", SystemClock(), SystemEntropy())
    yield journal
    journal.close()


@pytest.fixture
def runner(state: Path, journal: TaskJournal) -> Runner:
    return Runner(journal, state / "locks", SystemClock())


def test_of_fifty_processes_one_works_and_the_others_are_told(state: Path) -> None:
    """Invariant 1 of runner.py. The journal does not exist yet: they also race to make it."""
    state.mkdir()
    with running(CROWD, state) as process:
        output, _ = process.communicate(timeout=120)
    assert output.startswith("True"), output
    assert len((state / "workers").read_text().splitlines()) == 1


def test_a_killed_task_is_resumed_with_all_that_was_recorded(
    state: Path, journal: TaskJournal, runner: Runner
) -> None:
    """Invariant 2 of runner.py."""
    with running(HOLDING, state) as process:
        wait_until_working(process)
        with pytest.raises(ConflictError) as caught:
            runner.run("files.copy", "/subject", {"a": 1}, lambda _: {})
        (killed,) = journal.list_tasks().tasks
        assert caught.value.context["task_id"] == killed.id
        assert runner.settle() == ()
        process.kill()
        process.wait()
    assert journal.get(killed.id) == killed
    assert (killed.state, killed.stage) == (TaskState.RUNNING, "copying")
    assert killed.progress.bytes_done == 10

    task = runner.run("files.copy", "/subject", {"a": 1}, lambda c: {"resumed": c.is_resumed})

    assert (task.id, task.attempt, task.result) == (killed.id, 2, {"resumed": True})
    names = [event.name for event in journal.list_events(task.id)]
    before = ["created", "started", "stage-entered", "file-copied"]
    assert names == [*before, "interrupted", "resumed", "completed"]


def test_a_killed_task_gives_way_to_another_request(
    state: Path, journal: TaskJournal, runner: Runner
) -> None:
    with running(HOLDING, state) as process:
        wait_until_working(process)
        process.kill()
        process.wait()
    (killed,) = runner.settle()
    assert killed.state is TaskState.INTERRUPTED
    task = runner.run("files.copy", "/subject", {"a": 2}, lambda _: {})
    assert (task.id != killed.id, task.attempt) == (True, 1)
    assert journal.get(killed.id).state is TaskState.FAILED


def test_ctrl_c_is_recorded_by_the_process_itself(state: Path, journal: TaskJournal) -> None:
    with running(HOLDING, state) as process:
        wait_until_working(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    assert journal.list_tasks().tasks[0].state is TaskState.INTERRUPTED


@pytest.mark.parametrize("is_killed", [True, False])
def test_no_second_run_before_the_last_forked_worker_is_gone(
    state: Path, runner: Runner, is_killed: bool
) -> None:
    with running(f"KILLED = {is_killed}\n{FORKING}", state) as process:
        wait_until_working(process)
        if is_killed:
            process.kill()
        # Else the run ends by itself, as completed, and leaves its worker behind.
        process.wait()
        with pytest.raises(ConflictError) as caught:
            runner.run("files.copy", "/subject", {"a": 1}, lambda _: {})
        assert caught.value.code == "busy"
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        task = run_when_free(runner)
    assert task.attempt == (2 if is_killed else 1)


def run_when_free(runner: Runner) -> Task:
    for _ in range(1000):
        try:
            return runner.run("files.copy", "/subject", {"a": 1}, lambda _: {})
        except ConflictError:
            SystemClock().sleep(0.01)
    raise AssertionError("the lock outlived its workers")


def test_what_was_acknowledged_is_there_after_a_kill_at_any_moment(
    state: Path, journal: TaskJournal
) -> None:
    acknowledged = 0
    for round_ in range(1, 9):
        with running(COUNTING, state) as process:
            assert process.stdout is not None
            process.stdout.readline()
            SystemClock().sleep(0.007 * round_)
            process.kill()
            lines = process.stdout.read().splitlines()
            process.wait()
        complete = [int(line) for line in lines if line.isdigit()]
        acknowledged += max(complete, default=1)
        (task,) = journal.list_tasks().tasks
        assert (task.state, task.attempt) == (TaskState.RUNNING, round_)
    # One more a round may have been committed and not yet told of.
    assert acknowledged <= count_events(journal, task.id, "file-copied") <= acknowledged + 8


def count_events(journal: TaskJournal, task_id: TaskId, name: str) -> int:
    count = sequence = 0
    while page := journal.list_events(task_id, after_sequence=sequence):
        count += sum(event.name == name for event in page)
        sequence = page[-1].sequence
    return count
