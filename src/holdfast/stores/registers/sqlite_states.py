"""The rows of a register's SQLite file, and one call on it for those who make no second.

Reads and writes states over a connection that others own; `advance_once` owns its own for the call.
Not how the file is made or opened (sqlite_file.py), nor many calls at once (sqlite.py).

1. An answer is given after its commit has returned; a commit that failed is in doubt, and told so.
2. Of a key, the HEAD_HISTORY_MAX newest states are kept, tombstones like values.
"""

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.model.head import (
    ABSENT,
    Advanced,
    AdvanceOutcome,
    Epoch,
    HeadState,
    Revision,
    Unknown,
    check_advance,
    check_key,
    decide_advance,
)
from holdfast.model.limits import HEAD_HISTORY_MAX
from holdfast.stores.registers.sqlite_file import open_for_writing, translated

_CURRENT: Final = (
    "SELECT revision, epoch, value, write_id FROM states WHERE key = ?"
    " ORDER BY revision DESC LIMIT ?"
)
_FOLLOWER: Final = (
    "SELECT revision, epoch, value, write_id FROM states WHERE key = ? AND revision > ?"
    " ORDER BY revision LIMIT 1"
)
_INSERT: Final = "INSERT INTO states VALUES (?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM states WHERE key = ? AND revision <= ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What a caller wants: see Register.advance."""

    key: str
    expected: Revision
    value: bytes | None
    epoch: Epoch
    write_id: str


def read_states(connection: sqlite3.Connection, key: str, limit: int) -> list[HeadState]:
    """Return the newest states of a key, the newest first; ABSENT alone where there is none."""
    rows = connection.execute(_CURRENT, (key, max(0, limit))).fetchall()
    return [_state(*row) for row in rows] or [ABSENT]


def write_advance(connection: sqlite3.Connection, wanted: Advance) -> AdvanceOutcome:
    """Decide an advance and write it, within the caller's transaction."""
    current = read_states(connection, wanted.key, 1)[0]
    follower = None
    if current.revision > wanted.expected:
        row = connection.execute(_FOLLOWER, (wanted.key, wanted.expected)).fetchone()
        follower = _state(*row)
    decided = decide_advance(
        current, follower, expected=wanted.expected, epoch=wanted.epoch, write_id=wanted.write_id
    )
    if decided is not None:
        return decided
    state = _state(current.revision + 1, wanted.epoch, wanted.value, wanted.write_id)
    row = (wanted.key, state.revision, state.epoch, state.value, state.write_id)
    connection.execute(_INSERT, row)
    if state.revision > HEAD_HISTORY_MAX:
        connection.execute(_FORGET, (wanted.key, state.revision - HEAD_HISTORY_MAX))
    return Advanced(state=state)


def read_once(path: Path, key: str) -> HeadState:
    """Open the file, recovering it as needed, and return the current state of a key."""
    check_key(key)
    with translated(path), contextlib.closing(open_for_writing(path)) as connection:
        return read_states(connection, key, 1)[0]


def advance_once(path: Path, key: str, value: bytes, write_id: str) -> AdvanceOutcome:
    """Open the file, recovering it as needed, and give a key a value; durable when this returns.

    Where it has that value already nothing is written.
    """
    check_key(key)
    with translated(path), contextlib.closing(open_for_writing(path)) as connection:
        # What raises before the commit leaves nothing: closing takes it back.
        connection.execute("BEGIN IMMEDIATE")
        current = read_states(connection, key, 1)[0]
        if current.value == value:
            return Advanced(state=current)
        expected, epoch = current.revision, current.epoch
        check_advance(key, expected=expected, value=value, epoch=epoch, write_id=write_id)
        outcome = write_advance(
            connection,
            Advance(key=key, expected=expected, value=value, epoch=epoch, write_id=write_id),
        )
        try:
            connection.execute("COMMIT")
        except sqlite3.Error:
            return Unknown(write_id=write_id)
        return outcome


def _state(revision: int, epoch: int, value: bytes | None, write_id: str) -> HeadState:
    return HeadState(
        value=value,
        revision=Revision(revision),
        epoch=Epoch(epoch),
        is_tombstone=value is None,
        write_id=write_id,
    )
