"""Goal: the system's and the simulated clock and entropy keep the same contract (holdfast.ports).

Method: one suite run on both pairs, then what only the simulated ones promise.
"""

import pytest

from holdfast.ports import Clock, Entropy
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.testing.clock import SimClock, SimEntropy

CLOCKS: list[Clock] = [SystemClock(), SimClock()]
ENTROPIES: list[Entropy] = [SystemEntropy(), SimEntropy(7)]


@pytest.mark.parametrize("clock", CLOCKS)
def test_sleeping_takes_at_least_as_long_as_asked(clock: Clock) -> None:
    for duration_s in (0.0, 0.003, 1e-9 / 3):
        before_ns = clock.monotonic_ns()
        clock.sleep(duration_s)
        assert clock.monotonic_ns() - before_ns >= duration_s * 1e9


@pytest.mark.parametrize("clock", CLOCKS)
def test_monotonic_time_never_falls_and_wall_time_is_of_this_century(clock: Clock) -> None:
    seen_ns = [clock.monotonic_ns() for _ in range(1000)]
    assert seen_ns == sorted(seen_ns)
    assert clock.now_ns() > 1_600_000_000 * 10**9


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_chance_has_the_length_asked_for_and_does_not_repeat(entropy: Entropy) -> None:
    assert [len(entropy.random_bytes(count)) for count in (0, 1, 16, 1000)] == [0, 1, 16, 1000]
    assert len({entropy.random_bytes(16) for _ in range(1000)}) == 1000


def test_simulated_time_stands_still_jumps_on_sleep_and_steps_apart() -> None:
    clock = SimClock(now_ns=5)
    monotonic_ns = clock.monotonic_ns()
    clock.sleep(3600)
    clock.step_wall_clock(-(10**12))
    assert clock.now_ns() == 5 + 3600 * 10**9 - 10**12
    assert clock.monotonic_ns() == monotonic_ns + 3600 * 10**9


def test_simulated_chance_is_the_same_for_the_same_seed_only() -> None:
    first, again, other = SimEntropy(1), SimEntropy(1), SimEntropy(2)
    drawn = [first.random_bytes(8) for _ in range(5)]
    assert drawn == [again.random_bytes(8) for _ in range(5)]
    assert drawn != [other.random_bytes(8) for _ in range(5)]
