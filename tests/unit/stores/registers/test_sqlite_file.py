"""Goal: a register opens its own file only, keeps what is in it, and says clearly what is wrong.

Method: files of something else, of a newer format, damaged, unwritable; two instances on one file.
"""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from holdfast.errors import DeniedError, IntegrityError, StorageFailedError, UnsupportedError
from holdfast.model.head import Advanced, Epoch, Refused, Revision
from holdfast.stores.registers.sqlite import SqliteRegister
from holdfast.testing.linearizability import Operation, Recorder, find_violation

pytestmark = pytest.mark.anyio


async def put(register: SqliteRegister, expected: int, write_id: str) -> object:
    return await register.advance(
        "k", expected=Revision(expected), value=b"v", epoch=Epoch(0), write_id=write_id
    )


async def test_state_outlives_the_instance(tmp_path: Path) -> None:
    path = tmp_path / "new" / "below" / "heads.db"
    first = SqliteRegister(path)
    outcome = await put(first, 0, "w")
    await first.close()

    second = SqliteRegister(path)
    assert isinstance(outcome, Advanced)
    assert await second.read("k") == outcome.state
    assert await put(second, 0, "w") == outcome
    await second.close()
    assert [each.stat().st_mode & 0o777 for each in path.parents[:2]] == [0o700, 0o700]


async def test_others_of_the_machine_read_nothing(tmp_path: Path) -> None:
    register = SqliteRegister(tmp_path / "heads.db")
    await put(register, 0, "w")

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    await register.close()

    assert modes == dict.fromkeys(("heads.db", "heads.db-wal", "heads.db-shm"), 0o600)


async def test_two_instances_share_a_file(tmp_path: Path) -> None:
    one, other = SqliteRegister(tmp_path / "h"), SqliteRegister(tmp_path / "h")

    first = await put(one, 0, "a")
    assert isinstance(first, Advanced)
    assert await other.read("k") == first.state
    assert isinstance(await put(other, 0, "b"), Refused)
    second = await put(other, first.state.revision, "c")
    assert isinstance(second, Advanced)
    assert await one.read("k") == second.state
    await one.close()
    await other.close()


async def test_instances_together_are_linearizable(tmp_path: Path) -> None:
    operations: list[Operation] = []
    recorders = [Recorder(SqliteRegister(tmp_path / "h"), operations) for _ in range(3)]

    async def work(client: int) -> None:
        recorder = recorders[client % len(recorders)]
        for number in range(40):
            seen = await recorder.read("k")
            assert seen is not None
            await recorder.advance("k", seen, b"v", f"{client}-{number}")

    await asyncio.gather(*(work(client) for client in range(6)))
    for recorder in recorders:
        await recorder.register.close()

    assert find_violation(operations) is None
    assert sum(operation.before != operation.after for operation in operations) >= 40


def test_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE states (x)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(IntegrityError):
        SqliteRegister(path)
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h").write_bytes(b"not a database, but long enough to look at" * 100)

    with pytest.raises(IntegrityError):
        SqliteRegister(tmp_path / "h")


async def test_newer_format_is_refused(tmp_path: Path) -> None:
    await SqliteRegister(tmp_path / "h").close()
    with sqlite3.connect(tmp_path / "h") as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()

    with pytest.raises(UnsupportedError) as caught:
        SqliteRegister(tmp_path / "h")
    assert caught.value.code == "format-newer"


def test_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailedError):
        SqliteRegister(tmp_path / "file" / "h")
    os.mkdir(tmp_path / "h")
    with pytest.raises(DeniedError):
        SqliteRegister(tmp_path / "h")
