"""The commands on checkpoints: plan, protect, list, show, verify, restore, delete, retain, doctor.

Thin: parse, call the service, tell. Exits with 3 where a verification found damage.
"""

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import checkpoint_report as report
from holdfast.cli import checkpoints_at_node as at_node
from holdfast.cli import checkpoints_upkeep, schedules, session
from holdfast.cli.arguments import parse_budget, parse_retention, parse_verdict
from holdfast.cli.at_node import Where
from holdfast.cli.checkpoints_opened import (
    DAYS_MAX,
    Id,
    PlanName,
    bank_url_of,
    manner_of,
    open_facet,
)
from holdfast.cli.exits import Exit
from holdfast.cli.options import Jobs, Json, Quiet, Rate, TokenFile
from holdfast.cli.output import print_json, printable
from holdfast.errors import InvalidRequestError
from holdfast.server.local import LocalServices

if TYPE_CHECKING:
    from holdfast.checkpoints.model import Plan, Resource, Retention

app = typer.Typer(
    help="Protect resources into banks, and prove, restore and keep what was protected.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

ResourceKey = Annotated[
    str | None, typer.Option("--resource", metavar="TYPE#ID", help="Only this one.")
]
DIRECTORY_TYPE = "Holdfast::Directory"
_NOT_AT_NODES = ("run-schedules",)


@app.callback()
def _at_node(
    context: typer.Context,
    *,
    node: Annotated[
        str, typer.Option("--node", metavar="URL", help="Have it done by this node, on its host.")
    ] = "",
    token_file: TokenFile = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="Authority to trust, PEM.")
    ] = None,
) -> None:
    if not node:
        return
    if context.invoked_subcommand in _NOT_AT_NODES:
        raise typer.BadParameter("a node runs its schedules by itself")
    context.obj = Where(
        node=node, host="", token_file=token_file, ca=ca, certificate=None, key=None
    )


@app.command()
def plan(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the plan.")] = None,
    *,
    bank: Annotated[
        str | None,
        typer.Option(
            help="Directory, s3+https://HOST/BUCKET/PREFIX or swift:CONTAINER/PREFIX; made new."
        ),
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE#ID", help="A path is a directory; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="As in .gitignore, of every directory."),
    ] = None,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="With a key made now.")] = False,
    key_file: Annotated[
        Path | None, typer.Option(help="Encrypt with this key: 64 hexadecimal digits.")
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            metavar="RULES", help="Such as last=3,daily=7,weekly=4,max_backups=20,days=90."
        ),
    ] = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it; it must have no checkpoints.")
    ] = False,
    json: Json = False,
) -> None:
    """Make or change a plan, or remove it; without a name, list all."""
    rules = parse_retention(keep)
    if remove and (name is None or bank or resource):
        raise typer.BadParameter("name one plan and nothing else", param_hint="--remove")
    if context.obj is not None:
        if name is not None and remove:
            at_node.remove_plan(context.obj, name, json=json)
        at_node.refuse({"--encrypt": encrypt or None, "--key-file": key_file})
        wanted = [_resource(text, exclude or [], here=False) for text in resource or []]
        if name is not None and bank is not None and wanted:
            at_node.make_plan(context.obj, name, bank, wanted, rules, json=json)
        at_node.show_plans(context.obj, name, json=json)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.results import plan_result

        facet = open_facet(services)
        if name is not None and remove:
            facet.catalogue.remove_plan(facet.catalogue.plan(name))
        if name is None or remove:
            report.show_plans(map(plan_result, facet.catalogue.plans()), json=json)
            return 0
        if bank is None or not resource:
            report.show_plans([plan_result(facet.catalogue.plan(name))], json=json)
            return 0
        wanted = [_resource(text, exclude or []) for text in resource]
        made, key = _make_plan(services, name, bank, (wanted, rules), (encrypt, key_file))
        report.show_plans([plan_result(made)], json=json)
        if key and not json:
            print(f"key       {key}: keep a copy elsewhere; without")
            print("          it nothing in this bank can ever be read")
        return 0

    session.run(command, json=json)


def _make_plan(
    services: LocalServices,
    name: str,
    bank: str,
    what: "tuple[list[Resource], Retention]",
    key: tuple[bool, Path | None],
) -> "tuple[Plan, Path | None]":
    """Make or change a plan; return it and the file of its bank's key, if it has one."""
    from holdfast.server.checkpoints import make_bank_directory, make_bank_key, read_bank_key

    (resources, rules), (encrypt, key_file) = what, key
    secret = read_bank_key(key_file) if key_file else None
    keys = services.state / "keys"
    key_id = make_bank_key(keys, secret) if encrypt or secret else ""
    url = bank_url_of(bank)
    make_bank_directory(url)
    facet = open_facet(services)
    made = facet.make_plan(name, url, resources, retention=rules, key_id=key_id)
    return made, keys / "banks" / f"{made.key_id}.key" if made.key_id else None


@app.command()
def protect(
    context: typer.Context,
    name: PlanName,
    *,
    bwlimit: Rate = None,
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Protect a plan's resources into a new checkpoint; interrupted, the same command goes on."""
    if context.obj is not None:
        others = {"--bwlimit": bwlimit, "--jobs": jobs}
        at_node.protect(context.obj, name, others, json=json, quiet=quiet)

    def command(services: LocalServices) -> int:
        facet = open_facet(services)
        with manner_of(services, bwlimit, jobs, json=json, quiet=quiet) as manner:
            task = facet.protect(name, manner)
        code = report.protect_exit(task.result or {})
        return report.finish(task, code, report.protect_lines, json=json)

    session.run(command, json=json)


@app.command("list")
def list_checkpoints(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[PLAN]", help="Only of this plan.")] = None,
    *,
    verdict: Annotated[
        str | None, typer.Option(help="Only those: success, fail or partial.")
    ] = None,
    stale_days: Annotated[
        int | None,
        typer.Option(min=0, max=DAYS_MAX, help="Only those not verified for so many days."),
    ] = None,
    json: Json = False,
) -> None:
    """List checkpoints, newest first, each with when and how deeply it was last proven."""
    if context.obj is not None:
        at_node.refuse({"--stale-days": stale_days})
        at_node.list_checkpoints(context.obj, name, verdict, json=json)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.results import checkpoint_result

        stale_ns = None
        if stale_days is not None:
            stale_ns = services.clock.now_ns() - stale_days * 86_400 * 10**9
        found = open_facet(services).list(
            plan_name=name,
            verdict=parse_verdict(verdict),
            verified_before_ns=stale_ns,
        )
        for each in found:
            if json:
                session.print_line(checkpoint_result(each))
            else:
                print(printable(report.checkpoint_line(checkpoint_result(each))))
        return 0

    session.run(command, json=json)


@app.command()
def show(context: typer.Context, checkpoint: Id, *, json: Json = False) -> None:
    """Show a checkpoint, its resources, and what was left out."""
    if context.obj is not None:
        at_node.show(context.obj, checkpoint, json=json)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.manifest import encode_body
        from holdfast.checkpoints.results import checkpoint_result

        found, body = open_facet(services).show(checkpoint)
        told: dict[str, Any] = checkpoint_result(found)
        if body is not None:
            told["body"] = json_text.loads(encode_body(body))
        if json:
            print_json(told)
            return 0
        for line in report.checkpoint_lines(told):
            print(printable(line))
        return 0

    session.run(command, json=json)


@app.command()
def verify(
    context: typer.Context,
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CHECKPOINT]", help="Id, or its beginning.")
    ] = None,
    *,
    plan_name: Annotated[
        str | None, typer.Option("--plan", help="All checkpoints of this plan.")
    ] = None,
    depth: Annotated[str, typer.Option(help="presence, digest or restore.")] = "digest",
    resource: ResourceKey = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE|N%|Ns", help="Read so much, the longest unread first."),
    ] = None,
    slice_of: Annotated[
        str | None, typer.Option("--slice", metavar="N/T", help="The N-th of T parts.")
    ] = None,
    skip_younger_days: Annotated[
        float | None, typer.Option(help="Leave out what was found good so recently.")
    ] = None,
    bwlimit: Rate = None,
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove one checkpoint, those of a plan, or all of a bank; exits with 3 if any is bad."""
    if context.obj is not None:
        at_node.refuse({"--plan": plan_name, "--budget": budget, "--slice": slice_of})
        at_node.refuse({"--skip-younger-days": skip_younger_days, "--bwlimit": bwlimit})
        at_node.refuse({"--jobs": jobs})
        request = {"depth": depth, "resource": resource}
        at_node.verify(context.obj, checkpoint, request, json=json, quiet=quiet)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.model import CheckpointState, Depth

        facet = open_facet(services)
        if checkpoint is not None:
            scope = [facet.get(checkpoint)]
        else:
            found = facet.list(plan_name=plan_name)
            scope = [each for each in found if each.state is CheckpointState.AVAILABLE]
        if depth not in list(Depth):
            raise InvalidRequestError(
                f"{depth!r} is no depth", code="bad-depth", advice="say presence, digest or restore"
            )
        with manner_of(services, bwlimit, jobs, json=json, quiet=quiet) as manner:
            task = facet.verify(
                scope,
                manner,
                depth=Depth(depth),
                resource=resource,
                budget=parse_budget(budget, slice_of, skip_younger_days),
            )
        code = report.verify_exit(task.result or {})
        return report.finish(task, code, report.verify_lines, json=json)

    session.run(command, json=json)


@app.command()
def restore(
    context: typer.Context,
    checkpoint: Id,
    *,
    target: Annotated[
        str | None, typer.Option(help="Where to, of one directory; else where it was.")
    ] = None,
    resource: ResourceKey = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what differs at the target.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not read the target back; no proof.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what the last verification found bad.")
    ] = False,
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore a checkpoint, every byte checked against its manifest, and leave a proof."""

    given: dict[str, Any] = {"overwrite": overwrite}
    if no_verify:
        given["verify"] = "none"
    if target is not None:
        given["target"] = target
    if context.obj is not None:
        at_node.refuse({"--jobs": jobs})
        request = {"parameters": {DIRECTORY_TYPE: given}, "resource": resource, "force": force}
        at_node.restore(context.obj, checkpoint, request, json=json, quiet=quiet)

    def command(services: LocalServices) -> int:
        facet = open_facet(services)
        with manner_of(services, None, jobs, json=json, quiet=quiet) as manner:
            task = facet.restore(
                checkpoint,
                manner,
                parameters={DIRECTORY_TYPE: given},
                resource=resource,
                force=force,
            )
        code = report.restore_exit(task.result or {})
        return report.finish(task, code, report.restore_lines, json=json)

    session.run(command, json=json)


@app.command()
def delete(context: typer.Context, checkpoint: Id, *, json: Json = False) -> None:
    """Delete a checkpoint; what only it needed is taken by the next sweep."""
    if context.obj is not None:
        at_node.delete(context.obj, checkpoint, json=json)

    def command(services: LocalServices) -> int:
        with manner_of(services, None, None, json=json, quiet=True) as manner:
            task = open_facet(services).delete(checkpoint, manner)
        return report.finish(task, Exit.DONE, report.delete_lines, json=json)

    session.run(command, json=json)


def _resource(text: str, exclude: list[str], *, here: bool = True) -> "Resource":
    from holdfast.checkpoints.model import Resource

    kind, mark, name = text.partition("#")
    if not mark or "::" not in kind:
        kind, name = DIRECTORY_TYPE, str(Path(text).absolute()) if here else text
    parameters = {"exclude": exclude} if exclude and kind == DIRECTORY_TYPE else {}
    return Resource(type=kind, id=name, parameters=parameters)


app.command()(checkpoints_upkeep.hold)
app.command()(checkpoints_upkeep.retain)
app.command()(checkpoints_upkeep.doctor)
app.command()(schedules.schedule)
app.command("run-schedules")(schedules.run_schedules)
