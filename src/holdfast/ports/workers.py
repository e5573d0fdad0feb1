"""Work done side by side, and the pace it keeps."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

ItemT = TypeVar("ItemT", contravariant=True)
ResultT = TypeVar("ResultT", covariant=True)
InT = TypeVar("InT")
OutT = TypeVar("OutT")


class Pace(Protocol):
    """A rate limit and a stop sign shared by all workers of a task, changeable while they run."""

    def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` may be moved; raise CancelledError once the task is to stop."""
        ...

    def moved(self, size_bytes: int) -> None:
        """Count bytes for the progress display."""
        ...


class PaceControl(Pace, Protocol):
    """The coordinator's end of a Pace."""

    def moved_bytes(self) -> int:
        """Return what all workers have moved so far."""
        ...

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """Change the limit now; None lifts it."""
        ...

    def stop(self) -> None:
        """Have every worker raise CancelledError at its next block."""
        ...


class Workers(Protocol[ItemT, ResultT]):
    """Runs one function over many items, in this process or several, results as they come."""

    def run(self, items: Iterable[ItemT], on_idle: Callable[[], None]) -> Iterator[ResultT]:
        """Yield a result for each item, in any order, drawing items only as workers are free.

        Args:
            items: Drawn lazily; never more than twice as many as there are workers ahead.
            on_idle: Called about ten times a second while waiting.
        """
        ...


class StartWorkers(Protocol):
    """Chooses workers for a piece of work: here for a little, in processes for more."""

    def __call__(
        self, function: Callable[[InT], OutT], *, entries: int, size_bytes: int
    ) -> Workers[InT, OutT]:
        """Return workers that run `function`."""
        ...
