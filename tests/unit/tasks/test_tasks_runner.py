"""Goal: every way work can end is recorded as what it was, and progress is told as promised.

Method: work written as small functions, a simulated clock, a real journal and real locks in
tmp_path; other processes are played by a second Runner (flock excludes within a process too).
What needs a process to die is in tests/crash.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from holdfast.errors import (
    CancelledError,
    CapacityError,
    ConflictError,
    HoldfastError,
    InvalidRequestError,
    StateError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.model.ids import TaskId
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Progress, Task, TaskState, Told
from holdfast.tasks.runner import Runner, TaskContext
from holdfast.testing.clock import SimClock, SimEntropy

KIND = "files.copy"


class World:
    """One state directory, its journal and a runner on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = SimClock()
        self.journal = TaskJournal(path / "tasks.sqlite", self.clock, SimEntropy(1))
        self.runner = Runner(self.journal, path / "locks", self.clock)

    def last(self) -> Task:
        return self.journal.list_tasks(limit=1).tasks[0]

    def event_names(self) -> list[str]:
        return [event.name for event in self.journal.list_events(self.last().id)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state")
    yield world
    world.journal.close()


def done(context: TaskContext) -> Mapping[str, object]:
    return {"attempt": context.task.attempt, "resumed": context.is_resumed}


def interrupted(context: TaskContext) -> Mapping[str, object]:
    raise KeyboardInterrupt


def test_work_that_returns_is_completed_with_its_result(world: World) -> None:
    task = world.runner.run(KIND, "/t", {"a": 1}, done)
    assert task.state is TaskState.COMPLETED
    assert task.result == {"attempt": 1, "resumed": False}
    assert task == world.journal.get(task.id)
    assert world.event_names() == ["created", "started", "completed"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (CapacityError("full", code="disk-full", advice="free some", path=b"/x"), "failed"),
        (ValueError("odd"), "failed"),
        (CancelledError("stop", code="stopped"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
    ],
)
def test_work_that_raises_is_recorded_and_raised_on(
    world: World, error: BaseException, state: str
) -> None:
    def work(context: TaskContext) -> Mapping[str, object]:
        context.progress(entries_done=1, bytes_done=1)
        context.progress(entries_done=2, bytes_done=9)  # Not yet written when the work ends.
        raise error

    with pytest.raises(type(error)) as caught:
        world.runner.run(KIND, "/t", {}, work)
    assert caught.value is error
    task = world.last()
    assert task.state == state
    assert task.progress.bytes_done == 9
    assert (task.ended_ns is None) == (state == "interrupted")
    if isinstance(error, CapacityError):
        assert task.error == error.as_problem()
    if isinstance(error, ValueError):
        assert task.error is not None
        assert task.error["code"] == "internal"


@pytest.mark.parametrize("result", [{"a": object()}, {"a": "x" * 270_000}])
def test_a_result_that_cannot_be_kept_fails_the_task(
    world: World, result: Mapping[str, object]
) -> None:
    with pytest.raises(InvalidRequestError):
        world.runner.run(KIND, "/t", {}, lambda _: result)
    assert world.last().state is TaskState.FAILED


def test_an_interrupted_task_goes_on_with_the_same_request_only(world: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        world.runner.run(KIND, "/t", {"a": 1}, interrupted)
    first = world.last()
    task = world.runner.run(KIND, "/t", {"a": 1}, done)
    assert task.id == first.id
    assert task.result == {"attempt": 2, "resumed": True}

    with pytest.raises(KeyboardInterrupt):
        world.runner.run(KIND, "/t", {"a": 1}, interrupted)
    second = world.last()
    third = world.runner.run(KIND, "/t", {"a": 2}, done)
    assert third.attempt == 1
    superseded = world.journal.get(second.id)
    assert superseded.error is not None
    assert superseded.error["code"] == "superseded"


def test_a_failed_task_is_not_resumed_but_done_anew(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        world.runner.run(KIND, "/t", {}, lambda _: {"a": 1 // 0})
    failed = world.last()
    assert world.runner.run(KIND, "/t", {}, done).id != failed.id
    assert world.journal.get(failed.id) == failed


def test_a_second_run_on_the_subject_is_busy_and_names_the_first(world: World) -> None:
    """Invariant 1 of runner.py, within one process."""

    def work(context: TaskContext) -> Mapping[str, object]:
        with pytest.raises(ConflictError) as caught:
            world.runner.run("files.verify", "/t", {}, done)
        assert caught.value.code == "busy"
        assert caught.value.context["task_id"] == context.task.id
        assert context.task.id in caught.value.advice
        return {"other": world.runner.run(KIND, "/other", {}, done).state}

    assert world.runner.run(KIND, "/t", {}, work).result == {"other": "completed"}
    world.runner.run(KIND, "/t", {}, done)


def test_busy_before_the_owner_has_written_anything(world: World) -> None:
    world.runner.run(KIND, "/t", {}, done)
    (lock,) = (world.path / "locks").iterdir()
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConflictError) as caught:
        world.runner.run(KIND, "/t", {}, done)
    os.close(descriptor)
    assert (caught.value.code, caught.value.context["task_id"]) == ("busy", None)
    assert world.runner.run(KIND, "/t", {}, done).state is TaskState.COMPLETED


def test_a_cancelled_task_stops_at_its_next_written_progress(world: World) -> None:
    steps: list[int] = []

    def work(context: TaskContext) -> Mapping[str, object]:
        for step in range(100):
            steps.append(step)
            if step == 10:
                world.journal.request_cancel(context.task.id)
            context.progress(entries_done=step, bytes_done=step)
            world.clock.sleep(0.1)
        return {}

    with pytest.raises(CancelledError) as caught:
        world.runner.run(KIND, "/t", {}, work)
    assert caught.value.code == "cancelled"
    assert world.last().state is TaskState.CANCELLED
    assert 10 <= steps[-1] <= 20
    assert world.runner.run(KIND, "/t", {}, done).attempt == 1


def test_ctrl_c_after_a_wish_to_cancel_is_a_cancellation(world: World) -> None:
    def work(context: TaskContext) -> Mapping[str, object]:
        world.journal.request_cancel(context.task.id)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.runner.run(KIND, "/t", {}, work)
    assert world.last().state is TaskState.CANCELLED


def test_work_done_in_spite_of_a_wish_to_cancel_is_completed(world: World) -> None:
    def work(context: TaskContext) -> Mapping[str, object]:
        world.journal.request_cancel(context.task.id)
        return {}

    assert world.runner.run(KIND, "/t", {}, work).state is TaskState.COMPLETED


def test_progress_is_written_once_a_second_and_shown_ten_times(world: World) -> None:
    shown: list[Progress] = []
    written: set[Progress] = set()

    def work(context: TaskContext) -> Mapping[str, object]:
        for step in range(1, 1001):
            context.progress(
                entries_done=step, bytes_done=step * 100, entries_total=1000, bytes_total=100_000
            )
            if step % 50 == 0:
                written.add(world.journal.get(context.task.id).progress)
            world.clock.sleep(0.01)
        return {}

    task = world.runner.run(KIND, "/t", {}, work, listener=lambda task: shown.append(task.progress))
    assert len(written) == 10
    assert 100 <= len(shown) <= 102
    assert shown[-1].rate_bytes_per_s == pytest.approx(10_000)
    assert shown[50].eta_s == pytest.approx((100_000 - shown[50].bytes_done) / 10_000)
    assert task.progress.bytes_done == 100_000
    assert task.progress.eta_s == 0


class SlowJournal(TaskJournal):
    """One whose disk stands still now and then, for longer than anybody waits for its lock."""

    is_locked = False

    def record_progress(self, task_id: TaskId, told: Told) -> Task:
        if self.is_locked:
            raise UnavailableError("stayed locked", code="journal-busy")
        return super().record_progress(task_id, told)


def test_a_journal_that_is_locked_for_long_costs_no_work(world: World) -> None:
    """Progress is told again; what was told in between is not lost."""
    journal = SlowJournal(world.path / "tasks.sqlite", world.clock, SimEntropy(1))

    def work(context: TaskContext) -> Mapping[str, object]:
        journal.is_locked = True
        context.tell({"told": "while it was locked"})
        context.progress(entries_done=1, bytes_done=100)
        journal.is_locked = False
        world.clock.sleep(2)
        context.progress(entries_done=2, bytes_done=200)
        found = world.journal.get(context.task.id)
        return {"detail": dict(found.detail), "bytes": found.progress.bytes_done}

    task = Runner(journal, world.path / "locks", world.clock).run(KIND, "/t", {}, work)
    journal.close()
    assert task.result == {"detail": {"told": "while it was locked"}, "bytes": 200}


def test_a_stage_is_recorded_and_begins_its_progress_anew(world: World) -> None:
    seen: list[tuple[str, int, float | None]] = []

    def work(context: TaskContext) -> Mapping[str, object]:
        for stage, base in (("copying", 0), ("verifying", 100)):
            context.enter(stage)
            assert world.journal.get(context.task.id).stage == stage
            for step in range(3):
                context.progress(entries_done=0, bytes_done=base + step)
                world.clock.sleep(1)
        context.event("target-published", root="/t", count=2)
        return {}

    world.runner.run(
        KIND,
        "/t",
        {},
        work,
        listener=lambda t: seen.append(
            (t.stage, t.progress.bytes_done, t.progress.rate_bytes_per_s)
        ),
    )
    assert seen[0] == ("", 0, None)
    assert seen[5:8] == [("verifying", 0, None), ("verifying", 100, None), ("verifying", 101, 1.0)]
    names = ["created", "started", "stage-entered", "stage-entered", "target-published"]
    assert world.event_names() == [*names, "completed"]
    assert world.journal.list_events(world.last().id)[4].data == {"root": "/t", "count": 2}


def test_the_first_progress_of_a_stage_is_shown_at_once_and_a_look_changes_nothing(
    world: World,
) -> None:
    shown: list[int] = []

    def work(context: TaskContext) -> Mapping[str, object]:
        for stage in range(3):
            context.enter(f"stage-{stage}")
            context.progress(entries_done=0, bytes_done=stage)
        world.clock.sleep(1)
        context.progress(entries_done=0, bytes_done=102)
        world.clock.sleep(9)
        assert context.task.progress.rate_bytes_per_s == 100
        return {}

    world.runner.run(KIND, "/t", {}, work, listener=lambda t: shown.append(t.progress.bytes_done))
    assert shown == [0, 0, 0, 0, 1, 0, 2, 102]


def test_a_key_answers_with_its_ended_task_even_while_another_works(world: World) -> None:
    first = world.runner.run(KIND, "/t", {}, done, idempotency_key="k")

    def work(_: TaskContext) -> Mapping[str, object]:
        return {"again": world.runner.run(KIND, "/t", {}, done, idempotency_key="k").id}

    assert world.runner.run(KIND, "/t", {}, work).result == {"again": first.id}
    with pytest.raises(ConflictError) as caught:
        world.runner.run(KIND, "/t", {"b": 1}, done, idempotency_key="k")
    assert caught.value.code == "idempotency-key-reused"


def test_settle_leaves_the_living_alone(world: World) -> None:
    world.journal.admit(KIND, "/dead", {})  # As if its process had been killed.
    to_cancel = world.journal.admit(KIND, "/dead-and-unwanted", {})
    world.journal.request_cancel(to_cancel.id)

    def work(context: TaskContext) -> Mapping[str, object]:
        settled = {task.subject: task.state.value for task in world.runner.settle()}
        assert world.journal.get(context.task.id).state is TaskState.RUNNING
        return settled

    result = world.runner.run(KIND, "/living", {}, work).result
    assert result == {"/dead": "interrupted", "/dead-and-unwanted": "cancelled"}
    assert world.runner.settle() == ()


def test_a_journal_that_refuses_does_not_hide_why_the_work_failed(world: World) -> None:
    def work(context: TaskContext) -> Mapping[str, object]:
        world.journal.stop(context.task.id)
        world.journal.request_cancel(context.task.id)
        raise CapacityError("the target is full", code="disk-full")

    with pytest.raises(CapacityError) as caught:
        world.runner.run(KIND, "/t", {}, work)
    assert "journal" in caught.value.__notes__[0]


def test_what_is_told_is_written_with_progress_at_stages_and_at_the_end(world: World) -> None:
    written: list[Mapping[str, object]] = []

    def work(context: TaskContext) -> Mapping[str, object]:
        def look() -> None:
            written.append(world.journal.get(context.task.id).detail)

        context.tell({"n": 1})
        look()
        context.tell({"n": 2})  # Within the same second: not yet.
        look()
        context.enter("copying")
        look()
        context.tell({"n": 3})
        context.progress(entries_done=1, bytes_done=1)
        world.clock.sleep(1.5)
        context.tell({"n": 4})
        look()
        context.tell({"n": 5})
        return {}

    task = world.runner.run(KIND, "/t", {}, work)
    assert [detail["n"] for detail in written] == [1, 1, 2, 4]
    assert task.detail == {"n": 5}


def test_a_wish_to_cancel_is_seen_by_work_that_only_tells(world: World) -> None:
    def work(context: TaskContext) -> Mapping[str, object]:
        world.journal.request_cancel(context.task.id)
        context.tell({"n": 1})
        return {}

    with pytest.raises(CancelledError):
        world.runner.run(KIND, "/t", {}, work)
    assert (world.last().state, world.last().detail) == (TaskState.CANCELLED, {"n": 1})


class Spawned:
    """Plays the process that a task is handed to: it holds the lock until told to go on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.task: Task | None = None
        self.lock = -1

    def __call__(self, task: Task, lock: int) -> None:
        self.task, self.lock = task, os.dup(lock)

    def die(self) -> None:
        os.close(self.lock)

    def work(self) -> Task:
        assert self.task is not None
        return self.world.runner.adopt(self.task.id, self.lock, done)


def test_work_that_is_handed_over_holds_the_subject_all_the_time(world: World) -> None:
    """Invariant 3 of runner.py."""
    spawned = Spawned(world)
    task = world.runner.start(KIND, "/t", {"a": 1}, spawned)
    assert task.state is TaskState.RUNNING
    assert world.runner.settle() == ()
    refusals: list[Callable[[], Task]] = [
        lambda: world.runner.start(KIND, "/t", {"a": 1}, spawned),
        lambda: world.runner.resume(task.id, spawned),
        lambda: world.runner.abandon(task.id, {}),
        lambda: world.runner.run(KIND, "/t", {"a": 1}, done),
    ]
    for refused in refusals:
        with pytest.raises(ConflictError) as caught:
            refused()
        assert (caught.value.code, caught.value.context["task_id"]) == ("busy", task.id)
    ended = spawned.work()
    assert (ended.id, ended.state) == (task.id, TaskState.COMPLETED)
    assert world.runner.start(KIND, "/t", {"a": 1}, spawned).id != task.id
    spawned.die()


def test_a_start_neither_resumes_nor_replaces_but_resume_does(world: World) -> None:
    spawned = Spawned(world)
    task = world.runner.start(KIND, "/t", {}, spawned)
    spawned.die()
    with pytest.raises(ConflictError) as caught:
        world.runner.start(KIND, "/t", {}, spawned)
    assert caught.value.context["task_id"] == task.id
    resumed = world.runner.resume(task.id, spawned)
    assert (resumed.id, resumed.attempt) == (task.id, 2)
    assert spawned.work().result == {"attempt": 2, "resumed": True}
    with pytest.raises(StateError):
        world.runner.resume(task.id, spawned)


def test_what_nobody_goes_on_with_is_abandoned(world: World) -> None:
    spawned = Spawned(world)
    task = world.runner.start(KIND, "/t", {}, spawned)
    spawned.die()
    assert world.runner.abandon(task.id, {"code": "interrupted"}).state is TaskState.FAILED


def test_a_key_gives_its_task_while_it_is_at_work_and_after(world: World) -> None:
    spawned = Spawned(world)
    task = world.runner.start(KIND, "/t", {"a": 1}, spawned, idempotency_key="k")
    again = world.runner.start(KIND, "/t", {"a": 1}, spawned, idempotency_key="k")
    assert (again.id, again.state) == (task.id, TaskState.RUNNING)
    done_ = spawned.work()
    assert world.runner.start(KIND, "/t", {"a": 1}, spawned, idempotency_key="k") == done_


def test_a_process_that_cannot_be_started_leaves_the_task_interrupted(world: World) -> None:
    def refuse(_task: Task, _lock: int) -> None:
        raise OSError("no more processes")

    with pytest.raises(OSError, match="no more"):
        world.runner.start(KIND, "/t", {}, refuse)
    assert world.last().state is TaskState.INTERRUPTED


def test_a_task_is_adopted_only_with_its_lock(world: World) -> None:
    spawned = Spawned(world)
    task = world.runner.start(KIND, "/t", {}, spawned)
    (path,) = (world.path / "locks").iterdir()
    with pytest.raises(StateError) as caught:
        world.runner.adopt(task.id, os.open(path, os.O_RDWR), done)
    assert caught.value.code == "lock-not-held"
    spawned.die()


def test_a_place_that_cannot_hold_locks_is_told(world: World) -> None:
    (world.path / "file").write_text("x")
    runner = Runner(world.journal, world.path / "file", world.clock)
    with pytest.raises(StorageFailedError) as caught:
        runner.run(KIND, "/t", {}, done)
    assert caught.value.code == "lock-failed"
    assert isinstance(caught.value, HoldfastError)
    assert world.journal.list_tasks().tasks == ()
