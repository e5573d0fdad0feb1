"""Commands on heads: serve them; get, put, delete, history, status, of a service or a file.

The HTTP libraries are imported by the commands that use them: all others start without.
"""

import json as json_text
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.exits import exit_code
from holdfast.cli.output import print_json, printable, report_error
from holdfast.errors import ConflictError, NotFoundError, OutcomeUnknownError
from holdfast.model.head import Advanced, HeadState, Refused, Revision, Unknown
from holdfast.model.limits import HEAD_HISTORY_MAX, HEAD_VALUE_BYTES_MAX
from holdfast.ports import Register

if TYPE_CHECKING:
    from holdfast.client.heads import HeadName, HeadsClient

app = typer.Typer(help="Serve and use strictly consistent heads.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="HEAD", help="URL of the object; with --register, the key.")
]
Server = Annotated[str, typer.Option("--server", metavar="URL", help="Where the service is.")]
CaFile = Annotated[str, typer.Option("--ca", metavar="FILE", help="Authority to trust, PEM.")]
RegisterFile = Annotated[
    Path | None,
    typer.Option("--register", metavar="FILE", help="Use this register file, not a service."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds.")]
IfRevision = Annotated[
    int | None, typer.Option("--if-revision", min=0, help="Only from this revision.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """The service or the register file that a command is about."""

    register: Path | None
    server: str
    ca: str
    timeout_s: float


DEFAULT_SERVER = "http://127.0.0.1:33123"


@app.command()
def serve(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ICKPT.OPTION=VALUE]...", help="Laid over the file."),
    ] = None,
    *,
    conf: Annotated[Path, typer.Option("--conf", metavar="FILE", help="ickpt's format, or .toml.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every request.")] = False,
) -> None:
    """Serve heads over ickpt's HTTP API until told to stop."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("holdfast").setLevel(logging.INFO if verbose else logging.WARNING)

    async def command() -> int:
        from holdfast.server.heads import load_settings, serve_heads

        settings = load_settings(conf, overrides or [])
        await serve_heads(settings, lambda urls: print(f"holdfast heads: {urls}", flush=True))
        return 0

    _run(command, json=False)


@app.command()
def get(
    head: Name,
    *,
    server: Server = DEFAULT_SERVER,
    register: RegisterFile = None,
    ca: CaFile = "",
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Print a head's value, as it is."""
    where = _Where(register=register, server=server, ca=ca, timeout_s=timeout)

    async def at_register(opened: Register) -> int:
        state = await opened.read(head)
        if state.value is None:
            raise NotFoundError(f"there is no head {head!r}", code="no-head")
        _print_value(state.value, state.revision, False, json=json)
        return 0

    async def at_service(client: "HeadsClient") -> int:
        found = await client.get(_name(head))
        _print_value(found.value, found.revision, found.is_from_store, json=json)
        return 0

    _run(lambda: _at(where, at_register, at_service), json=json)


@app.command()
def put(
    head: Name,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="Up to 4 KiB; - reads it from stdin.")
    ],
    *,
    if_revision: IfRevision = None,
    server: Server = DEFAULT_SERVER,
    register: RegisterFile = None,
    ca: CaFile = "",
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Set a head; when this returns, every read sees it, whatever happens."""
    where = _Where(register=register, server=server, ca=ca, timeout_s=timeout)
    content = _read_value(value)
    _run(
        lambda: _change(where, head, content, if_revision, json=json),
        json=json,
    )


@app.command()
def delete(
    head: Name,
    *,
    if_revision: IfRevision = None,
    server: Server = DEFAULT_SERVER,
    register: RegisterFile = None,
    ca: CaFile = "",
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Delete a head; a tombstone stays, so that no older copy comes back."""
    where = _Where(register=register, server=server, ca=ca, timeout_s=timeout)
    _run(
        lambda: _change(where, head, None, if_revision, json=json),
        json=json,
    )


@app.command()
def history(
    head: Name,
    *,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=HEAD_HISTORY_MAX, help="How many.")
    ] = 20,
    server: Server = DEFAULT_SERVER,
    register: RegisterFile = None,
    ca: CaFile = "",
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """List a head's past states, newest first, as far as they are kept."""
    where = _Where(register=register, server=server, ca=ca, timeout_s=timeout)

    async def at_register(opened: Register) -> int:
        _print_states(await opened.history(head, limit), json=json)
        return 0

    async def at_service(client: "HeadsClient") -> int:
        _print_states(await client.history(_name(head), limit), json=json)
        return 0

    _run(lambda: _at(where, at_register, at_service), json=json)


@app.command()
def status(
    head: Name,
    transaction: Annotated[str, typer.Argument(metavar="TRANSACTION", help="Its path.")],
    *,
    server: Server = DEFAULT_SERVER,
    ca: CaFile = "",
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Say what became of a transaction: done, refused, pending or unknown."""
    where = _Where(register=None, server=server, ca=ca, timeout_s=timeout)

    async def at_service(client: "HeadsClient") -> int:
        told = await client.fate(_name(head), transaction)
        if json:
            print_json({"status": told.status, "revision": told.revision, "reason": told.reason})
        else:
            said = [told.status, f"revision {told.revision}" if told.revision else "", told.reason]
            print(printable("  ".join(part for part in said if part)))
        return 0

    _run(lambda: _at(where, _no_register, at_service), json=json)


@app.command()
def probe(
    url: Annotated[str, typer.Argument(metavar="URL", help="SCHEME://HOST/BUCKET/PREFIX of S3.")],
    *,
    json: Json = False,
) -> None:
    """Race conditional writes at a store; exit with 18 if it is no home for heads."""

    async def command() -> int:
        from holdfast.heads.probing import refuse_unfit
        from holdfast.server.heads import keys_from_environment, probe_store

        report = await probe_store(url, keys_from_environment())
        refuse_unfit(report)
        if json:
            print_json({"fit": True, "rounds": report.rounds})
        else:
            print(f"no fault in {report.rounds} rounds of two races; that is no proof")
        return 0

    _run(command, json=json)


async def _no_register(_opened: Register) -> int:
    raise AssertionError("a register file knows no transactions")


async def _change(
    where: _Where, head: str, value: bytes | None, if_revision: int | None, *, json: bool
) -> int:
    from holdfast.server.heads import make_transaction_id, make_write_id

    expected = None if if_revision is None else Revision(if_revision)

    async def at_register(opened: Register) -> int:
        current = await opened.read(head)
        outcome = await opened.advance(
            head,
            expected=current.revision if expected is None else expected,
            value=value,
            epoch=current.epoch,
            write_id=make_write_id(),
        )
        match outcome:
            case Advanced(state=state):
                _print_revision(state.revision, json=json)
                return 0
            case Refused(current=now, reason=reason):
                raise ConflictError(
                    f"the head is at revision {now.revision} ({reason})", code="head-moved"
                )
            case Unknown():
                raise OutcomeUnknownError("the change may have been made", code="commit-in-doubt")

    async def at_service(client: "HeadsClient") -> int:
        transaction = make_transaction_id()
        await client.prepare(_name(head), transaction, value, expected)
        _print_revision(await client.commit(_name(head), transaction), json=json)
        return 0

    return await _at(where, at_register, at_service)


async def _at(
    where: _Where,
    at_register: Callable[[Register], Awaitable[int]],
    at_service: "Callable[[HeadsClient], Awaitable[int]]",
) -> int:
    if where.register is not None:
        from holdfast.server.heads import open_register_file

        opened = open_register_file(where.register)
        try:
            return await at_register(opened)
        finally:
            await opened.close()
    from holdfast.client.heads import HeadsClient

    client = HeadsClient(where.server, timeout_s=where.timeout_s, ca_file=where.ca)
    try:
        return await at_service(client)
    finally:
        await client.close()


def _run(command: Callable[[], Awaitable[int]], *, json: bool) -> None:
    async def awaited() -> int:
        return await command()

    try:
        import asyncio

        code = asyncio.run(awaited())
    except BrokenPipeError:
        sys.stderr.close()
        code = 141
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 the outermost loop
        report_error(error, json=json)
        code = int(exit_code(error))
    raise SystemExit(code)


def _name(head: str) -> "HeadName":
    from holdfast.client.heads import HeadName

    # From the environment: an argument would be seen by every user of the machine.
    return HeadName(storage_url=head, token=os.environ.get("HOLDFAST_TOKEN", ""))


def _read_value(text: str) -> bytes:
    if text != "-":
        return os.fsencode(text)
    content = sys.stdin.buffer.read(HEAD_VALUE_BYTES_MAX + 1)
    if len(content) > HEAD_VALUE_BYTES_MAX:
        raise typer.BadParameter(f"more than {HEAD_VALUE_BYTES_MAX} bytes on stdin")
    return content


def _print_value(value: bytes, revision: int, is_from_store: bool, *, json: bool) -> None:
    if json:
        text = value.decode("utf-8", "backslashreplace")
        source = "store" if is_from_store else "head"
        print_json({"value": text, "revision": revision, "source": source})
        return
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()
    if is_from_store:
        print("holdfast: no head yet; this is the store's copy, perhaps stale", file=sys.stderr)


def _print_revision(revision: int, *, json: bool) -> None:
    if json:
        print_json({"revision": revision})
    else:
        print(f"revision {revision}")


def _print_states(states: list[HeadState], *, json: bool) -> None:
    for state in states:
        text = "" if state.value is None else state.value.decode("utf-8", "backslashreplace")
        if json:
            line = {
                "revision": state.revision,
                "epoch": state.epoch,
                "is_tombstone": state.is_tombstone,
                "value": None if state.value is None else text,
            }
            print(json_text.dumps(line))
        else:
            print(printable(f"{state.revision}  {'(deleted)' if state.is_tombstone else text}"))
