"""Runs operations on plans by the clock: what is due is decided here, and what was missed.

A schedule is a line of crontab, in UTC. Each run is the durable task that the same command makes by
hand: one that was interrupted is resumed by the next look at what is due.

Invariants:
1. A schedule moves on to its next time only after its run has ended, well or badly: a process that
   dies in the middle leaves it due.
2. However many times were missed, one run follows, and then the next time after now.
3. A failing schedule holds up no other; why it failed is kept with it.
4. A clock that was ahead for a while puts off no run once it is right again.
5. A schedule that is removed while it runs stays removed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from cronsim import CronSim, CronSimError

from holdfast.checkpoints.model import Budget, CheckpointState, Depth
from holdfast.checkpoints.running import Manner
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError, InvalidRequestError, NotFoundError

WATCH_S: Final = 5.0
CLOCK_BACK_NS: Final = 60 * 10**9
"""A last run so far ahead was told by a clock that was set back since."""


class ScheduledOperation(StrEnum):
    """What a schedule does; Karbor's words, and those it lacks."""

    PROTECT = "protect"
    RETENTION_PROTECT = "retention_protect"
    """Protect, then keep what the plan's rules ask for."""
    VERIFY = "verify"
    RETENTION_VERIFY = "retention_verify"
    """Verify, then keep what the plan's rules ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When what is done with a plan."""

    id: str
    plan_id: str
    operation: ScheduledOperation
    cron: str
    parameters: Mapping[str, Any]
    """Of a verification: `depth` and `percent`."""
    last_ns: int
    """When it last ended; 0: never."""
    next_ns: int
    last_result: str
    """`success`, or why it failed; empty before the first run."""


def next_time(cron: str, after_ns: int) -> int:
    """Return the first time of a crontab line after a moment, in UTC.

    Raises:
        InvalidRequestError: `bad-cron`.
    """
    try:
        after = datetime.fromtimestamp(after_ns // 10**9, UTC)
        return int(next(CronSim(cron, after)).timestamp()) * 10**9
    except (CronSimError, StopIteration) as error:
        raise InvalidRequestError(
            f"{cron!r} is no line of crontab that ever comes: {error}",
            code="bad-cron",
            advice="say for example '0 3 * * *' for three o'clock each night, UTC",
        ) from error


class Scheduler:
    """Keeps schedules and runs what is due."""

    def __init__(self, facet: Checkpoints) -> None:
        self._facet = facet
        self._clock = facet.around.clock

    def add(
        self,
        plan_name: str,
        operation: ScheduledOperation,
        cron: str,
        parameters: Mapping[str, Any],
    ) -> Schedule:
        """Add a schedule; InvalidRequestError (`bad-cron`, `bad-depth`)."""
        plan = self._facet.catalogue.plan(plan_name)
        _depth(parameters)
        schedule = Schedule(
            id=self._facet.around.entropy.random_bytes(8).hex(),
            plan_id=plan.id,
            operation=operation,
            cron=cron,
            parameters=dict(parameters),
            last_ns=0,
            next_ns=next_time(cron, self._clock.now_ns()),
            last_result="",
        )
        self._facet.catalogue.schedules.put(_row_of(schedule))
        return schedule

    def remove(self, schedule_id: str) -> None:
        """Remove a schedule; NotFoundError (`no-schedule`)."""
        if not self._facet.catalogue.schedules.delete(schedule_id):
            raise NotFoundError(
                f"there is no schedule {schedule_id}",
                code="no-schedule",
                advice="see 'holdfast checkpoints schedule'",
            )

    def schedules(self) -> list[Schedule]:
        """Return every schedule, the next due first."""
        return [_schedule_of(row) for row in self._facet.catalogue.schedules.rows()]

    def run_due(self, manner: Manner) -> list[Schedule]:
        """Run what is due now, one after the other, and return each as it is then."""
        now_ns = self._clock.now_ns()
        self._put_right(now_ns)
        ran = []
        for schedule in self.schedules():
            if schedule.next_ns > now_ns:
                break
            told = self._run(schedule, manner)
            ended_ns = self._clock.now_ns()
            after = replace(
                schedule,
                last_ns=ended_ns,
                next_ns=next_time(schedule.cron, ended_ns),
                last_result=told[:1000],
            )
            self._facet.catalogue.schedules.move_on(_row_of(after))
            ran.append(after)
        return ran

    def watch(self, manner: Manner) -> None:
        """Run what becomes due, until the process is told to stop."""
        while True:
            self.run_due(manner)
            self._clock.sleep(WATCH_S)

    def _run(self, schedule: Schedule, manner: Manner) -> str:
        operation, plan_id = schedule.operation, schedule.plan_id
        try:
            match operation:
                case ScheduledOperation.PROTECT | ScheduledOperation.RETENTION_PROTECT:
                    result = self._facet.protect(plan_id, manner).result or {}
                    told = "success" if not result["reasons"] else json.dumps(result["reasons"])
                case ScheduledOperation.VERIFY | ScheduledOperation.RETENTION_VERIFY:
                    told = self._verify(schedule, manner)
            if operation.startswith("retention_"):
                self._facet.retain(plan_id, manner, dry_run=False)
        except HoldfastError as error:
            return f"{error.code}: {error.message}"
        return told

    def _verify(self, schedule: Schedule, manner: Manner) -> str:
        available = [
            each
            for each in self._facet.list(plan_name=schedule.plan_id)
            if each.state is CheckpointState.AVAILABLE
        ]
        percent = schedule.parameters.get("percent")
        budget = Budget(percent=float(percent)) if percent else Budget()
        depth = _depth(schedule.parameters)
        task = self._facet.verify(available, manner, depth=depth, budget=budget)
        verdict = str((task.result or {})["verdict"])
        return "verification failed" if verdict == "fail" else verdict

    def _put_right(self, now_ns: int) -> None:
        """Bring back what a clock that was ahead for a while put off."""
        for schedule in self.schedules():
            if schedule.last_ns > now_ns + CLOCK_BACK_NS:
                next_ns = next_time(schedule.cron, now_ns)
                right = replace(schedule, last_ns=now_ns, next_ns=next_ns)
                self._facet.catalogue.schedules.move_on(_row_of(right))


def _row_of(schedule: Schedule) -> dict[str, object]:
    return {
        "id": schedule.id,
        "plan": schedule.plan_id,
        "operation": schedule.operation.value,
        "cron": schedule.cron,
        "parameters": json.dumps(dict(schedule.parameters)),
        "last_ns": schedule.last_ns,
        "next_ns": schedule.next_ns,
        "last_result": schedule.last_result,
    }


def _depth(parameters: Mapping[str, Any]) -> Depth:
    depth = parameters.get("depth", "digest")
    if depth in list(Depth):
        return Depth(depth)
    raise InvalidRequestError(
        f"{depth!r} is no depth", code="bad-depth", advice="say presence, digest or restore"
    )


def _schedule_of(row: Mapping[str, Any]) -> Schedule:
    return Schedule(
        id=row["id"],
        plan_id=row["plan"],
        operation=ScheduledOperation(row["operation"]),
        cron=row["cron"],
        parameters=json.loads(row["parameters"]),
        last_ns=row["last_ns"],
        next_ns=row["next_ns"],
        last_result=row["last_result"],
    )
