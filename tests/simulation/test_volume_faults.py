"""Goal: what the medium refuses reaches the client as an error, and nothing acknowledged is lost.

Method: each write and flush of a life fails in turn; then the process dies and it is opened.
Cites invariants 2, 13, 14, 17 and 18 of volumes/engine/volume.py, and of its parts: engine/core 1,
engine/files 1, engine/log 1, engine/writing 4.
"""

from random import Random

import pytest

from holdfast.errors import CapacityError, HoldfastError, StorageFailedError
from holdfast.volumes.model import BLOCK_BYTES, Stalled, VolumeState
from tests.simulation.test_volume_model import drive
from tests.simulation.volume_world import SMALL, VolumeWorld


@pytest.mark.parametrize("seed", range(12))
def test_failed_flush_poisons_and_loses_nothing_promised(seed: int) -> None:
    random = Random(seed)
    world = VolumeWorld()
    world.disk.faults.flush_fails_at = world.disk.counts["flushes"] + 1 + seed
    try:
        for _ in range(400):
            drive(world, random)
            if world.volume.state is not VolumeState.HEALTHY:
                break
    except StorageFailedError:
        pass
    assert world.volume.state is VolumeState.POISONED
    with pytest.raises(StorageFailedError, match="poisoned"):
        world.volume.write(0, bytes(BLOCK_BYTES))
    with pytest.raises(StorageFailedError, match="poisoned"):
        world.volume.begin_sync()
    world.crash(seed, keep=0.5, cut_again=None)
    world.write(0, 3 * BLOCK_BYTES)
    world.flush()
    world.crash(seed, keep=0.0, cut_again=None)


def test_failed_flush_reaches_whoever_waits_and_no_later_flush_hides_it() -> None:
    world = VolumeWorld()
    world.write(0, BLOCK_BYTES)
    world.disk.faults.flush_fails_at = world.disk.counts["flushes"] + 1
    job = world.volume.begin_sync()
    assert job is not None
    with pytest.raises(StorageFailedError) as failed:
        job.run()
    with pytest.raises(StorageFailedError, match="poisoned"):
        world.volume.finish_sync(job, failed.value)
    assert world.volume.durable_lsn < world.volume.last_lsn


@pytest.mark.parametrize("seed", range(40))
def test_failed_write_is_whole_or_absent_and_leaves_no_hole(seed: int) -> None:
    random = Random(seed)
    world = VolumeWorld()
    world.disk.faults.write_fails_at = world.disk.counts["writes"] + 1 + 2 * seed
    failed = False
    for _ in range(400):
        try:
            drive(world, random)
        except StorageFailedError as error:
            if error.code == "volume-poisoned":
                break
            failed = True
            world.oracle.attempt = None
        if failed or world.volume.state is not VolumeState.HEALTHY:
            break
    assert failed or world.volume.state is not VolumeState.HEALTHY
    if world.volume.state is VolumeState.HEALTHY:
        world.check()
        world.flush()
    world.crash(seed, keep=0.5, cut_again=None)
    world.write(0, 2 * BLOCK_BYTES)
    world.flush()
    world.crash(seed + 1, keep=0.0, cut_again=None)


def test_full_medium_fails_requests_and_heals() -> None:
    world = VolumeWorld()
    world.write_run([0, 1])
    world.disk.faults.full_from = 1
    with pytest.raises(CapacityError):
        world.volume.write(4 * SMALL.slot_bytes, world.data(2 * SMALL.slot_bytes))
    world.oracle.attempt = None
    world.drain()
    assert world.volume.state is VolumeState.HEALTHY
    world.check()
    world.disk.faults.full_from = None
    world.clock.sleep(2)
    world.drain()
    world.check()
    assert world.volume.log.checkpoint_lsn == world.volume.last_lsn
    world.write(4 * SMALL.slot_bytes, 2 * SMALL.slot_bytes)
    world.reopen_clean()


def test_full_log_stalls_without_side_effect_until_a_checkpoint() -> None:
    world = VolumeWorld()
    volume = world.volume
    data = bytes(3 * BLOCK_BYTES) + b"x" * BLOCK_BYTES
    for _ in range(100):
        before = (volume.last_lsn, volume.log.used)
        if isinstance(volume.write(BLOCK_BYTES, data[: BLOCK_BYTES * 3]), Stalled):
            break
    assert (volume.last_lsn, volume.log.used) == before
    world.drain()
    assert not isinstance(volume.write(BLOCK_BYTES, data), Stalled)


def test_requests_that_make_no_sense_change_nothing() -> None:
    """Cites invariant 14."""
    world = VolumeWorld()
    before = world.disk.image()
    size = SMALL.size_bytes
    for start, size_bytes in [(0, 0), (size, 1), (size - 1, 2), (-1, 1), (1 << 63, 4096)]:
        with pytest.raises(HoldfastError):
            world.volume.write(start, bytes(size_bytes))
        with pytest.raises(HoldfastError):
            world.volume.trim(start, size_bytes)
        with pytest.raises(HoldfastError):
            world.volume.read_into(start, memoryview(bytearray(size_bytes)))
    assert world.disk.image() == before
    assert world.volume.last_lsn == 0


def test_checkpoint_whose_superblock_may_not_be_durable_poisons() -> None:
    world = VolumeWorld()
    world.write_run([1, 2])
    world.begin_checkpoint()
    world.step_checkpoint()
    assert world.checkpoint is not None
    world.disk.faults.flush_fails_at = world.disk.counts["flushes"] + 1
    world.step_checkpoint()
    assert world.volume.state is VolumeState.POISONED
    world.crash(3, keep=0.5, cut_again=None)
