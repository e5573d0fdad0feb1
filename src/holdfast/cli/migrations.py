"""Commands on live migrations, over HTTP to the node they are to happen on, or wait there.

Thin: parse, ask the node, tell. The library of HTTP is imported by the commands as they run.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import migration_report as report
from holdfast.cli.arguments import parse_size
from holdfast.cli.at_node import Command, Telling, Where, run_at_node
from holdfast.cli.exits import Exit
from holdfast.cli.output import ProgressDisplay, print_json
from holdfast.cli.tokens import TOKEN_VARIABLE
from holdfast.proof.statement import VerificationMode
from holdfast.server.local import make_idempotency_key, system_clock

if TYPE_CHECKING:
    from holdfast.client.node import NodeClient

app = typer.Typer(help="Migrate the directories of a database, live.", no_args_is_help=True)

DEFAULT_NODE = "http://127.0.0.1:9043"

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Print the task's id and do not wait for its end.")
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", "-j", min=1, help="Workers of the task.")
]
Rate = Annotated[
    str | None, typer.Option("--bwlimit", metavar="RATE", help="Bytes a second, such as 50M.")
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A task id.")]


@app.callback()
def _node(
    context: typer.Context,
    *,
    node: Annotated[
        str,
        typer.Option("--node", metavar="URL", envvar="HOLDFAST_NODE", help="The node to ask."),
    ] = DEFAULT_NODE,
    host: Annotated[
        str, typer.Option("--host", help="Name of the instance's host. [default: that of --node]")
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help=f"File with the token. [default: {TOKEN_VARIABLE}]"),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="Authority to trust, PEM.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Our own, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its key.")] = None,
) -> None:
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--certificate and --key go together")
    context.obj = Where(
        node=node, host=host, token_file=token_file, ca=ca, certificate=certificate, key=key
    )


@app.command()
def migrate(
    context: typer.Context,
    *,
    passes: Annotated[
        int, typer.Option("--passes", min=1, help="At most so many passes that copy.")
    ] = 5,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", min=0, max=1, help="Share of the bytes that is enough; 1: everything."
        ),
    ] = 1.0,
    concurrency: Concurrency = 2,
    bwlimit: Rate = None,
    verify: Annotated[
        VerificationMode, typer.Option("--verify", help="Verify right after success.")
    ] = VerificationMode.NONE,
    digest: Annotated[str, typer.Option("--digest", help="BLAKE3, SHA256, XXH3_128.")] = "BLAKE3",
    max_delete: Annotated[
        int | None,
        typer.Option("--max-delete", min=0, help="Refuse to delete more entries in a pass."),
    ] = None,
    detach: Detach = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy an instance onto the node, in passes, while its source may still run."""
    telling = Telling(json=json, quiet=quiet)

    async def command(client: "NodeClient") -> int:
        request = {
            "maxIterations": passes,
            "successThreshold": threshold,
            "maxConcurrency": concurrency,
            "verify": verify.value,
            "digestAlgorithm": digest,
            "maxDelete": max_delete,
            "rateBytesPerSecond": _rate(bwlimit),
        }
        started = await client.copies.start(_given(request), make_idempotency_key())
        return await _finish(client, telling, started.task_id, detach=detach)

    _run(context, telling, command)


@app.command()
def verify(
    context: typer.Context,
    *,
    digest: Annotated[
        str, typer.Option("--digest", help="MD5, XXHash32, XXH3_128, SHA256, BLAKE3.")
    ] = "BLAKE3",
    mode: Annotated[
        VerificationMode, typer.Option("--mode", help="incremental trusts what did not change.")
    ] = VerificationMode.FULL,
    sample_percent: Annotated[
        float | None, typer.Option("--sample-percent", min=0, max=100, help="With --mode sample.")
    ] = None,
    all_digests: Annotated[
        bool,
        typer.Option("--all-digests", help="Compare digests even where metadata differs."),
    ] = False,
    concurrency: Concurrency = 2,
    bwlimit: Rate = None,
    detach: Detach = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read an instance again on both hosts and compare. Exits with 3 if anything differs."""
    telling = Telling(json=json, quiet=quiet)

    async def command(client: "NodeClient") -> int:
        request = {
            "maxConcurrency": concurrency,
            "digestAlgorithm": digest,
            "mode": mode.value,
            "samplePercent": sample_percent,
            "continueOnMetadataMismatch": all_digests,
            "rateBytesPerSecond": _rate(bwlimit),
        }
        started = await client.verifications.start(_given(request), make_idempotency_key())
        return await _finish(client, telling, started.task_id, detach=detach)

    _run(context, telling, command)


@app.command()
def repair(
    context: typer.Context,
    verification: Annotated[str, typer.Argument(metavar="VERIFICATION", help="Its task id.")],
    *,
    concurrency: Concurrency = 2,
    bwlimit: Rate = None,
    detach: Detach = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch again what a verification found wrong, and verify just that."""
    telling = Telling(json=json, quiet=quiet)

    async def command(client: "NodeClient") -> int:
        request = {"maxConcurrency": concurrency, "rateBytesPerSecond": _rate(bwlimit)}
        started = await client.repair(verification, _given(request), make_idempotency_key())
        return await _finish(client, telling, started.task_id, detach=detach)

    _run(context, telling, command)


@app.command()
def status(
    context: typer.Context,
    *,
    json: Json = False,
) -> None:
    """Say what the node serves, whether its migration is complete, and what its tasks did."""
    telling = Telling(json=json)

    async def command(client: "NodeClient") -> int:
        told, latch = await client.node(), await client.status()
        tasks = (await client.tasks.page(limit=10)).items
        if json:
            print_json({"node": told, "status": latch, "tasks": list(tasks)})
            return 0
        for line in report.status_lines(told, latch, tasks):
            print(line)
        return 0

    _run(context, telling, command)


@app.command()
def complete(
    context: typer.Context,
    *,
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Forget the mark, once the host has left the map."),
    ] = False,
    json: Json = False,
) -> None:
    """Mark the migration complete at a node: nothing is copied there any more. Do it on both."""
    telling = Telling(json=json)

    async def command(client: "NodeClient") -> int:
        if clear:
            told = await client.clear_status()
        else:
            told = await client.mark_complete(make_idempotency_key())
        if json:
            print_json(told)
        else:
            print("cleared" if clear else report.latch_line(told))
        return 0

    _run(context, telling, command)


@app.command()
def results(
    context: typer.Context,
    task: TaskName,
    *,
    outcome: Annotated[str, typer.Option("--outcome", help="Only entries of this outcome.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    json: Json = False,
) -> None:
    """List what became of each entry of a copy, or what a verification found of it."""
    telling = Telling(json=json)

    async def command(client: "NodeClient") -> int:
        kind = (await client.tasks.show(task)).get("kind")
        source = client.copies if kind == "files.migrate" else client.verifications
        left, cursor = limit, ""
        while left:
            page = await source.results(task, outcome=outcome, cursor=cursor, limit=min(left, 1000))
            for entry in page.items:
                if json:
                    print_json(entry)
                else:
                    print(report.entry_line(entry))
            left -= len(page.items)
            cursor = page.cursor_next or ""
            if not cursor:
                break
        return 0

    _run(context, telling, command)


@app.command()
def watch(
    context: typer.Context,
    task: TaskName,
    *,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Follow a task until it ends, and tell its end; --json prints each event."""
    telling = Telling(json=json, quiet=quiet)

    async def command(client: "NodeClient") -> int:
        return await _follow(client, telling, task, events=json)

    _run(context, telling, command)


@app.command()
def limit(
    context: typer.Context,
    task: TaskName,
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Such as 50M; 'none' lifts it.")],
    *,
    json: Json = False,
) -> None:
    """Change how fast a running task may go."""
    telling = Telling(json=json)
    _change(context, telling, lambda client: client.tasks.limit_rate(task, _rate_or_none(rate)))


@app.command()
def cancel(
    context: typer.Context,
    task: TaskName,
    *,
    json: Json = False,
) -> None:
    """Ask a task to stop; what it copied stays."""
    telling = Telling(json=json)
    _change(context, telling, lambda client: client.tasks.cancel(task))


def _run(context: typer.Context, telling: Telling, command: Command) -> None:
    run_at_node(context.obj, telling, command)


def _change(
    context: typer.Context,
    telling: Telling,
    change: "Callable[[NodeClient], Awaitable[dict[str, object]]]",
) -> None:
    async def command(client: "NodeClient") -> int:
        task = await change(client)
        if telling.json:
            print_json(task)
        else:
            print(report.task_line(task))
        return 0

    _run(context, telling, command)


async def _finish(client: "NodeClient", telling: Telling, task_id: str, *, detach: bool) -> int:
    if detach:
        if telling.json:
            print_json({"taskId": task_id})
        else:
            print(task_id)
        return 0
    return await _follow(client, telling, task_id, events=False)


async def _follow(client: "NodeClient", telling: Telling, task_id: str, *, events: bool) -> int:
    """Show a task on its way, then its end; return the exit code of that."""
    told = report.PassLines()
    with ProgressDisplay(system_clock(), quiet=telling.json or telling.quiet) as display:
        async for event in client.tasks.follow(task_id):
            if events:
                print_json({"event": event.name, "sequence": event.sequence, "data": event.data})
            if event.name in ("progress", "ended") and not telling.json:
                for line in told.new_lines(event.data):
                    display.clear()
                    print(line, flush=True)
            if event.name == "progress" and not telling.json:
                report.show_progress(display, event.data)
            if event.name == "ended":
                ended: Mapping[str, object] = event.data
                break
        else:
            return Exit.UNAVAILABLE
    code = report.exit_of_task(ended)
    if telling.json:
        if not events:
            print_json({**ended, "exit": int(code)})
        return int(code)
    for line in report.ended_lines(ended):
        print(line)
    return int(code)


def _given(request: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in request.items() if value is not None}


def _rate(text: str | None) -> int | None:
    return None if text is None else parse_size(text, what="rate")


def _rate_or_none(text: str) -> int:
    return 0 if text == "none" else parse_size(text, what="rate")
