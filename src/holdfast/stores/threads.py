"""Workers in threads of this process: for stores that a forked process cannot go on with.

Compression, digests and requests let other threads run meanwhile; what is pure Python does not.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, Generic, TypeVar

from holdfast.ports import PaceControl

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_IDLE_S: Final = 0.1


class ThreadWorkers(Generic[ItemT, ResultT]):
    """Workers in `jobs` threads that end when the run ends."""

    def __init__(
        self, function: Callable[[ItemT], ResultT], pace: PaceControl, *, jobs: int
    ) -> None:
        self._function = function
        self._pace = pace
        self._jobs = jobs

    def run(self, items: Iterable[ItemT], on_idle: Callable[[], None]) -> Iterator[ResultT]:
        """See Workers. When the consumer stops early, workers are stopped at their next block."""
        pool = ThreadPoolExecutor(self._jobs)
        pending: set[Future[ResultT]] = set()
        finished = False
        try:
            for item in items:
                pending.add(pool.submit(self._function, item))
                while len(pending) > 2 * self._jobs:
                    yield from self._drain(pending, on_idle)
            while pending:
                yield from self._drain(pending, on_idle)
            finished = True
        finally:
            if not finished:
                self._pace.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _drain(
        self, pending: "set[Future[ResultT]]", on_idle: Callable[[], None]
    ) -> Iterator[ResultT]:
        done, _ = wait(pending, timeout=_IDLE_S, return_when=FIRST_COMPLETED)
        on_idle()
        for future in done:
            pending.discard(future)
            yield future.result()
