"""Routes of checkpoints for a server to mount; thin. Turns requests into calls of service.py.

Long work answers 202 as soon as its task is in the journal, with its place in
`Location`; an error that comes before is answered as what it is. Who may ask is for whoever mounts
them.

Invariants:
1. No page is longer than PAGE_MAX.

Bodies are read in http_requests.py, work is done in http_work.py; http_plans.py has the routes of
plans, schedules and banks.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast.checkpoints.http_plans import PlanRoutes
from holdfast.checkpoints.http_requests import (
    amount,
    choice,
    flag,
    number,
    parameters,
    parse_cursor,
    percent,
    read_body,
)
from holdfast.checkpoints.http_work import PREFIX, RouteWork
from holdfast.checkpoints.manifest import encode_body
from holdfast.checkpoints.model import Budget, CheckpointState, Depth, Verdict
from holdfast.checkpoints.results import checkpoint_result
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError

PAGE_MAX: Final = 1000
LOCK_DAYS_MAX: Final = 36_500

Endpoint = Callable[[Request], Awaitable[Response]]


def checkpoint_routes(
    facet: Checkpoints,
    answer_error: Callable[[HoldfastError], Response],
    make_directory: Callable[[str], None],
) -> list[Route]:
    """Return the routes below /api/v1.

    Args:
        facet: Made for threads.
        answer_error: Says how an error is told.
        make_directory: Makes the directory that a bank's URL names, if it names one.
    """
    work = RouteWork()
    routes, plans = CheckpointRoutes(facet, work), PlanRoutes(facet, work, make_directory)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/plans", plans.list_plans),
        ("POST", "/plans", plans.make),
        ("GET", "/plans/{plan}", plans.show),
        ("DELETE", "/plans/{plan}", plans.remove),
        ("POST", "/plans/{plan}/retain", plans.retain),
        ("POST", "/plans/{plan}/protect", routes.protect),
        ("GET", "/checkpoints", routes.list_checkpoints),
        ("GET", "/checkpoints/{id}", routes.show),
        ("DELETE", "/checkpoints/{id}", routes.delete),
        ("POST", "/checkpoints/{id}/verify", routes.verify),
        ("POST", "/checkpoints/{id}/restore", routes.restore),
        ("PUT", "/checkpoints/{id}/protection", routes.hold),
        ("GET", "/schedules", plans.list_schedules),
        ("POST", "/schedules", plans.add_schedule),
        ("DELETE", "/schedules/{schedule}", plans.remove_schedule),
        ("POST", "/banks/examine", plans.examine),
        ("POST", "/banks/sweep", plans.sweep),
        ("POST", "/banks/heal", plans.heal),
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

    def __init__(self, facet: Checkpoints, work: RouteWork) -> None:
        self._facet = facet
        self._work = work

    async def list_checkpoints(self, request: Request) -> Response:
        """Answer a page of checkpoints, newest first; `cursor` of the page before goes on."""
        query = request.query_params
        limit = number(query.get("limit"), 100, PAGE_MAX)
        state = choice(query.get("state"), CheckpointState)
        verdict = choice(query.get("verdict"), Verdict)
        before = parse_cursor(query.get("cursor"))
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
        plan, given = request.path_params["plan"], await read_body(request)
        asked = parameters(given)
        return await self._work.start(
            request, lambda manner: self._facet.protect(plan, manner, asked)
        )

    async def verify(self, request: Request) -> Response:
        """Start to verify a checkpoint."""
        given = await read_body(request)
        depth = choice(given.get("depth", "digest"), Depth) or Depth.DIGEST
        share = percent(given)
        resource = given.get("resource")
        checkpoint = await asyncio.to_thread(self._facet.get, request.path_params["id"])
        return await self._work.start(
            request,
            lambda manner: self._facet.verify(
                [checkpoint],
                manner,
                depth=depth,
                resource=None if resource is None else str(resource),
                budget=Budget(percent=share),
            ),
        )

    async def restore(self, request: Request) -> Response:
        """Start to restore a checkpoint."""
        checkpoint_id, given = request.path_params["id"], await read_body(request)
        asked = parameters(given)
        resource = given.get("resource")
        return await self._work.start(
            request,
            lambda manner: self._facet.restore(
                checkpoint_id,
                manner,
                parameters=asked,
                resource=None if resource is None else str(resource),
                force=flag(given, "force"),
            ),
        )

    async def delete(self, request: Request) -> Response:
        """Start to delete a checkpoint."""
        checkpoint_id = request.path_params["id"]
        return await self._work.start(
            request, lambda manner: self._facet.delete(checkpoint_id, manner)
        )

    async def hold(self, request: Request) -> Response:
        """Say whether a checkpoint may be deleted, or lock it for some days."""
        checkpoint_id, given = request.path_params["id"], await read_body(request)
        days = amount(given, "lockDays", 0, LOCK_DAYS_MAX)
        now_ns = self._facet.around.clock.now_ns()
        until_ns = now_ns + int(days * 86_400 * 10**9) if days else 0
        # To lock it says nothing of a hold.
        is_told = "protected" in given or not days
        is_protected = flag(given, "protected") if is_told else None
        held = await self._work.call(
            lambda _manner: self._facet.set_protection(
                checkpoint_id, is_protected=is_protected, locked_until_ns=until_ns
            )
        )
        return JSONResponse(checkpoint_result(held))
