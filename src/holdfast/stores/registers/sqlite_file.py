"""The SQLite file of a register: its tables, how it is opened, and its errors as ours.

Knows tables, versions and durability; decides nothing about advances. The format is described in
docs/formats/register.md.

1. With WAL and synchronous=FULL a commit is flushed before it is visible to any reader, and before
   COMMIT returns.
2. Opening moves what the log holds into the file and flushes that: a commit whose flush failed, or
   was cut off by a kill, is durable before anyone reads it again.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
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

APPLICATION_ID: Final = 0x68665247
"""`hfRG`, in the file's header."""
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_MS: Final = 10_000

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE states (
    key TEXT NOT NULL,
    revision INTEGER NOT NULL CHECK (revision >= 1),
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    value BLOB,
    write_id TEXT NOT NULL,
    PRIMARY KEY (key, revision)
) WITHOUT ROWID;
CREATE TABLE checks (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL);
INSERT INTO checks VALUES (1, 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the file, making it and its directory (mode 0700) where missing."""
    with translated(path), _opening(path):
        return _connect(path)


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a second connection, which sees what is committed and changes nothing."""
    with translated(path):
        connection = _plain_connection(path)
        connection.execute("PRAGMA query_only = ON")
        return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = _plain_connection(path)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _plain_connection(path: Path) -> sqlite3.Connection:
    # Opened in one thread, used in another afterwards; never in two at a time.
    return sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
    )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables_count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables_count and application != APPLICATION_ID:
        raise damaged(path, "it holds tables of something else")
    if version > SCHEMA_VERSION:
        raise UnsupportedError(
            f"the register {path} has format {version}; this holdfast reads {SCHEMA_VERSION}",
            code="format-newer",
            advice="use the newer holdfast that wrote it, or another file",
        )
    connection.execute("PRAGMA synchronous = FULL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise UnsupportedError(
            f"the file system of {path} has no shared memory for a write-ahead log",
            code="no-wal",
            advice="put the register on a local disk",
        )
    if version == 0:
        connection.executescript(_SCHEMA)
    # Busy is no failure: another instance has it open, so there was nothing to recover.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Hold the directory while the file is opened, and make the file's name durable.

    Two processes that switch a new file to WAL at once get SQLITE_BUSY without any waiting.
    """
    _make_directory(path.parent)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _make_file(path)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(path: Path) -> None:
    """Make what is missing of a path of directories, each durable in the one above."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def _make_file(path: Path) -> None:
    """Make an empty file that only its owner reads, as SQLite then makes the two beside it."""
    # Never opened if it exists: closing it would drop the locks this process holds on it.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass


def damaged(path: Path, why: str) -> IntegrityError:
    """Return the error for a file that is not what was written."""
    return IntegrityError(
        f"the register {path} is damaged: {why}",
        code="register-damaged",
        advice="keep the file for evidence; restore a backup and compare every head with its store",
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise error_of(error, path) from error
    except PermissionError as error:
        raise _denied(path, error) from error
    except OSError as error:
        raise StorageFailedError(
            f"the directory of the register {path} cannot be used: {error.strerror}",
            code="register-unusable",
            advice="name a file on a local disk that this user may write",
        ) from error


def error_of(error: sqlite3.Error, path: Path) -> HoldfastError | sqlite3.Error:
    """Return the error of ours that says what to do next; a defect of ours as it is."""
    # The low byte is the primary result code (sqlite.org/rescode.html).
    match getattr(error, "sqlite_errorcode", -1) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, str(error))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError(
                f"the register {path} stayed locked for {BUSY_TIMEOUT_MS // 1000} s",
                code="register-locked",
                advice="try again; if it lasts, find the stopped process that has the file open",
            )
        case sqlite3.SQLITE_FULL:
            return CapacityError(
                f"the disk of the register {path} is full",
                code="disk-full",
                advice="free some space and start again",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return _denied(path, error)
        case sqlite3.SQLITE_IOERR:
            return failed(path, str(error))
        case _:
            return error  # A defect of ours, to be seen as one.


def failed(path: Path, why: str) -> StorageFailedError:
    """Return the error of a register that must not be used any more."""
    return StorageFailedError(
        f"the register {path} failed and is closed to all but a restart: {why}",
        code="register-failed",
        advice="look at the disk and the kernel log, then start again; it recovers when opened",
    )


def _denied(path: Path, error: Exception) -> DeniedError:
    return DeniedError(
        f"the register {path} cannot be written: {error}",
        code="register-denied",
        advice="check owner and mode of the file and its directory, or name another",
    )
