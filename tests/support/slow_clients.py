"""Clients that hold what they get: they send or take a byte now and then, and come back at once.

Plain sockets in threads; `with besieging(...)` keeps a number of them at it until it is left.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

PERIOD_S: Final = 0.05

Attack = Callable[[socket.socket], None]
"""Does what holds a connection for one more moment; OSError once it is closed."""


@dataclass(slots=True)
class Siege:
    """What the attackers have seen."""

    connections: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> None:
        """Count a connection."""
        with self._lock:
            self.connections += 1


@contextlib.contextmanager
def besieging(
    address: tuple[str, int], *, clients: int, opening: bytes, attack: Attack, buffer_bytes: int = 0
) -> Iterator[Siege]:
    """Keep so many clients connected, each of which sends `opening` and then attacks.

    Args:
        buffer_bytes: How much each lets wait unread; 0 for what the system thinks best.
    """
    siege = Siege()

    def besiege() -> None:
        while not siege.is_over.is_set():
            with contextlib.suppress(OSError), _connected(address, buffer_bytes) as client:
                siege.count()
                client.sendall(opening)
                while not siege.is_over.wait(PERIOD_S):
                    attack(client)
            siege.is_over.wait(0.01)

    threads = [threading.Thread(target=besiege) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield siege
    finally:
        siege.is_over.set()
        for thread in threads:
            thread.join()


def take_a_little(client: socket.socket) -> None:
    """Take some bytes of an answer, if there are any."""
    with contextlib.suppress(TimeoutError):
        if not client.recv(64):
            raise ConnectionResetError


def _connected(address: tuple[str, int], buffer_bytes: int) -> socket.socket:
    client = socket.socket()
    try:
        if buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        client.settimeout(2)
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client
