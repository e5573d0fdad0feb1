"""The commands that keep checkpoints and banks well: hold, retain, doctor; thin."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import checkpoint_report as report
from holdfast.cli import checkpoints_at_node as at_node
from holdfast.cli import session
from holdfast.cli.checkpoints_opened import (
    DAYS_MAX,
    BankUrl,
    Id,
    PlanName,
    bank_url_of,
    manner_of,
    open_facet,
)
from holdfast.cli.options import Json, Quiet
from holdfast.cli.output import print_json, printable
from holdfast.server.local import LocalServices


def hold(
    context: typer.Context,
    checkpoint: Id,
    *,
    release: Annotated[bool, typer.Option("--release", help="Let it be deleted again.")] = False,
    days: Annotated[
        int,
        typer.Option(min=0, max=DAYS_MAX, help="Lock it for so many days; never shortened."),
    ] = 0,
    json: Json = False,
) -> None:
    """Protect a checkpoint from deletion until it is released, or for some days."""
    if context.obj is not None:
        request = {"lockDays": days} | ({} if days and not release else {"protected": not release})
        at_node.hold(context.obj, checkpoint, request, json=json)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.results import checkpoint_result

        until_ns = services.clock.now_ns() + days * 86_400 * 10**9 if days else 0
        held = open_facet(services).set_protection(
            checkpoint,
            is_protected=None if days and not release else not release,
            locked_until_ns=until_ns,
        )
        if json:
            print_json(checkpoint_result(held))
        else:
            print(printable(report.checkpoint_line(checkpoint_result(held))))
        return 0

    session.run(command, json=json)


def retain(
    context: typer.Context,
    name: PlanName,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what and why.")] = False,
    json: Json = False,
) -> None:
    """Keep what the plan's rules ask for and delete the rest, never the last that is good."""
    if context.obj is not None:
        at_node.retain(context.obj, name, dry_run=dry_run, json=json)

    def command(services: LocalServices) -> int:
        from holdfast.checkpoints.results import fate_result

        with manner_of(services, None, None, json=json, quiet=True) as manner:
            fates = open_facet(services).retain(name, manner, dry_run=dry_run)
        report.show_fates([fate_result(each) for each in fates], dry_run=dry_run, json=json)
        return 0

    session.run(command, json=json)


def doctor(
    context: typer.Context,
    bank: BankUrl,
    *,
    heal_from: Annotated[
        str | None, typer.Option(metavar="BANK", help="Store anew from there what is bad here.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Delete chunks that no checkpoint needs.")
    ] = False,
    grace: Annotated[
        float, typer.Option(metavar="HOURS", help="Younger chunks are left alone.")
    ] = 24.0,
    signer: Annotated[
        list[str] | None,
        typer.Option(metavar="FINGERPRINT", help="Another key of yours that signed manifests."),
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key of an encrypted bank.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare catalogue and bank and make the catalogue right, also from nothing."""
    if context.obj is not None:
        at_node.refuse({"--key-file": key_file})
        asked = at_node.Doctoring(
            bank=bank,
            signers=tuple(signer or ()),
            heal_from=heal_from,
            sweep_grace_s=grace * 3600 if sweep else None,
        )
        at_node.doctor(context.obj, asked, json=json, quiet=quiet)

    def command(services: LocalServices) -> int:
        from holdfast.server.checkpoints import make_bank_key, read_bank_key

        if key_file is not None:
            make_bank_key(services.state / "keys", read_bank_key(key_file))
        facet, url = open_facet(services), bank_url_of(bank)
        with manner_of(services, None, None, json=json, quiet=quiet) as manner:
            task = facet.examine(url, manner, signer or [])
            told: dict[str, Any] = dict(task.result or {})
            if heal_from is not None:
                healed = facet.heal(url, bank_url_of(heal_from), manner)
                told["heal"] = dict(healed.result or {})
            if sweep:
                told["sweep"] = facet.sweep(url, manner, grace_s=grace * 3600).result
        return report.finish_doctor(task.id, told, json=json)

    session.run(command, json=json)
