"""Routes of plans, schedules and banks: endpoints of http.py. All paths are of the server's host.

Invariants:
1. No more than PLANS_MAX plans and SCHEDULES_MAX schedules are made by requests.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast.checkpoints.http_requests import (
    amount,
    bad,
    bank_url,
    choice,
    flag,
    percent,
    read_body,
    resources,
    retention,
    signers,
    text,
)
from holdfast.checkpoints.http_work import PREFIX, RouteWork
from holdfast.checkpoints.model import Depth, Plan
from holdfast.checkpoints.results import fate_result, plan_result, schedule_result
from holdfast.checkpoints.running import Manner
from holdfast.checkpoints.scheduling import Schedule, ScheduledOperation, Scheduler
from holdfast.checkpoints.service import GRACE_S, Checkpoints
from holdfast.errors import CapacityError

PLANS_MAX: Final = 1000
SCHEDULES_MAX: Final = 1000
GRACE_S_MAX: Final = 3600.0 * 24 * 3650


class PlanRoutes:
    """The endpoints; one for each server."""

    def __init__(
        self, facet: Checkpoints, work: RouteWork, make_directory: Callable[[str], None]
    ) -> None:
        self._facet = facet
        self._work = work
        self._make_directory = make_directory

    async def list_plans(self, _request: Request) -> Response:
        """Answer every plan."""
        plans = await asyncio.to_thread(self._facet.catalogue.plans)
        return JSONResponse({"plans": [plan_result(each) for each in plans]})

    async def show(self, request: Request) -> Response:
        """Answer a plan, named or by its id."""
        plan = await asyncio.to_thread(self._facet.catalogue.plan, request.path_params["plan"])
        return JSONResponse(plan_result(plan))

    async def make(self, request: Request) -> Response:
        """Make a plan, and the bank where there is none; or change the plan of that name."""
        given = await read_body(request)
        name, url = text(given, "name"), bank_url(given)
        protected, rules = resources(given), retention(given)
        key_id = text(given, "keyId") if given.get("keyId") else ""

        def work(_manner: Manner) -> Plan:
            plans = self._facet.catalogue.plans()
            if len(plans) >= PLANS_MAX and all(plan.name != name for plan in plans):
                raise _too_many("plans", PLANS_MAX)
            self._make_directory(url)
            return self._facet.make_plan(name, url, protected, retention=rules, key_id=key_id)

        plan = await self._work.call(work)
        return JSONResponse(plan_result(plan), 201, {"Location": f"{PREFIX}/plans/{plan.id}"})

    async def remove(self, request: Request) -> Response:
        """Forget a plan that has no checkpoints, and its schedules."""
        catalogue, name = self._facet.catalogue, request.path_params["plan"]
        await self._work.call(lambda _manner: catalogue.remove_plan(catalogue.plan(name)))
        return JSONResponse({"plan": name})

    async def retain(self, request: Request) -> Response:
        """Start to delete what a plan's rules do not keep; as a dry run say what and why."""
        plan, given = request.path_params["plan"], await read_body(request)
        if not flag(given, "dryRun"):
            return await self._work.start(
                request, lambda manner: self._facet.retain_durably(plan, manner)
            )
        fates = await self._work.call(lambda manner: self._facet.retain(plan, manner, dry_run=True))
        return JSONResponse({"dryRun": True, "fates": [fate_result(each) for each in fates]})

    async def list_schedules(self, _request: Request) -> Response:
        """Answer every schedule with its last and next run."""

        def read() -> list[dict[str, Any]]:
            return [self._told(each) for each in Scheduler(self._facet).schedules()]

        return JSONResponse({"schedules": await asyncio.to_thread(read)})

    async def add_schedule(self, request: Request) -> Response:
        """Add a schedule of a plan."""
        given = await read_body(request)
        plan, cron = text(given, "plan"), text(given, "cron")
        operation = choice(given.get("operation", "protect"), ScheduledOperation)
        if operation is None:
            raise bad(f"operation is none of {', '.join(ScheduledOperation)}")
        depth, share = choice(given.get("depth"), Depth), percent(given)
        told = {"depth": depth and depth.value, "percent": share}
        parameters = {name: value for name, value in told.items() if value is not None}

        def work(_manner: Manner) -> dict[str, Any]:
            scheduler = Scheduler(self._facet)
            if len(scheduler.schedules()) >= SCHEDULES_MAX:
                raise _too_many("schedules", SCHEDULES_MAX)
            return self._told(scheduler.add(plan, operation, cron, parameters))

        return JSONResponse(await self._work.call(work), 201)

    async def remove_schedule(self, request: Request) -> Response:
        """Remove a schedule."""
        schedule_id = request.path_params["schedule"]
        await self._work.call(lambda _manner: Scheduler(self._facet).remove(schedule_id))
        return JSONResponse({"id": schedule_id})

    async def examine(self, request: Request) -> Response:
        """Start to compare catalogue and bank and make the catalogue right."""
        given = await read_body(request)
        url, trusted = bank_url(given), signers(given)
        return await self._work.start(
            request, lambda manner: self._facet.examine(url, manner, trusted)
        )

    async def sweep(self, request: Request) -> Response:
        """Start to delete chunks of a bank that no checkpoint needs."""
        given = await read_body(request)
        url, grace_s = bank_url(given), amount(given, "graceSeconds", GRACE_S, GRACE_S_MAX)
        return await self._work.start(
            request, lambda manner: self._facet.sweep(url, manner, grace_s=grace_s)
        )

    async def heal(self, request: Request) -> Response:
        """Start to store anew from another bank what is known to be bad."""
        given = await read_body(request)
        url, other = bank_url(given), bank_url(given, "from")
        return await self._work.start(request, lambda manner: self._facet.heal(url, other, manner))

    def _told(self, schedule: Schedule) -> dict[str, Any]:
        names = {str(plan.id): plan.name for plan in self._facet.catalogue.plans()}
        return schedule_result(schedule, names)


def _too_many(what: str, most: int) -> CapacityError:
    return CapacityError(
        f"there are {most} {what} already", code=f"too-many-{what}", advice="remove some first"
    )
