"""The `holdfast` command."""

from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli import checkpoints, heads, migrations, proofs, tasks, trees, volumes
from holdfast.cli.demo import demo
from holdfast.cli.node import node

app = typer.Typer(
    help="Move stateful data, and prove every copy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command()(trees.copy)
app.command()(trees.verify)
app.command()(trees.repair)
app.command()(node)
app.add_typer(proofs.app, name="proof")
app.add_typer(tasks.app, name="tasks")
app.add_typer(heads.app, name="heads")
app.add_typer(migrations.app, name="files")
app.add_typer(volumes.app, name="volumes")
app.add_typer(checkpoints.app, name="checkpoints")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app(prog_name="holdfast")
