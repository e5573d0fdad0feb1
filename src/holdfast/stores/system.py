"""Time and chance of the machine: the only module that may ask the system for either."""

import os
import time


class SystemClock:
    """The kernel's clocks. Monotonic time is the same in all processes of one boot."""

    def now_ns(self) -> int:
        """See Clock.now_ns."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """See Clock.monotonic_ns."""
        return time.monotonic_ns()

    def sleep(self, duration_s: float) -> None:
        """See Clock.sleep."""
        time.sleep(duration_s)


class SystemEntropy:
    """The kernel's random numbers."""

    def random_bytes(self, count: int) -> bytes:
        """See Entropy.random_bytes."""
        return os.urandom(count)
