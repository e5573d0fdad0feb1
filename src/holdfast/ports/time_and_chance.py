"""Time and chance: what nothing but its owner may look at directly."""

from typing import Protocol


class Clock(Protocol):
    """Time. The two clocks are never compared with each other."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch of Unix; may step."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an unspecified moment; never falls; the same in all processes."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Wait at least `duration_s` seconds."""
        ...


class Entropy(Protocol):
    """Chance, fit for keys."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        ...
