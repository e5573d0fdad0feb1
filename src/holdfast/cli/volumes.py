"""Commands on volumes: create, list, show, serve, grow, scrub, inspect, remove.

What they use is imported when they run: all other commands start without it.
"""

import logging
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import session
from holdfast.cli.arguments import parse_size
from holdfast.cli.exits import Exit, exit_code
from holdfast.cli.output import (
    ProgressDisplay,
    format_bytes,
    print_json,
    printable,
    report_error,
)
from holdfast.errors import InvalidRequestError
from holdfast.model.limits import SPIN_US_MAX
from holdfast.server.local import state_directory

if TYPE_CHECKING:
    from holdfast.server.volume_process import TlsFiles
    from holdfast.volumes.control import ScrubProgress
    from holdfast.volumes.service import Volumes, VolumeView
    from holdfast.volumes.supervision import DataProcess, ServeRequest

app = typer.Typer(help="Create and serve block volumes.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The volume.")]
Size = Annotated[str, typer.Argument(metavar="SIZE", help="The new size, such as 20G.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Pem = Annotated[str, typer.Option(metavar="FILE", help="PEM, for --listen.")]

_ADDRESS = re.compile(r"(?:([^=]+)=)?(\[[0-9A-Fa-f:.%]+\]|[^:\[\]=]+):([0-9]{1,5})")


@app.command()
def create(
    name: Name,
    *,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Such as 10G.")],
    preset: Annotated[
        str, typer.Option("--preset", help="database, general or throughput.")
    ] = "general",
    json: Json = False,
) -> None:
    """Create a volume; what was never written reads as zeros and takes no space."""

    async def command(volumes: "Volumes") -> int:
        view = await volumes.create(name, parse_size(size, what="size"), preset)
        _print_view(view, json=json)
        return 0

    _run(command, json=json)


@app.command(name="list")
def list_volumes(*, json: Json = False) -> None:
    """List the volumes."""

    async def command(volumes: "Volumes") -> int:
        for view in await volumes.views():
            if json:
                _print_view(view, json=True)
            else:
                print(_line(view))
        return 0

    _run(command, json=json)


@app.command()
def show(name: Name, *, json: Json = False) -> None:
    """Show a volume: health, sizes, pressure of the log, connections."""

    async def command(volumes: "Volumes") -> int:
        _print_view(await volumes.show(name), json=json)
        return 0

    _run(command, json=json)


@app.command()
def serve(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all unless given.")
    ] = None,
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen", metavar="[NAME=]HOST:PORT", help="Serve NBD on TCP too; may be repeated."
        ),
    ] = None,
    socket: Annotated[
        list[str] | None,
        typer.Option(
            "--socket", metavar="[NAME=]PATH", help="Unix socket, else one in the state directory."
        ),
    ] = None,
    tls_certificate: Pem = "",
    tls_key: Pem = "",
    tls_ca: Annotated[
        str, typer.Option(metavar="FILE", help="PEM: who may sign the certificates of clients.")
    ] = "",
    spin_us: Annotated[
        int,
        typer.Option(
            "--spin",
            metavar="MICROSECONDS",
            min=0,
            max=SPIN_US_MAX,
            help="Look for the next request so long before sleeping: sooner, for a busy processor.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Serve volumes over NBD until told to stop, each by a process of its own."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )

    async def command(volumes: "Volumes") -> int:
        from holdfast.server.volumes import serve_volumes

        wanted = names or [view.name for view in await volumes.views()]
        requests = [
            replace(request, spin_us=spin_us)
            for request in parse_serve_requests(wanted, listen or [], socket or [])
        ]

        def announce(name: str, process: "DataProcess") -> None:
            if json:
                print_json({"name": name, "listening": list(process.listening)})
            else:
                print(f"holdfast volumes: {name} {' '.join(process.listening)}", flush=True)

        await serve_volumes(volumes, requests, announce)
        return 0

    _run(command, json=json, tls=(tls_certificate, tls_key, tls_ca))


@app.command()
def grow(name: Name, size: Size, *, json: Json = False) -> None:
    """Make a volume greater, while it is served or not; clients see it when they attach anew."""

    async def command(volumes: "Volumes") -> int:
        _print_view(await volumes.grow(name, parse_size(size, what="size")), json=json)
        return 0

    _run(command, json=json)


@app.command()
def scrub(name: Name, *, json: Json = False, quiet: Quiet = False) -> None:
    """Read a whole volume back and check it; exit with 3 if it is damaged."""

    async def command(volumes: "Volumes") -> int:
        from holdfast.server.volumes import system_clock
        from holdfast.volumes.results import plain_scrub

        with ProgressDisplay(system_clock(), quiet=json or quiet) as display:

            def tell(progress: "ScrubProgress") -> None:
                display.enter_stage("scrub", progress.total_bytes)
                display.update(progress.done_bytes)

            found = await volumes.scrub_whole(name, tell)
        if json:
            print_json(plain_scrub(found))
        else:
            _print_scrub(name, found)
        return int(Exit.DAMAGED if found.damaged_bytes else Exit.DONE)

    _run(command, json=json)


@app.command()
def inspect(name: Name, *, json: Json = False) -> None:
    """Print what a volume's files hold: superblocks, slot map, log; a line for each thing."""

    async def command(_volumes: "Volumes") -> int:
        from holdfast.server.volumes import inspect_volume

        damaged = False
        for found in inspect_volume(state_directory(), name):
            damaged |= bool(found.get("lost_last_lsn") or found.get("damaged_sectors"))
            if json:
                session.print_line(found)
            else:
                values = " ".join(f"{key}={found[key]}" for key in found if key != "what")
                print(printable(f"{found['what']:<10} {values}"))
        return int(Exit.DAMAGED if damaged else Exit.DONE)

    _run(command, json=json)


@app.command()
def remove(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, with everything in it.")] = False,
    json: Json = False,
) -> None:
    """Remove a volume and everything in it; refused while it is served."""

    async def command(volumes: "Volumes") -> int:
        if not yes:
            raise InvalidRequestError(
                f"removing {name} cannot be undone", code="not-confirmed", advice="say --yes"
            )
        await volumes.remove(name)
        if json:
            print_json({"removed": name})
        return 0

    _run(command, json=json)


def parse_serve_requests(
    names: list[str], listen: list[str], sockets: list[str]
) -> "list[ServeRequest]":
    """Return what to serve where, or raise InvalidRequestError.

    An address without a name is meant for the only volume: of several each needs its own, or a
    client would get another volume when the list of them changes.
    """
    from holdfast.model.ids import parse_volume_name
    from holdfast.volumes.supervision import ServeRequest

    if not names:
        raise InvalidRequestError(
            "there is no volume to serve",
            code="no-volumes",
            advice="make one with 'holdfast volumes create'",
        )
    addresses: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    paths: dict[str, str] = {}
    for text in listen:
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3]) > 65535:
            raise _bad_place(text, "say [NAME=]HOST:PORT, such as 127.0.0.1:10809")
        addresses[_whose(found[1], names, text)].append((found[2].strip("[]"), int(found[3])))
    for text in sockets:
        name, equals, path = text.partition("=")
        paths[_whose(name if equals else None, names, text)] = path if equals else text
    return [
        ServeRequest(
            name=parse_volume_name(name),
            listen=tuple(addresses[name]),
            socket_path=paths.get(name),
        )
        for name in dict.fromkeys(names)
    ]


def _whose(name: str | None, names: list[str], text: str) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise _bad_place(text, f"several volumes are served: say NAME={text}")
    if name not in names:
        raise _bad_place(text, f"{name} is not among the volumes to serve")
    return name


def _bad_place(text: str, advice: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{text!r} is no place to serve a volume at", code="bad-listen", advice=advice
    )


def _run(
    command: "Callable[[Volumes], Awaitable[int]]",
    *,
    json: bool,
    tls: tuple[str, str, str] = ("", "", ""),
) -> None:
    async def awaited() -> int:
        from holdfast.server.volumes import open_volumes

        return await command(open_volumes(state_directory(), _tls_files(*tls)))

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


def _tls_files(certificate: str, key: str, authority: str) -> "TlsFiles | None":
    from holdfast.server.volume_process import TlsFiles

    if not certificate and not key and not authority:
        return None
    if not (certificate and key and authority):
        raise InvalidRequestError(
            "TLS needs a certificate, its key, and an authority for those of clients",
            code="bad-certificate",
            advice="give --tls-certificate, --tls-key and --tls-ca, or none of them",
        )
    return TlsFiles(certificate=certificate, key=key, client_authority=authority)


def _print_view(view: "VolumeView", *, json: bool) -> None:
    from holdfast.volumes.results import plain_view

    if json:
        print_json(plain_view(view))
        return
    print(_line(view))
    status = view.status
    if status is None:
        return
    log = status.log_used_bytes / (status.log_size_bytes or 1)
    print(f"  attach       {printable(' '.join(status.listening)) or 'nowhere'}")
    print(f"  connections  {status.connections_count}")
    print(
        f"  log          {log:.0%} of {format_bytes(status.log_size_bytes)} used,"
        f" {format_bytes(status.dirty_bytes)} not in place yet"
    )
    print(
        f"  changes      {status.last_lsn}, durable to {status.durable_lsn},"
        f" in place to {status.checkpoint_lsn}"
    )
    print(f"  authority    {status.role} of epoch {status.epoch}")
    if status.scrub.state != "none":
        print(
            f"  scrub        {status.scrub.state}, {format_bytes(status.scrub.done_bytes)} of"
            f" {format_bytes(status.scrub.total_bytes)},"
            f" {format_bytes(status.scrub.damaged_bytes)} damaged"
        )


def _line(view: "VolumeView") -> str:
    health = view.health
    number = f" {format_bytes(health.lost_bytes)}" if health.lost_bytes else ""
    reason = f" ({health.reason})" if health.reason else ""
    return printable(
        f"{view.name}  {format_bytes(view.size_bytes)}, {format_bytes(view.used_bytes)} used"
        f"  {view.preset}  {health.word}{number}{reason}"
    )


def _print_scrub(name: str, found: "ScrubProgress") -> None:
    for damage in found.damage:
        print(printable(f"{name}: {damage.place} [{damage.start}, {damage.end}): {damage.what}"))
    if found.damaged_bytes:
        print(
            f"{name}: damaged, {format_bytes(found.damaged_bytes)} of"
            f" {format_bytes(found.done_bytes)} read"
        )
    else:
        checked = format_bytes(found.checked_bytes)
        print(f"{name}: nothing is damaged; {checked} of data checked")
