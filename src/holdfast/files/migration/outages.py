"""Waits for a source that is away: invariant 3 of rules.py, for every task of a migration.

A connection is patient by itself; here it is decided how often and how long after that to begin
anew.
"""

from typing import Final

from holdfast.errors import HoldfastError
from holdfast.files.migration.rules import OUTAGE_S_MAX, back_off_s, is_outage
from holdfast.files.migration.telling import Telling
from holdfast.ports import Clock, Entropy

_STEP_S: Final = 0.5


class Outages:
    """The absences of a source during one attempt of a task. Owned by the thread of the task."""

    def __init__(self, telling: Telling, clock: Clock, entropy: Entropy) -> None:
        self._telling = telling
        self._clock = clock
        self._entropy = entropy
        self._since_ns: int | None = None
        self._count = 0

    def is_worth_waiting(self, error: HoldfastError, *, was_heard: bool) -> bool:
        """Say whether to begin anew after an error, which is counted.

        Args:
            error: What ended the work.
            was_heard: Whether the source gave something since the last absence.
        """
        now_ns = self._clock.monotonic_ns()
        if self._since_ns is None or was_heard:
            self._since_ns, self._count = now_ns, 0
        self._count += 1
        return is_outage(error) and now_ns - self._since_ns < OUTAGE_S_MAX * 1e9

    def sit_out(self, error: HoldfastError) -> None:
        """Wait, longer each time; raises CancelledError as `wait`."""
        self._telling.context.event("source-away", **error.as_problem())
        self._telling.now()
        self.wait(back_off_s(self._count, self.draw()))

    def wait(self, duration_s: float) -> None:
        """Wait; raises CancelledError soon after somebody asked to stop."""
        while duration_s > 0:
            self._clock.sleep(min(duration_s, _STEP_S))
            duration_s -= _STEP_S
            self._telling.now()

    def draw(self) -> float:
        """Return chance, 0 to 1."""
        return int.from_bytes(self._entropy.random_bytes(4), "big") / 2**32
