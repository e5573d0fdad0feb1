"""Goal: over N independent services, reads and writes of growing values are linearizable; and the
simulation that says so notices when the protocol is broken.

Method: the real quorum client and the real rules over services that crash and a network that
loses, delays and repeats; several writers and readers at once; every run from a seed. The checker:
what a read or a completed write has seen, no later read may fall behind, and nothing is read that
was not written. Four mutants, which must be caught: services that do not refuse what is behind,
half of N as a majority, services that forget on restart, the least instead of the greatest value.
The last one is stopped by the services, which refuse what it brings them: no read is wrong, but
many fail that would not.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from holdfast.client.heads import HeadName
from holdfast.client.quorum import ComponentsOf, QuorumClient, QuorumRules
from holdfast.errors import HoldfastError
from holdfast.testing.clock import SimEntropy
from tests.simulation.heads_instances import Faults, SimInstance, components

NAME = HeadName(storage_url="http://store/v1/a/c/o")
RUNS = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is run: the protocol, or a mutant of it."""

    rules: QuorumRules = field(default_factory=QuorumRules)
    is_growing: bool = True
    wipes_on_restart: bool = False


@dataclass(slots=True)
class History:
    """What clients have seen, in the order of real time."""

    written: set[bytes] = field(default_factory=set)
    seen: tuple[int, ...] = (0, 0)
    acknowledged_count: int = 0
    reads_count: int = 0
    violations: list[str] = field(default_factory=list)

    def saw(self, what: str, value: bytes | None, since: tuple[int, ...]) -> None:
        """Judge a result by what had been seen when its operation began."""
        self.acknowledged_count += 1
        if value is None or (value not in self.written):
            self.violations.append(f"{what} saw {value!r}, which nobody wrote")
        elif components(value) < since:
            self.violations.append(f"{what} saw {value!r} after {since}")
        else:
            self.seen = max(self.seen, components(value))


def _run(seed: int, variant: Variant, instances_count: int = 3) -> History:
    return asyncio.run(_play(random.Random(seed), variant, instances_count))


@cache
def _sound_runs(instances_count: int) -> list[History]:
    """Run the protocol as it is, once for all tests that compare with it."""
    return [_run(seed, Variant(), instances_count) for seed in range(RUNS)]


async def _play(chance: random.Random, variant: Variant, instances_count: int) -> History:
    instances = [
        SimInstance(
            faults=Faults(chance=chance),
            is_growing=variant.is_growing,
            entropy=SimEntropy(chance.randrange(1 << 30)),
        )
        for _ in range(instances_count)
    ]
    history = History()
    clients = [
        QuorumClient(
            instances,
            SimEntropy(chance.randrange(1 << 30)),
            components_of=components,
            grace_s=0,
            rules=variant.rules,
        )
        for _ in range(4)
    ]
    numbers = iter(range(1, 10_000))

    async def pause(turns_max: int) -> None:
        for _ in range(chance.randrange(turns_max)):
            await asyncio.sleep(0)

    async def writer(client: QuorumClient) -> None:
        for _ in range(10):
            await pause(60)
            number = next(numbers)
            value = b"%d %d" % (number, number)
            history.written.add(value)
            # A writer may be held up between choosing a value and writing it.
            await pause(90)
            since = history.seen
            try:
                await client.write(NAME, value)
            except HoldfastError:
                continue
            history.saw("a write", value, since)

    async def reader(client: QuorumClient) -> None:
        for _ in range(12):
            await pause(90)
            since = history.seen
            try:
                value = await client.read(NAME)
            except HoldfastError:
                continue
            history.reads_count += 1
            history.saw("a read", value, since)

    async def crashes() -> None:
        for _ in range(8):
            await pause(120)
            struck = chance.choice(instances)
            struck.is_down = True
            await pause(40)
            if variant.wipes_on_restart:
                struck.wipe()
            else:
                struck.restart()

    await asyncio.gather(
        writer(clients[0]), writer(clients[1]), reader(clients[2]), reader(clients[3]), crashes()
    )
    for client in clients:
        await client.finish()
    return history


def _least(values: Sequence[bytes], components_of: ComponentsOf) -> bytes:
    return min(values, key=components_of)


MUTANTS = {
    "no refusal of what is behind": Variant(is_growing=False),
    "half of N as a majority": Variant(rules=QuorumRules(majority=lambda count: count // 2)),
    "services forget on restart": Variant(wipes_on_restart=True),
    "the least instead of the greatest": Variant(rules=QuorumRules(choose=_least)),
}


@pytest.mark.parametrize("instances_count", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_no_read_falls_behind_what_was_seen(instances_count: int) -> None:
    acknowledged = 0
    for seed, history in enumerate(_sound_runs(instances_count)):
        assert history.violations == [], f"seed {seed}"
        acknowledged += history.acknowledged_count
    print(f"{RUNS} runs, {acknowledged} acknowledged operations, none violated")
    assert acknowledged > 5 * RUNS


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str) -> None:
    """By the first run that is violated, or else by reads that fail and otherwise would not."""
    reads = 0
    for seed in range(RUNS):
        history = _run(seed, MUTANTS[mutant])
        if history.violations:
            print(f"{mutant}: run {seed} is bad")
            return
        reads += history.reads_count
    sound_reads = sum(history.reads_count for history in _sound_runs(3))
    print(f"{mutant}: {reads} reads answered instead of {sound_reads}")
    assert reads < 0.8 * sound_reads


def test_run_repeats_from_its_seed() -> None:
    first, again = (_run(7, Variant()) for _ in range(2))

    assert first == again
    assert replace(Variant(), is_growing=False) != Variant()
