"""A Pace for tests: counts what is taken and moved, never waits, and stops where the test says."""

from holdfast.errors import CancelledError


class SimPace:
    """PaceControl in this process alone.

    Args:
        stop_at: At this `take`, counted from 1, and at all later ones CancelledError is raised.
    """

    def __init__(self, *, stop_at: int | None = None) -> None:
        self.takes_count = 0
        self.rate_bytes_per_s: float | None = None
        self._stop_at = stop_at
        self._moved_bytes = 0
        self._is_stopped = False

    def take(self, size_bytes: int) -> None:  # noqa: ARG002
        """See Pace."""
        self.takes_count += 1
        if self._is_stopped or self.takes_count == self._stop_at:
            self._is_stopped = True
            raise CancelledError(
                "stopped on request", code="stopped", advice="run it again to go on from here"
            )

    def moved(self, size_bytes: int) -> None:
        """See Pace."""
        self._moved_bytes += size_bytes

    def moved_bytes(self) -> int:
        """See PaceControl."""
        return self._moved_bytes

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """See PaceControl. Remembered, and nothing else: time does not pass here."""
        self.rate_bytes_per_s = rate_bytes_per_s

    def stop(self) -> None:
        """See PaceControl."""
        self._is_stopped = True
