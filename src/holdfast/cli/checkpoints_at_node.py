"""The commands on checkpoints that a node does, over HTTP; thin. Each ends the process.

What a node does not take of a command's options is refused, never left out.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from holdfast.cli import checkpoint_report as report
from holdfast.cli.at_node import Telling, Where, run_at_node
from holdfast.cli.exits import Exit
from holdfast.cli.output import print_json, printable
from holdfast.server.local import make_idempotency_key

if TYPE_CHECKING:
    from holdfast.checkpoints.model import Resource, Retention
    from holdfast.client.node import NodeClient, StartedTask

Object = dict[str, Any]
End = tuple[Callable[[Mapping[str, Any]], Exit], Callable[[Object], list[str]]]

PAGE: Final = 1000


def protect(
    where: Where, plan: str, others: Mapping[str, object], *, json: bool, quiet: bool
) -> NoReturn:
    """Have a plan protected."""
    refuse(others)
    end = (report.protect_exit, report.protect_lines)
    key = make_idempotency_key()
    telling = Telling(json=json, quiet=quiet)
    _start(where, telling, lambda client: client.plans.protect(plan, key), end)


def verify(
    where: Where, checkpoint: str | None, request: Object, *, json: bool, quiet: bool
) -> NoReturn:
    """Have a checkpoint verified."""
    if checkpoint is None:
        raise typer.BadParameter("a node verifies one checkpoint at a time: name one")
    end = (report.verify_exit, report.verify_lines)
    key = make_idempotency_key()
    telling = Telling(json=json, quiet=quiet)
    _start(where, telling, lambda client: client.checkpoints.verify(checkpoint, request, key), end)


def restore(where: Where, checkpoint: str, request: Object, *, json: bool, quiet: bool) -> NoReturn:
    """Have a checkpoint restored, on the node's host."""
    end = (report.restore_exit, report.restore_lines)
    key = make_idempotency_key()
    telling = Telling(json=json, quiet=quiet)
    _start(where, telling, lambda client: client.checkpoints.restore(checkpoint, request, key), end)


def list_checkpoints(
    where: Where, plan: str | None, verdict: str | None, *, json: bool
) -> NoReturn:
    """List checkpoints of a node."""

    async def command(client: "NodeClient") -> int:
        cursor = ""
        while True:
            page = await client.checkpoints.page(
                plan=plan or "", verdict=verdict or "", cursor=cursor, limit=PAGE
            )
            for each in page.items:
                if json:
                    print_json(each)
                else:
                    print(printable(report.checkpoint_line(each)))
            cursor = page.cursor_next or ""
            if not cursor:
                return 0

    run_at_node(where, Telling(json=json), command)


def show(where: Where, checkpoint: str, *, json: bool) -> NoReturn:
    """Show one."""

    async def command(client: "NodeClient") -> int:
        told = await client.checkpoints.show(checkpoint)
        if json:
            print_json(told)
            return 0
        for line in report.checkpoint_lines(told):
            print(printable(line))
        return 0

    run_at_node(where, Telling(json=json), command)


def delete(where: Where, checkpoint: str, *, json: bool) -> NoReturn:
    """Have a checkpoint deleted."""
    key = make_idempotency_key()
    end = (_is_done, report.delete_lines)
    telling = Telling(json=json, quiet=True)
    _start(where, telling, lambda client: client.checkpoints.delete(checkpoint, key), end)


def hold(where: Where, checkpoint: str, request: Object, *, json: bool) -> NoReturn:
    """Hold, lock or release a checkpoint."""

    async def command(client: "NodeClient") -> int:
        told = await client.checkpoints.hold(checkpoint, request)
        if json:
            print_json(told)
        else:
            print(printable(report.checkpoint_line(told)))
        return 0

    run_at_node(where, Telling(json=json), command)


def show_plans(where: Where, name: str | None, *, json: bool) -> NoReturn:
    """List all plans, or show one."""

    async def command(client: "NodeClient") -> int:
        plans = client.plans
        report.show_plans(
            await plans.all() if name is None else [await plans.show(name)], json=json
        )
        return 0

    run_at_node(where, Telling(json=json), command)


def remove_plan(where: Where, name: str, *, json: bool) -> NoReturn:
    """Have a plan removed, and list those that are left."""

    async def command(client: "NodeClient") -> int:
        await client.plans.remove(name)
        report.show_plans(await client.plans.all(), json=json)
        return 0

    run_at_node(where, Telling(json=json), command)


def make_plan(
    where: Where,
    name: str,
    bank: str,
    resources: "Sequence[Resource]",
    rules: "Retention",
    *,
    json: bool,
) -> NoReturn:
    """Have a plan made or changed; its paths are of the node's host."""
    request: Object = {
        "name": name,
        "bank": bank,
        "resources": [
            {"type": each.type, "id": each.id, "parameters": dict(each.parameters)}
            for each in resources
        ],
        "retention": asdict(rules),
    }

    async def command(client: "NodeClient") -> int:
        report.show_plans([await client.plans.make(request)], json=json)
        return 0

    run_at_node(where, Telling(json=json), command)


def retain(where: Where, plan: str, *, dry_run: bool, json: bool) -> NoReturn:
    """Have a plan's rules kept, or say what they would do."""
    telling, key = Telling(json=json, quiet=True), make_idempotency_key()

    async def command(client: "NodeClient") -> int:
        if dry_run:
            fates: Any = await client.plans.fates(plan)
        else:
            _, ended = await _run(client, telling, client.plans.retain(plan, key))
            if ended["state"] != "completed":
                return _tell_failure(ended, telling)
            fates = ended["result"]["fates"]
        report.show_fates(fates, dry_run=dry_run, json=json)
        return 0

    run_at_node(where, telling, command)


def schedule(where: Where, wanted: Object | None, remove: str | None, *, json: bool) -> NoReturn:
    """Add or remove a schedule, and list all."""

    async def command(client: "NodeClient") -> int:
        if remove is not None:
            await client.plans.remove_schedule(remove)
        elif wanted is not None:
            await client.plans.add_schedule(wanted)
        report.show_schedules(await client.plans.schedules(), json=json)
        return 0

    run_at_node(where, Telling(json=json), command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctoring:
    """What is to be done with a bank; as the node's host names banks."""

    bank: str
    signers: tuple[str, ...]
    heal_from: str | None
    sweep_grace_s: float | None
    """None: no sweep."""


def doctor(where: Where, asked: Doctoring, *, json: bool, quiet: bool) -> NoReturn:
    """Have a bank examined; then healed and swept, as asked."""
    telling = Telling(json=json, quiet=quiet)
    works: list[tuple[str, Object]] = [("examine", {"signers": list(asked.signers)})]
    if asked.heal_from is not None:
        works.append(("heal", {"from": asked.heal_from}))
    if asked.sweep_grace_s is not None:
        works.append(("sweep", {"graceSeconds": asked.sweep_grace_s}))

    async def command(client: "NodeClient") -> int:
        told: Object = {}
        task_id = ""
        for work, more in works:
            request, key = {"bank": asked.bank, **more}, make_idempotency_key()
            start = client.plans.start_upkeep(work, request, key)
            started, ended = await _run(client, telling, start)
            if ended["state"] != "completed":
                return _tell_failure(ended, telling)
            task_id = task_id or started.task_id
            told |= ended["result"] if work == "examine" else {work: ended["result"]}
        return report.finish_doctor(task_id, told, json=json)

    run_at_node(where, telling, command)


def _is_done(_result: Mapping[str, Any]) -> Exit:
    return Exit.DONE


def _start(
    where: Where,
    telling: Telling,
    start: "Callable[[NodeClient], Awaitable[StartedTask]]",
    end: End,
) -> NoReturn:
    async def command(client: "NodeClient") -> int:
        started, ended = await _run(client, telling, start(client))
        if ended["state"] != "completed":
            return _tell_failure(ended, telling)
        result = dict(ended["result"])
        exit_of, lines = end
        return report.tell_end(
            started.task_id, ended["state"], result, (exit_of(result), lines), json=telling.json
        )

    run_at_node(where, telling, command)


async def _run(
    client: "NodeClient", telling: Telling, start: "Awaitable[StartedTask]"
) -> "tuple[StartedTask, Object]":
    started = await start
    return started, await _follow(client, telling, started.task_id)


async def _follow(client: "NodeClient", telling: Telling, task_id: str) -> Object:
    from holdfast.cli.migration_report import show_progress
    from holdfast.cli.output import ProgressDisplay
    from holdfast.server.local import system_clock

    with ProgressDisplay(system_clock(), quiet=telling.json or telling.quiet) as display:
        async for event in client.tasks.follow(task_id):
            if event.name == "progress" and not telling.json:
                show_progress(display, event.data)
            if event.name == "ended":
                return dict(event.data)
    raise AssertionError("a stream of events ends with the task")


def _tell_failure(ended: Object, telling: Telling) -> int:
    from holdfast.cli.migration_report import ended_lines, exit_of_task

    code = exit_of_task(ended)
    if telling.json:
        print_json({**ended, "exit": int(code)})
    else:
        for line in ended_lines(ended):
            print(printable(line))
    return int(code)


def refuse(others: Mapping[str, object]) -> None:
    """End the command if an option that nodes do not take was given."""
    for name, value in others.items():
        if value is not None:
            raise typer.BadParameter(f"a node does not take {name}; run the command on its host")
