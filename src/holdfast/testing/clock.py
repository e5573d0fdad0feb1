"""Time that jumps and chance that repeats, behind the ports Clock and Entropy."""

import hashlib

_NS_PER_S = 1_000_000_000


class SimClock:
    """A clock that stands still, except that sleeping jumps over the time slept.

    The two clocks start far apart, so that comparing one with the other shows in a test.
    """

    def __init__(self, *, now_ns: int = 1_700_000_000 * _NS_PER_S) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 1_000 * _NS_PER_S

    def now_ns(self) -> int:
        """See Clock.now_ns."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """See Clock.monotonic_ns."""
        return self._monotonic_ns

    def sleep(self, duration_s: float) -> None:
        """Jump `duration_s` ahead, at once."""
        # Rounded up: sleeping less than was asked would break the contract.
        duration_ns = max(0, -int(-duration_s * _NS_PER_S // 1))
        self._now_ns += duration_ns
        self._monotonic_ns += duration_ns

    def step_wall_clock(self, by_ns: int) -> None:
        """Set the wall clock ahead or back, as an operator or NTP may."""
        self._now_ns += by_ns


class SimEntropy:
    """A stream of bytes that is the same for the same seed. Not fit for keys."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws_count = 0

    def random_bytes(self, count: int) -> bytes:
        """See Entropy.random_bytes."""
        self._draws_count += 1
        return hashlib.shake_256(f"{self._seed}:{self._draws_count}".encode()).digest(count)
