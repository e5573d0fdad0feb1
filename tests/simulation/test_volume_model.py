"""Goal: whatever is done to a volume and whenever it crashes, it is a prefix of what was done.

Method: a random machine of changes, syncs and checkpoints over a simulated disk, beside an oracle;
power is cut at any write or flush, any subset of unflushed sectors survives, opening is cut too,
and the machine goes on and crashes again. Half the log holds seven blocks, so it always wraps.

Cites invariants 1-5, 7-11, 13, 15-18, 22, 23 of volumes/engine/volume.py, and of its parts:
engine/apply 1-2, engine/checkpoint 1 and 3, engine/core 2, engine/dirty 1-3, engine/log 1-3,
engine/opening 2, engine/reading 1-2, engine/recovery 1, engine/slots 1-3, engine/writing 1-3.
"""

from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.testing.faults import PowerCutError
from holdfast.volumes.model import BLOCK_BYTES
from tests.simulation.volume_world import SMALL, VolumeWorld

BLOCKS = SMALL.size_bytes // BLOCK_BYTES
blocks = st.integers(0, BLOCKS - 1)


def drive(world: VolumeWorld, random: Random) -> None:
    """Do one random thing."""
    size = SMALL.size_bytes
    start = random.randrange(BLOCKS) * BLOCK_BYTES
    match random.randrange(14):
        case 0 | 1 | 2:
            world.write_run([random.randrange(BLOCKS) for _ in range(random.randint(1, 4))])
        case 3 | 4:
            world.write(start, min(BLOCK_BYTES * random.randint(1, 7), size - start))
        case 5:
            at = random.randrange(size - 1)
            world.write(at, min(random.randint(1, 3 * BLOCK_BYTES), size - at))
        case 6:
            at = random.randrange(size - 1)
            world.trim(at, min(random.randint(1, 9 * BLOCK_BYTES), size - at))
        case 7:
            world.zero_kept(random.randrange(18), random.randint(1, 2))
        case 8:
            world.begin_sync()
        case 9:
            world.finish_sync()
        case 10:
            world.begin_checkpoint()
        case 11 | 12:
            world.step_checkpoint()
        case _:
            at = random.randrange(size - 1)
            world.read(at, min(random.randint(1, 5 * BLOCK_BYTES), size - at))


def run_seed(seed: int, *, lives: int, steps: int) -> VolumeWorld:
    """Live through `lives` crashes, each after up to `steps` random things."""
    random = Random(seed)
    world = VolumeWorld()

    def between() -> None:
        if random.random() < 0.4:
            drive(world, random)

    world.between = between
    for life in range(lives):
        cut = random.randint(1, 3 * steps)
        world.disk.faults.power_cut_at = world.disk.counts["operations"] + cut
        cut_again = random.choice([None, None, 1, 2, 3, 4, 5])
        try:
            for _ in range(steps):
                drive(world, random)
            kill = random.random() < 0.3
        except PowerCutError:
            kill = False
        keep = random.choice([0.0, 0.5, 0.9, 1.0])
        world.crash(seed * 1000 + life, keep=keep, cut_again=cut_again, kill=kill)
    return world


@pytest.mark.parametrize("seed", range(60))
def test_survives_crashes(seed: int) -> None:
    run_seed(seed, lives=6, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_survives_many_crashes(seed: int) -> None:
    for part in range(40):
        run_seed(seed * 100 + part, lives=8, steps=60)


def test_world_is_deterministic() -> None:
    """The same seed gives the same bytes: a failure can be replayed."""
    assert (
        run_seed(7, lives=4, steps=30).disk.image() == run_seed(7, lives=4, steps=30).disk.image()
    )


class VolumeMachine(RuleBasedStateMachine):
    """The same, chosen and shrunk by hypothesis."""

    @initialize()
    def make(self) -> None:
        self.world = VolumeWorld()

    def guarded(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except PowerCutError:
            self.world.crash(self.world.stamp, keep=0.5, cut_again=None)

    @rule(numbers=st.lists(blocks, min_size=1, max_size=4))
    def write_run(self, numbers: list[int]) -> None:
        self.guarded(self.world.write_run, numbers)

    @rule(start=st.integers(0, SMALL.size_bytes - 1), size=st.integers(1, 5 * BLOCK_BYTES))
    def write(self, start: int, size: int) -> None:
        self.guarded(self.world.write, start, min(size, SMALL.size_bytes - start))

    @rule(slot=st.integers(0, 19), count=st.integers(1, 3))
    def write_slots(self, slot: int, count: int) -> None:
        start = slot * SMALL.slot_bytes
        size = min(count * SMALL.slot_bytes, SMALL.size_bytes - start)
        self.guarded(self.world.write, start, size)

    @rule(start=st.integers(0, SMALL.size_bytes - 1), size=st.integers(1, 9 * BLOCK_BYTES))
    def trim(self, start: int, size: int) -> None:
        self.guarded(self.world.trim, start, min(size, SMALL.size_bytes - start))

    @rule(slot=st.integers(0, 17), count=st.integers(1, 3))
    def zero_kept(self, slot: int, count: int) -> None:
        self.guarded(self.world.zero_kept, slot, count)

    @rule()
    def begin_sync(self) -> None:
        self.guarded(self.world.begin_sync)

    @rule()
    def finish_sync(self) -> None:
        self.guarded(self.world.finish_sync)

    @rule()
    def begin_checkpoint(self) -> None:
        self.guarded(self.world.begin_checkpoint)

    @rule()
    def step_checkpoint(self) -> None:
        self.guarded(self.world.step_checkpoint)

    @rule()
    def reopen_clean(self) -> None:
        self.guarded(self.world.reopen_clean)

    @rule(after=st.integers(1, 12))
    def cut_soon(self, after: int) -> None:
        self.world.disk.faults.power_cut_at = self.world.disk.counts["operations"] + after

    @rule(seed=st.integers(0, 99), keep=st.sampled_from([0.0, 0.5, 1.0]), kill=st.booleans())
    def crash(self, seed: int, keep: float, kill: bool) -> None:
        self.world.crash(seed, keep=keep, cut_again=None, kill=kill and not self.world.disk.is_off)

    @invariant()
    def reads_right(self) -> None:
        if not self.world.disk.is_off:
            self.world.check()


VolumeMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, derandomize=True
)
TestVolumeMachine = VolumeMachine.TestCase
