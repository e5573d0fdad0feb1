"""Serves one volume over NBD: takes connections, shares out what they share.

All connections of the volume live in one event thread: no lock, no hop between threads for a
request. Listening sockets are bound by whoever starts the server.

Invariants:

1. No more connections, and no more grown receive buffers, than the limits say: pending memory is
   bounded whatever clients send.
2. After `stop` nothing is taken; what was taken before is answered, as far as clients take answers
   within the grace period.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final

from holdfast.model.limits import NBD_BUFFERS_GROWN_MAX, NBD_CONNECTIONS_MAX
from holdfast.ports import Clock
from holdfast.volumes.nbd.connection import Connection
from holdfast.volumes.nbd.exports import VolumeExport
from holdfast.volumes.nbd.negotiation import Described, TlsMode
from holdfast.volumes.running import RunningVolume

CHECK_INTERVAL_S: Final = 1.0
GRACE_S: Final = 5.0
_SETTLE_POLL_S: Final = 0.01
_ACCEPTS_MAX: Final = 16


class NbdServer:
    """The front end of one volume; made, used and stopped in its event thread.

    Args:
        running: The volume.
        name: The name of its export.
        listeners: Listening sockets, owned from now on.
        tls_context: For STARTTLS; None offers none.
        tls_mode: REQUIRED answers nothing in the clear.
        spin_us: After an answer, how long the thread looks for the next request before it sleeps:
            a client that waits for each answer is served sooner, for a busy processor. 0 sleeps.
    """

    def __init__(
        self,
        running: RunningVolume,
        name: str,
        listeners: Sequence[socket.socket],
        *,
        tls_context: ssl.SSLContext | None = None,
        tls_mode: TlsMode = TlsMode.OFF,
        spin_us: int = 0,
    ) -> None:
        assert (tls_context is None) is (tls_mode is TlsMode.OFF)
        self.running = running
        self.clock: Clock = running.clock
        self.exports: Sequence[Described] = (VolumeExport(name, running.volume),)
        self.tls_context = tls_context
        self.tls_mode = tls_mode
        self._grown: set[Connection] = set()
        self._wants_growth: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._listeners = list(listeners)
        self._loop = asyncio.get_running_loop()
        self._check = self._loop.call_later(CHECK_INTERVAL_S, self._on_check)
        self.spin_ns = spin_us * 1000
        self._spin_end_ns = 0
        self._is_spinning = False
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    @property
    def connections_count(self) -> int:
        """How many clients there are now."""
        return len(self._connections)

    async def stop(self) -> None:
        """Take nothing more, answer what was taken, hang up."""
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        self._check.cancel()
        deadline_s = self._loop.time() + GRACE_S
        while self._loop.time() < deadline_s:
            if all(connection.is_settled for connection in self._connections):
                break
            await asyncio.sleep(_SETTLE_POLL_S)
        for connection in list(self._connections):
            connection.close()

    def forget(self, connection: Connection) -> None:
        """Take note of a connection's end."""
        if connection in self._connections:
            self._connections.remove(connection)
            self.running.clients_count -= 1
        if connection in self._wants_growth:
            self._wants_growth.remove(connection)
        self.ungrow(connection)

    def ask_growth(self, connection: Connection) -> None:
        """Let a connection grow its receive buffer now, or once another has let go of its."""
        self._wants_growth.append(connection)
        self._share_growth()

    def ungrow(self, connection: Connection) -> None:
        """Take note that a connection's buffer is as small as usual again."""
        self._grown.discard(connection)
        self._share_growth()

    def spin(self) -> None:
        """Keep the loop awake for a moment, if so configured: the next request may be near."""
        if self.spin_ns:
            self._spin_end_ns = self.clock.monotonic_ns() + self.spin_ns
            if not self._is_spinning:
                self._is_spinning = True
                self._loop.call_soon(self._on_spin)

    def _on_spin(self) -> None:
        # A callback that is due makes the loop look at its sockets without sleeping.
        if self._connections and self.clock.monotonic_ns() < self._spin_end_ns:
            self._loop.call_soon(self._on_spin)
        else:
            self._is_spinning = False

    def _share_growth(self) -> None:
        while self._wants_growth and len(self._grown) < NBD_BUFFERS_GROWN_MAX:
            connection = self._wants_growth.popleft()
            self._grown.add(connection)
            connection.grow()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                accepted, _ = listener.accept()
            except OSError:
                return  # Nobody is there, or gone again, or no descriptor is left.
            if len(self._connections) >= NBD_CONNECTIONS_MAX:
                accepted.close()
                continue
            connection = Connection(accepted, self)
            self._connections.add(connection)
            self.running.clients_count += 1
            self.running.counters.connections_count += 1
            connection.begin()

    def _on_check(self) -> None:
        self._check = self._loop.call_later(CHECK_INTERVAL_S, self._on_check)
        now_ns = self.clock.monotonic_ns()
        for connection in list(self._connections):
            connection.check(now_ns)
