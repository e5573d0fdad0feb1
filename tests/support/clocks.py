"""A clock of the machine that does not wait."""

from holdfast.stores.system import SystemClock


class QuickClock(SystemClock):
    """Sleeps are over at once, and seen by the monotonic clock; file times stay comparable."""

    def __init__(self) -> None:
        self._slept_ns = 0

    @property
    def slept_s(self) -> float:
        """How long was slept in all."""
        return self._slept_ns / 1e9

    def monotonic_ns(self) -> int:
        """See Clock."""
        return super().monotonic_ns() + self._slept_ns

    def sleep(self, duration_s: float) -> None:
        """See Clock."""
        self._slept_ns += int(duration_s * 1e9)
