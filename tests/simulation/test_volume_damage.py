"""Goal: damage at rest is loud, whatever it hits; a volume never returns what was not written.

Method: a volume with changes at home and in the log is closed or killed, one byte is flipped (or a
write was lost or went astray), and it is opened again: each read is right or an error.
Cites invariants 6, 11, 12 and 24 of volumes/engine/volume.py, and of its parts: engine/checks 1,
engine/checkpoint 2, engine/log 3-4, engine/opening 1 and 3, engine/reading 1, engine/recovery 2-3,
engine/scrub 1-2, engine/slots 1, engine/superblocks 1-2.
"""

from random import Random

import pytest

from holdfast.errors import HoldfastError, IntegrityError
from holdfast.testing.faults import PowerCutError
from holdfast.volumes.engine.formats import DATA_BIT
from holdfast.volumes.engine.scrub import Scrub
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import BLOCK_BYTES, Damage, VolumeState
from tests.simulation.test_volume_model import drive
from tests.simulation.volume_world import SMALL, VolumeWorld

BLOCKS = SMALL.size_bytes // BLOCK_BYTES


def lived_in(*, dirty: bool = True) -> VolumeWorld:
    """Return a volume with writes of all sizes and trims at home, some flushed in the log."""
    world = VolumeWorld()
    for slot in range(0, 18, 3):
        world.write(slot * SMALL.slot_bytes, SMALL.slot_bytes)
        world.write_run([2 * slot, (2 * slot + 5) % BLOCKS])
    world.trim(5 * BLOCK_BYTES, 3 * BLOCK_BYTES)
    world.drain()
    if dirty:
        world.write_run([1, 7, 30])
        world.write(8 * SMALL.slot_bytes, SMALL.slot_bytes)
        world.flush()
    world.disk.write_back()
    return world


def wrong_blocks(world: VolumeWorld, volume: Volume) -> tuple[int, int]:
    """Return how many blocks read as an error; fail if one reads as what was never written."""
    errors = right = 0
    block = memoryview(bytearray(BLOCK_BYTES))
    for start in range(0, SMALL.size_bytes, BLOCK_BYTES):
        try:
            volume.read_into(start, block)
        except IntegrityError as error:
            errors += 1
            if error.code == "block-damaged":
                found = error.context["start"]
                assert isinstance(found, int)
                assert found <= start < found + SMALL.slot_bytes
            continue
        assert block == world.oracle.image[start : start + BLOCK_BYTES]
        right += 1
    return errors, right


def scrub(volume: Volume) -> list[Damage]:
    """Return what a whole pass finds."""
    passing = Scrub(volume)
    while not passing.is_done:
        step = passing.begin()
        step.run()
        passing.finish(step, None)
    return passing.damage


def test_scrub_of_whole_volume_finds_nothing() -> None:
    world = lived_in()
    for _ in range(20):
        world.write_run([3, 4])
        assert scrub(world.volume) == []


@pytest.mark.parametrize("name", ["log", "extent", "checks", "slots", "meta"])
def test_flipped_byte_is_loud_or_harmless(name: str) -> None:
    random = Random(name)
    loud = 0
    for _ in range(60):
        world = lived_in()
        file = world.disk.file(name)
        offset = random.choice([at for at, byte in enumerate(file.now) if byte])
        file.flip(offset, 1 << random.randrange(8))
        volume = world.open()
        errors, right = wrong_blocks(world, volume)
        loud += bool(errors)
        assert errors + right == BLOCKS
        if volume.state is VolumeState.DAMAGED:
            assert errors == BLOCKS
            assert volume.state_reason
    assert loud or name == "meta"


def test_flipped_byte_of_durable_records_names_their_lsns() -> None:
    world = lived_in()
    log = world.volume.log
    world.disk.file("log").flip(log.segment_at + log.used - 100, 4)

    volume = world.open()

    assert volume.state is VolumeState.DAMAGED
    assert volume.lost is not None
    assert volume.lost.last == world.durable
    before = world.disk.image()
    with pytest.raises(HoldfastError, match="damaged"):
        volume.write(0, bytes(4096))
    volume.close()
    assert world.disk.image() == before, "nothing is written into a damaged volume"


def test_loss_is_known_from_what_was_written_behind_it_though_the_hint_is_gone() -> None:
    """Cites engine/log 4: a later batch carries what was durable when it was written."""
    world = VolumeWorld()
    at = world.volume.log.payload_at() + 500
    world.write(0, BLOCK_BYTES)
    world.flush()
    world.write(BLOCK_BYTES, BLOCK_BYTES)
    world.disk.file("log").flip(at, 1)
    world.disk.file("meta").flip(8192 + 20, 1)

    volume = world.open()

    assert volume.state is VolumeState.DAMAGED
    assert volume.lost is not None
    assert (volume.lost.first, volume.lost.last) == (1, 1)


def test_every_flip_at_home_is_found_by_one_scrub_and_nothing_else() -> None:
    for number in range(BLOCKS):
        world = lived_in(dirty=False)
        volume = world.volume
        slot, at = divmod(number, SMALL.slot_blocks)
        physical = volume.maps.table.physical(slot)
        index = physical * SMALL.slot_blocks + at
        if physical < 0 or not volume.checks.get(index, 1)[0] & DATA_BIT:
            continue
        world.disk.file("extent").flip(index * BLOCK_BYTES + number, 1)
        found = scrub(volume)
        assert [(d.place, d.start) for d in found] == [("extent", number * BLOCK_BYTES)]


def test_flip_in_whole_slots_that_only_the_log_describes_is_found_by_scrub() -> None:
    world = lived_in()
    placed = world.volume.maps.active.slot_of(8)
    assert placed is not None
    world.disk.file("extent").flip(placed.physical * SMALL.slot_bytes + BLOCK_BYTES + 5, 1)

    assert [(found.place, found.start) for found in scrub(world.volume)] == [
        ("extent", 17 * BLOCK_BYTES)
    ]


def test_flip_in_log_is_found_by_scrub_and_stops_checkpoint() -> None:
    world = lived_in()
    log = world.volume.log
    world.write_run([11])
    world.disk.file("log").flip(log.segment_at + log.used - 50, 1)

    assert {d.place for d in scrub(world.volume)} >= {"log"}
    with pytest.raises(IntegrityError, match="damaged"):
        world.read(11 * BLOCK_BYTES, BLOCK_BYTES)
    world.begin_checkpoint()
    world.step_checkpoint()
    assert world.volume.state is VolumeState.DAMAGED
    with pytest.raises(IntegrityError):
        world.read(11 * BLOCK_BYTES, BLOCK_BYTES)
    world.read(7 * BLOCK_BYTES, BLOCK_BYTES)


def test_torn_superblock_leaves_the_one_before() -> None:
    """Each byte of the newest superblock in turn; the volume opens, or says what is missing."""
    for offset in range(0, 4096, 61):
        world = lived_in()
        newest = world.volume.store.current.generation % 2 * 4096
        world.disk.file("meta").flip(newest + offset, 0xFF)
        volume = world.open()
        wrong_blocks(world, volume)


def test_lost_superblock_is_loud_once_the_log_went_on() -> None:
    """The older superblock is valid, but what it would replay was overwritten."""
    world = lived_in()
    newest = world.volume.store.current.generation % 2 * 4096
    world.begin_checkpoint()
    world.write_run([1, 2])
    world.flush()
    world.disk.write_back()
    world.disk.file("meta").flip(newest + 9, 1)

    volume = world.open()

    assert volume.state is VolumeState.DAMAGED
    assert volume.lost is not None


def test_both_superblocks_torn_is_an_error() -> None:
    world = lived_in()
    for at in (0, 4096):
        world.disk.file("meta").flip(at + 20, 1)
    with pytest.raises(IntegrityError, match="both superblocks"):
        world.open()


def two_checkpoints(world: VolumeWorld) -> list[bytes]:
    """Change everything twice, with a checkpoint after each; return the images on the way."""
    images = [bytes(world.oracle.image)]
    for part in range(2):
        for slot in range(0, 18, 3 - part):
            world.write(slot * SMALL.slot_bytes, SMALL.slot_bytes)
            world.write_run([2 * slot + part, (2 * slot + 5 + 2 * part) % BLOCKS])
            images.append(bytes(world.oracle.image))
        world.trim(8 * part * BLOCK_BYTES, 3 * BLOCK_BYTES)
        world.zero_kept(4, 2)
        images.append(bytes(world.oracle.image))
        world.drain()
    world.write_run([1, 7, 30])
    world.flush()
    world.disk.write_back()
    return images


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("fault", ["write_lost_at", "write_misdirected_at"])
def test_write_that_was_lost_or_went_astray_is_never_read_as_what_was_not_there(
    fault: str, part: int
) -> None:
    """Each write of a life in turn; only tables (checks, slots) may show a block as it was before.

    Everything else is an error, when reading, opening or carrying home, or does no harm.
    """
    world = VolumeWorld()
    first = world.disk.counts["writes"] + 1
    two_checkpoints(world)
    last = world.disk.counts["writes"]
    loud = stale = 0
    for number in range(first + part, last + 1, 4):
        world = VolumeWorld()
        setattr(world.disk.faults, fault, number)
        images = []
        try:
            images = two_checkpoints(world)
            volume = world.open()
        except IntegrityError:
            loud += 1
            continue
        block = memoryview(bytearray(BLOCK_BYTES))
        errors = wrong = 0
        for start in range(0, SMALL.size_bytes, BLOCK_BYTES):
            try:
                volume.read_into(start, block)
            except IntegrityError:
                errors += 1
                continue
            if block != world.oracle.image[start : start + BLOCK_BYTES]:
                wrong += 1
                assert bytes(block) in {image[start : start + BLOCK_BYTES] for image in images}
        assert not wrong or world.disk.faulty_file in ("checks", "slots")
        loud += bool(errors)
        stale += bool(wrong)
    assert loud >= 5
    assert stale <= 2


def test_change_that_was_torn_away_does_not_return_when_the_one_before_is_repeated() -> None:
    """Cites invariant 11: the same bytes again, in the same place, with the same number."""
    world = VolumeWorld()
    first, second = b"a" * BLOCK_BYTES, b"b" * BLOCK_BYTES
    torn_at = world.volume.log.payload_at() + 1000
    world.volume.write(0, first)
    world.volume.write(BLOCK_BYTES, second)
    world.disk.file("log").flip(torn_at, 1)

    world.volume = world.open()
    assert world.volume.last_lsn == 0
    world.volume.write(0, first)
    world.volume = world.open()

    assert world.volume.last_lsn == 1
    block = memoryview(bytearray(BLOCK_BYTES))
    world.volume.read_into(BLOCK_BYTES, block)
    assert not any(block)


def test_power_cut_while_opening_after_a_kill_leaves_a_superblock() -> None:
    """A superblock that was written and not flushed must not be the only good one (invariant 6)."""
    for seed in range(60):
        world = VolumeWorld()
        world.write_run([1, 2, 3])
        world.flush()
        world.begin_checkpoint()
        world.step_checkpoint()
        world.disk.kill()
        world.disk.faults.power_cut_at = world.disk.counts["operations"] + seed % 7 + 1
        try:
            world.open()
        except PowerCutError:
            pass
        world.crash(seed, keep=0.5, cut_again=None)


class KilledError(Exception):
    """The process ends here."""


def test_slot_freed_by_a_table_that_was_not_flushed_is_not_used_twice() -> None:
    """A kill before the table is flushed, then loss of power: the old mapping is back.

    Cites invariants 1, 4 and 5: what the opening between the two took for free must stay free.
    """
    slot = SMALL.slot_bytes
    world = VolumeWorld()
    world.write(0, slot)
    world.write(4 * slot, slot)
    world.flush()
    world.drain()
    world.drain()
    old = world.volume.maps.table.physical(0)
    world.write(0, slot)
    world.flush()
    world.begin_checkpoint()
    written = world.disk.counts["slots"]

    def kill_after_table() -> None:
        if world.disk.counts["slots"] > written:
            raise KilledError

    world.disk.between = kill_after_table
    assert world.checkpoint is not None
    with pytest.raises(KilledError):
        world.checkpoint.run()
    world.crash(1, keep=1, cut_again=None, kill=True)
    while old not in set(world.volume.maps.used_physical()):
        world.write(2 * slot, slot)
    world.flush()
    world.crash(5, keep=0.0, cut_again=None)
    world.drain()
    world.drain()
    for number in range(6):
        world.write((6 + number) * slot, slot)
    world.check()
    world.reopen_clean()


@pytest.mark.parametrize("seed", range(8))
def test_scrub_beside_writers_and_checkpoints_finds_nothing(seed: int) -> None:
    """Steps are read before, after and in the middle of a checkpoint's writes."""
    random = Random(seed)
    world = lived_in()
    passing = Scrub(world.volume)
    step = passing.begin()
    world.between = lambda: step.run() if random.random() < 0.5 else drive(world, random)
    for _ in range(300):
        drive(world, random)
        if random.random() < 0.3:
            step.run()
            passing.finish(step, None)
            assert passing.damage == []
            if passing.is_done:
                passing = Scrub(world.volume)
            step = passing.begin()
    assert world.volume.log.checkpoint_lsn > 50
