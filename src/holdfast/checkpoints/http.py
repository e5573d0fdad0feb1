"""Routes of checkpoints for a server to mount; thin. Turns requests into calls of service.py.

Long work answers 202 as soon as its task is in the journal, with its place in
`Location`; an error that comes before is answered as what it is. Who may ask is for whoever mounts
them.

Invariants:
1. No body over BODY_BYTES_MAX is read, none is waited for longer than BODY_TIMEOUT_S, and no page
   is longer than PAGE_MAX.
2. At most WORKERS_MAX operations run at once; more wait their turn, up to WAITING_MAX.
3. In a process that serves HTTP nothing is forked: the service must have been made for threads.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.checkpoints.manifest import encode_body
from holdfast.checkpoints.model import Budget, CheckpointState, Depth, Verdict
from holdfast.checkpoints.results import checkpoint_result, plan_result, schedule_result
from holdfast.checkpoints.running import Manner
from holdfast.checkpoints.scheduling import Scheduler
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError, InvalidRequestError, UnavailableError
from holdfast.model.limits import KIB
from holdfast.tasks.model import Task

PREFIX: Final = "/api/v1"
BODY_BYTES_MAX: Final = 64 * KIB
BODY_TIMEOUT_S: Final = 30.0
PAGE_MAX: Final = 1000
WORKERS_MAX: Final = 4
WAITING_MAX: Final = 64

Endpoint = Callable[[Request], Awaitable[Response]]


def checkpoint_routes(
    facet: Checkpoints, answer_error: Callable[[HoldfastError], Response]
) -> list[Route]:
    """Return the routes below /api/v1; `answer_error` says how an error is told."""
    routes = CheckpointRoutes(facet)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/plans", routes.list_plans),
        ("POST", "/plans/{plan}/protect", routes.protect),
        ("GET", "/checkpoints", routes.list_checkpoints),
        ("GET", "/checkpoints/{id}", routes.show),
        ("DELETE", "/checkpoints/{id}", routes.delete),
        ("POST", "/checkpoints/{id}/verify", routes.verify),
        ("POST", "/checkpoints/{id}/restore", routes.restore),
        ("GET", "/schedules", routes.list_schedules),
    ]
    return [
        Route(PREFIX + path, _told(endpoint, answer_error), methods=[method])
        for method, path, endpoint in table
    ]


def _told(endpoint: Endpoint, answer_error: Callable[[HoldfastError], Response]) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HoldfastError as error:
            return answer_error(error)

    return answer


class CheckpointRoutes:
    """The endpoints; one for each server."""

    def __init__(self, facet: Checkpoints) -> None:
        self._facet = facet
        self._pool = ThreadPoolExecutor(WORKERS_MAX, thread_name_prefix="checkpoints")
        self._started_count = 0

    async def list_plans(self, _request: Request) -> Response:
        """Answer every plan."""
        plans = await asyncio.to_thread(self._facet.catalogue.plans)
        return JSONResponse({"plans": [plan_result(each) for each in plans]})

    async def list_schedules(self, _request: Request) -> Response:
        """Answer every schedule with its last and next run."""

        def read() -> list[dict[str, Any]]:
            names = {str(plan.id): plan.name for plan in self._facet.catalogue.plans()}
            found = Scheduler(self._facet).schedules()
            return [schedule_result(each, names) for each in found]

        return JSONResponse({"schedules": await asyncio.to_thread(read)})

    async def list_checkpoints(self, request: Request) -> Response:
        """Answer a page of checkpoints, newest first; `cursor` of the page before goes on."""
        query = request.query_params
        limit = _number(query.get("limit"), 100, PAGE_MAX)
        state = _choice(query.get("state"), CheckpointState)
        verdict = _choice(query.get("verdict"), Verdict)
        before = _parse_cursor(query.get("cursor"))
        found = await asyncio.to_thread(
            lambda: self._facet.list(
                plan_name=query.get("plan"),
                state=state,
                verdict=verdict,
                limit=limit + 1,
                before=before,
            )
        )
        page = found[:limit]
        cursor = f"{page[-1].created_ns}-{page[-1].id}" if len(found) > limit else None
        told = {"checkpoints": [checkpoint_result(each) for each in page], "cursorNext": cursor}
        return JSONResponse(told)

    async def show(self, request: Request) -> Response:
        """Answer a checkpoint with what its manifest says."""
        found, body = await asyncio.to_thread(self._facet.show, request.path_params["id"])
        told = checkpoint_result(found)
        if body is not None:
            told["body"] = json.loads(encode_body(body))
        return JSONResponse(told)

    async def protect(self, request: Request) -> Response:
        """Start to protect a plan."""
        plan, given = request.path_params["plan"], await _read_body(request)
        parameters = _parameters(given)
        return await self._start(lambda manner: self._facet.protect(plan, manner, parameters))

    async def verify(self, request: Request) -> Response:
        """Start to verify a checkpoint."""
        given = await _read_body(request)
        depth = _choice(given.get("depth", "digest"), Depth) or Depth.DIGEST
        percent = given.get("percent")
        if percent is not None and not (isinstance(percent, int | float) and 0 < percent <= 100):
            raise _bad("percent must be a number over 0, up to 100")
        resource = given.get("resource")
        checkpoint = await asyncio.to_thread(self._facet.get, request.path_params["id"])
        return await self._start(
            lambda manner: self._facet.verify(
                [checkpoint],
                manner,
                depth=depth,
                resource=None if resource is None else str(resource),
                budget=Budget(percent=percent),
            )
        )

    async def restore(self, request: Request) -> Response:
        """Start to restore a checkpoint."""
        checkpoint_id, given = request.path_params["id"], await _read_body(request)
        parameters = _parameters(given)
        resource = given.get("resource")
        return await self._start(
            lambda manner: self._facet.restore(
                checkpoint_id,
                manner,
                parameters=parameters,
                resource=None if resource is None else str(resource),
                force=given.get("force") is True,
            )
        )

    async def delete(self, request: Request) -> Response:
        """Start to delete a checkpoint."""
        checkpoint_id = request.path_params["id"]
        return await self._start(lambda manner: self._facet.delete(checkpoint_id, manner))

    async def _start(self, work: Callable[[Manner], Task]) -> Response:
        """Have work done by a thread, and answer once its task is known."""
        if self._started_count >= WORKERS_MAX + WAITING_MAX:
            raise UnavailableError(
                "too many operations are under way",
                code="too-many-operations",
                advice="wait until some have ended",
            )
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
                task = work(Manner(jobs=WORKERS_MAX, listener=listen))
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


async def _read_body(request: Request) -> dict[str, Any]:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for block in request.stream():
                body += block
                if len(body) > BODY_BYTES_MAX:
                    raise InvalidRequestError(
                        f"the body is over {BODY_BYTES_MAX} bytes",
                        code="body-too-large",
                        advice="send less",
                    )
    except TimeoutError:
        raise InvalidRequestError(
            f"the body did not come within {BODY_TIMEOUT_S:g} s",
            code="body-slow",
            advice="send it at once",
        ) from None
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise _bad("the body must be JSON") from None
    if not isinstance(given, dict):
        raise _bad("the body must be an object")
    return given


def _parameters(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict) or not all(
        isinstance(each, dict) for each in parameters.values()
    ):
        raise _bad("parameters must be an object of objects, by type or Type#id")
    return parameters


def _choice(text: Any, kind: Any) -> Any:
    if text is None:
        return None
    if text in list(kind):
        return kind(text)
    raise _bad(f"{text!r} is none of {', '.join(kind)}")


def _number(text: str | None, default: int, largest: int) -> int:
    if text is None:
        return default
    if text.isascii() and text.isdigit() and 1 <= len(text) < 7 and 1 <= int(text) <= largest:
        return int(text)
    raise _bad(f"limit must be 1 to {largest}")


def _parse_cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    created, _, checkpoint_id = text.partition("-")
    if created.isascii() and created.isdigit() and len(created) < 20 and len(checkpoint_id) == 36:
        return int(created), checkpoint_id
    raise _bad("cursor must be that of the page before")


def _bad(what: str) -> InvalidRequestError:
    return InvalidRequestError(what, code="bad-request", advice="see the guide to checkpoints")
