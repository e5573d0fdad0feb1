"""A thread that does blocking work for coroutines, in batches and in order.

Knows queues, threads and loops; knows nothing of what the work is.

1. What was accepted is worked on in the order it came, once.
2. Nothing waits without limit: a full queue refuses, and so does a closed lane.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from holdfast.errors import HoldfastError, UnavailableError

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[JobT, ResultT]):
    job: JobT
    future: asyncio.Future[ResultT]
    loop: asyncio.AbstractEventLoop


class Lane(Generic[JobT, ResultT]):
    """Owns one thread. Any number of loops hand it jobs; one closes it, after the others ended."""

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[JobT]], Sequence[ResultT | HoldfastError]],
        *,
        queue_max: int,
        batch_max: int,
    ) -> None:
        """Start the thread.

        Args:
            work: Called in the thread with all that waits, up to `batch_max`; answers each job, in
                order. What it raises is the answer to every job of the batch.
        """
        self._name = name
        self._work = work
        self._batch_max = batch_max
        self._queue_max = queue_max
        # Several times as fast as the Queue that has a limit of its own.
        self._queue: queue.SimpleQueue[_Waiting[JobT, ResultT] | None] = queue.SimpleQueue()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def submit(self, job: JobT) -> ResultT:
        """Hand over a job and wait for its answer; UnavailableError if it cannot be accepted."""
        if not self._is_open:
            raise _unavailable(self._name, "is closed", "register-closed")
        if self._queue.qsize() >= self._queue_max:
            raise _unavailable(self._name, "has too much waiting", "register-busy")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._queue.put(_Waiting(job, future, loop))
        return await future

    async def close(self) -> None:
        """Accept nothing more, finish what was accepted, end the thread."""
        self._is_open = False
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            batch, is_last = self._next_batch()
            if batch:
                self._deliver(batch, self._answers(batch))

    def _next_batch(self) -> tuple[list[_Waiting[JobT, ResultT]], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        while len(batch) < self._batch_max:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                return batch, True
            batch.append(waiting)
        return batch, False

    def _answers(self, batch: list[_Waiting[JobT, ResultT]]) -> Sequence[ResultT | BaseException]:
        try:
            return self._work([waiting.job for waiting in batch])
        # The thread's outermost loop: a defect must reach the callers, who wait for an answer.
        except Exception as error:  # noqa: BLE001
            return [error] * len(batch)

    def _deliver(
        self, batch: list[_Waiting[JobT, ResultT]], answers: Sequence[ResultT | BaseException]
    ) -> None:
        by_loop: dict[
            asyncio.AbstractEventLoop, list[tuple[asyncio.Future[ResultT], ResultT | BaseException]]
        ] = {}
        for waiting, answer in zip(batch, answers, strict=True):
            by_loop.setdefault(waiting.loop, []).append((waiting.future, answer))
        for loop, pairs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, pairs)
            except RuntimeError:
                continue  # That loop is gone, and with it whoever waited.


def _resolve(
    pairs: list[tuple[asyncio.Future[ResultT], ResultT | BaseException]],
) -> None:
    for future, answer in pairs:
        if future.done():
            continue  # Cancelled meanwhile.
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _unavailable(name: str, what: str, code: str) -> UnavailableError:
    return UnavailableError(f"the {name} {what}; nothing was done", code=code, advice="try again")
