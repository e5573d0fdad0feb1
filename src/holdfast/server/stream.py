"""The stream server of a node: one listening process, and a forked one for each connection.

Passive: it shows trees to clients that read them, and writes nothing. A client costs one process
with bounded memory, which ends with it; when the listener ends, the kernel ends all of them.

Invariants:
1. At most `connections_max` clients are served. Whoever comes beyond that is told so (`busy`, with
   a time to come back), by at most _REFUSALS_MAX processes; beyond these it is cut off.
2. A place is free as soon as its client is gone, silent for `idle_timeout_s`, or slower than a
   frame a minute; a client that is not known yet has HANDSHAKE_S in all, and gives way to the next
   one when all places are taken: who it is says nobody slowly.
3. Nobody is shown anything before the token or certificate was found to permit it.
"""

import mmap
import os
import selectors
import signal
import socket
import ssl
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.access import Permission
from holdfast.model.tree import display_path
from holdfast.ports import Clock
from holdfast.proof.digests import Algorithm
from holdfast.server.serving import names_of
from holdfast.server.stream_session import StreamSession
from holdfast.server.stream_tree import ExportedTree
from holdfast.stores.directories.linux import die_with_parent
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.nodes.channel import Channel, prepare_socket
from holdfast.stores.nodes.messages import Hello, Kind, Welcome
from holdfast.stores.nodes.wire import (
    MAGIC,
    VERSION,
    bad_frame,
    decode_message,
    encode_frame,
    failure_of,
)
from holdfast.stores.pace import SharedPace
from holdfast.stores.system import SystemClock

HANDSHAKE_S: Final = 10
"""From the connection to the end of the first frame, TLS included."""
_RETRY_AFTER_S: Final = 1.0
_REFUSALS_MAX: Final = 32
_BACKLOG: Final = 256
_FULL_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A tree that is shown, and what of it is not."""

    path: bytes
    is_excluded: Callable[[bytes, bool], bool] = field(default=lambda _path, _is_directory: False)
    """Given a path relative to the root, and whether it is a directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What a stream server needs to know."""

    listen_address: str
    port: int
    """0 takes a free one."""
    tls: ssl.SSLContext | None
    authorize: Callable[[bytes | None, tuple[str, ...]], frozenset[Permission]]
    """Given a token and the names in a checked client certificate; DeniedError, or no permission,
    for whoever is not known."""
    exports: Mapping[str, Export]
    """By their name on the stream, `instance/kind/index`."""
    connections_max: int
    idle_timeout_s: float
    rate_bytes_per_s: float | None = None
    """For all connections together; None for no limit."""


def serve_stream(settings: StreamSettings, announce: Callable[[int], None]) -> None:
    """Listen until the process is ended; to be called in a process of its own.

    Args:
        settings: What to serve.
        announce: Given the port once clients can connect.

    Raises:
        ConflictError: The port is in use (`port-in-use`).
        InvalidRequestError: The address cannot be listened on (`bad-address`).
    """
    with _bind(settings) as listener:
        announce(listener.getsockname()[1])
        _Listener(settings, listener).run()


@dataclass(frozen=True, slots=True)
class _Session:
    """The process of one connection."""

    process: int
    watched: int
    """Becomes readable when it has ended."""
    place: int | None
    """None while it only refuses."""


class _Listener:
    """Accepts, forks and counts; owned by the listening process."""

    def __init__(self, settings: StreamSettings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._clock = SystemClock()
        self._pace = SharedPace(self._clock, settings.rate_bytes_per_s)
        self._sessions: dict[int, _Session] = {}
        """By process, in the order in which they came."""
        self._free = list(range(settings.connections_max))
        # A byte for each place, shared with the processes: whether its client is known.
        self._known = mmap.mmap(-1, settings.connections_max)
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Accept connections, and note when the process of one has ended."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            events = self._selector.select()
            # Places that became free first: whoever comes then finds one.
            for key, _ in events:
                if key.fileobj is not self._listener:
                    self._reap(key.data)
            if any(key.fileobj is self._listener for key, _ in events):
                self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # It is gone already; or there are too many, and those waiting are asked again.
            self._clock.sleep(_FULL_PAUSE_S)
            return
        with connection:
            place = self._take_place()
            if place is None and self._refusing() >= _REFUSALS_MAX:
                return
            try:
                process = os.fork()
            except OSError:
                self._give_back(place)
                return  # Too many processes: the client comes back.
            if not process:
                self._become_session(connection, place)
            try:
                watched = os.pidfd_open(process)
            except OSError:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                self._give_back(place)
                return  # Too many files: as above.
            session = _Session(process, watched, place)
            self._sessions[process] = session
            self._selector.register(watched, selectors.EVENT_READ, data=session)

    def _take_place(self) -> int | None:
        """Return a place, if need be that of the oldest client that did not say yet who it is."""
        if not self._free:
            for session in self._sessions.values():
                if session.place is not None and not self._known[session.place]:
                    os.kill(session.process, signal.SIGKILL)
                    self._reap(session)
                    break
        if not self._free:
            return None
        place = self._free.pop()
        self._known[place] = 0
        return place

    def _give_back(self, place: int | None) -> None:
        if place is not None:
            self._free.append(place)

    def _refusing(self) -> int:
        return sum(session.place is None for session in self._sessions.values())

    def _reap(self, session: _Session) -> None:
        if self._sessions.pop(session.process, None) is None:
            return
        self._selector.unregister(session.watched)
        os.close(session.watched)
        os.waitpid(session.process, 0)
        self._give_back(session.place)

    def _become_session(self, connection: socket.socket, place: int | None) -> None:
        def note_known() -> None:
            assert place is not None
            self._known[place] = 1

        status = 1
        try:
            die_with_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # A slow client cannot put this off: the kernel ends the process.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(HANDSHAKE_S)
            self._listener.close()
            note = None if place is None else note_known
            serve_connection(connection, self._settings, self._clock, self._pace, note)
            status = 0
        except (OSError, HoldfastError):
            status = 0  # The client is gone, or was told.
        except Exception:  # noqa: BLE001 the outermost loop of a session
            traceback.print_exc()
        finally:
            os._exit(status)


def serve_connection(
    connection: socket.socket,
    settings: StreamSettings,
    clock: Clock,
    pace: SharedPace,
    note_known: Callable[[], None] | None,
) -> None:
    """Greet and serve one client; OSError or HoldfastError when it is over.

    Args:
        note_known: Called once it is known who the client is; None where all places are taken.
    """
    prepare_socket(connection)
    connection.settimeout(HANDSHAKE_S)
    names: tuple[str, ...] = ()
    if settings.tls is not None:
        secured = settings.tls.wrap_socket(connection, server_side=True)
        names = names_of(secured.getpeercert())
        connection = secured
    channel = Channel(connection, clock)
    try:
        hello = _receive_hello(channel)
        if note_known is None:
            raise UnavailableError(
                f"all {settings.connections_max} connections of this source are taken",
                code="busy",
                advice="it is tried again; or raise the limit at the source",
                retry_after_s=_RETRY_AFTER_S,
            )
        permissions = settings.authorize(hello.token, names)
        if not permissions & {Permission.COPY, Permission.VERIFY}:
            raise DeniedError(
                "this source does not let you read",
                code="forbidden",
                advice="give a token or certificate with the permission 'copy'",
            )
        note_known()
        tree = _open_export(settings, hello.export)
    except HoldfastError as error:
        channel.send(encode_frame(Kind.FAILURE, 0, failure_of(error)), HANDSHAKE_S)
        raise
    channel.send(encode_frame(Kind.WELCOME, 0, _welcome(tree, clock)), HANDSHAKE_S)
    signal.alarm(0)
    session = StreamSession(
        channel, tree, permissions, pace=pace, idle_timeout_s=settings.idle_timeout_s
    )
    session.run()


def _receive_hello(channel: Channel) -> Hello:
    header = channel.receive_header(HANDSHAKE_S, HANDSHAKE_S)
    if header.kind is not Kind.HELLO:
        raise bad_frame(f"{header.kind.name} where HELLO was due")
    payload = channel.receive_payload(header.size_bytes, HANDSHAKE_S)
    hello = decode_message(Hello, payload)
    if hello.magic != MAGIC:
        raise bad_frame("a greeting of another protocol")
    if hello.version != VERSION:
        raise UnsupportedError(
            f"this source speaks version {VERSION} of the stream, not {hello.version}",
            code="stream-version",
            advice="run the same version of holdfast on both hosts",
        )
    return hello


def _open_export(settings: StreamSettings, name: str) -> ExportedTree:
    export = settings.exports.get(name)
    if export is None:
        known = ", ".join(sorted(settings.exports)[:20])
        raise NotFoundError(
            f"this source has no tree {display_path(name.encode('utf-8', 'replace'))[:200]!r}",
            code="no-export",
            advice=f"it has: {known}" if known else "configure an instance at the source",
        )
    return ExportedTree(
        directory=PosixReadableDirectory(export.path), is_excluded=export.is_excluded
    )


def _welcome(tree: ExportedTree, clock: Clock) -> Welcome:
    root = tree.directory.describe()
    device, inode = root["device"], root["inode"]
    assert isinstance(device, int)
    assert isinstance(inode, int)
    algorithms = [each.value for each in Algorithm]
    return Welcome(
        VERSION, str(root["host"]), str(root["path"]), device, inode, algorithms, clock.now_ns()
    )


def _bind(settings: StreamSettings) -> socket.socket:
    address = (settings.listen_address, settings.port)
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise InvalidRequestError(
            f"{settings.listen_address} is no address of this machine: {error.strerror}",
            code="bad-address",
            advice="listen on an address that 'ip addr' shows",
        ) from error
    except OSError as error:
        raise ConflictError(
            f"port {settings.port} of {settings.listen_address} cannot be taken: {error.strerror}",
            code="port-in-use",
            advice="end what listens there, or choose another port",
        ) from error
