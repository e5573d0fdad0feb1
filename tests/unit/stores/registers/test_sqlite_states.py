"""Goal: one call on a register's file keeps what many calls keep (sqlite_states.py).

Method: a real file, looked at by the other way in, SqliteRegister, and by itself.
"""

import asyncio
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError
from holdfast.model.head import ABSENT, Advanced, HeadState
from holdfast.model.limits import HEAD_HISTORY_MAX
from holdfast.stores.registers.sqlite import SqliteRegister
from holdfast.stores.registers.sqlite_states import advance_once, read_once

KEY = "plans/a"


async def _history(path: Path) -> list[HeadState]:
    register = SqliteRegister(path)
    try:
        return await register.history(KEY, 2 * HEAD_HISTORY_MAX)
    finally:
        await register.close()


def test_what_one_call_wrote_is_what_a_register_reads(tmp_path: Path) -> None:
    path = tmp_path / "heads.sqlite"
    assert read_once(path, KEY) == ABSENT

    first = advance_once(path, KEY, b"one", "write-1")
    second = advance_once(path, KEY, b"two", "write-2")

    assert isinstance(first, Advanced)
    assert isinstance(second, Advanced)
    assert asyncio.run(_history(path)) == [second.state, first.state]
    assert read_once(path, KEY) == second.state
    assert (first.state.revision, second.state.revision) == (1, 2)


def test_the_value_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "heads.sqlite"
    first = advance_once(path, KEY, b"one", "write-1")

    assert advance_once(path, KEY, b"one", "write-2") == first
    assert len(asyncio.run(_history(path))) == 1


def test_a_key_that_cannot_be_one_is_refused_and_leaves_the_file_free(tmp_path: Path) -> None:
    path = tmp_path / "heads.sqlite"
    with pytest.raises(HoldfastError):
        advance_once(path, "", b"one", "write-1")
    with pytest.raises(HoldfastError):
        advance_once(path, KEY, b"one", "")

    assert isinstance(advance_once(path, KEY, b"one", "write-1"), Advanced)
