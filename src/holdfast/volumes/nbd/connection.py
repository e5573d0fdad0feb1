"""One client's socket: moves bytes between it and the machines that know what they mean.

It decides nothing of the protocol. All of it happens in the event thread; the socket never blocks.
Sockets are watched by the event loop directly: requests are received where they will be used and
replies sent from where they were packed, in the clear as inside TLS.

Invariants:

1. Nothing is received while what came before waits for room, for output or for another's turn, or
   while a connection that writes is slowed because the log fills.
2. Who neither sends the rest of a request nor takes answers for a while, or lets a negotiation
   drag on, is hung up on; who has vanished is found by the kernel's keepalive.
3. Whatever ends a connection, what was carried out stays and what came in part never happens.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from holdfast.model.limits import NBD_NEGOTIATION_S, NBD_SILENCE_S
from holdfast.ports import Clock
from holdfast.volumes.nbd.codec import Errno, MalformedError
from holdfast.volumes.nbd.inbox import Inbox
from holdfast.volumes.nbd.negotiation import Described, Negotiation, Stage, TlsMode
from holdfast.volumes.nbd.outbox import Outbox
from holdfast.volumes.nbd.session import Session, Wait
from holdfast.volumes.rules import STALL_DEADLINE_S
from holdfast.volumes.running import RunningVolume

_BLOCKED: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_LOOKS_MAX: Final = 32
"""Requests served without going back to the loop, where others wait."""
_INPUT: Final = Wait.INPUT
"""Looking up a member of an enumeration costs as much as a small call, in each request."""
_NEGOTIATION_RECEIVE_BYTES: Final = 16 << 10
_TLS_RECORDS_MAX: Final = 64
"""Records taken in one wakeup: the kernel hands out one at a time, 16 KiB at most."""
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)


class Surroundings(Protocol):
    """What the connections of a volume share."""

    running: RunningVolume
    clock: Clock
    exports: Sequence[Described]
    tls_context: ssl.SSLContext | None
    tls_mode: TlsMode
    spin_ns: int

    def ask_growth(self, connection: "Connection") -> None:
        """Have `grow` called now, or once there is memory for it."""
        ...

    def ungrow(self, connection: "Connection") -> None:
        """Give back what `grow` took, if it did."""
        ...

    def spin(self) -> None:
        """Take note that the next request may be near."""
        ...

    def forget(self, connection: "Connection") -> None:
        """Take note of a connection's end."""
        ...


class Connection:
    """One client, from greeting to end. The server owns it."""

    def __init__(self, accepted: socket.socket, server: Surroundings) -> None:
        self._socket = accepted
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._negotiation: Negotiation | None = Negotiation(server.exports, server.tls_mode)
        self._session: Session | None = None
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._wait = Wait.INPUT
        self._is_reading = False
        self._is_writing = False
        self._is_tls_handshaking = False
        self._waits_for_room = False
        self._asked_for_room = False
        self._stalled_pieces_count = 0
        self._waits_for_growth = False
        self._has_grown = False
        self._began_ns = self._moved_ns = self._stalled_ns = server.clock.monotonic_ns()
        self.is_closed = False

    def begin(self) -> None:
        """Greet the client."""
        self._socket.setblocking(False)
        if self._socket.family != socket.AF_UNIX:
            for level, option, value in _KEEPALIVE:
                self._socket.setsockopt(level, option, value)
        assert self._negotiation is not None
        self._outbox.add(self._negotiation.greet())
        self._guard(self._send)
        self._read(True)

    def close(self) -> None:
        """Hang up. Never raises; more calls do nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self._read(False)
        self._write(False)
        self._socket.close()
        self._server.forget(self)

    @property
    def is_settled(self) -> bool:
        """Whether everything taken was carried out, answered and sent."""
        if self._session is None:
            return True
        return not self._outbox.size_bytes and not self._session.waiting_count

    def check(self, now_ns: int) -> None:
        """Hang up on who is too slow, give up what waits too long, give back memory not in use."""
        if self._waits_for_room and now_ns - self._stalled_ns >= STALL_DEADLINE_S * 1e9:
            self._guard(self._give_up)
        silent_s = (now_ns - self._moved_ns) / 1e9
        if self._negotiation is not None:
            if now_ns - self._began_ns >= NBD_NEGOTIATION_S * 1e9:
                self.close()
        elif self._outbox.size_bytes or (self._is_reading and self._inbox.is_mid_request):
            if silent_s >= NBD_SILENCE_S:
                self.close()
        elif silent_s >= 1:
            self._inbox.release()
            self._outbox.release()

    def grow(self) -> None:
        """Go on with a request that is longer than the buffer: the server has memory for it."""
        self._waits_for_growth = False
        self._has_grown = True
        self._inbox.grow()
        self._read(True)

    def _shrink(self) -> None:
        self._has_grown = False
        self._inbox.room()
        self._server.ungrow(self)

    def _guard(self, step: Callable[[], None]) -> None:
        """Do a step; whatever it meets ends this connection and no other."""
        try:
            step()
        except (OSError, MalformedError, ssl.SSLError):
            self.close()
        except Exception as error:  # noqa: BLE001 - outermost of a connection
            self._loop.call_exception_handler(
                {"message": "a connection of NBD broke", "exception": error}
            )
            self.close()

    def _on_readable(self) -> None:
        self._guard(self._receive)

    def _on_writable(self) -> None:
        self._guard(self._go_on_sending)

    def _receive(self) -> None:
        if self._is_tls_handshaking:
            self._go_on_with_tls()
        elif self._session is None:
            self._negotiate()
        elif self._fill():
            self._advance()
            if self._server.spin_ns and self._session.is_alone:
                self._look_for_more()

    def _look_for_more(self) -> None:
        """After an answer look for the next request for a moment: the loop's way costs as much."""
        clock, spin_ns = self._server.clock, self._server.spin_ns
        for _ in range(_LOOKS_MAX):
            end_ns = clock.monotonic_ns() + spin_ns
            while self._is_reading and not self._fill():
                if clock.monotonic_ns() >= end_ns:
                    return
            if not self._is_reading:
                return
            self._advance()

    def _fill(self) -> bool:
        """Receive what there is; False if nothing came."""
        room = self._inbox.room()
        try:
            size_bytes = self._socket.recv_into(room)
            if not size_bytes:
                self.close()
                return False
            if isinstance(self._socket, ssl.SSLSocket):
                size_bytes = self._fill_more(room, size_bytes)
        except _BLOCKED:
            return False
        self._inbox.received(size_bytes)
        return True

    def _fill_more(self, room: memoryview, size_bytes: int) -> int:
        for _ in range(_TLS_RECORDS_MAX):
            if size_bytes == len(room):
                break
            try:
                record_bytes = self._socket.recv_into(room[size_bytes:])
            except _BLOCKED:
                break
            if not record_bytes:
                break  # The end is met again by the next call.
            size_bytes += record_bytes
        return size_bytes

    def _advance(self) -> None:
        """Carry out what can be, send what can be, and wait for the rest."""
        session, server = self._session, self._server
        assert session is not None
        while not self.is_closed:
            now_ns = self._moved_ns = server.clock.monotonic_ns()
            try:
                self._wait = session.advance(now_ns)
            except MalformedError:
                self._send()  # What came before it was carried out, and is answered.
                raise
            self._send()
            if self._wait is _INPUT or self._wait is not Wait.OUTPUT or self._outbox.size_bytes:
                break
        if self._waits_for_room and self._wait is not Wait.ROOM:
            self._end_stall()
        if session.has_written:
            session.has_written = False
            pause_s = server.running.take_pause()
            if pause_s and self._wait in (Wait.INPUT, Wait.TURN):
                self._pause(pause_s)
                return
        self._wait_for(self._wait, now_ns)

    def _wait_for(self, wait: Wait, now_ns: int) -> None:
        server = self._server
        self._read(wait is _INPUT and not self._inbox.needs_growth)
        match wait:
            case Wait.INPUT:
                if self._has_grown and not self._inbox.is_mid_request:
                    self._shrink()
                if self._inbox.needs_growth and not self._waits_for_growth:
                    self._waits_for_growth = True
                    server.ask_growth(self)
                elif self._has_more():
                    self._loop.call_soon(self._on_turn)
                server.spin()
            case Wait.TURN:
                self._loop.call_soon(self._on_turn)
            case Wait.ROOM:
                self._wait_for_room(now_ns)
            case Wait.END:
                self._end_if_settled()
            case Wait.OUTPUT | Wait.DURABILITY:
                pass  # Woken by the socket, or by the reply.

    def _pause(self, pause_s: float) -> None:
        """Take nothing for a while, so that the log does not fill: invariant 1."""
        self._server.running.counters.pauses_count += 1
        self._read(False)
        self._loop.call_later(pause_s, self._end_pause)

    def _end_pause(self) -> None:
        if not self.is_closed and self._wait in (Wait.INPUT, Wait.TURN):
            self._guard(self._advance)

    def _has_more(self) -> bool:
        """Whether TLS holds bytes that the kernel does not tell of."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _on_turn(self) -> None:
        if self.is_closed:
            return
        if self._wait is Wait.INPUT:
            self._guard(self._receive)
        else:
            self._guard(self._advance)

    def _wait_for_room(self, now_ns: int) -> None:
        assert self._session is not None
        if not self._waits_for_room:
            self._waits_for_room = True
            self._stalled_ns = now_ns
            self._server.running.counters.stalls_count += 1
        elif self._stalled_pieces_count != self._session.pieces_count:
            self._stalled_ns = now_ns  # It got on: the deadline is for what does not.
        self._stalled_pieces_count = self._session.pieces_count
        if not self._asked_for_room:
            self._asked_for_room = True
            self._server.running.wait_for_room(self._on_room)

    def _on_room(self) -> None:
        self._asked_for_room = False
        if not self.is_closed and self._wait is Wait.ROOM:
            self._guard(self._advance)

    def _give_up(self) -> None:
        assert self._session is not None
        self._session.give_up(Errno.ENOSPC)
        self._server.running.counters.stalls_failed_count += 1
        self._end_stall()
        self._advance()

    def _end_stall(self) -> None:
        self._waits_for_room = False
        took_ns = self._server.clock.monotonic_ns() - self._stalled_ns
        self._server.running.counters.stalled_ns += took_ns

    def _on_reply(self) -> None:
        """Send replies that came later than their request's turn."""
        if not self.is_closed:
            self._guard(self._send_reply)

    def _send_reply(self) -> None:
        self._send()
        if self._wait is Wait.DURABILITY:
            self._advance()
        elif self._wait is Wait.END:
            self._end_if_settled()
        self._server.spin()

    def _go_on_sending(self) -> None:
        if self._is_tls_handshaking:
            self._go_on_with_tls()
            return
        self._send()
        if self._outbox.size_bytes:
            return
        if self._negotiation is not None:
            self._after_answer()
        elif self._wait is Wait.OUTPUT:
            self._advance()
        elif self._wait is Wait.END:
            self._end_if_settled()

    def _end_if_settled(self) -> None:
        if self.is_settled:
            self.close()

    def _send(self) -> None:
        """Send what the socket takes; watch it if that was not all."""
        outbox = self._outbox
        while outbox.size_bytes:
            try:
                sent_bytes = self._socket.send(outbox.unsent())
            except _BLOCKED:
                self._write(True)
                return
            outbox.sent(sent_bytes)
            self._moved_ns = self._server.clock.monotonic_ns()
        if self._is_writing:
            self._write(False)

    def _negotiate(self) -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        try:
            data = self._socket.recv(_NEGOTIATION_RECEIVE_BYTES)
        except _BLOCKED:
            return
        if not data:
            self.close()
            return
        self._outbox.add(negotiation.receive(data))
        self._send()
        if self._outbox.size_bytes:
            self._read(False)  # Nothing more before the answers are taken.
        else:
            self._after_answer()

    def _after_answer(self) -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        self._read(True)
        match negotiation.stage:
            case Stage.ENDED:
                self.close()
            case Stage.STARTING_TLS:
                self._start_tls()
            case Stage.AGREED:
                self._begin_transmission(negotiation)
            case Stage.FLAGS | Stage.OPTIONS:
                if self._has_more():
                    self._loop.call_soon(self._on_turn)

    def _begin_transmission(self, negotiation: Negotiation) -> None:
        assert negotiation.agreement is not None
        self._session = Session(
            negotiation.agreement, self._server.running, self._inbox, self._outbox, self._on_reply
        )
        rest = negotiation.take_rest()
        self._negotiation = None
        self._inbox.room()[: len(rest)] = rest
        self._inbox.received(len(rest))
        self._advance()

    def _start_tls(self) -> None:
        assert self._server.tls_context is not None
        self._read(False)
        self._socket = self._server.tls_context.wrap_socket(
            self._socket, server_side=True, do_handshake_on_connect=False
        )
        self._is_tls_handshaking = True
        self._go_on_with_tls()

    def _go_on_with_tls(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._write(False)
            self._read(True)
            return
        except ssl.SSLWantWriteError:
            self._write(True)
            return
        self._is_tls_handshaking = False
        assert self._negotiation is not None
        self._negotiation.start_tls()
        self._write(False)
        self._read(True)
        if self._has_more():
            self._loop.call_soon(self._on_turn)

    def _read(self, wanted: bool) -> None:
        if wanted is not self._is_reading and not (wanted and self.is_closed):
            self._is_reading = wanted
            if wanted:
                self._loop.add_reader(self._socket.fileno(), self._on_readable)
            else:
                self._loop.remove_reader(self._socket.fileno())

    def _write(self, wanted: bool) -> None:
        if wanted is not self._is_writing and not (wanted and self.is_closed):
            self._is_writing = wanted
            if wanted:
                self._loop.add_writer(self._socket.fileno(), self._on_writable)
            else:
                self._loop.remove_writer(self._socket.fileno())
