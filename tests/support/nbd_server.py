"""A server of NBD in a thread with a loop of its own, on loopback and on a unix socket."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from holdfast.stores.system import SystemClock
from holdfast.volumes.counters import Counters
from holdfast.volumes.nbd.negotiation import TlsMode
from holdfast.volumes.nbd.server import NbdServer
from holdfast.volumes.running import RunningVolume
from holdfast.volumes.served import ServedVolume

ResultT = TypeVar("ResultT")


class NbdServerThread:
    """Serves one volume until `close`; what it did wrong without a client is raised there."""

    def __init__(
        self,
        volume: ServedVolume,
        directory: Path,
        *,
        name: str = "disk",
        tls_context: ssl.SSLContext | None = None,
        tls_mode: TlsMode = TlsMode.OFF,
        spin_us: int = 0,
    ) -> None:
        self.volume = volume
        self.counters = Counters()
        self.broken: list[object] = []
        self.socket_path = str(directory / "nbd.sock")
        local = socket.socket(socket.AF_UNIX)
        local.bind(self.socket_path)
        local.listen()
        remote = socket.create_server(("127.0.0.1", 0))
        self.port: int = remote.getsockname()[1]
        self._name = name
        self._options = (tls_context, tls_mode, spin_us)
        self._listeners = [local, remote]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    @property
    def uri(self) -> str:
        """The volume on the unix socket."""
        return f"nbd+unix:///{self._name}?socket={self.socket_path}"

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Return what a function returns in the event thread."""

        async def run() -> ResultT:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def close(self) -> None:
        """Stop and say what broke."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert not self.broken

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.broken.append(context))
        self._end = asyncio.Event()
        self.running = RunningVolume(self.volume, clock=SystemClock(), counters=self.counters)
        context, mode, spin_us = self._options
        self.server = NbdServer(
            self.running,
            self._name,
            self._listeners,
            tls_context=context,
            tls_mode=mode,
            spin_us=spin_us,
        )
        self._ready.set()
        await self._end.wait()
        await self.server.stop()
        await self.running.close()
