"""Goal: what the medium refuses reaches clients of NBD as the right error, and no promise breaks.

Method: the engine on a simulated disk behind real sockets; writes, flushes, reads and room fail
while clients work; then the power goes, and what was acknowledged is looked for. Cites invariants
2, 12, 13, 17, 18 and 19 of volumes/engine/volume.py, and 51, 53 and 54 of front ends.
"""

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast.testing.disk import DiskFaults
from holdfast.volumes.model import BLOCK_BYTES, Geometry, Role, VolumeState
from holdfast.volumes.nbd.codec import Command, CommandFlag, Errno
from tests.simulation.volume_world import VolumeWorld
from tests.support.nbd_client import NbdClient, write
from tests.support.nbd_server import NbdServerThread

GEOMETRY = Geometry(size_bytes=64 * BLOCK_BYTES, slot_bytes=2 * BLOCK_BYTES, segment_bytes=64 << 10)
SLOT = GEOMETRY.slot_bytes
FUA = 1
A, B, C = (letter * BLOCK_BYTES for letter in (b"a", b"b", b"c"))


class Bench:
    """A volume on a simulated disk, served."""

    def __init__(self, directory: Path) -> None:
        self.world = VolumeWorld(GEOMETRY)
        self.server = NbdServerThread(self.world.volume, directory)
        self.clients: list[NbdClient] = []

    @property
    def faults(self) -> DiskFaults:
        """What is to fail from now on."""
        return self.world.disk.faults

    def client(self, *, structured: bool = False) -> NbdClient:
        """Return a client in transmission."""
        client = NbdClient(self.server.socket_path)
        self.clients.append(client)
        client.start("disk", structured=structured)
        return client

    def fail_flush(self, after: int = 1) -> None:
        """Have a flush of the medium fail."""
        self.faults.flush_fails_at = self.world.disk.counts["flushes"] + after

    def checkpoint(self) -> None:
        """Carry everything home."""
        self.server.call(partial(self.server.running.wait_for_room, lambda: None))
        while self.server.call(lambda: self.server.running._is_checkpointing):
            pass

    def reopen(self, seed: int, *, keep: float) -> bytes:
        """Lose the power, open, and return the image."""
        self.close()
        self.world.disk.crash(seed, keep)
        volume = self.world.open()
        assert volume.state is VolumeState.HEALTHY
        found = bytearray(GEOMETRY.size_bytes)
        volume.read_into(0, memoryview(found))
        volume.write(60 * BLOCK_BYTES, A)  # It is as fit as ever.
        return bytes(found)

    def close(self) -> None:
        """Hang up and stop."""
        for client in self.clients:
            client.close()
        if self.clients:
            self.server.close()
        self.clients = []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A volume of 64 blocks, half its log for fifteen."""
    bench = Bench(tmp_path)
    bench.client()
    yield bench
    bench.close()


def test_failed_write_is_told_and_the_next_ones_are_as_safe_as_ever(bench: Bench) -> None:
    client = bench.clients[0]
    assert client.write(0, A, flags=FUA) == 0
    bench.faults.write_fails_at = bench.world.disk.counts["writes"] + 1

    assert client.write(0, B) == Errno.EIO

    assert client.read(0, BLOCK_BYTES) == A
    assert client.write(BLOCK_BYTES, C) == 0
    assert client.flush() == 0
    assert bench.reopen(1, keep=0.0)[: 2 * BLOCK_BYTES] == A + C


@pytest.mark.parametrize("flags", [0, FUA])
def test_failed_flush_is_told_to_all_and_nothing_is_acknowledged_after(
    bench: Bench, flags: int
) -> None:
    client, other = bench.clients[0], bench.client()
    assert client.write(0, A, flags=FUA) == 0
    assert other.write(BLOCK_BYTES, B) == 0
    bench.fail_flush()

    if flags:
        assert client.write(0, C, flags=FUA) == Errno.EIO
    else:
        assert client.flush() == Errno.EIO

    for each in (client, other):
        assert each.flush() == Errno.EIO
        assert each.write(2 * BLOCK_BYTES, C) == Errno.EIO
        assert each.write(2 * BLOCK_BYTES, C, flags=FUA) == Errno.EIO
        assert each.do(Command.TRIM, 0, BLOCK_BYTES).errno == Errno.EIO
        assert each.do(Command.WRITE_ZEROES, 0, BLOCK_BYTES).errno == Errno.EIO
        assert each.read(BLOCK_BYTES, BLOCK_BYTES) == B
    assert bench.server.volume.state is VolumeState.POISONED
    image = bench.reopen(1, keep=0.0)
    assert image[:BLOCK_BYTES] == A
    assert image[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] == bytes(BLOCK_BYTES)


def test_flush_with_nothing_to_do_fails_too_once_a_checkpoint_could_not_flush(bench: Bench) -> None:
    """The log is durable to its end; still what is home may not be, and nothing is promised."""
    client = bench.clients[0]
    assert client.write(0, A) == 0
    assert client.flush() == 0
    bench.fail_flush()

    bench.checkpoint()

    assert bench.server.volume.durable_lsn == bench.server.volume.last_lsn
    assert client.flush() == Errno.EIO
    assert bench.reopen(1, keep=0.5)[:BLOCK_BYTES] == A


def test_one_failed_flush_reaches_everyone_who_waits(bench: Bench) -> None:
    others = [bench.client() for _ in range(4)]
    for number, each in enumerate(others):
        assert each.write(number * BLOCK_BYTES, A) == 0
    bench.fail_flush()

    def ask() -> None:
        for number, each in enumerate(others):
            each.send(write(77, number * BLOCK_BYTES, B, flags=FUA))

    bench.server.call(ask)

    assert [each.reply().errno for each in others] == [Errno.EIO] * 4


def test_fenced_volume_says_so_whatever_is_asked(bench: Bench) -> None:
    client = bench.clients[0]
    assert client.write(0, A, flags=FUA) == 0
    volume = bench.world.volume
    bench.server.call(lambda: volume.fence(3, Role.REPLICA, None))

    assert client.flush() == Errno.ESHUTDOWN
    assert client.write(0, B) == Errno.ESHUTDOWN
    assert client.do(Command.READ, 0, BLOCK_BYTES).errno == Errno.ESHUTDOWN
    assert client.do(Command.TRIM, 0, BLOCK_BYTES).errno == Errno.ESHUTDOWN

    lease_end_ns = bench.world.clock.monotonic_ns() + 1_000_000_000
    bench.server.call(lambda: volume.fence(4, Role.PRIMARY, lease_end_ns))
    assert client.flush() == 0
    bench.world.clock.sleep(2)
    assert client.flush() == Errno.ESHUTDOWN


def test_full_medium_is_no_space_for_what_needs_some_and_heals(bench: Bench) -> None:
    client = bench.clients[0]
    assert client.write(0, A) == 0
    bench.faults.full_from = 1

    assert client.write(SLOT, B * 2) == Errno.ENOSPC
    assert client.write(0, C) == 0
    assert client.flush() == 0
    assert client.do(Command.READ, SLOT, SLOT).payload == bytes(SLOT)

    bench.faults.full_from = None
    assert client.write(SLOT, B * 2) == 0
    assert client.flush() == 0
    assert bench.reopen(1, keep=0.0)[: 2 * SLOT] == C + bytes(BLOCK_BYTES) + B * 2


def test_log_that_cannot_be_emptied_is_no_space_in_the_end_and_keeps_what_it_holds(
    bench: Bench,
) -> None:
    client = bench.clients[0]
    bench.faults.full_from = 1
    running, world = bench.server.running, bench.world
    number = 0
    while not bench.server.call(lambda: running.is_stalled):
        client.send(write(number, number % 40 * BLOCK_BYTES, number.to_bytes(2, "big") * 2048))
        number += 1
        bench.server.call(lambda: None)
    answered = [client.reply().errno for _ in range(number - 1)]
    last_lsn = bench.server.volume.last_lsn
    (connection,) = bench.server.call(lambda: list(bench.server.server._connections))
    later_ns = running.clock.monotonic_ns() + 6_000_000_000

    bench.server.call(lambda: connection.check(later_ns))

    answered.append(client.reply().errno)
    assert set(answered[:-1]) == {0}
    assert answered[-1] == Errno.ENOSPC
    assert bench.server.volume.last_lsn == last_lsn, "no side effect"
    assert client.flush() == 0
    checkpoints = world.disk.counts["operations"]
    assert checkpoints < 2000, "it tries again now and then, not as fast as it can"
    bench.faults.full_from = None
    assert client.write(41 * BLOCK_BYTES, C) == 0
    assert client.flush() == 0
    image = bench.reopen(1, keep=0.0)
    for index in range(number - 1):
        newest = max(each for each in range(number - 1) if each % 40 == index % 40)
        block = image[index % 40 * BLOCK_BYTES :][:BLOCK_BYTES]
        assert block == newest.to_bytes(2, "big") * 2048
    assert image[41 * BLOCK_BYTES :][:BLOCK_BYTES] == C


@pytest.mark.parametrize("place", ["log", "extent"])
def test_damage_is_an_error_that_names_the_range_and_nothing_else_suffers(
    bench: Bench, place: str
) -> None:
    client = bench.client(structured=True)
    assert client.write(0, A + B + C + A) == 0
    assert client.write(20 * BLOCK_BYTES, B) == 0
    at = bench.world.volume.log.payload_at() - 88 - 100
    if place == "extent":
        bench.checkpoint()
        at = bench.world.volume.maps.table.physical(10) * SLOT + 9
    bench.world.disk.file(place).flip(at, 1)

    told = client.do(Command.READ, 20 * BLOCK_BYTES, BLOCK_BYTES)

    assert told.errno == Errno.EIO
    assert f"bytes {20 * BLOCK_BYTES} to {21 * BLOCK_BYTES} of the volume".encode() in told.payload
    assert bench.clients[0].read(0, 4 * BLOCK_BYTES) == A + B + C + A
    assert bench.clients[0].write(20 * BLOCK_BYTES, C) == 0
    assert bench.clients[0].read(20 * BLOCK_BYTES, BLOCK_BYTES) == C


def test_medium_that_cannot_be_read_is_an_error_of_that_range(bench: Bench) -> None:
    client = bench.clients[0]
    assert client.write(0, A + B) == 0
    bench.checkpoint()
    physical = bench.world.volume.maps.table.physical(0)
    bench.faults.read_fails = {("extent", physical * SLOT // 512 + 9)}

    assert client.do(Command.READ, BLOCK_BYTES, BLOCK_BYTES).errno == Errno.EIO

    assert client.read(0, BLOCK_BYTES) == A
    assert client.flush() == 0
    bench.faults.read_fails = set()
    assert client.read(BLOCK_BYTES, BLOCK_BYTES) == B


def test_damaged_volume_is_read_only_and_tells_so_at_once(tmp_path: Path) -> None:
    world = VolumeWorld(GEOMETRY)
    world.volume.write(0, A)
    world.volume.write(BLOCK_BYTES, B)
    world.flush()
    world.volume.write(2 * BLOCK_BYTES, C)
    log = world.volume.log
    world.disk.file("log").flip(log.segment_at + 300, 1)
    volume = world.open()
    assert volume.state is VolumeState.DAMAGED
    before = world.disk.image()
    server = NbdServerThread(volume, tmp_path)
    client = NbdClient(server.socket_path)
    client.start("disk")

    for command in (Command.READ, Command.TRIM, Command.WRITE_ZEROES):
        assert client.do(command, 0, BLOCK_BYTES).errno == Errno.EIO
    assert client.write(0, A) == Errno.EIO
    assert client.flush() == Errno.EIO

    client.close()
    server.close()
    assert world.disk.image() == before


def test_status_of_much_is_told_of_its_beginning(tmp_path: Path) -> None:
    """Looking at gigabytes would hold up everyone else; a client asks again for the rest."""
    world = VolumeWorld(Geometry(size_bytes=1 << 30, segment_bytes=1 << 20))
    server = NbdServerThread(world.volume, tmp_path)
    client = NbdClient(server.socket_path)
    client.start("disk", "base:allocation", structured=True)
    assert client.write(8 << 20, A) == 0

    told = client.do(Command.BLOCK_STATUS, 0, 1 << 30).payload

    sizes = struct.unpack(f">{len(told) // 4}I", told)[1::2]
    assert sizes[:2] == (8 << 20, BLOCK_BYTES)
    assert sum(sizes) == 32 << 20
    client.close()
    server.close()


@pytest.mark.slow
def test_zeroes_that_keep_their_space_end_however_often_they_wait_for_room(tmp_path: Path) -> None:
    """A gigabyte is four times what one map may place; each wait begins its deadline anew."""
    size_bytes = 1 << 30
    world = VolumeWorld(Geometry(size_bytes=size_bytes, segment_bytes=8 << 20))
    server = NbdServerThread(world.volume, tmp_path)
    client = NbdClient(server.socket_path, timeout_s=60)
    client.start("disk", structured=True)
    assert client.write(700 << 20, A) == 0

    answer = client.do(
        Command.WRITE_ZEROES, 4096, size_bytes - 8192, flags=CommandFlag.NO_HOLE | FUA
    )

    assert answer.errno == 0
    assert server.counters.stalls_count > 0
    (told,) = server.call(lambda: world.volume.allocation(1 << 20, size_bytes - (2 << 20)))
    assert (told.is_hole, told.is_zero) == (False, True)
    client.close()
    server.close()
