"""Opens the SQLite file of the catalogue and turns its errors into ours.

Knows tables, versions and durability; knows nothing of what a checkpoint may do.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
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
from holdfast.tasks.database import opening

_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE banks (id TEXT PRIMARY KEY, url TEXT NOT NULL, key TEXT NOT NULL,
    promises TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plans (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, bank TEXT NOT NULL,
    resources TEXT NOT NULL, retention TEXT NOT NULL, created_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE checkpoints (id TEXT PRIMARY KEY, plan TEXT NOT NULL, plan_name TEXT NOT NULL,
    bank TEXT NOT NULL, created_ns INTEGER NOT NULL, state TEXT NOT NULL, task TEXT NOT NULL,
    manifest TEXT NOT NULL DEFAULT '', signer TEXT NOT NULL DEFAULT '',
    total_bytes INTEGER NOT NULL DEFAULT 0, added_bytes INTEGER NOT NULL DEFAULT 0,
    entries INTEGER NOT NULL DEFAULT 0, left_out INTEGER NOT NULL DEFAULT 0,
    protected INTEGER NOT NULL DEFAULT 0, locked_until_ns INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '', body TEXT NOT NULL DEFAULT '',
    verified_ns INTEGER, depth TEXT, verdict TEXT, coverage REAL, verified_by TEXT,
    bad TEXT) WITHOUT ROWID;
CREATE INDEX checkpoints_by_time ON checkpoints (created_ns, id);
CREATE INDEX checkpoints_by_plan ON checkpoints (plan, created_ns);
CREATE TABLE resources (checkpoint TEXT NOT NULL, resource TEXT NOT NULL,
    PRIMARY KEY (checkpoint, resource)) WITHOUT ROWID;
CREATE TABLE chunks (number INTEGER PRIMARY KEY, bank TEXT NOT NULL, id BLOB NOT NULL,
    size INTEGER NOT NULL, checked_ns INTEGER NOT NULL DEFAULT 0, result TEXT, UNIQUE (bank, id));
CREATE INDEX chunks_bad ON chunks (bank, result) WHERE result IS NOT NULL AND result <> 'good';
CREATE TABLE segment_uses (checkpoint TEXT NOT NULL, resource TEXT NOT NULL,
    segment INTEGER NOT NULL, PRIMARY KEY (checkpoint, resource, segment)) WITHOUT ROWID;
CREATE INDEX segment_users ON segment_uses (segment);
CREATE TABLE chunk_uses (segment INTEGER NOT NULL, chunk INTEGER NOT NULL,
    PRIMARY KEY (segment, chunk)) WITHOUT ROWID;
CREATE INDEX chunk_users ON chunk_uses (chunk);
CREATE TABLE schedules (id TEXT PRIMARY KEY, plan TEXT NOT NULL, operation TEXT NOT NULL,
    cron TEXT NOT NULL, parameters TEXT NOT NULL, last_ns INTEGER NOT NULL DEFAULT 0,
    next_ns INTEGER NOT NULL, last_result TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
"""
_REBUILD: Final = "move it away with its -wal and -shm, then run 'holdfast checkpoints doctor'"
_PLACE: Final = "check owner, mode and room there, or name another place with HOLDFAST_STATE"
_WAIT: Final = "run it again; if it lasts, find the stopped process that has the file open"
_TELL: Final[dict[int, tuple[type[HoldfastError], str, str, str]]] = {
    sqlite3.SQLITE_CORRUPT: (IntegrityError, "catalogue-damaged", "is damaged", _REBUILD),
    sqlite3.SQLITE_NOTADB: (IntegrityError, "catalogue-damaged", "is damaged", _REBUILD),
    sqlite3.SQLITE_BUSY: (UnavailableError, "catalogue-busy", "stayed locked", _WAIT),
    sqlite3.SQLITE_LOCKED: (UnavailableError, "catalogue-busy", "stayed locked", _WAIT),
    sqlite3.SQLITE_FULL: (CapacityError, "disk-full", "has no room", _PLACE),
    sqlite3.SQLITE_READONLY: (DeniedError, "catalogue-denied", "cannot be written", _PLACE),
    sqlite3.SQLITE_CANTOPEN: (DeniedError, "catalogue-denied", "cannot be opened", _PLACE),
    sqlite3.SQLITE_IOERR: (StorageFailedError, "catalogue-failed", "was refused", _PLACE),
}


class Database:
    """The file, shared by the threads of one process, never by a fork of it."""

    def __init__(self, path: Path) -> None:
        """Open or make it; UnsupportedError (`format-newer`)."""
        self._path = path
        self._turn = threading.RLock()
        with self._told(), opening(path):
            self.sql = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            self.sql.row_factory = sqlite3.Row
            (version,) = self.sql.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise UnsupportedError(
                    f"the catalogue {path} has format {version}",
                    code="format-newer",
                    advice="use the newer holdfast that wrote it",
                )
            self.sql.execute("PRAGMA journal_mode = WAL")
            self.sql.execute("PRAGMA synchronous = FULL")
            if version == 0:
                self._make()

    def close(self) -> None:
        """Release it."""
        self.sql.close()

    def rows(
        self, query: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> list[sqlite3.Row]:
        """Return all rows of one query."""
        with self._told():
            with self._turn:
                rows: list[sqlite3.Row] = self.sql.execute(query, values).fetchall()
            return rows

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the right to write; commits on leaving, changes nothing if left by an exception."""
        with self._told(), self._turn:
            self.sql.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.sql.execute("COMMIT")
            except BaseException:
                if self.sql.in_transaction:
                    self.sql.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            told = _TELL.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
            if told is None:
                raise  # A defect of ours, to be seen as one.
            kind, code, what, advice = told
            raise kind(
                f"the catalogue {self._path} {what}: {error}", code=code, advice=advice
            ) from error

    def _make(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):
            # Of two processes that make it at once one comes second, and finds it made.
            self.sql.executescript(
                f"BEGIN EXCLUSIVE;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;"
            )
        if self.sql.in_transaction:
            self.sql.execute("ROLLBACK")
        (version,) = self.sql.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            raise IntegrityError(
                f"the catalogue {self._path} holds something else",
                code="catalogue-damaged",
                advice=_REBUILD,
            )
