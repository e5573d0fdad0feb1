"""Reads what the journal of tasks holds; writes nothing. What is written, and when: journal.py."""

import json
import sqlite3
from pathlib import Path

from holdfast.errors import InvalidRequestError, NotFoundError
from holdfast.model.ids import TaskId
from holdfast.tasks.database import Database, damaged
from holdfast.tasks.model import Progress, Task, TaskEvent, TaskPage, TaskState

PAGE_MAX = 1000
UNFINISHED_OF = """SELECT * FROM tasks WHERE subject = ?
    AND state IN ('pending', 'running', 'interrupted')"""


class TaskHistory:
    """The tasks of one state directory, to be looked at. Threads may share it."""

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._path = path

    def get(self, task_id: TaskId) -> Task:
        """Return a task as it is now; NotFoundError (`no-task`) if there is none."""
        rows = self._database.read("SELECT * FROM tasks WHERE id = ?", (task_id,))
        return task_of(_only(rows, task_id), self._path)

    def find_unfinished(self, subject: str) -> Task | None:
        """Return the one task of a subject that has not ended."""
        rows = self._database.read(UNFINISHED_OF, (subject,))
        return task_of(rows[0], self._path) if rows else None

    def list_tasks(
        self,
        *,
        kind: str | None = None,
        state: TaskState | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> TaskPage:
        """Return tasks that match all that is given, newest first.

        Args:
            limit: 1 to PAGE_MAX.
            cursor: `cursor_next` of the page before.
        """
        _check_limit(limit)
        before = (1 << 63) - 1 if cursor is None else _parse_cursor(cursor)
        rows = self._database.read(
            """SELECT * FROM tasks WHERE number < :before
            AND (:kind IS NULL OR kind = :kind) AND (:state IS NULL OR state = :state)
            AND (:subject IS NULL OR subject = :subject) ORDER BY number DESC LIMIT :limit""",
            {
                "before": before,
                "kind": kind,
                "state": state,
                "subject": subject,
                "limit": limit + 1,
            },
        )
        tasks = tuple(task_of(row, self._path) for row in rows[:limit])
        more = len(rows) > limit
        return TaskPage(tasks=tasks, cursor_next=str(rows[limit - 1]["number"]) if more else None)

    def list_events(
        self, task_id: TaskId, *, after_sequence: int = 0, limit: int = 100
    ) -> tuple[TaskEvent, ...]:
        """Return up to `limit` (1 to PAGE_MAX) events with a greater sequence, oldest first."""
        _check_limit(limit)
        self.get(task_id)
        rows = self._database.read(
            """SELECT * FROM task_events WHERE task_id = ? AND sequence > ?
            ORDER BY sequence LIMIT ?""",
            (task_id, after_sequence, limit),
        )
        return tuple(_event_of(row, self._path) for row in rows)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidRequestError(
            f"a page of {limit} cannot be had",
            code="bad-limit",
            advice=f"ask for 1 to {PAGE_MAX}",
        )


def _parse_cursor(cursor: str) -> int:
    if cursor.isascii() and cursor.isdigit() and len(cursor) <= 18:
        return int(cursor)
    raise InvalidRequestError(
        f"{cursor[:40]!r} is not a cursor",
        code="bad-cursor",
        advice="take the cursor of the page before, or none for the first page",
    )


def _only(rows: list[sqlite3.Row], task_id: TaskId) -> sqlite3.Row:
    if rows:
        return rows[0]
    raise NotFoundError(
        f"there is no {task_id} in this journal",
        code="no-task",
        advice="see 'holdfast tasks list', or name the state directory it was run with",
        task_id=task_id,
    )


def read_task(sql: sqlite3.Connection, task_id: TaskId, path: Path) -> Task:
    """Return a task within a transaction; NotFoundError (`no-task`) if there is none."""
    rows = sql.execute("SELECT * FROM tasks WHERE id = ?", (task_id,)).fetchall()
    return task_of(_only(rows, task_id), path)


def task_of(row: sqlite3.Row, path: Path) -> Task:
    """Return a row as a task; IntegrityError if it cannot be one."""
    try:
        return Task(
            id=row["id"],
            kind=row["kind"],
            subject=row["subject"],
            request=json.loads(row["request"]),
            state=TaskState(row["state"]),
            stage=row["stage"],
            attempt=row["attempt"],
            progress=Progress(**json.loads(row["progress"])),
            detail=json.loads(row["detail"]),
            created_ns=row["created_ns"],
            started_ns=row["started_ns"],
            updated_ns=row["updated_ns"],
            ended_ns=row["ended_ns"],
            result=None if row["result"] is None else json.loads(row["result"]),
            error=None if row["error"] is None else json.loads(row["error"]),
            cancel_requested=bool(row["cancel_requested"]),
            rate_requested=row["rate_requested"],
        )
    except (ValueError, TypeError) as error:
        raise damaged(path, f"row {row['number']} of tasks: {error}") from error


def _event_of(row: sqlite3.Row, path: Path) -> TaskEvent:
    try:
        return TaskEvent(
            task_id=row["task_id"],
            sequence=row["sequence"],
            at_ns=row["at_ns"],
            name=row["name"],
            data=json.loads(row["data"]),
        )
    except (ValueError, TypeError) as error:
        raise damaged(path, f"event {row['sequence']} of {row['task_id']}: {error}") from error
