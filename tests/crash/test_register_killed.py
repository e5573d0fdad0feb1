"""Goal: what a SQLite register acknowledged or let be read survives kill -9, loss of power and a
failing disk.

Method: a process of many clients says what it was told. It is killed at random moments and the file
looked at; its system calls are recorded and replayed up to random moments, with what was not
flushed lost, kept or torn; and its flushes are made to fail, by strace.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.register_load import value_of
from tests.support.traced_files import STRACE, disk_after, read_events

from holdfast.model.head import Advanced, Epoch, HeadState, Refused, Revision
from holdfast.model.limits import HEAD_HISTORY_MAX
from holdfast.stores.registers.sqlite import SqliteRegister

ROOT = Path(__file__).parents[2]
CLIENTS = 8


def load_command(path: Path, advances_count: int, seed: str) -> list[str]:
    arguments = [str(path), str(CLIENTS), str(advances_count), seed]
    return [sys.executable, "-m", "tests.support.register_load", *arguments]


def look(path: Path) -> dict[str, list[HeadState]]:
    """Open the register as a restart would; return every key's history, newest first."""

    async def read() -> dict[str, list[HeadState]]:
        register = SqliteRegister(path)
        keys = await register.list_keys("", "", 100)
        found = {key: await register.history(key, HEAD_HISTORY_MAX) for key in keys}
        await register.check()
        await register.close()
        return found

    return asyncio.run(read())


def check_promises(lines: list[str], found: dict[str, list[HeadState]]) -> int:
    """What was acknowledged or read is there, or enough of what followed; return how many acks."""
    promised = [line.split() for line in lines if line.startswith(("ack ", "read "))]
    for _, key, revision_text, write_id in promised:
        states = {state.revision: state for state in found.get(key, [])}
        revision = Revision(int(revision_text))
        assert max(states, default=0) >= revision, f"{write_id} is lost"
        if revision > max(states) - HEAD_HISTORY_MAX:
            assert states[revision].write_id == write_id
    for history in found.values():
        assert all(state.value == value_of(state.write_id) for state in history)
        revisions = [state.revision for state in history]
        assert revisions == list(range(revisions[0], revisions[0] - len(revisions), -1))
    return sum(line.startswith("ack ") for line in lines)


@pytest.mark.parametrize("kills_count", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_acknowledged_survives_kills(tmp_path: Path, kills_count: int) -> None:
    path = tmp_path / "heads.db"
    chance = random.Random(kills_count)
    lines: list[str] = []
    for number in range(kills_count):
        command = load_command(path, 100_000, f"r{number}")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            wanted, said = chance.randint(20, 400), b""
            while said.count(b"\nack ") < wanted:
                piece = os.read(process.stdout.fileno(), 65536)
                assert piece, "the load ended by itself"
                said += piece
            # The pipe holds what is said meanwhile; who waits for room in it says less.
            time.sleep(chance.uniform(0.0, 0.02))
            process.kill()
            said += process.stdout.read()
        # The last line may be torn, by the kill.
        lines += said[: said.rfind(b"\n") + 1].decode().splitlines()

        check_promises(lines, look(path))
    asyncio.run(check_repeats(path, lines))
    assert check_promises(lines, look(path)) >= 20 * kills_count


async def check_repeats(path: Path, lines: list[str]) -> None:
    """Ask again for what was asked last: each is answered with what became of it."""
    register = SqliteRegister(path)
    for line in lines[-100:]:
        if not line.startswith("ask "):
            continue
        _, key, expected, write_id = line.split()
        before = await register.history(key, HEAD_HISTORY_MAX)
        outcome = await register.advance(
            key,
            expected=Revision(int(expected)),
            value=value_of(write_id),
            epoch=Epoch(0),
            write_id=write_id,
        )
        made = [state for state in before if state.write_id == write_id]
        if made:
            assert outcome == Advanced(state=made[0])
        elif before and before[0].revision == int(expected):
            assert isinstance(outcome, Advanced)
        else:
            assert isinstance(outcome, Refused)
    await register.close()


def trace(tmp_path: Path, advances_count: int, *options: str) -> list[str]:
    """Run the load below strace; return what it said."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed; 'make deps' installs it")
    (tmp_path / "home").mkdir()
    command = load_command(tmp_path / "home" / "heads.db", advances_count, "t")
    ran = subprocess.run(
        [*STRACE, "-o", str(tmp_path / "log"), *options, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if "ptrace" in ran.stderr and "not permitted" in ran.stderr:
        pytest.skip("this machine does not let strace trace")
    assert "ready" in ran.stdout, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("cuts_count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_acknowledged_survives_loss_of_power(tmp_path: Path, cuts_count: int) -> None:
    trace(tmp_path, 40)
    events = read_events(tmp_path / "log", tmp_path / "home")
    lines = [event.data.decode() if event.kind == "line" else "" for event in events]
    first = lines.index("ready")
    assert "remove" not in {event.kind for event in events[first:-20]}
    assert sum(event.kind == "flush" for event in events) > 20
    chance = random.Random(cuts_count)
    promises_count = 0
    for number in range(cuts_count):
        moment = chance.randint(first + 1, len(events))
        directory = tmp_path / f"cut{number}"
        disk_after(events, moment, chance).save(directory)

        promises_count += check_promises(lines[:moment], look(directory / "heads.db"))
        shutil.rmtree(directory)
    assert promises_count > 20 * cuts_count


@pytest.mark.parametrize(
    ("call", "error", "first"),
    [("fdatasync,fsync", "EIO", 15), ("pwrite64", "EIO", 40), ("pwrite64", "ENOSPC", 40)],
)
def test_failed_commit_ends_the_register_and_is_never_tried_again(
    tmp_path: Path, call: str, error: str, first: int
) -> None:
    lines = trace(tmp_path, 40, "-e", f"inject={call}:error={error}:when={first}+")

    told = [word for line in lines if (word := line.split()[0]) not in ("ask", "read")]
    first_unknown = told.index("unknown")
    assert set(told[first_unknown:]) == {"unknown", "failed", "unready"}
    assert lines[-1] == "unready unavailable"
    assert {line for line in lines if line.startswith("failed")} == {"failed register-failed"}
    log = (tmp_path / "log").read_text()
    after = log[log.index("INJECTED") :].splitlines()[1:]
    said_unknown = next(n for n, line in enumerate(after) if "write(1" in line)
    # SQLite itself may try a failed write once more before COMMIT returns; nothing comes after.
    assert not [line for line in after[said_unknown:] if "pwrite64" in line and "-wal" in line]
    assert check_promises(lines, look(tmp_path / "home" / "heads.db")) == told.count("ack")
