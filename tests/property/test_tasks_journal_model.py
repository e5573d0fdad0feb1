"""Goal: whatever is asked of the journal in whatever order, it says what a dictionary would say.

Method: a hypothesis state machine drives a real journal, closing and opening it in between, and a
model that knows only the rules a user is told: one unfinished task a subject, ends are final, the
same request goes on and another replaces it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from holdfast.errors import ConflictError, StateError
from holdfast.model.ids import TaskId
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Progress, Task, Told
from holdfast.testing.clock import SimClock, SimEntropy

SUBJECTS = st.sampled_from(["/a", "/b", "/c"])
REQUESTS = st.sampled_from([{}, {"n": 1}, {"n": 2}])
KEYS = st.sampled_from([None, None, "k1", "k2"])
UNFINISHED = ("pending", "running", "interrupted")


@dataclass
class Expected:
    """What the model knows of one task."""

    subject: str
    request: dict[str, int]
    state: str = "pending"
    attempt: int = 1
    bytes_done: int = 0
    cancel_requested: bool = False
    events_count: int = 1


def attempt(call: Callable[[], Task]) -> Task | ConflictError:
    try:
        return call()
    except ConflictError as error:
        return error


class JournalMachine(RuleBasedStateMachine):
    """The journal beside its model; each rule does the same to both."""

    ids = Bundle("ids")

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = SimClock()
        self.entropy = SimEntropy(1)
        self.expected: dict[TaskId, Expected] = {}
        self.keys: dict[str, TaskId] = {}
        self.connect()

    def connect(self) -> None:
        path = Path(self.directory.name) / "tasks.sqlite"
        self.journal = TaskJournal(path, self.clock, self.entropy)

    def teardown(self) -> None:
        self.journal.close()
        self.directory.cleanup()

    def unfinished(self, subject: str) -> TaskId | None:
        for task_id, task in self.expected.items():
            if task.subject == subject and task.state in UNFINISHED:
                return task_id
        return None

    def is_key_of_other_work(self, key: str | None, subject: str, request: dict[str, int]) -> bool:
        if key is None or key not in self.keys:
            return False
        named = self.expected[self.keys[key]]
        return (named.subject, named.request) != (subject, request)

    @rule(target=ids, subject=SUBJECTS, request=REQUESTS, key=KEYS)
    def create(self, subject: str, request: dict[str, int], key: str | None) -> object:
        task = attempt(lambda: self.journal.create("k", subject, request, idempotency_key=key))
        if isinstance(task, ConflictError):
            if task.code == "busy":
                assert key not in self.keys
                assert task.context["task_id"] == self.unfinished(subject)
            else:
                assert self.is_key_of_other_work(key, subject, request)
            return multiple()
        assert not self.is_key_of_other_work(key, subject, request)
        if key is not None and key in self.keys:
            assert task.id == self.keys[key]
            return multiple()
        assert self.unfinished(subject) is None
        self.expected[task.id] = Expected(subject, request)
        if key is not None:
            self.keys[key] = task.id
        return task.id

    @rule(target=ids, subject=SUBJECTS, request=REQUESTS, key=KEYS)
    def admit(self, subject: str, request: dict[str, int], key: str | None) -> object:
        is_reused = self.is_key_of_other_work(key, subject, request)
        task = attempt(lambda: self.journal.admit("k", subject, request, idempotency_key=key))
        if isinstance(task, ConflictError):
            assert (task.code, is_reused) == ("idempotency-key-reused", True)
            return multiple()
        assert not is_reused
        is_new = task.id not in self.expected
        self.expect_admitted(task, subject, request, key)
        return task.id if is_new else multiple()

    def expect_admitted(
        self, task: Task, subject: str, request: dict[str, int], key: str | None
    ) -> None:
        old_id = self.unfinished(subject)
        if old_id is not None and self.expected[old_id].state == "running":
            self.expect_stop(self.expected[old_id])
            old_id = self.unfinished(subject)
        named_id = self.keys.get(key) if key is not None else None
        if named_id is not None and self.expected[named_id].state not in UNFINISHED:
            assert task.id == named_id
            return
        if key is not None:
            self.keys[key] = task.id
        if old_id is None or self.expected[old_id].request != request:
            assert task.id not in self.expected
            self.expected[task.id] = Expected(subject, request, state="running", events_count=2)
            if old_id is not None:
                self.expected[old_id].state = "failed"
                self.expected[old_id].events_count += 1
            return
        assert task.id == old_id
        old = self.expected[old_id]
        old.attempt += old.state == "interrupted"
        old.state = "running"
        old.events_count += 1

    def expect_stop(self, expected: Expected) -> None:
        expected.state = "cancelled" if expected.cancel_requested else "interrupted"
        expected.events_count += 1

    @rule(task_id=ids, bytes_done=st.integers(0, 100))
    def progress(self, task_id: TaskId, bytes_done: int) -> None:
        expected = self.expected[task_id]
        try:
            self.journal.record_progress(task_id, Told(progress=Progress(bytes_done=bytes_done)))
        except StateError:
            assert expected.state != "running"
            return
        assert expected.state == "running"
        expected.bytes_done = bytes_done

    @rule(task_id=ids)
    def event(self, task_id: TaskId) -> None:
        expected = self.expected[task_id]
        try:
            event = self.journal.append_event(task_id, "seen", {})
        except StateError:
            assert expected.state != "running"
            return
        assert expected.state == "running"
        expected.events_count += 1
        assert event.sequence == expected.events_count

    @rule(task_id=ids, how=st.sampled_from(["complete", "fail", "stop"]))
    def end(self, task_id: TaskId, how: str) -> None:
        expected = self.expected[task_id]
        try:
            match how:
                case "complete":
                    self.journal.complete(task_id, {})
                case "fail":
                    self.journal.fail(task_id, {"code": "x"})
                case _:
                    self.journal.stop(task_id)
        except StateError:
            assert expected.state != "running"
            return
        assert expected.state == "running"
        if how == "stop":
            self.expect_stop(expected)
        else:
            expected.state = "completed" if how == "complete" else "failed"
            expected.events_count += 1

    @rule(task_id=ids)
    def cancel(self, task_id: TaskId) -> None:
        expected = self.expected[task_id]
        try:
            self.journal.request_cancel(task_id)
        except StateError:
            assert expected.state in ("completed", "failed")
            return
        assert expected.state not in ("completed", "failed")
        if expected.state == "running" and not expected.cancel_requested:
            expected.cancel_requested = True
            expected.events_count += 1
        elif expected.state in ("pending", "interrupted"):
            expected.state = "cancelled"
            expected.events_count += 1

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.connect()

    @rule(step_s=st.integers(-100, 100))
    def wall_clock_steps(self, step_s: int) -> None:
        self.clock.step_wall_clock(step_s * 10**9)

    @invariant()
    def all_is_as_expected(self) -> None:
        found = self.journal.list_tasks(limit=1000).tasks
        assert [task.id for task in found] == list(self.expected)[::-1]
        for task in found:
            shown = Expected(
                task.subject,
                {name: value for name, value in task.request.items() if isinstance(value, int)},
                task.state.value,
                task.attempt,
                task.progress.bytes_done,
                task.cancel_requested,
                len(self.journal.list_events(task.id, limit=1000)),
            )
            assert shown == self.expected[task.id]
            assert (task.ended_ns is not None) == (task.state.value not in UNFINISHED)


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestJournalAgainstModel = JournalMachine.TestCase
