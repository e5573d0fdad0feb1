"""Frames over one socket, plain or TLS, for either side; every wait has an end.

Raises OSError (TimeoutError and ssl.SSLError among them) for a connection that is of no more use,
and InvalidRequestError (`bad-frame`) for a peer that does not keep to the protocol. Owned by one
thread of one process.
"""

import contextlib
import socket
from typing import Final

from holdfast.model.limits import FRAME_BYTES_MAX, KIB
from holdfast.ports import Buffer, Clock
from holdfast.stores.nodes.wire import HEADER_BYTES, Header, decode_header

_BUFFER_BYTES: Final = 64 * KIB
UNANSWERED_MS: Final = 30_000
"""After this long without an acknowledgement the kernel gives a connection up."""


def prepare_socket(connection: socket.socket) -> None:
    """Have small frames sent at once, and a peer that is gone noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)


class Channel:
    """A connection that carries frames."""

    def __init__(self, connection: socket.socket, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._frame = memoryview(bytearray())
        self._unsent: list[bytes] = []

    def send(self, data: Buffer, timeout_s: float) -> None:
        """Send all of `data`, after what was put off."""
        self.flush(timeout_s)
        self._connection.settimeout(timeout_s)
        self._connection.sendall(data)

    def put_off(self, data: bytes) -> None:
        """Send a frame with the next one, or before the next wait."""
        self._unsent.append(data)

    def flush(self, timeout_s: float) -> None:
        """Send what was put off."""
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._connection.settimeout(timeout_s)
            self._connection.sendall(data)

    def has_input(self) -> bool:
        """Say whether received bytes wait to be taken."""
        return self._start < self._end

    def receive_header(
        self, wait_s: float, rest_s: float, *, limit_bytes: int = FRAME_BYTES_MAX
    ) -> Header:
        """Return the next header: `wait_s` for its first byte, `rest_s` for the others."""
        self.flush(rest_s)
        if not self.has_input():
            self._fill(wait_s)
        raw = bytearray(HEADER_BYTES)
        self.receive_into(memoryview(raw), rest_s)
        return decode_header(bytes(raw), limit_bytes=limit_bytes)

    def receive_payload(self, size_bytes: int, timeout_s: float) -> memoryview:
        """Return the payload of a frame; good until the next call."""
        if len(self._frame) < size_bytes:
            self._frame = memoryview(bytearray(size_bytes))
        payload = self._frame[:size_bytes]
        self.receive_into(payload, timeout_s)
        return payload

    def receive_into(self, view: memoryview, timeout_s: float) -> None:
        """Fill `view`; `timeout_s` is for all of it."""
        wanted = len(view)
        done = min(wanted, self._end - self._start)
        view[:done] = self._view[self._start : self._start + done]
        self._start += done
        if done == wanted:
            return
        until_ns = self._clock.monotonic_ns() + int(timeout_s * 1e9)
        while done < wanted:
            left_s = (until_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                raise TimeoutError("a frame took too long")
            if wanted - done >= _BUFFER_BYTES:
                self._connection.settimeout(left_s)
                got = self._connection.recv_into(view[done:])
                if not got:
                    raise ConnectionResetError("the other side closed the connection")
                done += got
            else:
                self._fill(left_s)
                got = min(wanted - done, self._end)
                view[done : done + got] = self._view[:got]
                self._start = got
                done += got

    def close(self) -> None:
        """Release it. Never raises."""
        with contextlib.suppress(OSError):
            self._connection.close()

    def _fill(self, timeout_s: float) -> None:
        """Wait for bytes; the buffer is empty before."""
        self._connection.settimeout(timeout_s)
        self._start = 0
        self._end = self._connection.recv_into(self._view)
        if not self._end:
            raise ConnectionResetError("the other side closed the connection")
