"""Threads in which the routes of checkpoints have their work done, a few at a time.

Invariants:
1. At most WORKERS_MAX operations run at once; more wait their turn, up to WAITING_MAX.
2. In a process that serves HTTP nothing is forked: the service must have been made for threads.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.checkpoints.http_requests import bad
from holdfast.checkpoints.running import Manner
from holdfast.errors import UnavailableError
from holdfast.tasks.model import Task

PREFIX: Final = "/api/v1"
WORKERS_MAX: Final = 4
WAITING_MAX: Final = 64
KEY_MAX: Final = 255

AnswerT = TypeVar("AnswerT")


class RouteWork:
    """What is under way for one server."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS_MAX, thread_name_prefix="checkpoints")
        self._started_count = 0

    async def call(self, work: Callable[[Manner], AnswerT]) -> AnswerT:
        """Have short work done by a thread, and return what it returns."""
        self._admit()
        self._started_count += 1
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, work, Manner(jobs=WORKERS_MAX))
        future.add_done_callback(self._count_down)
        return await asyncio.shield(future)

    async def start(self, request: Request, work: Callable[[Manner], Task]) -> Response:
        """Have work done by a thread, and answer once its task is known.

        The same Idempotency-Key with the same work gives the same task.
        """
        key = request.headers.get("idempotency-key")
        if key is not None and not (
            0 < len(key) <= KEY_MAX and all("!" <= each <= "~" for each in key)
        ):
            raise bad(f"the Idempotency-Key is empty, over {KEY_MAX} characters or not printable")
        self._admit()
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[str] = loop.create_future()

        def tell(task_id: str) -> None:
            if not begun.done():
                begun.set_result(task_id)

        def listen(task: Task) -> None:
            loop.call_soon_threadsafe(tell, task.id)

        def end(error: BaseException | None, task: Task | None) -> None:
            self._started_count -= 1
            if not begun.done():
                if error is not None:
                    begun.set_exception(error)
                elif task is not None:
                    begun.set_result(task.id)

        def run() -> None:
            try:
                task = work(Manner(jobs=WORKERS_MAX, listener=listen, idempotency_key=key))
            except BaseException as error:  # noqa: BLE001 the outermost loop of this thread
                # What happened to a task that began is in the journal already.
                loop.call_soon_threadsafe(end, error, None)
            else:
                loop.call_soon_threadsafe(end, None, task)

        self._started_count += 1
        self._pool.submit(run)
        task_id = await begun
        place = f"{PREFIX}/tasks/{task_id}"
        return JSONResponse({"taskId": task_id, "statusUrl": place}, 202, {"Location": place})

    def _admit(self) -> None:
        if self._started_count >= WORKERS_MAX + WAITING_MAX:
            raise UnavailableError(
                "too many operations are under way",
                code="too-many-operations",
                advice="wait until some have ended",
            )

    def _count_down(self, _future: object) -> None:
        self._started_count -= 1
