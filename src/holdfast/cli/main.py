"""The `holdfast` command."""

import gc
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from holdfast import __version__

_COMMANDS: Final = {
    "demo": "holdfast.cli.demo:demo",
    "copy": "holdfast.cli.trees:copy",
    "verify": "holdfast.cli.trees:verify",
    "repair": "holdfast.cli.trees:repair",
    "node": "holdfast.cli.node:node",
    "proof": "holdfast.cli.proofs:app",
    "tasks": "holdfast.cli.tasks:app",
    "heads": "holdfast.cli.heads:app",
    "files": "holdfast.cli.migrations:app",
    "volumes": "holdfast.cli.volumes:app",
    "checkpoints": "holdfast.cli.checkpoints:app",
}


class _Commands(TyperGroup):
    """Loads a command when it is used: loading all takes longer than most of them."""

    def __init__(self, **attributes: Any) -> None:
        """As TyperGroup."""
        super().__init__(**attributes)
        _spare_coercion(self)

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        """See TyperGroup."""
        return list(_COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ARG002
        """See TyperGroup."""
        # All of them, for a name that is none: what it was meant to be is looked for in them.
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return self.commands.get(cmd_name)


def _new_app() -> typer.Typer:
    return typer.Typer(
        cls=_Commands,
        help="Move stateful data, and prove every copy.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def _load(name: str) -> Any:
    module, _, attribute = _COMMANDS[name].partition(":")
    holder = _new_app()
    gc.disable()  # Nothing of what is made now is garbage.
    try:
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name)
        else:
            holder.command(name)(found)
        return get_group(holder).commands[name]
    finally:
        gc.enable()


def _spare_coercion(command: Any) -> None:
    """Take values that are right as they are: to coerce any loads pydantic, a third of a start."""
    for each in getattr(command, "commands", {}).values():
        _spare_coercion(each)
    for param in command.get_params(typer.Context(command)):
        param.process_value = partial(_process_value, param, param.process_value)


def _process_value(param: Any, coerce: Callable[[Any, Any], Any], ctx: object, value: Any) -> Any:
    kind = param.type_descriptor.annotation
    if value is None and not param.required:
        value = () if param.multiple or param.nargs == -1 else None
    elif type(value) is not kind or not issubclass(kind, (str, bool)):
        return coerce(ctx, value)
    return value if param.callback is None else param.callback(ctx, param, value)


app = _new_app()


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
