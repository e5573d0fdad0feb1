"""The rate limit that forked workers share.

Goal: the mean rate is exact within 5 %, changes while running, a stop is heard at the next block
and during a wait, and every process counts in its own slot. Method: simulated time.
"""

import os

import pytest

from holdfast.errors import CancelledError
from holdfast.model.limits import JOBS_MAX, MIB
from holdfast.stores.pace import SharedPace
from holdfast.testing.clock import SimClock


def seconds_for(pace: SharedPace, clock: SimClock, block_bytes: int, count: int) -> float:
    before = clock.monotonic_ns()
    for _ in range(count):
        pace.take(block_bytes)
    return (clock.monotonic_ns() - before) / 1e9


@pytest.mark.parametrize("block_bytes", [1, 1000, 65_536, MIB, 64 * MIB])
@pytest.mark.parametrize("rate", [10_000, 10 * MIB, 3_000_000_000])
def test_mean_rate_is_within_five_percent(block_bytes: int, rate: int) -> None:
    clock = SimClock()
    pace = SharedPace(clock, rate)
    count = max(20, min(20_000, 30 * rate // block_bytes))
    took_s = seconds_for(pace, clock, block_bytes, count)
    assert took_s == pytest.approx(block_bytes * count / rate, rel=0.05, abs=0.3)


def test_time_spent_elsewhere_is_credited_for_a_quarter_of_a_second_at_most() -> None:
    clock = SimClock()
    pace = SharedPace(clock, 1000)
    clock.sleep(3600)
    assert seconds_for(pace, clock, 250, 1) == 0
    assert seconds_for(pace, clock, 1000, 10) == pytest.approx(10, rel=0.05)


def test_rate_changes_while_running() -> None:
    clock = SimClock()
    pace = SharedPace(clock, 1000)
    assert seconds_for(pace, clock, 100, 100) == pytest.approx(10, rel=0.05)
    pace.set_rate(10_000)
    assert seconds_for(pace, clock, 100, 1000) == pytest.approx(10, rel=0.05)
    pace.set_rate(None)
    assert seconds_for(pace, clock, MIB, 1000) == 0


def test_no_bytes_cost_no_time() -> None:
    clock = SimClock()
    pace = SharedPace(clock, 1)
    assert seconds_for(pace, clock, 0, 1000) == 0


def test_stop_is_heard_at_the_next_block() -> None:
    pace = SharedPace(SimClock(), None)
    pace.take(1)
    pace.stop()
    with pytest.raises(CancelledError):
        pace.take(0)


def test_stop_is_heard_during_a_long_wait() -> None:
    class StoppingClock(SimClock):
        """Has somebody stop the task a second after it began to wait."""

        def sleep(self, duration_s: float) -> None:
            super().sleep(duration_s)
            if self.monotonic_ns() - began_ns > 1_000_000_000:
                pace.stop()

    clock = StoppingClock()
    began_ns = clock.monotonic_ns()
    pace = SharedPace(clock, 1)
    with pytest.raises(CancelledError):
        pace.take(3600)
    assert clock.monotonic_ns() - began_ns < 2_000_000_000


def test_every_process_counts_in_its_own_slot() -> None:
    pace = SharedPace(SimClock(), None)
    pace.moved(1)
    child = os.fork()
    if not child:
        pace.use_slot(1)
        pace.moved(10)
        os._exit(0)
    os.waitpid(child, 0)
    pace.use_slot(JOBS_MAX)
    pace.moved(100)
    assert pace.moved_bytes() == 111
