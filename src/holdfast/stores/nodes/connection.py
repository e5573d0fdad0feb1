"""One connection of a process to a source's stream server, made when needed and made again.

Invariants:
1. A process uses only connections of its own: one that was inherited by fork is let go.
2. A source that comes back as another tree (host, path, device or inode of its root differ), or
   without the tree, is refused with ConflictError (`source-replaced`), whatever was in progress.
3. Every wait ends: an attempt to connect after CONNECT_S, an answer after ANSWER_S, and trying
   again after `patience_s` since the last answer, with UnavailableError; a source that says it is
   full is waited for longer.
"""

import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from holdfast.errors import (
    ConflictError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from holdfast.model.tree import display_path
from holdfast.ports import Clock, Entropy
from holdfast.proof.digests import Algorithm
from holdfast.stores.nodes.channel import Channel, prepare_socket
from holdfast.stores.nodes.messages import Failure, Hello, Kind, Welcome
from holdfast.stores.nodes.replies import Reply
from holdfast.stores.nodes.wire import (
    MAGIC,
    VERSION,
    Header,
    bad_frame,
    decode_message,
    encode_frame,
    error_of,
)

CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
FRAME_S: Final = 60.0
"""For one frame of at most FRAME_BYTES_MAX, once it began."""
PATIENCE_S: Final = 180.0
FULL_PATIENCE_S: Final = 3600.0
"""With a source that is there and has no place, for whoever had one: it is others that have it,
such as more workers of the same task than the source serves, and they come to an end."""
FIRST_PATIENCE_S: Final = 10.0
"""With a source that never answered: its address may be wrong."""
_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAddress:
    """A tree that a node exports."""

    host: str
    port: int
    export: str
    """`instance/kind/index`."""

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.export}"


class AbandonedError(ConnectionResetError):
    """The connection was let go from this side, and may be made again at once."""


class Connection:
    """Asks one source in order and takes its answers in order; see the module."""

    def __init__(
        self,
        address: NodeAddress,
        *,
        token: bytes | None,
        tls: ssl.SSLContext | None,
        clock: Clock,
        entropy: Entropy,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.address = address
        self._token = token
        self._tls = tls
        self._clock = clock
        self._entropy = entropy
        self._patience_s = patience_s
        self._channel: Channel | None = None
        self._process = os.getpid()
        self._root: Welcome | None = None
        self.generation = 0
        """Grows whenever a connection is lost, and with it what was open on it."""
        self._number = 0
        self._asked: deque[Reply] = deque()
        self._failures = 0
        self._failing_since_ns = 0
        self.clock_ahead_ns = 0
        """Of the source's clock, as of the last greeting."""

    def root(self) -> Welcome:
        """Return what the source said of itself when it was first met."""
        if self._root is None:
            self.persist(self.connect)
        assert self._root is not None
        return self._root

    def is_inherited(self) -> bool:
        """Say, once, whether this process got the connection by fork; then it is let go."""
        process = os.getpid()
        if process == self._process:
            return False
        self._process = process
        self.drop()
        return True

    def connect(self) -> None:
        """Have a connection; OSError if that fails."""
        self._connect()

    def persist(self, attempt: Callable[[], None]) -> None:
        """Make an attempt until it is through, connecting anew with growing pauses.

        What the source answers to the attempt itself is not raised in it but kept in the reply.

        Raises:
            UnavailableError: `source-unreachable`; nothing was heard for `patience_s`.
        """
        while True:
            try:
                attempt()
            except AbandonedError:
                continue
            except OSError as error:
                self._pause(error, 0.0)
            except HoldfastError as error:
                self.drop()  # What else it says is not to be understood.
                if error.code != "busy":
                    raise
                retry_after = error.context.get("retry_after_s", 0.0)
                self._pause(error, retry_after if isinstance(retry_after, float) else 0.0)
            else:
                return

    def ask(self, kind: Kind, message: object, reply: Reply) -> None:
        """Send a request with the next ones, or with the next wait; OSError if that fails."""
        channel = self._connect()
        if any(each.owner is not None and each.owner is not reply.owner for each in self._asked):
            self.abandon()
        self._number = (self._number + 1) & 0xFFFFFFFF
        reply.number = self._number
        channel.put_off(encode_frame(kind, self._number, message))
        self._asked.append(reply)

    def go_on(self, reply: Reply) -> None:
        """Let the source take a further step of a request that it does in steps."""
        assert self._channel is not None
        self._channel.send(encode_frame(Kind.CONTINUE, reply.number, None), FRAME_S)

    def send_off(self) -> None:
        """Send what was asked without waiting for an answer."""
        if self._channel is not None:
            self._channel.flush(FRAME_S)

    def finish(self, reply: Reply) -> None:
        """Take answers until this one is complete; OSError if the connection was lost first."""
        while not reply.is_done:
            if reply.is_lost or not self._asked:
                raise ConnectionResetError("the connection was lost")
            self.take_frame()

    def take_frame(self) -> None:
        """Take one frame for the request that is due."""
        header = self.take_header()
        assert self._channel is not None
        reply = self._asked[0]
        payload = self._channel.receive_payload(header.size_bytes, FRAME_S)
        if header.kind is Kind.FAILURE:
            reply.fail(error_of(decode_message(Failure, payload)))
        else:
            reply.feed(header.kind, payload, is_last=header.is_last)
        self._heard(reply, is_last=header.is_last)

    def take_header(self) -> Header:
        """Take the header of the next frame; its payload is then due."""
        if self._channel is None or not self._asked:
            raise ConnectionResetError("the connection was lost")
        reply = self._asked[0]
        while True:
            header = self._channel.receive_header(ANSWER_S, FRAME_S)
            if header.number != reply.number:
                raise bad_frame("an answer to nothing that was asked")
            if header.kind is not Kind.WORKING or header.size_bytes or header.is_last:
                break
            reply.note_working()
        if header.kind is Kind.FAILURE:
            if not header.is_last:
                raise bad_frame("an error that is not the end")
        elif header.kind is not reply.kind:
            raise bad_frame(f"{header.kind.name} where {reply.kind.name} was asked for")
        return header

    def is_due(self, reply: Reply) -> bool:
        """Say whether the next frame belongs to this request."""
        return bool(self._asked) and self._asked[0] is reply

    def take_data(self, view: memoryview) -> None:
        """Fill `view` with payload of the frame whose header was taken."""
        if self._channel is None:
            raise ConnectionResetError("the connection was lost")
        self._channel.receive_into(view, FRAME_S)

    def data_ended(self, reply: Reply, *, is_last: bool) -> None:
        """Note that a frame of data was taken whole."""
        self._heard(reply, is_last=is_last)

    def drop(self) -> None:
        """Let the connection go, and everything asked on it."""
        for reply in self._asked:
            reply.is_lost = True
        self._asked.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self.generation += 1

    def abandon(self) -> NoReturn:
        """Let the connection go because nobody waits for what is under way: it is made anew."""
        self.drop()
        raise AbandonedError("what was under way is not wanted any more")

    def _heard(self, reply: Reply, *, is_last: bool) -> None:
        self._failures = 0
        if is_last:
            reply.is_done = True
            self._asked.popleft()

    def _connect(self) -> Channel:
        if self._channel is not None:
            return self._channel
        try:
            raw = socket.create_connection((self.address.host, self.address.port), CONNECT_S)
        except socket.gaierror as error:
            if self._root is not None:
                raise
            raise UnavailableError(
                f"no such host: {self.address.host}: {error.strerror}",
                code="host-unknown",
                advice="check the name of the source",
            ) from error
        try:
            prepare_socket(raw)
            raw.settimeout(CONNECT_S)
            if self._tls is not None:
                raw = self._tls.wrap_socket(raw, server_hostname=self.address.host)
            channel = Channel(raw, self._clock)
            self._greet(channel)
        except ssl.SSLCertVerificationError as error:
            raw.close()
            raise UnavailableError(
                f"{self.address}: its certificate cannot be trusted: {error.verify_message}",
                code="certificate-untrusted",
                advice="name the authority that signed it",
            ) from error
        except BaseException:
            raw.close()
            raise
        self._channel = channel
        return channel

    def _greet(self, channel: Channel) -> None:
        hello = Hello(MAGIC, VERSION, self.address.export, self._token)
        channel.send(encode_frame(Kind.HELLO, 0, hello), CONNECT_S)
        header = channel.receive_header(ANSWER_S, CONNECT_S)
        payload = channel.receive_payload(header.size_bytes, CONNECT_S)
        if header.kind is Kind.FAILURE:
            raise self._refusal(error_of(decode_message(Failure, payload)))
        if header.kind is not Kind.WELCOME:
            raise bad_frame(f"{header.kind.name} where WELCOME was due")
        found = decode_message(Welcome, payload)
        if found.version != VERSION:
            raise bad_frame(f"version {found.version} where {VERSION} was asked for")
        self._recognise(found)
        self.clock_ahead_ns = found.now_ns - self._clock.now_ns()

    def _refusal(self, error: HoldfastError) -> HoldfastError:
        """Return what a refused greeting means: of a tree that was there, that it is replaced.

        It must not be taken for an entry that vanished, which is what was being asked for.
        """
        if self._root is None or not isinstance(error, NotFoundError | ConflictError):
            return error
        return self._replaced(error.message)

    def _recognise(self, found: Welcome) -> None:
        known = self._root
        if known is None:
            self._root = found
        elif known[1:5] != found[1:5]:
            raise self._replaced(f"{_place(known)} before, {_place(found)} now")

    def _replaced(self, how: str) -> ConflictError:
        return ConflictError(
            f"{self.address} is not the tree it was: {how}",
            code="source-replaced",
            advice="check that the right file system is mounted at the source, then run it again",
        )

    def _pause(self, error: Exception, at_least_s: float) -> None:
        """Wait before the next attempt, or raise once patience is over."""
        self.drop()
        now_ns = self._clock.monotonic_ns()
        if not self._failures:
            self._failing_since_ns = now_ns
        self._failures += 1
        longest_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2 ** min(self._failures, 16))
        # Jitter of a half, so that clients of one source do not come back all at once.
        share = 0.5 + int.from_bytes(self._entropy.random_bytes(2), "big") / 131_072
        pause_s = max(at_least_s, longest_s * share)
        patience_s = self._patience_s
        if self._root is None and not isinstance(error, HoldfastError):
            patience_s = min(patience_s, FIRST_PATIENCE_S)
        elif self._root is not None and isinstance(error, HoldfastError):
            patience_s = max(patience_s, FULL_PATIENCE_S)
        if (now_ns - self._failing_since_ns) / 1e9 + pause_s > patience_s:
            if isinstance(error, HoldfastError):
                raise error
            raise UnavailableError(
                f"{self.address} does not answer: {_reason(error)}",
                code="source-unreachable",
                advice="check that the node runs there and that its stream port is open; then run "
                "it again to go on from here",
            ) from error
        self._clock.sleep(pause_s)


def check_algorithm(root: Welcome, algorithm: str) -> None:
    """Raise InvalidRequestError (`bad-algorithm`) if the source cannot compute a digest."""
    if algorithm not in root.algorithms:
        raise InvalidRequestError(
            f"the source does not know the digest {algorithm}",
            code="bad-algorithm",
            advice=f"choose one of {', '.join(sorted({*root.algorithms} & {*Algorithm}))}",
        )


def _place(root: Welcome) -> str:
    path = display_path(root.path.encode("utf-8", "backslashreplace"))
    host = display_path(root.host.encode("utf-8", "backslashreplace"))
    return f"{host}:{path} (device {root.device}, inode {root.inode})"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
