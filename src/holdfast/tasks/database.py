"""Opens the SQLite file of the journal and turns its errors into ours.

Knows tables, versions and durability; knows nothing of what a task may do. The format is described
in docs/formats/task-journal.md.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from holdfast.errors import (
    CapacityError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    StorageFailedError,
    UnavailableError,
    UnsupportedError,
)

SCHEMA_VERSION: Final = 2
BUSY_TIMEOUT_MS: Final = 10_000

_SCHEMA: Final = """
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('pending', 'running', 'interrupted', 'completed', 'failed', 'cancelled')),
    stage TEXT NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    progress TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    started_ns INTEGER,
    updated_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    result TEXT,
    error TEXT,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    rate_requested INTEGER CHECK (rate_requested >= 0),
    detail TEXT NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX one_unfinished_task_per_subject ON tasks (subject)
    WHERE state IN ('pending', 'running', 'interrupted');
CREATE INDEX tasks_by_subject ON tasks (subject, number);
CREATE TABLE task_keys (
    kind TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id),
    PRIMARY KEY (kind, idempotency_key)
) WITHOUT ROWID;
CREATE TABLE task_events (
    task_id TEXT NOT NULL REFERENCES tasks (id),
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    at_ns INTEGER NOT NULL,
    name TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (task_id, sequence)
) WITHOUT ROWID;
CREATE TRIGGER ended_tasks_never_change BEFORE UPDATE ON tasks
    WHEN OLD.state IN ('completed', 'failed', 'cancelled')
    BEGIN SELECT RAISE(ABORT, 'an ended task never changes'); END;
CREATE TRIGGER unfinished_tasks_are_never_deleted BEFORE DELETE ON tasks
    WHEN OLD.state IN ('pending', 'running', 'interrupted')
    BEGIN SELECT RAISE(ABORT, 'an unfinished task is never deleted'); END;
"""

_UPGRADES: Final = {
    1: """
ALTER TABLE tasks ADD COLUMN detail TEXT NOT NULL DEFAULT '{}';
DROP TRIGGER tasks_are_never_deleted;
CREATE TRIGGER unfinished_tasks_are_never_deleted BEFORE DELETE ON tasks
    WHEN OLD.state IN ('pending', 'running', 'interrupted')
    BEGIN SELECT RAISE(ABORT, 'an unfinished task is never deleted'); END;
""",
}
"""What makes the next version of each older one; all that are due are one transaction."""


class Database:
    """One connection to the file, shared by the threads of one process, never by a fork of it.

    When a transaction has returned it survives loss of power (WAL, synchronous=FULL).
    """

    def __init__(self, path: Path) -> None:
        """Open the file, making it and its directory (mode 0700) where missing."""
        self._path = path
        self._turn = threading.Lock()
        self._process_id = os.getpid()
        with _translated(path), opening(path):
            self._connection = sqlite3.connect(
                path,
                timeout=BUSY_TIMEOUT_MS / 1000,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                _prepare(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Release it."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the right to write; commits on leaving, changes nothing if left by an exception."""
        # SQLite's locks do not survive fork(): a worker that wrote here would damage the file.
        assert os.getpid() == self._process_id, "a forked worker must not use its parent's journal"
        with self._turn, _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def read(
        self, query: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> list[sqlite3.Row]:
        """Return all rows of one query, as of one moment."""
        assert os.getpid() == self._process_id, "a forked worker must not use its parent's journal"
        with self._turn, _translated(self._path):
            rows: list[sqlite3.Row] = self._connection.execute(query, values).fetchall()
            return rows


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Hold the directory of a file while that is opened; make both, for their owner alone.

    Two processes that switch a new file to WAL at once get SQLITE_BUSY without any waiting.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Never opened if it exists: closing it would drop the locks this process holds on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        yield
    finally:
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise UnsupportedError(
            f"the task journal {path} has format {version}; this holdfast reads {SCHEMA_VERSION}",
            code="format-newer",
            advice="use the newer holdfast that wrote it, or another state directory",
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise damaged(path, "it holds tables of something else")
        _bring_up(connection, _SCHEMA)
    elif version < SCHEMA_VERSION:
        _bring_up(connection, "".join(_UPGRADES[old] for old in range(version, SCHEMA_VERSION)))


def _bring_up(connection: sqlite3.Connection, script: str) -> None:
    # executescript is one transaction here: a process that dies inside it leaves the old version.
    connection.executescript(
        f"BEGIN IMMEDIATE;{script}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
    )


def damaged(path: Path, why: str) -> IntegrityError:
    """Return the error for a file that is not what was written."""
    return IntegrityError(
        f"the task journal {path} is damaged: {why}",
        code="journal-damaged",
        advice="no data is lost with it: move it away together with its -wal and -shm, and run"
        " again; what is already at a target is found there",
    )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _error_of(error, path) from error
    except OSError as error:
        raise StorageFailedError(
            f"the directory of the task journal {path} cannot be used: {error.strerror}",
            code="journal-unusable",
            advice="name a state directory on a local disk that this user may write",
        ) from error


def _error_of(error: sqlite3.Error, path: Path) -> HoldfastError | sqlite3.Error:
    # The low byte is the primary result code (sqlite.org/rescode.html).
    match getattr(error, "sqlite_errorcode", -1) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, str(error))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError(
                f"the task journal {path} stayed locked for {BUSY_TIMEOUT_MS // 1000} s",
                code="journal-busy",
                advice="run again; if it lasts, find the stopped process that has the file open",
            )
        case sqlite3.SQLITE_FULL:
            return CapacityError(
                f"the disk of the task journal {path} is full",
                code="disk-full",
                advice="free some space and run again; the task goes on from where it was",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return DeniedError(
                f"the task journal {path} cannot be written: {error}",
                code="journal-denied",
                advice="check owner and mode of the file, or name another state directory",
            )
        case sqlite3.SQLITE_IOERR:
            return StorageFailedError(
                f"the disk refused the task journal {path}: {error}",
                code="journal-failed",
                advice="look at the disk and the kernel log, then run again",
            )
        case _:
            return error  # A defect of ours, to be seen as one.
