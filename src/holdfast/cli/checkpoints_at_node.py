"""The commands on checkpoints that a node does, over HTTP; thin. Each ends the process.

What a node does not take of a command's options is refused, never left out.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from holdfast.cli import checkpoint_report as report
from holdfast.cli.at_node import Telling, Where, run_at_node
from holdfast.cli.exits import Exit
from holdfast.cli.output import print_json, printable

if TYPE_CHECKING:
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
    telling = Telling(json=json, quiet=quiet)
    _start(where, telling, lambda client: client.checkpoints.protect(plan), end)


def verify(
    where: Where, checkpoint: str | None, request: Object, *, json: bool, quiet: bool
) -> NoReturn:
    """Have a checkpoint verified."""
    if checkpoint is None:
        raise typer.BadParameter("a node verifies one checkpoint at a time: name one")
    end = (report.verify_exit, report.verify_lines)
    telling = Telling(json=json, quiet=quiet)
    _start(where, telling, lambda client: client.checkpoints.verify(checkpoint, request), end)


def restore(where: Where, checkpoint: str, request: Object, *, json: bool, quiet: bool) -> NoReturn:
    """Have a checkpoint restored, on the node's host."""
    end = (report.restore_exit, report.restore_lines)
    telling = Telling(json=json, quiet=quiet)
    _start(where, telling, lambda client: client.checkpoints.restore(checkpoint, request), end)


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


def _start(
    where: Where,
    telling: Telling,
    start: "Callable[[NodeClient], Awaitable[StartedTask]]",
    end: End,
) -> NoReturn:
    async def command(client: "NodeClient") -> int:
        started = await start(client)
        ended = await _follow(client, telling, started.task_id)
        if ended["state"] != "completed":
            return _tell_failure(ended, telling)
        result = dict(ended["result"])
        exit_of, lines = end
        return report.tell_end(
            started.task_id, ended["state"], result, (exit_of(result), lines), json=telling.json
        )

    run_at_node(where, telling, command)


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
