"""The commands on schedules of checkpoints; thin."""

from typing import Annotated

import typer

from holdfast.cli import checkpoint_report as report
from holdfast.cli import checkpoints_at_node as at_node
from holdfast.cli import session
from holdfast.cli.options import Json, Quiet
from holdfast.errors import InvalidRequestError
from holdfast.server.local import LocalServices


def schedule(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[PLAN]", help="Name or id.")] = None,
    *,
    cron: Annotated[
        str | None, typer.Option(metavar="LINE", help="When, as in a crontab, in UTC.")
    ] = None,
    operation: Annotated[
        str, typer.Option(help="protect, retention_protect, verify or retention_verify.")
    ] = "protect",
    depth: Annotated[
        str | None, typer.Option(help="Of a verification: presence, digest or restore.")
    ] = None,
    percent: Annotated[
        float | None, typer.Option(help="Of a verification: read so much each time.")
    ] = None,
    remove: Annotated[str | None, typer.Option(metavar="SCHEDULE", help="Remove this one.")] = None,
    json: Json = False,
) -> None:
    """Add a schedule of a plan; without --cron, list all with their last and next run."""
    told = {"depth": depth, "percent": percent}
    given = {key: value for key, value in told.items() if value is not None}
    if context.obj is not None:
        wanted = None
        if name is not None and cron is not None and remove is None:
            wanted = {"plan": name, "cron": cron, "operation": operation, **given}
        at_node.schedule(context.obj, wanted, remove, json=json)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.results import schedule_result
        from holdfast.checkpoints.scheduling import ScheduledOperation, Scheduler
        from holdfast.server.checkpoints import open_checkpoints

        facet = open_checkpoints(services)
        scheduler = Scheduler(facet)
        if remove is not None:
            scheduler.remove(remove)
        elif name is not None and cron is not None:
            if operation not in list(ScheduledOperation):
                raise InvalidRequestError(
                    f"{operation!r} is nothing that can be scheduled",
                    code="bad-operation",
                    advice=f"say {', '.join(ScheduledOperation)}",
                )
            scheduler.add(name, ScheduledOperation(operation), cron, given)
        names = {str(plan.id): plan.name for plan in facet.catalogue.plans()}
        found = scheduler.schedules()
        report.show_schedules([schedule_result(each, names) for each in found], json=json)
        return 0

    session.run(command, json=json)


def run_schedules(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on running what becomes due, until stopped.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run what is due; by a timer of the system, or for ever with --watch."""

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.results import schedule_result
        from holdfast.checkpoints.running import Manner
        from holdfast.checkpoints.scheduling import Scheduler
        from holdfast.cli.arguments import parse_jobs
        from holdfast.server.checkpoints import open_checkpoints

        facet = open_checkpoints(services)
        scheduler = Scheduler(facet)
        with session.progress(services, json=json, quiet=quiet) as listener:
            manner = Manner(jobs=parse_jobs(None, waits_for_disk=False), listener=listener)
            if watch:
                scheduler.watch(manner)
            ran = scheduler.run_due(manner)
        names = {str(plan.id): plan.name for plan in facet.catalogue.plans()}
        report.show_schedules([schedule_result(each, names) for each in ran], json=json)
        return 13 if any(each.last_result not in ("success", "partial") for each in ran) else 0

    session.run(command, json=json)
