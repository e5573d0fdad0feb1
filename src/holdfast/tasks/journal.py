"""Keeps tasks and their events in one SQLite file that several processes use at the same time.

It records what is decided in `rules.py`; it runs nothing, and it does not know whether the owner
of a task lives: only who holds the lock of a subject may call `admit` and `stop` (see `runner.py`).

Invariants:
    1. A subject has at most one unfinished task (a unique index keeps it).
    2. An ended task is never changed, an unfinished one never deleted (triggers keep it). Of the
       ended ones the newest TASKS_ENDED_MAX are kept, with all their events.
    3. Every change of state and the event that names it are written in one transaction.
    4. A key names, for its kind, the same task as long as that is kept; several may name one.
    5. When a method returns, what it wrote survives loss of power.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import assert_never

from holdfast.errors import ConflictError, InvalidRequestError, StateError
from holdfast.model.ids import TaskId, task_id_from
from holdfast.model.limits import PATH_BYTES_MAX, TASK_EVENTS_MAX, TASKS_ENDED_MAX
from holdfast.ports import Clock, Entropy
from holdfast.tasks.database import Database
from holdfast.tasks.history import UNFINISHED_OF, TaskHistory, read_task, task_of
from holdfast.tasks.model import (
    NOTHING_TOLD,
    Progress,
    Task,
    TaskEvent,
    TaskState,
    Told,
    encode_json,
)
from holdfast.tasks.rules import (
    Busy,
    Resume,
    Start,
    Supersede,
    TaskChange,
    change_on_stop,
    decide_admission,
    next_state,
)


class TaskJournal(TaskHistory):
    """The tasks of one state directory. Threads may share it; a forked process may not use it."""

    def __init__(
        self, path: Path, clock: Clock, entropy: Entropy, *, ended_max: int = TASKS_ENDED_MAX
    ) -> None:
        """Open the journal, making it where missing, bringing an older format up to date.

        Args:
            ended_max: Ended tasks to keep; the oldest go when new ones are made.

        Raises:
            UnsupportedError: `format-newer`; the file was not touched.
            IntegrityError: `journal-damaged`.
        """
        super().__init__(Database(path), path)
        self._clock = clock
        self._entropy = entropy
        self._ended_max = ended_max

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def create(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        *,
        idempotency_key: str | None = None,
    ) -> Task:
        """Write down a task to be run later; the same key gives the same task.

        Raises:
            ConflictError: `busy`: the subject has an unfinished task; `idempotency-key-reused`.
        """
        text = _checked(kind, subject, request, idempotency_key)
        with self._database.transaction() as sql:
            known = self._find_by_key(sql, kind, subject, text, idempotency_key)
            if known is not None:
                return known
            unfinished = self._find_unfinished(sql, subject)
            if unfinished is not None:
                raise busy(subject, unfinished.id)
            return self._insert(sql, kind, subject, text, idempotency_key)

    def admit(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        *,
        idempotency_key: str | None = None,
    ) -> Task:
        """Begin the work asked for, for the holder of the subject's lock, in one transaction.

        Returns:
            A RUNNING task: new, or the subject's unfinished one with one more attempt; or the
            ended task that the key names, for which nothing is to be done.
        """
        text = _checked(kind, subject, request, idempotency_key)
        with self._database.transaction() as sql:
            unfinished = self._find_unfinished(sql, subject)
            if unfinished is not None and unfinished.state is TaskState.RUNNING:
                # Its owner would hold the lock if it lived.
                stopped = self._stop(sql, unfinished)
                unfinished = None if stopped.is_ended else stopped
            known = self._find_by_key(sql, kind, subject, text, idempotency_key)
            if known is not None and known.is_ended:
                return known
            is_same_work = unfinished is not None and (
                (unfinished.kind, encode_json(unfinished.request, what="request")) == (kind, text)
            )
            match decide_admission(unfinished, is_owner_alive=False, is_same_work=is_same_work):
                case Resume(task_id=task_id):
                    _insert_key(sql, kind, idempotency_key, task_id)
                    return self._begin(sql, read_task(sql, task_id, self._path))
                case Supersede(task_id=task_id):
                    old = read_task(sql, task_id, self._path)
                    self._apply(sql, old, TaskChange.SUPERSEDED, error=_superseded(old))
                case Start():
                    pass
                case Busy():
                    raise AssertionError("the lock of the subject is held by the caller")
                case admission:
                    assert_never(admission)
            return self._begin(sql, self._insert(sql, kind, subject, text, idempotency_key))

    def begin(self, task_id: TaskId) -> Task:
        """Begin or go on with a task, for the holder of its subject's lock.

        Returns:
            It, RUNNING; or CANCELLED, where that was asked for before its owner died.

        Raises:
            StateError: `task-finished`.
        """
        with self._database.transaction() as sql:
            task = read_task(sql, task_id, self._path)
            if task.state is TaskState.RUNNING:
                task = self._stop(sql, task)
                if task.is_ended:
                    return task
            return self._begin(sql, task)

    def abandon(self, task_id: TaskId, problem: Mapping[str, object]) -> Task:
        """End a task that nobody will go on with as failed, for the holder of the lock.

        Raises:
            StateError: `task-finished`.
        """
        with self._database.transaction() as sql:
            task = read_task(sql, task_id, self._path)
            if task.state is TaskState.RUNNING:
                task = self._stop(sql, task)
                if task.is_ended:
                    return task
            return self._apply(sql, task, TaskChange.ABANDONED, error=json.dumps(problem))

    def find_by_key(
        self, kind: str, subject: str, request: Mapping[str, object], idempotency_key: str
    ) -> Task | None:
        """Return the task a key names; ConflictError `idempotency-key-reused` if for other work."""
        text = _checked(kind, subject, request, idempotency_key)
        with self._database.transaction() as sql:
            return self._find_by_key(sql, kind, subject, text, idempotency_key)

    def enter_stage(self, task_id: TaskId, stage: str, told: Told = NOTHING_TOLD) -> Task:
        """Record the stage of a running task, with an event `stage-entered`."""
        with self._database.transaction() as sql:
            task = self._running(sql, task_id)
            self._append(sql, task_id, "stage-entered", {"stage": stage})
            return self._update(sql, task, stage=stage, **_columns(told))

    def record_progress(self, task_id: TaskId, told: Told) -> Task:
        """Record how far a running task is; the answer says whether to cancel."""
        with self._database.transaction() as sql:
            return self._update(sql, self._running(sql, task_id), **_columns(told))

    def append_event(self, task_id: TaskId, name: str, data: Mapping[str, object]) -> TaskEvent:
        """Add an event to a running task; beyond TASK_EVENTS_MAX the oldest makes room."""
        with self._database.transaction() as sql:
            self._running(sql, task_id)
            return self._append(sql, task_id, name, data)

    def complete(
        self, task_id: TaskId, result: Mapping[str, object], told: Told = NOTHING_TOLD
    ) -> Task:
        """End a running task as done."""
        text = encode_json(result, what="result")
        with self._database.transaction() as sql:
            task = self._record_last(sql, read_task(sql, task_id, self._path), told)
            return self._apply(sql, task, TaskChange.COMPLETED, result=text)

    def fail(
        self, task_id: TaskId, problem: Mapping[str, object], told: Told = NOTHING_TOLD
    ) -> Task:
        """End a running task as failed, for the reason in `problem`."""
        with self._database.transaction() as sql:
            task = self._record_last(sql, read_task(sql, task_id, self._path), told)
            return self._apply(sql, task, TaskChange.FAILED, error=json.dumps(problem))

    def stop(self, task_id: TaskId, told: Told = NOTHING_TOLD) -> Task:
        """Record that a running task stopped before it was done: CANCELLED if asked to, else
        INTERRUPTED.
        """
        with self._database.transaction() as sql:
            task = self._record_last(sql, read_task(sql, task_id, self._path), told)
            return self._stop(sql, task)

    def request_cancel(self, task_id: TaskId) -> Task:
        """Ask a running task to stop; one that does not run is cancelled at once. Idempotent.

        Raises:
            StateError: `task-finished`: it had ended otherwise.
        """
        with self._database.transaction() as sql:
            task = read_task(sql, task_id, self._path)
            if task.state is TaskState.CANCELLED:
                return task
            if task.state is not TaskState.RUNNING:
                return self._apply(sql, task, TaskChange.CANCELLED)
            if task.cancel_requested:
                return task
            self._append(sql, task_id, "cancel-requested", {})
            return self._update(sql, task, cancel_requested=1)

    def request_rate(self, task_id: TaskId, rate_bytes_per_s: int) -> Task:
        """Ask a running task to move at most so many bytes a second from now on; 0 for no limit.

        Raises:
            StateError: `task-finished`, `task-not-running`.
        """
        with self._database.transaction() as sql:
            task = self._running(sql, task_id)
            self._append(sql, task_id, "rate-requested", {"bytesPerS": rate_bytes_per_s})
            return self._update(sql, task, rate_requested=rate_bytes_per_s)

    def _find_unfinished(self, sql: sqlite3.Connection, subject: str) -> Task | None:
        row = sql.execute(UNFINISHED_OF, (subject,)).fetchone()
        return task_of(row, self._path) if row else None

    def _find_by_key(
        self, sql: sqlite3.Connection, kind: str, subject: str, text: str, key: str | None
    ) -> Task | None:
        row = sql.execute(
            """SELECT tasks.* FROM tasks JOIN task_keys ON task_keys.task_id = tasks.id
            WHERE task_keys.kind = ? AND idempotency_key = ?""",
            (kind, key),
        ).fetchone()
        if row is None:
            return None
        if (row["subject"], row["request"]) == (subject, text):
            return task_of(row, self._path)
        raise ConflictError(
            f"the key {key!r} already names {row['id']}, which was another request",
            code="idempotency-key-reused",
            advice="use a new key for a new request, or repeat the first request unchanged",
            task_id=row["id"],
        )

    def _insert(
        self, sql: sqlite3.Connection, kind: str, subject: str, text: str, key: str | None
    ) -> Task:
        now_ns = self._clock.now_ns()
        task_id = task_id_from(now_ns, self._entropy.random_bytes(8))
        sql.execute(
            """INSERT INTO tasks (id, kind, subject, request, state, stage, attempt, progress,
            created_ns, updated_ns, cancel_requested) VALUES (?, ?, ?, ?, ?, '', 1, ?, ?, ?, 0)""",
            (
                task_id,
                kind,
                subject,
                text,
                TaskState.PENDING,
                _encode_progress(Progress()),
                now_ns,
                now_ns,
            ),
        )
        _insert_key(sql, kind, key, task_id)
        self._append(sql, task_id, "created", {})
        _forget_oldest(sql, self._ended_max)
        return read_task(sql, task_id, self._path)

    def _begin(self, sql: sqlite3.Connection, task: Task) -> Task:
        if task.state is TaskState.PENDING:
            return self._apply(sql, task, TaskChange.STARTED, started_ns=self._clock.now_ns())
        return self._apply(sql, task, TaskChange.RESUMED, attempt=task.attempt + 1)

    def _stop(self, sql: sqlite3.Connection, task: Task) -> Task:
        return self._apply(sql, task, change_on_stop(cancel_requested=task.cancel_requested))

    def _apply(
        self, sql: sqlite3.Connection, task: Task, change: TaskChange, **columns: object
    ) -> Task:
        state = next_state(task.state, change)
        self._append(sql, task.id, change, {})
        if state in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED):
            columns["ended_ns"] = self._clock.now_ns()
        return self._update(sql, task, state=state, **columns)

    def _update(self, sql: sqlite3.Connection, task: Task, **columns: object) -> Task:
        columns["updated_ns"] = self._clock.now_ns()
        assignments = ", ".join(f"{name} = ?" for name in columns)
        sql.execute(f"UPDATE tasks SET {assignments} WHERE id = ?", (*columns.values(), task.id))
        return read_task(sql, task.id, self._path)

    def _record_last(self, sql: sqlite3.Connection, task: Task, told: Told) -> Task:
        return task if task.is_ended else self._update(sql, task, **_columns(told))

    def _running(self, sql: sqlite3.Connection, task_id: TaskId) -> Task:
        task = read_task(sql, task_id, self._path)
        if task.state is not TaskState.RUNNING:
            raise StateError(
                f"{task_id} is {task.state}, not running",
                code="task-finished" if task.is_ended else "task-not-running",
                advice=f"see 'holdfast tasks show {task_id}'",
                task_id=task_id,
            )
        return task

    def _append(
        self, sql: sqlite3.Connection, task_id: TaskId, name: str, data: Mapping[str, object]
    ) -> TaskEvent:
        (last,) = sql.execute(
            "SELECT coalesce(max(sequence), 0) FROM task_events WHERE task_id = ?", (task_id,)
        ).fetchone()
        event = TaskEvent(
            task_id=task_id,
            sequence=last + 1,
            at_ns=self._clock.now_ns(),
            name=name,
            data=data,
        )
        sql.execute(
            "INSERT INTO task_events VALUES (?, ?, ?, ?, ?)",
            (task_id, event.sequence, event.at_ns, name, encode_json(data, what="event")),
        )
        sql.execute(
            "DELETE FROM task_events WHERE task_id = ? AND sequence <= ?",
            (task_id, event.sequence - TASK_EVENTS_MAX),
        )
        return event


def busy(subject: str, task_id: TaskId | None) -> ConflictError:
    """Return the error for a subject that another task works on."""
    if task_id is None:
        return ConflictError(
            f"another process is about to begin or end work on {subject}",
            code="busy",
            advice="run again in a moment",
            task_id=None,
        )
    return ConflictError(
        f"{task_id} is at work on {subject}",
        code="busy",
        advice=f"wait for it, or stop it with 'holdfast tasks cancel {task_id}'",
        task_id=task_id,
    )


def _superseded(task: Task) -> str:
    return json.dumps(
        ConflictError(
            f"{task.id} was interrupted, and another request took its place",
            code="superseded",
            advice="ask for the same work again if it is still wanted",
        ).as_problem()
    )


def _checked(
    kind: str, subject: str, request: Mapping[str, object], idempotency_key: str | None
) -> str:
    """Return the request as text, or raise InvalidRequestError if any of these cannot be kept."""
    fields = {"kind": kind, "subject": subject}
    if idempotency_key is not None:
        fields["idempotency key"] = idempotency_key
    for name, value in fields.items():
        size_bytes = len(value.encode("utf-8", "replace"))
        if 0 < size_bytes <= PATH_BYTES_MAX and value.isprintable():
            continue
        raise InvalidRequestError(
            f"the {name} of a task is empty, over {PATH_BYTES_MAX} bytes, or not printable text",
            code="bad-field",
            advice="spell a path that is not text with holdfast.model.tree.display_path",
            field=name,
        )
    return encode_json(request, what="request")


def _insert_key(sql: sqlite3.Connection, kind: str, key: str | None, task_id: TaskId) -> None:
    if key is not None:
        sql.execute("INSERT OR IGNORE INTO task_keys VALUES (?, ?, ?)", (kind, key, task_id))


def _forget_oldest(sql: sqlite3.Connection, ended_max: int) -> None:
    """Delete the ended tasks beyond the newest `ended_max`, with their events and keys."""
    forgotten = sql.execute(
        """SELECT id FROM tasks WHERE state IN ('completed', 'failed', 'cancelled')
        ORDER BY number DESC LIMIT -1 OFFSET ?""",
        (ended_max,),
    ).fetchall()
    for (task_id,) in forgotten:
        sql.execute("DELETE FROM task_events WHERE task_id = ?", (task_id,))
        sql.execute("DELETE FROM task_keys WHERE task_id = ?", (task_id,))
        sql.execute("DELETE FROM tasks WHERE id = ?", (task_id,))


def _columns(told: Told) -> dict[str, object]:
    columns: dict[str, object] = {}
    if told.progress is not None:
        columns["progress"] = _encode_progress(told.progress)
    if told.detail is not None:
        columns["detail"] = encode_json(told.detail, what="detail")
    return columns


def _encode_progress(progress: Progress) -> str:
    return encode_json(asdict(progress), what="progress")
