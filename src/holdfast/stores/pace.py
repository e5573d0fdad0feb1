"""A rate limit, a stop sign and byte counters in memory that forked workers share."""

import ctypes
import multiprocessing
from multiprocessing.sharedctypes import RawArray, RawValue

from holdfast.errors import CancelledError
from holdfast.model.limits import JOBS_MAX
from holdfast.ports import Clock


class SharedPace:
    """Pace for one task: made before its workers are forked, then the same in all of them.

    A token bucket that holds at most a quarter of a second's worth: whoever takes more than is
    there goes into debt and sleeps it off, so that the mean is exact whatever the block size.
    The monotonic clock is the same in every process, so the bucket's time may be shared.
    """

    def __init__(self, clock: Clock, rate_bytes_per_s: float | None) -> None:
        self._clock = clock
        self._lock = multiprocessing.get_context("fork").Lock()
        self._rate = RawValue(ctypes.c_double, rate_bytes_per_s or 0.0)
        self._tokens = RawValue(ctypes.c_double, 0.0)
        self._refilled_ns = RawValue(ctypes.c_int64, clock.monotonic_ns())
        self._stopped = RawValue(ctypes.c_bool, False)
        self._moved = RawArray(ctypes.c_uint64, JOBS_MAX + 1)
        self._slot = 0

    def use_slot(self, slot: int) -> None:
        """Count this process's bytes in a place of its own: 0 the coordinator, then workers."""
        assert 0 <= slot <= JOBS_MAX
        self._slot = slot

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """Change the limit now; None lifts it."""
        self._rate.value = rate_bytes_per_s or 0.0

    def stop(self) -> None:
        """Have every worker raise CancelledError at its next block."""
        self._stopped.value = True

    def moved_bytes(self) -> int:
        """Return what all workers have moved so far."""
        return sum(self._moved)

    def moved(self, size_bytes: int) -> None:
        """See Pace."""
        self._moved[self._slot] += size_bytes

    def take(self, size_bytes: int) -> None:
        """See Pace."""
        if self._stopped.value:
            raise CancelledError(
                "stopped on request", code="stopped", advice="run it again to go on from here"
            )
        rate: float = self._rate.value
        if rate and size_bytes:
            wait_s = self._owe(size_bytes, rate)
            # In slices, so that a stop is heard soon even at a few bytes a second.
            while wait_s > 0:
                self._clock.sleep(min(wait_s, 0.1))
                wait_s -= 0.1
                self.take(0)

    def _owe(self, size_bytes: int, rate: float) -> float:
        with self._lock:
            now = self._clock.monotonic_ns()
            earned = (now - self._refilled_ns.value) / 1e9 * rate
            self._refilled_ns.value = now
            self._tokens.value = min(self._tokens.value + earned, rate / 4) - size_bytes
            return -self._tokens.value / rate
