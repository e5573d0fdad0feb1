"""Goal: a full disk, one that loses writes and one that rots are told for what they are, to clients
of NBD and to whoever asks for the volume's health; nothing acknowledged is lost or read wrong.

Method: real processes on real files: a small ext4 on a loop device that fills up; one whose backing
store has no room left, so that flushes fail; and files with a flipped bit. Cites 6, 12, 17, 18 and
24 of volumes/engine/volume.py and, of front ends, 54.
"""

import asyncio
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from holdfast.volumes.control_client import ControlClient
from holdfast.volumes.model import SLOT_BYTES
from holdfast.volumes.nbd.codec import Command, Errno
from tests.support.command import Holdfast
from tests.support.mounted import need_mounting
from tests.support.nbd_client import NbdClient
from tests.support.volume_process import DataProcess
from tests.support.volumes import create, run, serving

MIB = 1 << 20
BLOCK_BYTES = 4096
BLOCKS = 256


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Yield where an ext4 of this size is mounted."""
    image, directory = place / "image", place / "fs"
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", image)
    directory.mkdir()
    run("mount", "-o", "loop", image, directory)
    try:
        yield directory
    finally:
        run("umount", "-l", directory)


def client_of(state: Path) -> NbdClient:
    """Return a client of the volume `db`."""
    client = NbdClient(str(state / "volumes" / "db" / "nbd.sock"), timeout_s=30)
    client.start("db")
    return client


def stamp(number: int, size_bytes: int = SLOT_BYTES) -> bytes:
    """Return bytes that were never written before."""
    return struct.pack("<Q", number + 1) * (size_bytes // 8)


def check(client: NbdClient, written: dict[int, bytes]) -> None:
    """Find everything that was acknowledged."""
    for start, data in written.items():
        assert client.read(start, len(data)) == data, start


@pytest.mark.slow
def test_full_disk_is_no_space_and_heals(tmp_path: Path) -> None:
    need_mounting()
    with small_disk(tmp_path, 120 * MIB) as disk:
        holdfast = Holdfast(state=disk / "state")
        create(holdfast, "db", "128M")
        filler = disk / "filler"
        filler.write_bytes(bytes(20 * MIB))
        written: dict[int, bytes] = {}
        with serving(holdfast) as served:
            client = client_of(holdfast.state)
            errno = number = 0
            while not errno:
                errno = client.write(number * SLOT_BYTES, stamp(number))
                if not errno:
                    written[number * SLOT_BYTES] = stamp(number)
                number += 1
            assert (errno, number > 100) == (Errno.ENOSPC, True)
            assert client.write(0, stamp(9999, BLOCK_BYTES)) == 0
            written[0] = stamp(9999, BLOCK_BYTES) + written[0][BLOCK_BYTES:]
            assert client.flush() == 0
            check(client, written)
            assert holdfast("volumes", "show", "db", "--json").json["lost_bytes"] == 0
            served.stop(signal.SIGKILL)
            client.close()
        with serving(holdfast) as served:
            client = client_of(holdfast.state)
            check(client, written)
            filler.unlink()
            assert client.write(number * SLOT_BYTES, stamp(number)) == 0
            written[number * SLOT_BYTES] = stamp(number)
            assert client.flush() == 0
            shown = holdfast("volumes", "show", "db", "--json").json
            assert shown["health"] == "healthy"
            client.close()
            assert served.stop() == 0
        with serving(holdfast):
            client = client_of(holdfast.state)
            check(client, written)
            client.close()


@pytest.mark.slow
def test_disk_that_loses_writes_makes_the_volume_unsafe_until_it_is_opened_anew(
    tmp_path: Path,
) -> None:
    """The ext4's own device has nowhere to put what is written back: flushes fail with EIO."""
    need_mounting()
    store = tmp_path / "store"
    store.mkdir()
    with ExitStack() as undo:
        run("mount", "-t", "tmpfs", "-o", "size=110m", "tmpfs", store)
        undo.callback(run, "umount", "-l", store)
        disk = undo.enter_context(small_disk(store, 256 * MIB))
        holdfast = Holdfast(state=disk / "state")
        create(holdfast, "db", "64M")
        with serving(holdfast) as served:
            client = client_of(holdfast.state)
            assert client.write(0, stamp(1)) == 0
            assert client.flush() == 0
            fill(store / "filler")
            for number in range(1, 200):
                assert client.write(number * SLOT_BYTES, stamp(number)) in (0, Errno.EIO)
            assert client.flush() == Errno.EIO
            assert client.flush() == Errno.EIO
            assert client.write(0, stamp(2)) == Errno.EIO
            assert client.read(0, SLOT_BYTES) == stamp(1)

            shown = holdfast("volumes", "show", "db", "--json").json

            assert (shown["health"], shown["serving"]["state"]) == ("unsafe", "poisoned")
            assert shown["lost_bytes"] > 0
            assert "flushed" in shown["reason"]
            info = json.loads(run("nbdinfo", "--json", served.uri("db")))["exports"][0]
            assert info["is_read_only"]
            assert "poisoned" in info["description"]
            client.close()
            served.stop()
        (store / "filler").unlink()
        with serving(holdfast):
            client = client_of(holdfast.state)
            assert client.read(0, SLOT_BYTES) == stamp(1)
            assert client.write(SLOT_BYTES, stamp(3)) == 0
            assert client.flush() == 0
            client.close()


def fill(path: Path) -> None:
    """Write until there is no room."""
    with open(path, "wb", buffering=0) as file:
        for size_bytes in (MIB, BLOCK_BYTES):
            try:
                while True:
                    file.write(b"\xff" * size_bytes)
            except OSError:
                continue


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DataProcess]:
    """A volume of a megabyte with a small log."""
    process = DataProcess(tmp_path / "disk", BLOCKS * BLOCK_BYTES, 2 * MIB)
    yield process
    process.end()


@contextmanager
def started(process: DataProcess) -> Iterator[NbdClient]:
    """Start a data process and yield a client of it."""
    process.start()
    with closing(NbdClient(process.socket_path)) as client:
        client.start("disk")
        yield client


def flip(path: Path, random: Random, first: int = 0, end: int | None = None) -> None:
    """Flip a bit of a byte that is not zero."""
    content = path.read_bytes()[first:end]
    at = first + random.choice([index for index, byte in enumerate(content) if byte])
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << random.randrange(8)]), at)


async def scrubbed(process: DataProcess) -> int:
    """Return how many bytes a scrub finds damaged, or -1 if the volume as a whole is."""
    async with await ControlClient.connect(process.directory / "control.sock") as client:
        if (await client.status()).state == "damaged":
            return -1
        progress = await client.start_scrub()
        while progress.state == "running":
            await asyncio.sleep(0.01)
            progress = await client.scrub()
        return progress.damaged_bytes or len(progress.damage)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("log", "killed"),
        ("extent", "closed"),
        pytest.param("extent", "killed", marks=pytest.mark.slow),
        pytest.param("checks", "killed", marks=pytest.mark.slow),
        pytest.param("checks", "closed", marks=pytest.mark.slow),
        pytest.param("slots", "killed", marks=pytest.mark.slow),
        pytest.param("slots", "closed", marks=pytest.mark.slow),
    ],
)
def test_flipped_bits_are_never_read_as_data(process: DataProcess, name: str, how: str) -> None:
    """What a closed volume has in its log is at home: nobody reads it."""
    random = Random(name + how)
    image = bytearray(BLOCKS * BLOCK_BYTES)
    for end in (signal.SIGTERM, signal.SIGKILL if how == "killed" else signal.SIGTERM):
        with started(process) as client:
            for number in range(100):
                size_bytes = random.choice([BLOCK_BYTES, BLOCK_BYTES, SLOT_BYTES])
                start = random.randrange(0, len(image), size_bytes)
                data = stamp(number + end, size_bytes)
                assert client.write(start, data) == 0
                image[start : start + size_bytes] = data
            assert client.flush() == 0
        process.end(end)
    for _ in range(10):
        flip(process.directory / name, random)

    errors = 0
    with started(process) as client:
        for start in range(0, len(image), BLOCK_BYTES):
            answer = client.do(Command.READ, start, BLOCK_BYTES)
            errors += answer.errno == Errno.EIO
            assert answer.errno or answer.payload == image[start : start + BLOCK_BYTES]
    found = asyncio.run(scrubbed(process))

    assert bool(errors) == bool(found)
    assert errors or how == "killed", "what a log covers may be damaged at home"


@pytest.mark.parametrize("slot", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_torn_superblock_opens_or_is_damaged_and_both_are_an_error(
    process: DataProcess, slot: int
) -> None:
    random = Random(slot)
    with started(process) as client:
        for number in range(200):
            assert client.write(number * BLOCK_BYTES, stamp(number, BLOCK_BYTES)) == 0
        assert client.flush() == 0
    process.end()
    flip(process.directory / "meta", random, slot * BLOCK_BYTES, (slot + 1) * BLOCK_BYTES)

    with started(process) as client:
        for number in range(200):
            answer = client.do(Command.READ, number * BLOCK_BYTES, BLOCK_BYTES)
            assert answer.errno == Errno.EIO or answer.payload == stamp(number, BLOCK_BYTES)

    process.end()
    for each in (0, 1):
        flip(process.directory / "meta", random, each * BLOCK_BYTES, (each + 1) * BLOCK_BYTES)
    with pytest.raises(AssertionError, match="superblock-damaged"):
        process.start()


def test_damaged_volume_is_shown_as_such_and_served_read_only(holdfast: Holdfast) -> None:
    create(holdfast, "db", "8M")
    with serving(holdfast) as served:
        client = client_of(holdfast.state)
        for number in range(20):
            assert client.write(number * BLOCK_BYTES, stamp(number, BLOCK_BYTES)) == 0
        assert client.flush() == 0
        assert client.write(0, stamp(99, BLOCK_BYTES)) == 0
        client.close()
        served.stop(signal.SIGKILL)
    log = holdfast.state / "volumes" / "db" / "log"
    at = log.read_bytes().index(stamp(5, BLOCK_BYTES))
    with open(log, "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", at + 77)

    with serving(holdfast) as served:
        shown = holdfast("volumes", "show", "db", "--json").json
        assert (shown["health"], shown["serving"]["state"]) == ("damaged", "damaged")
        assert "changes 6 to 20 were durable" in shown["reason"]
        client = client_of(holdfast.state)
        assert client.do(Command.READ, 0, BLOCK_BYTES).errno == Errno.EIO
        assert client.write(0, stamp(1, BLOCK_BYTES)) == Errno.EIO
        info = json.loads(run("nbdinfo", "--json", served.uri("db")))["exports"][0]
        assert info["is_read_only"]
        client.close()
