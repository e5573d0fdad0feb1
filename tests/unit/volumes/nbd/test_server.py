"""Goal: clients on real sockets are served side by side, bounded, and dropped when they misbehave.

Method: a server in a thread with a plain volume in memory; clients that pipeline, stop reading,
stop sending, vanish, send too much, or speak TLS with and without a certificate. Invariants:
connection 1-3, server 1 and 2, running 1-5, and, of front ends, 51, 53 and 55.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.certificates import Authority
from tests.support.nbd_client import NbdClient, go, option, request, write
from tests.support.nbd_server import NbdServerThread
from tests.support.plain_volume import PlainVolume

from holdfast.errors import StorageFailedError
from holdfast.model.limits import (
    NBD_BUFFERS_GROWN_MAX,
    NBD_CONNECTIONS_MAX,
    NBD_NEGOTIATION_S,
    NBD_REQUEST_BYTES_MAX,
    NBD_SILENCE_S,
)
from holdfast.volumes.nbd.codec import Command, Errno, Option, OptionReply
from holdfast.volumes.nbd.negotiation import TlsMode

MIB = 1 << 20
A, B = b"a" * 4096, b"b" * 4096


@pytest.fixture
def served(tmp_path: Path) -> Iterator[NbdServerThread]:
    """A volume of 64 MiB."""
    server = NbdServerThread(PlainVolume(64 * MIB), tmp_path)
    yield server
    server.close()


@pytest.fixture
def clients(served: NbdServerThread) -> Iterator["Clients"]:
    """Makes connections, and hangs up in the end."""
    with contextlib.ExitStack() as stack:
        yield Clients(served, stack)


class Clients:
    """Makes clients of one server."""

    def __init__(self, served: NbdServerThread, stack: contextlib.ExitStack) -> None:
        self._served = served
        self._stack = stack

    def __call__(self, *, is_local: bool = True) -> NbdClient:
        """Return a client that was greeted."""
        port = ("127.0.0.1", self._served.port)
        client = NbdClient(self._served.socket_path if is_local else port)
        self._stack.callback(client.close)
        return client


def _volume(served: NbdServerThread) -> PlainVolume:
    assert isinstance(served.volume, PlainVolume)
    return served.volume


@pytest.mark.parametrize("is_local", [True, False])
def test_a_client_writes_reads_and_flushes(clients: Clients, is_local: bool) -> None:
    client = clients(is_local=is_local)
    client.start("disk")

    assert client.write(4096, A) == 0
    assert client.flush() == 0
    assert client.read(0, 12288) == bytes(4096) + A + bytes(4096)
    client.send(request(Command.DISC, 99))
    assert client.is_hung_up()


def test_many_requests_at_once_are_all_answered(clients: Clients) -> None:
    client = clients()
    client.start("disk", structured=True)
    sender = threading.Thread(
        target=lambda: client.send(
            b"".join(
                write(n, n * 4096, A) + request(Command.READ, 5000 + n, n * 4096, 65536)
                for n in range(1000)
            )
        )
    )
    sender.start()

    answered = [client.reply().cookie for _ in range(2000)]

    sender.join()
    assert sorted(answered) == [*range(1000), *range(5000, 6000)]


def test_flush_covers_what_others_were_answered(served: NbdServerThread, clients: Clients) -> None:
    one, two = clients(), clients(is_local=False)
    one.start("disk")
    two.start("disk")
    assert one.write(0, A) == 0

    assert two.flush() == 0

    assert _volume(served).durable_lsn == 1


def test_failed_flush_is_told(served: NbdServerThread, clients: Clients) -> None:
    client = clients()
    client.start("disk")
    _volume(served).flush_error = StorageFailedError("no", code="flush-failed")

    assert client.write(0, A, flags=1) == Errno.EIO
    assert client.flush() == Errno.EIO


def test_client_that_takes_no_answers_holds_up_nobody(clients: Clients) -> None:
    lazy, busy = clients(), clients()
    lazy.start("disk")
    busy.start("disk")
    with contextlib.suppress(TimeoutError):
        lazy.socket.settimeout(0.3)
        lazy.send(request(Command.READ, 1, 0, 4 * MIB) * 50_000)

    assert busy.write(0, A) == 0
    assert busy.read(0, 4096) == A


def test_who_hangs_up_at_once_breaks_nothing(served: NbdServerThread, clients: Clients) -> None:
    def connect() -> None:
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(served.socket_path)

    # The server accepts them only after they have gone.
    served.call(connect)

    clients().start("disk")


def test_half_a_write_never_happens(served: NbdServerThread, clients: Clients) -> None:
    client = clients()
    client.start("disk")
    client.send(write(1, 0, A) + write(2, 0, B)[:-1])
    assert client.reply().cookie == 1
    client.close()

    other = clients()
    other.start("disk")
    assert other.read(0, 4096) == A
    assert _volume(served).last_lsn == 1


def test_malformed_request_hangs_up_after_what_came_before(clients: Clients) -> None:
    client = clients()
    client.start("disk")

    client.send(write(1, 0, A) + b"\0" * 28)

    assert client.reply().cookie == 1
    assert client.is_hung_up()


def test_who_writes_is_slowed_as_the_log_fills(served: NbdServerThread, clients: Clients) -> None:
    client = clients()
    client.start("disk")
    _volume(served).log_fraction = 0.95

    # From so many bytes on the log is looked at; once for each, not for each small request.
    assert [client.write(0, A * 128) for _ in range(2)] == [0] * 2
    assert [client.write(0, A) for _ in range(9)] == [0] * 9
    slowed = served.counters.pauses_count
    assert 2 <= slowed < 9
    assert [len(client.read(0, 4096)) for _ in range(3)] == [4096] * 3
    assert served.counters.pauses_count - slowed <= 1, "who only reads is not slowed"

    _volume(served).log_fraction = 0.5
    served.call(served.running._ask_for_checkpoint)
    slowed = served.counters.pauses_count
    assert client.write(0, A * 128) == 0
    assert served.counters.pauses_count == slowed


def test_full_log_is_waited_for(served: NbdServerThread, clients: Clients) -> None:
    client = clients()
    client.start("disk")
    _volume(served).stalls_left = 3

    assert client.write(0, A) == 0

    assert served.counters.stalls_count == 1
    assert served.counters.checkpoints_count == 3


def test_full_log_is_no_space_in_the_end(served: NbdServerThread, clients: Clients) -> None:
    client = clients()
    client.start("disk")
    _volume(served).stalls_left = 1 << 60
    client.send(write(7, 0, A) + request(Command.READ, 8, 0, 4096))
    later_ns = served.running.clock.monotonic_ns() + 6_000_000_000
    (connection,) = served.call(lambda: list(served.server._connections))
    while not served.call(lambda: served.running.is_stalled):
        pass

    served.call(lambda: connection.check(later_ns))

    answer = client.reply()
    assert (answer.cookie, answer.errno) == (7, Errno.ENOSPC)
    assert client.reply(4096).payload == bytes(4096)
    assert _volume(served).last_lsn == 0


def test_who_leaves_things_half_done_is_dropped(served: NbdServerThread, clients: Clients) -> None:
    idle, half, mute = clients(), clients(), clients()
    for client in (idle, half):
        client.start("disk")
        assert client.write(0, A) == 0
    half.send(write(1, 0, A)[:100])
    now_ns = served.running.clock.monotonic_ns()

    def check(after_s: float) -> int:
        for connection in list(served.server._connections):
            connection.check(now_ns + int(after_s * 1e9))
        return served.server.connections_count

    assert served.call(lambda: check(NBD_NEGOTIATION_S - 1)) == 3
    assert served.call(lambda: check(NBD_NEGOTIATION_S + 1)) == 2
    assert mute.is_hung_up()
    while not served.call(lambda: any(c._inbox.is_mid_request for c in served.server._connections)):
        pass
    assert served.call(lambda: check(NBD_SILENCE_S + 20)) == 1
    assert half.is_hung_up()
    assert idle.read(0, 4096) == A


def test_keepalive_finds_who_has_vanished(served: NbdServerThread, clients: Clients) -> None:
    clients(is_local=False).start("disk")

    (connection,) = served.call(lambda: list(served.server._connections))

    sock = connection._socket
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    idle_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    probes_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) * sock.getsockopt(
        socket.IPPROTO_TCP, socket.TCP_KEEPCNT
    )
    assert idle_s + probes_s <= 60


def test_connections_are_limited(served: NbdServerThread, clients: Clients) -> None:
    several = [clients() for _ in range(NBD_CONNECTIONS_MAX)]
    with pytest.raises(EOFError):
        clients()
    several[0].close()
    while served.call(lambda: served.server.connections_count) == NBD_CONNECTIONS_MAX:
        pass

    clients().start("disk")


def test_long_requests_take_turns_with_memory(served: NbdServerThread, clients: Clients) -> None:
    size, first = 12 * MIB, 64 << 10
    several = [clients() for _ in range(NBD_BUFFERS_GROWN_MAX + 2)]
    for client in several:
        client.start("disk")
        client.send(write(1, 0, bytes(size))[:first])
    while served.call(lambda: len(served.server._grown)) < NBD_BUFFERS_GROWN_MAX:
        pass
    while served.call(lambda: len(served.server._wants_growth)) < 2:
        pass
    rest = write(1, 0, bytes(size))[first:]

    senders = [threading.Thread(target=client.send, args=(rest,)) for client in several]
    for sender in senders:
        sender.start()

    assert [client.reply().errno for client in several] == [0] * len(several)
    for sender in senders:
        sender.join()
    assert served.call(lambda: len(served.server._grown)) <= NBD_BUFFERS_GROWN_MAX


def test_largest_write_and_read(clients: Clients) -> None:
    client = clients()
    client.start("disk")
    data = bytes(range(256)) * (NBD_REQUEST_BYTES_MAX // 256)

    assert client.write(MIB, data) == 0
    assert client.read(MIB, NBD_REQUEST_BYTES_MAX) == data


def test_spinning_server_serves(tmp_path: Path) -> None:
    server = NbdServerThread(PlainVolume(MIB), tmp_path, spin_us=200)
    try:
        client = NbdClient(server.socket_path)
        client.start("disk")
        assert [client.write(0, A) for _ in range(50)] == [0] * 50
        client.close()
    finally:
        server.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the certificates of both sides."""
    return Authority(tmp_path_factory.mktemp("certificates"))


def _server_context(authority: Authority, *, asks_clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    if asks_clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.path)
    return context


@contextlib.contextmanager
def _tls_server(
    directory: Path, context: ssl.SSLContext, mode: TlsMode
) -> Iterator[NbdServerThread]:
    server = NbdServerThread(PlainVolume(64 * MIB), directory, tls_context=context, tls_mode=mode)
    try:
        yield server
    finally:
        server.close()


def test_everything_works_inside_tls(tmp_path: Path, authority: Authority) -> None:
    with _tls_server(tmp_path, _server_context(authority), TlsMode.REQUIRED) as server:
        client = NbdClient(("127.0.0.1", server.port))
        client.flags()
        assert client.ask(option(Option.LIST))[-1].kind == OptionReply.ERR_TLS_REQD
        client.start_tls(ssl.create_default_context(cafile=str(authority.path)))
        assert client.ask(go("disk"))[-1].kind == OptionReply.ACK
        data = bytes(range(256)) * (12 * MIB // 256)

        assert client.write(100, data) == 0
        assert client.flush() == 0
        assert client.read(100, len(data)) == data
        client.send(b"".join(write(n, n * 4096, A) for n in range(500)))
        assert [client.reply().cookie for n in range(500)] == list(range(500))
        client.close()


def test_what_tls_holds_back_is_not_forgotten(tmp_path: Path, authority: Authority) -> None:
    with _tls_server(tmp_path, _server_context(authority), TlsMode.REQUIRED) as server:
        client = NbdClient(("127.0.0.1", server.port))
        client.flags()
        client.start_tls(ssl.create_default_context(cafile=str(authority.path)))
        client.ask(go("disk"))

        # The buffer grown for the first ends within a record that holds all of the second.
        client.send(write(1, 0, bytes(12 * MIB)) + write(2, 0, A))

        assert [client.reply().cookie, client.reply().cookie] == [1, 2]
        client.close()


def test_tls_that_is_optional_leaves_the_choice(tmp_path: Path, authority: Authority) -> None:
    with _tls_server(tmp_path, _server_context(authority), TlsMode.OPTIONAL) as server:
        client = NbdClient(("127.0.0.1", server.port))
        client.start("disk")
        assert client.write(0, A) == 0
        client.close()


def _start(client: NbdClient, context: ssl.SSLContext) -> None:
    client.start_tls(context)
    client.ask(go("disk"))


def test_client_without_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    context = _server_context(authority, asks_clients=True)
    with _tls_server(tmp_path, context, TlsMode.REQUIRED) as server:
        stranger = NbdClient(("127.0.0.1", server.port))
        stranger.flags()
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            _start(stranger, ssl.create_default_context(cafile=str(authority.path)))
        stranger.close()
        known = NbdClient(("127.0.0.1", server.port))
        known.flags()
        own = ssl.create_default_context(cafile=str(authority.path))
        own.load_cert_chain(*authority.issue("client"))
        known.start_tls(own)
        assert known.ask(go("disk"))[-1].kind == OptionReply.ACK
        known.close()
