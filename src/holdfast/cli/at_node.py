"""What commands that ask a node share: which node, with what right, and how it ends."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from holdfast.cli.exits import exit_code
from holdfast.cli.output import report_error
from holdfast.cli.tokens import read_token

if TYPE_CHECKING:
    from holdfast.client.node import NodeClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The node the commands are about, and the right to use it."""

    node: str
    host: str
    token_file: Path | None
    ca: Path | None
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How a command tells what happens."""

    json: bool
    quiet: bool = False


Command = Callable[["NodeClient"], Awaitable[int]]


def run_at_node(where: Where, telling: Telling, command: Command) -> NoReturn:
    """Run a command on the node and exit with its code; errors are told once, here."""
    # Here, as in all of these modules: commands that do not wait start faster without it.
    import asyncio

    async def connected() -> int:
        async with _client(where) as client:
            return await command(client)

    try:
        code = asyncio.run(connected())
    except BrokenPipeError:
        sys.stderr.close()
        code = 141
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 the outermost loop
        if isinstance(error, KeyboardInterrupt) and not telling.json:
            print("holdfast: not waiting any more; the task goes on at the node", file=sys.stderr)
        else:
            report_error(error, json=telling.json)
        code = int(exit_code(error))
    raise SystemExit(code)


@asynccontextmanager
async def _client(where: Where) -> AsyncIterator["NodeClient"]:
    from holdfast.client.node import NodeClient
    from holdfast.client.node_connection import NodeEndpoint

    endpoint = NodeEndpoint(
        url=where.node,
        host=where.host,
        token=read_token(where.token_file),
        ca_file=where.ca,
        certificate=where.certificate,
        key=where.key,
    )
    async with NodeClient(endpoint) as client:
        yield client
