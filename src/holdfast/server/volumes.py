"""Composition root of the volumes of a state directory: their files, processes, and who asks them.

A data process is this interpreter running server/volume_process.py with its orders in one argument.
It says on its stdout, in one line, that it serves, or why it does not; then it is silent.

Invariants:

1. A data process dies with the process that started it, whatever kills that.
2. An address that is not loopback is served with TLS and client certificates, or not at all.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from holdfast.errors import DeniedError, UnavailableError
from holdfast.model.ids import parse_volume_name
from holdfast.ports import Clock
from holdfast.server.volume_process import (
    Orders,
    Report,
    TlsFiles,
    create_files,
    open_files_to_read,
    used_bytes,
)
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.volumes.catalog import Catalog
from holdfast.volumes.control import error_of_problem
from holdfast.volumes.engine.superblocks import newest_superblock
from holdfast.volumes.inspecting import Found, inspect_files
from holdfast.volumes.model import Preset
from holdfast.volumes.service import StoredSize, Surroundings, Volumes
from holdfast.volumes.supervision import DataProcess, ServeRequest, Supervisor

START_S: Final = 120.0
"""For opening a volume and recovering its log."""
STOP_S: Final = 60.0
"""For answering what is under way and emptying the log."""
_REPORT_BYTES_MAX: Final = 64 * 1024


class _Process:
    """A data process that serves; see DataProcess."""

    def __init__(self, process: asyncio.subprocess.Process, report: Report, stop_s: float) -> None:
        self._process = process
        self._report = report
        self._stop_s = stop_s

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def listening(self) -> tuple[str, ...]:
        return self._report.listening

    @property
    def listen(self) -> tuple[tuple[str, int], ...]:
        return self._report.listen

    async def wait(self) -> str:
        return _how(await self._process.wait())

    def reload(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_s):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class _Starter:
    """Starts data processes; see StartProcess."""

    def __init__(
        self, catalog: Catalog, tls: TlsFiles | None, *, is_offline: bool, stop_s: float
    ) -> None:
        self._catalog = catalog
        self._tls = tls
        self._is_offline = is_offline
        self._stop_s = stop_s

    async def __call__(self, request: ServeRequest) -> DataProcess:
        """See StartProcess."""
        for host, _ in request.listen:
            refuse_open_address(host, self._tls)
        place = self._catalog.find(request.name)
        orders = Orders(
            name=place.name,
            directory=str(place.directory),
            preset=self._catalog.entry(place).preset,
            parent_id=os.getpid(),
            is_offline=self._is_offline,
            listen=request.listen,
            socket_path=request.socket_path or str(place.nbd_socket),
            spin_us=request.spin_us,
            tls=self._tls,
        )
        process = await _exec(orders)
        try:
            return _Process(process, await _report(process), self._stop_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise


class _Store:
    """Volumes as files; see VolumeStore."""

    def create(self, directory: Path, size_bytes: int, preset: Preset) -> None:
        """See VolumeStore."""
        create_files(directory, size_bytes, preset)

    def size(self, directory: Path) -> StoredSize:
        """See VolumeStore."""
        files = open_files_to_read(directory)
        try:
            geometry = newest_superblock(files.meta).geometry
        finally:
            files.close()
        return StoredSize(size_bytes=geometry.size_bytes, used_bytes=used_bytes(directory))


def system_clock() -> Clock:
    """Return the clock of this machine."""
    return SystemClock()


def open_volumes(state: Path, tls: TlsFiles | None = None, stop_s: float = STOP_S) -> Volumes:
    """Return the volumes of a state directory.

    Args:
        state: The directory.
        tls: Of TCP.
        stop_s: What a data process gets to end in order.
    """
    clock = SystemClock()
    catalog = Catalog(state / "volumes", clock, SystemEntropy())
    return Volumes(
        Surroundings(
            catalog=catalog,
            store=_Store(),
            supervisor=Supervisor(_Starter(catalog, tls, is_offline=False, stop_s=stop_s), clock),
            start_offline=_Starter(catalog, None, is_offline=True, stop_s=stop_s),
        )
    )


def inspect_volume(state: Path, name: str) -> Iterator[Found]:
    """Yield what the files of a volume hold; see volumes/inspecting.py."""
    catalog = Catalog(state / "volumes", SystemClock(), SystemEntropy())
    files = open_files_to_read(catalog.find(parse_volume_name(name)).directory)
    try:
        yield from inspect_files(files)
    finally:
        files.close()


async def serve_volumes(
    volumes: Volumes, requests: list[ServeRequest], announce: Callable[[str, DataProcess], None]
) -> None:
    """Serve volumes until told to stop by a signal; then stop each orderly.

    SIGHUP has every data process load its certificates anew, for connections to come.

    Args:
        announce: Told of each volume once it is served.

    Raises:
        HoldfastError: One of them could not be served at first; then none is served any more.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, volumes.reload_certificates)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        for request in requests:
            announce(request.name, await volumes.serve(request))
        await stopped.wait()
    finally:
        await volumes.stop_all()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def refuse_open_address(host: str, tls: TlsFiles | None) -> None:
    """Raise DeniedError (`open-address`) for an address that others reach, without TLS."""
    if tls is None and not _is_loopback(host):
        raise DeniedError(
            f"{host} is reached by others, and NBD without certificates lets everyone in",
            code="open-address",
            advice="give --tls-certificate, --tls-key and --tls-ca, or listen on 127.0.0.1",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _exec(orders: Orders) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.server.volume_process",
            msgspec.json.encode(orders).decode(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_REPORT_BYTES_MAX,
            # Ctrl-C is for the supervisor, which then stops its processes in order.
            process_group=0,
        )
    except OSError as error:
        raise UnavailableError(
            f"no data process can be started: {error.strerror}",
            code="data-process-died",
            advice="look at the limits of processes, open files and memory, then try again",
        ) from error


async def _report(process: asyncio.subprocess.Process) -> Report:
    """Return what a new process that serves says, or raise the error it ended with."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise UnavailableError(
            f"the data process did not start within {START_S:g} s",
            code="data-process-slow",
            advice="look at the load of the machine and at its medium, then try again",
        ) from error
    try:
        report = msgspec.json.decode(line, type=Report)
    except msgspec.MsgspecError as error:
        raise UnavailableError(
            f"the data process did not start: {_how(await process.wait())}",
            code="data-process-died",
            advice="see what it wrote to stderr, and report it if it is a defect",
        ) from error
    if report.problem is not None:
        raise error_of_problem(report.problem)
    return report


def _how(code: int) -> str:
    if code >= 0:
        return f"it exited with {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
