"""Goal: only a primary with a lease acknowledges, sizes only grow, and what changed is told.

Method: assignments, expansions and questions beside changes, with crashes between their steps.
Cites invariants 15, 19, 20, 21 and 22 of volumes/engine/volume.py, and of its parts:
engine/authority 1-3, engine/expansion 1-3, engine/looking 1.
"""

from random import Random

import pytest

from holdfast.errors import ConflictError, FencedError, HoldfastError, StateError
from holdfast.testing.faults import PowerCutError
from holdfast.volumes import rules
from holdfast.volumes.engine.expansion import (
    cancel_expansion,
    commit_expansion,
    prepare_expansion,
)
from holdfast.volumes.engine.opening import open_volume
from holdfast.volumes.engine.writing import PLACED_MAX
from holdfast.volumes.model import BLOCK_BYTES, Geometry, Lsn, Role, Stalled
from tests.simulation.test_volume_model import drive
from tests.simulation.volume_world import SMALL, VolumeWorld

SECOND_NS = 1_000_000_000


def test_replica_and_ended_lease_acknowledge_nothing() -> None:
    world = VolumeWorld()
    world.write(0, BLOCK_BYTES)
    end = world.clock.monotonic_ns() + 10 * SECOND_NS
    world.volume.fence(3, Role.PRIMARY, end)
    world.write(0, BLOCK_BYTES)
    job = world.volume.begin_sync()
    assert job is not None
    job.run()
    world.clock.sleep(10)
    with pytest.raises(FencedError, match="lease"):
        world.volume.finish_sync(job, None)
    with pytest.raises(FencedError, match="lease"):
        world.volume.write(0, bytes(BLOCK_BYTES))
    with pytest.raises(FencedError):
        world.read(0, BLOCK_BYTES)
    world.volume.fence(3, Role.PRIMARY, world.clock.monotonic_ns() + SECOND_NS)
    world.read(0, BLOCK_BYTES)
    world.volume.fence(4, Role.REPLICA, None)
    with pytest.raises(FencedError, match="replica"):
        world.volume.trim(0, BLOCK_BYTES)


def test_epoch_never_goes_back_and_opening_waits_for_an_assignment() -> None:
    world = VolumeWorld()
    world.volume.fence(7, Role.PRIMARY, None)
    with pytest.raises(FencedError, match="older"):
        world.volume.fence(6, Role.PRIMARY, None)
    world.disk.crash(1, 0.0)
    volume = world.open()
    assert (volume.authority.now.epoch, volume.authority.now.role) == (7, Role.PRIMARY)
    with pytest.raises(FencedError, match="lease"):
        volume.write(0, bytes(BLOCK_BYTES))
    with pytest.raises(FencedError, match="older"):
        volume.fence(6, Role.PRIMARY, None)
    volume.fence(7, Role.PRIMARY, None)
    volume.write(0, bytes(BLOCK_BYTES))


def test_stale_reads_only_when_asked_for() -> None:
    world = VolumeWorld()
    world.volume.fence(1, Role.STALE, None)
    block = memoryview(bytearray(BLOCK_BYTES))
    with pytest.raises(FencedError):
        world.volume.read_into(0, block)
    open_volume(
        world.files(), entropy=world.entropy, clock=world.clock, stale_reads=True
    ).read_into(0, block)


def test_power_cut_at_each_step_of_a_promotion_leaves_old_or_new() -> None:
    for cut in range(1, 4):
        world = VolumeWorld()
        world.disk.faults.power_cut_at = world.disk.counts["operations"] + cut
        try:
            world.volume.fence(5, Role.PRIMARY, None)
            assert cut == 3
        except PowerCutError:
            assert world.volume.authority.now.epoch == 0, "durable before it takes effect"
        world.disk.crash(cut, 0.5)
        assert world.open().authority.now.epoch in ((5,) if cut == 3 else (0, 5))


def test_lease_ends_earlier_for_its_holder() -> None:
    for ttl in (1_000, SECOND_NS, 30 * SECOND_NS):
        end = rules.lease_end_ns(100, ttl)
        assert (end - 100) * (1 + rules.CLOCK_RATE_ERROR) <= ttl * (1 - rules.CLOCK_RATE_ERROR) + 1


def expand(world: VolumeWorld, size_bytes: int) -> None:
    prepare_expansion(world.volume, size_bytes, 0)
    with pytest.raises(HoldfastError):
        world.volume.write(SMALL.size_bytes, bytes(BLOCK_BYTES))
    commit_expansion(world.volume, 0)


@pytest.mark.parametrize("cut", range(1, 9))
def test_power_cut_in_an_expansion_leaves_old_or_new_size(cut: int) -> None:
    larger = 200 * BLOCK_BYTES
    world = VolumeWorld()
    world.write(30 * BLOCK_BYTES, 11 * BLOCK_BYTES)
    world.flush()
    world.disk.faults.power_cut_at = world.disk.counts["operations"] + cut
    try:
        expand(world, larger)
    except PowerCutError:
        pass
    world.disk.crash(cut, 0.5)
    volume = world.open()
    assert volume.geometry.size_bytes in (SMALL.size_bytes, larger)
    found = memoryview(bytearray(volume.geometry.size_bytes))
    volume.read_into(0, found)
    assert found[: SMALL.size_bytes] == world.oracle.image
    assert not any(found[SMALL.size_bytes :])


def test_expanded_volume_takes_changes_everywhere_and_survives() -> None:
    world = VolumeWorld()
    world.write(38 * BLOCK_BYTES, 3 * BLOCK_BYTES)
    expand(world, 200 * BLOCK_BYTES)
    world.oracle.image.extend(bytes(159 * BLOCK_BYTES))
    world.write(36 * BLOCK_BYTES, 30 * BLOCK_BYTES)
    world.write(190 * BLOCK_BYTES, 10 * BLOCK_BYTES)
    world.oracle.images = {world.volume.last_lsn: bytes(world.oracle.image)}
    world.flush()
    world.crash(1, keep=0.0, cut_again=None)
    world.reopen_clean()
    world.trim(0, 200 * BLOCK_BYTES)
    world.reopen_clean()


@pytest.mark.parametrize("seed", range(16))
def test_expansion_amid_changes_checkpoints_and_crashes(seed: int) -> None:
    """Cites invariants 1 and 21: sizes only grow, by whole steps, whatever is under way."""
    random = Random(seed)
    world = VolumeWorld()
    size_bytes = SMALL.size_bytes
    for life in range(4):
        larger = size_bytes + random.randint(1, 200) * BLOCK_BYTES
        cut = random.randint(20, 300)
        world.disk.faults.power_cut_at = world.disk.counts["operations"] + cut
        try:
            for _ in range(random.randrange(20)):
                drive(world, random)
            world.settle()
            prepare_expansion(world.volume, larger, 0)
            for _ in range(random.randrange(20)):
                drive(world, random)
            world.settle()
            commit_expansion(world.volume, 0)
            size_bytes = larger
            world.oracle.image.extend(bytes(larger - len(world.oracle.image)))
            world.write(larger - BLOCK_BYTES, BLOCK_BYTES)
            for _ in range(random.randrange(40)):
                drive(world, random)
        except PowerCutError:
            pass
        world.crash(seed * 10 + life, keep=0.5, cut_again=None)
        found = world.volume.geometry.size_bytes
        assert found in (size_bytes, larger)
        size_bytes = found
        world.check()


def test_expansion_refuses_shrinking_and_strange_epochs() -> None:
    world = VolumeWorld()
    with pytest.raises(HoldfastError, match="not more"):
        prepare_expansion(world.volume, BLOCK_BYTES, 0)
    with pytest.raises(StateError, match="no expansion"):
        commit_expansion(world.volume, 0)
    prepare_expansion(world.volume, 100 * BLOCK_BYTES, 2)
    with pytest.raises(ConflictError, match="prepared"):
        prepare_expansion(world.volume, 200 * BLOCK_BYTES, 2)
    with pytest.raises(ConflictError, match="epoch"):
        commit_expansion(world.volume, 3)
    cancel_expansion(world.volume, 2)
    assert world.volume.geometry.size_bytes == SMALL.size_bytes


def test_allocation_tells_holes_and_trim_gives_space_back() -> None:
    world = VolumeWorld()
    slot = SMALL.slot_bytes
    world.write(slot, 2 * slot)
    for _ in range(2):
        told = world.volume.allocation(0, SMALL.size_bytes)
        assert [(e.size_bytes, e.is_hole) for e in told] == [
            (slot, True),
            (2 * slot, False),
            (SMALL.size_bytes - 3 * slot, True),
        ]
        world.drain()
    world.trim(slot, slot)
    world.zero_kept(2, 1)
    for _ in range(2):
        told = world.volume.allocation(slot, 2 * slot)
        assert [(e.is_hole, e.is_zero) for e in told] == [(True, True), (False, True)]
        assert sum(e.size_bytes for e in told) == 2 * slot
        world.drain()


def test_space_of_a_trim_is_given_back_once_its_checkpoint_is_published() -> None:
    """Cites invariant 15 of volumes/engine/volume.py; a punch shows as zeros here."""
    world = VolumeWorld()
    slot = SMALL.slot_bytes
    world.write(slot, 2 * slot)
    world.drain()
    places = [world.volume.maps.table.physical(number) * slot for number in (1, 2)]
    world.trim(slot, slot)
    world.flush()

    extent = world.disk.file("extent")
    assert any(extent.now[places[0] : places[0] + slot])
    world.drain()
    assert not any(extent.now[places[0] : places[0] + slot])
    assert any(extent.now[places[1] : places[1] + slot])


def test_changed_since_leaves_nothing_out() -> None:
    world = VolumeWorld()
    marks: list[tuple[Lsn, bytes]] = []
    for number in range(60):
        world.write_run([number * 7 % 41])
        if number % 20 == 5:
            world.drain()
        if number % 10 == 0:
            marks.append((world.volume.last_lsn, bytes(world.oracle.image)))
    world.flush()
    world.reopen_clean()
    for lsn, image in marks:
        at = 0
        for extent in world.volume.changed_since(lsn, 0, SMALL.size_bytes):
            end = at + extent.size_bytes
            assert extent.is_changed or image[at:end] == world.oracle.image[at:end]
            at = end
        assert at == SMALL.size_bytes


def test_clean_close_leaves_nothing_to_replay() -> None:
    world = VolumeWorld()
    world.write(100, 70_000)
    world.reopen_clean()
    world.reopen_clean()


def test_space_that_was_replaced_is_used_again() -> None:
    world = VolumeWorld()
    for number in range(60):
        world.write(number % 5 * SMALL.slot_bytes, 4 * SMALL.slot_bytes)
        world.write(0, 2 * SMALL.slot_bytes)
        if number % 3 == 0:
            world.drain()
    assert world.volume.allocator.high < 60


def test_space_is_bounded_however_often_all_of_it_is_written_anew() -> None:
    """Cites 4 of engine/slots: the slots of the volume, and what two maps may place."""
    slots = 64
    geometry = Geometry(size_bytes=slots * (8 << 10), slot_bytes=8 << 10, segment_bytes=512 << 10)
    world = VolumeWorld(geometry)
    data = bytes([7]) * geometry.size_bytes
    highest = stalls = 0
    while stalls < 3:
        if isinstance(world.volume.write(0, data), Stalled):
            stalls += 1
            if world.checkpoint is not None:
                world.step_checkpoint()
                world.step_checkpoint()
            world.begin_checkpoint()
        highest = max(highest, world.volume.allocator.high)
    assert PLACED_MAX < highest <= slots + 2 * (PLACED_MAX + slots)
    extent_bytes = world.disk.file("extent").size_bytes()
    assert extent_bytes == highest * geometry.slot_bytes


def test_opening_again_and_again_never_runs_out_of_log() -> None:
    """Each opening leaves a mark in the log; a segment full of marks is carried home."""
    world = VolumeWorld()
    world.write_run([1, 2, 3, 4])
    for _ in range(350):
        world.volume = world.open()
    world.check()
    world.write_run([5, 6])
    world.crash(1, keep=0.5, cut_again=None)


def test_zeros_with_space_come_to_an_end_however_often_they_stall() -> None:
    """What describes the range is longer than the log: each call goes on where the last stopped."""
    geometry = Geometry(size_bytes=30 << 20, slot_bytes=8 << 10, segment_bytes=32 << 10)
    world = VolumeWorld(geometry)
    stalls = 0
    while isinstance(world.volume.zero(4096, (30 << 20) - 8192, punch=False), Stalled):
        world.drain()
        stalls += 1
        assert stalls < 10
    assert stalls
    told = world.volume.allocation(8 << 10, (30 << 20) - (16 << 10))
    assert [(e.is_hole, e.is_zero) for e in told] == [(False, True)]
    world.reopen_clean()
