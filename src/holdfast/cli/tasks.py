"""Commands on tasks: list, show, limit, cancel."""

from typing import Annotated

import typer

from holdfast.cli import session
from holdfast.cli.arguments import parse_size
from holdfast.cli.output import format_bytes, print_json, printable
from holdfast.cli.times import format_time
from holdfast.files.results import plain_object
from holdfast.model.ids import parse_task_id
from holdfast.server.local import LocalServices
from holdfast.tasks.model import Task

app = typer.Typer(help="See and cancel tasks.", no_args_is_help=True)

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A task id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(name="list")
def list_tasks(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """List tasks, newest first."""

    def command(services: LocalServices) -> int:
        services.runner.settle()
        for task in services.journal.list_tasks(limit=limit).tasks:
            if json:
                session.print_line(plain_object(task))
            else:
                print(_line(task))
        return 0

    session.run(command, json=json)


@app.command()
def show(task: TaskName, *, json: Json = False) -> None:
    """Show one task and what happened to it."""

    def command(services: LocalServices) -> int:
        services.runner.settle()
        found = services.journal.get(parse_task_id(task))
        events = services.journal.list_events(found.id, limit=1000)
        if json:
            shown = [plain_object(event) for event in events]
            print_json({**plain_object(found), "events": shown})
            return 0
        print(_line(found))
        for event in events:
            said = " ".join(f"{name}={value}" for name, value in event.data.items())
            print(printable(f"  {format_time(event.at_ns)}  {event.name}  {said}"))
        return 0

    session.run(command, json=json)


@app.command()
def cancel(task: TaskName, *, json: Json = False) -> None:
    """Ask a running task to stop; it does within about a second."""

    def command(services: LocalServices) -> int:
        asked = services.journal.request_cancel(parse_task_id(task))
        if json:
            print_json(plain_object(asked))
        else:
            print(_line(asked))
        return 0

    session.run(command, json=json)


@app.command()
def limit(
    task: TaskName,
    rate: Annotated[
        str, typer.Argument(metavar="RATE", help="Bytes a second, such as 50M; 'none' lifts it.")
    ],
    *,
    json: Json = False,
) -> None:
    """Change how fast a running task may go; it does within about a second."""

    def command(services: LocalServices) -> int:
        wanted = 0 if rate == "none" else parse_size(rate, what="rate")
        asked = services.journal.request_rate(parse_task_id(task), wanted)
        if json:
            print_json(plain_object(asked))
        else:
            print(_line(asked))
        return 0

    session.run(command, json=json)


def _line(task: Task) -> str:
    done = format_bytes(task.progress.bytes_done) if task.progress.bytes_done else ""
    stage = f" {task.stage}" if task.state == "running" else ""
    return printable(
        f"{task.id}  {format_time(task.created_ns)}  {task.kind:<13} {task.state}{stage}  "
        f"{task.subject}  {done}".rstrip()
    )
