"""Composition root of a data process: one volume, its front ends, its control socket, one thread.

Run as `python -m holdfast.server.volume_process ORDERS` by server/volumes.py. It takes the lock of
the volume, opens its files, recovers, listens, says so in one line on stdout, and serves until it
is told to stop: SIGTERM, SIGINT, or over the control socket.

Invariants:

1. The lock is held before a file is opened and until the last is closed.
2. It reports that it serves only when every socket listens, its control socket included.
3. To stop: no new connection, what is under way is answered, the log is emptied, the files closed.
4. It ends with whoever started it.
5. SIGHUP loads the certificates anew for connections to come; if they do not load, nothing changes.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from holdfast.errors import ConflictError, HoldfastError, InvalidRequestError
from holdfast.stores.blocks.posix import PosixBlockFile, open_block_files
from holdfast.stores.directories.linux import die_with_parent
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.volumes.answering import Answering
from holdfast.volumes.catalog import CONTROL_SOCKET, locked
from holdfast.volumes.control_server import ControlServer
from holdfast.volumes.counters import Counters
from holdfast.volumes.engine.files import FILE_NAMES, VolumeFiles
from holdfast.volumes.engine.opening import create_volume, open_volume
from holdfast.volumes.local_socket import bind_local
from holdfast.volumes.model import Geometry, Preset, VolumeSpec
from holdfast.volumes.nbd.negotiation import TlsMode
from holdfast.volumes.nbd.server import NbdServer
from holdfast.volumes.rules import parse_preset
from holdfast.volumes.running import RunningVolume

BACKLOG: Final = 128

_log = logging.getLogger("holdfast.volumes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: our certificate with its key, and who may sign those of clients."""

    certificate: str
    key: str
    client_authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a data process is told."""

    name: str
    directory: str
    preset: str
    parent_id: int
    is_offline: bool
    """Only control is served."""
    listen: tuple[tuple[str, int], ...]
    socket_path: str
    spin_us: int
    tls: TlsFiles | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a data process says once: where it listens, or why it does not."""

    listening: tuple[str, ...] = ()
    listen: tuple[tuple[str, int], ...] = ()
    """The addresses and ports among these."""
    problem: dict[str, object] | None = None


def open_files_to_read(directory: Path) -> VolumeFiles:
    """Open the engine's files beside whoever has them open: to look, never to write."""
    with contextlib.ExitStack() as opened:
        files = {}
        for name in FILE_NAMES:
            files[name] = PosixBlockFile(directory / name)
            opened.callback(files[name].close)
        opened.pop_all()
    return VolumeFiles.of(files)


def used_bytes(directory: Path) -> int:
    """Return what a volume's data takes on the medium, with its maps but without its log."""
    stats = [os.stat(directory / name) for name in FILE_NAMES if name != "log"]
    return sum(512 * found.st_blocks for found in stats)


def create_files(directory: Path, size_bytes: int, preset: Preset) -> None:
    """Make and flush the files of an empty volume in a directory."""
    geometry = Geometry(size_bytes=size_bytes, segment_bytes=preset.log_bytes // 2)
    files = VolumeFiles.of(open_block_files(directory, FILE_NAMES, create=True))
    try:
        create_volume(files, VolumeSpec(geometry=geometry), SystemEntropy(), SystemClock())
    finally:
        files.close()


def main() -> int:
    """Run the orders in the first argument; return the exit code."""
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    die_with_parent()
    # Checkpoints run Python beside the event thread, which must not wait 5 ms for its turn.
    sys.setswitchinterval(0.0005)
    if os.getppid() != orders.parent_id:
        return 1  # It died before the kernel was asked to tell us.
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s volume {orders.name}: %(message)s",
    )
    try:
        with locked(Path(orders.directory)):
            asyncio.run(_run(orders))
    except HoldfastError as error:
        _log.error("%s; %s", error.message, error.advice)
        _say(Report(problem=error.as_problem()))
        return 1
    return 0


async def _run(orders: Orders) -> None:
    """Open the volume, serve it until told to stop, close it."""
    tls = None if orders.tls is None else _tls_context(orders.tls)
    with contextlib.ExitStack() as held:
        local = [] if orders.is_offline else [_bind_local(Path(orders.socket_path), held)]
        remote = [_bind(host, port) for host, port in orders.listen]
        control = _bind_local(Path(orders.directory) / CONTROL_SOCKET, held)
        clock = SystemClock()
        files = VolumeFiles.of(open_block_files(Path(orders.directory), FILE_NAMES))
        volume = open_volume(
            files,
            entropy=SystemEntropy(),
            clock=clock,
            checkpoint_interval_ms=parse_preset(orders.preset).checkpoint_interval_ms,
        )
        running = RunningVolume(volume, clock=clock, counters=Counters())
        listening = (
            *_local_uris(orders),
            *_remote_uris(orders.name, remote, is_tls=tls is not None),
        )
        servers = [NbdServer(running, orders.name, local, spin_us=orders.spin_us)]
        if remote:
            servers.append(
                NbdServer(
                    running,
                    orders.name,
                    remote,
                    tls_context=tls,
                    tls_mode=TlsMode.OFF if tls is None else TlsMode.REQUIRED,
                    spin_us=orders.spin_us,
                )
            )
        answering = Answering(
            orders.name,
            volume,
            running,
            servers=servers,
            listening=listening,
            used_bytes=lambda: used_bytes(Path(orders.directory)),
        )
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, partial(_reload_certificates, orders.tls, servers[-1])
        )
        await _serve(answering, control, tuple(each.getsockname()[:2] for each in remote))
        await running.close()
        volume.close()


async def _serve(
    answering: Answering, control: socket.socket, listen: tuple[tuple[str, int], ...]
) -> None:
    """Answer until told to stop, then let the front ends finish."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, answering.stopped.set)
    server = ControlServer(answering)
    await server.start(control)
    # What is there now stays: the collector need not look at it again and again.
    gc.freeze()
    _say(Report(listening=answering.listening, listen=listen))
    await answering.stopped.wait()
    await answering.close()
    await server.close()


def _say(report: Report) -> None:
    """Tell who started this process, once; what is printed later goes nowhere."""
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _bind_local(path: Path, held: contextlib.ExitStack) -> socket.socket:
    bound = bind_local(path, for_others=path.name != CONTROL_SOCKET)
    held.callback(path.unlink, missing_ok=True)
    return bound


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except socket.gaierror as error:
        raise InvalidRequestError(
            f"{host!r} is not an address of this machine: {error.strerror}",
            code="bad-listen",
            advice="name an address of this machine, such as 127.0.0.1",
        ) from error
    except OSError as error:
        raise ConflictError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            code="port-taken",
            advice="stop what uses it, or name another with --listen",
        ) from error
    return bound


def _local_uris(orders: Orders) -> tuple[str, ...]:
    if orders.is_offline:
        return ()
    return (f"nbd+unix:///{orders.name}?socket={quote(orders.socket_path)}",)


def _remote_uris(name: str, bound: list[socket.socket], *, is_tls: bool) -> tuple[str, ...]:
    scheme = "nbds" if is_tls else "nbd"
    places = [each.getsockname()[:2] for each in bound]
    return tuple(
        f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{name}" for host, port in places
    )


def _reload_certificates(files: TlsFiles | None, server: NbdServer) -> None:
    """Take the files as they are now for connections to come; keep the old if they do not load."""
    if files is None or server.tls_context is None:
        return
    try:
        server.tls_context = _tls_context(files)
        _log.warning("certificates reloaded")
    except InvalidRequestError as error:
        _log.error("certificates not reloaded: %s", error.message)


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.client_authority)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequestError(
            f"the certificate files do not load: {error.strerror or error}",
            code="bad-certificate",
            advice="check --tls-certificate, --tls-key and --tls-ca",
        ) from error
    return context


if __name__ == "__main__":
    sys.exit(main())
