"""`holdfast node`: serve the directories of this host's databases, and migrate them onto it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.exits import exit_code
from holdfast.cli.output import report_error


def node(
    *,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="Settings of the node, TOML.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Read the settings, say what is wrong, and end.")
    ] = False,
) -> None:
    """Run a node until told to stop; see docs/operations/node.toml for its settings."""
    # Here: the libraries of HTTP would make every other command start slower.
    import asyncio

    from holdfast.server.node import check_node, load_node_settings, serve_node
    from holdfast.server.node_logs import configure_logs

    try:
        settings, text = load_node_settings(config)
        if check:
            check_node(settings)
            print(f"{config} is good")
            return
        configure_logs(settings.identity.log_level, process="node")
        asyncio.run(
            serve_node(settings, text, lambda where: print(f"holdfast node: {where}", flush=True))
        )
        code = 0
    except Exception as error:  # noqa: BLE001 the outermost loop
        report_error(error, json=False)
        code = int(exit_code(error))
    sys.exit(code)
