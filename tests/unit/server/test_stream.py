"""Goal: the stream server lets in whom it should, holds nobody's place for nothing, shows no more.

Method: a real server process on loopback; clients of the product, and raw sockets that misbehave.
Cites the invariants of server/stream.py (S1 to S3) and of server/stream_session.py.
"""

import contextlib
import itertools
import os
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.certificates import Authority
from tests.support.slow_clients import besieging
from tests.support.stream import EXPORT, StreamServer
from tests.support.trees import pattern, write

from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.model.limits import GIB
from holdfast.model.tree import ROOT_PATH
from holdfast.ports import ExpectedFile
from holdfast.server.stream import Export, StreamSettings, serve_stream
from holdfast.stores.nodes.channel import Channel
from holdfast.stores.nodes.connection import NodeAddress
from holdfast.stores.nodes.directory import open_node_directory
from holdfast.stores.nodes.messages import Hello, Kind, OpenRequest, SizeRequest
from holdfast.stores.nodes.wire import MAGIC, VERSION, encode_frame
from holdfast.stores.system import SystemClock

TOKEN = b"secret"
SIEGE_ROUNDS = int(os.environ.get("HOLDFAST_SIEGE_ROUNDS", "8"))
"""How often an honest client comes during an attack."""


def only_token(token: bytes | None, _names: tuple[str, ...]) -> frozenset[Permission]:
    """Permit everything to who has the token, to verify to who has another, else nothing."""
    if token == TOKEN:
        return ALL_PERMISSIONS
    if token == b"verifier":
        return frozenset({Permission.VERIFY})
    return frozenset()


def only_certificate(_token: bytes | None, names: tuple[str, ...]) -> frozenset[Permission]:
    """Permit everything to clients with a certificate for this host."""
    return ALL_PERMISSIONS if "localhost" in names else frozenset()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree."""
    tree = tmp_path / "tree"
    write(tree / "a", "content of a")
    write(tree / "d" / "b", "content of b")
    write(tree / "snapshots" / "s" / "old", "old")
    write(tree / "d" / "x.log", "log")
    return tree


@pytest.fixture
def server(root: Path) -> Iterator[StreamServer]:
    """A server that is not started yet."""
    made = StreamServer(os.fsencode(root))
    yield made
    made.stop()


def raw_client(server: StreamServer) -> socket.socket:
    """Return a plain connection."""
    return socket.create_connection(("127.0.0.1", server.port), 5)


def greet(client: socket.socket, *, token: bytes | None = None, export: str = EXPORT) -> bytes:
    """Send a greeting; return the beginning of the answer."""
    client.sendall(encode_frame(Kind.HELLO, 0, Hello(MAGIC, VERSION, export, token)))
    return client.recv(65536)


def wait_for_place(server: StreamServer, within_s: float) -> None:
    """Wait until a client gets in, which is itself patient for so long."""
    server.open(patience_s=within_s).close()


def test_without_token_nothing_is_shown(server: StreamServer) -> None:
    """S3."""
    server.authorize = only_token
    server.start()

    for token in (None, b"wrong"):
        with pytest.raises(DeniedError):
            open_node_directory(server.address(), token=token)
    tree = open_node_directory(server.address(), token=TOKEN)
    assert tree.stat(b"a").size_bytes == 12
    tree.close()


def test_a_verifier_gets_lists_and_digests_but_no_bytes(server: StreamServer) -> None:
    server.authorize = only_token
    server.start()
    tree = open_node_directory(server.address(), token=b"verifier")

    assert sorted(tree.list_names(ROOT_PATH)) == [(b"a", False), (b"d", True), (b"snapshots", True)]
    assert len(list(tree.digest_files([b"a"], "blake3", drop_cache=True))) == 2
    for call in (
        lambda: tree.open_file(b"a"),
        lambda: tree.read_small(b"a", memoryview(bytearray(100))),
    ):
        with pytest.raises(DeniedError):
            call()
    tree.close()


def test_an_unknown_export_is_said_to_be_none(server: StreamServer) -> None:
    server.start()
    address = NodeAddress(host="127.0.0.1", port=server.port, export="db/data/1")

    with pytest.raises(NotFoundError) as raised:
        open_node_directory(address)
    assert raised.value.code == "no-export"


def test_tls_is_required_and_checked(server: StreamServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.path)
    server.tls.load_cert_chain(*authority.issue("node"))
    server.tls.verify_mode = ssl.CERT_OPTIONAL
    server.authorize = only_certificate
    server.start()

    known = ssl.create_default_context(cafile=authority.path)
    with pytest.raises(DeniedError):
        open_node_directory(server.address(), tls=known)
    with pytest.raises(UnavailableError) as raised:
        open_node_directory(server.address(), tls=ssl.create_default_context())
    assert raised.value.code == "certificate-untrusted"
    with pytest.raises(HoldfastError):
        open_node_directory(server.address(), patience_s=0.2)
    known.load_cert_chain(*authority.issue("mover"))
    tree = open_node_directory(server.address(), tls=known)
    assert tree.stat(b"a").size_bytes == 12
    with_bytes = tree.read_small(b"a", memoryview(bytearray(100)))
    assert with_bytes is not None
    tree.close()


def test_who_comes_beyond_the_cap_is_told_so_and_gets_in_later(server: StreamServer) -> None:
    """S1, S2: refused with `busy`; the place is free once a client went."""
    server.connections_max = 1
    server.start()
    first = server.open()

    with pytest.raises(UnavailableError) as raised:
        server.open(patience_s=0.1)
    assert raised.value.code == "busy"
    assert raised.value.context["retry_after_s"] == 1.0
    first.close()
    wait_for_place(server, 5)


def test_a_client_that_vanishes_leaves_its_place(server: StreamServer) -> None:
    """S2: cut in the middle of a large answer, without a goodbye."""
    write(Path(os.fsdecode(server.root)) / "big", bytes(20 << 20))
    server.connections_max = 1
    server.start()
    client = server.open()
    reader = client.open_file(b"big")
    reader.read_into(memoryview(bytearray(1 << 20)), 0)

    client.close()

    wait_for_place(server, 5)


def test_a_silent_client_loses_its_place(server: StreamServer) -> None:
    server.connections_max = 1
    server.idle_timeout_s = 0.3
    server.start()
    with raw_client(server) as silent:
        assert greet(silent)
        began = time.monotonic()
        wait_for_place(server, 10)
        assert 0.1 < time.monotonic() - began < 5
        # And a client of the product that was let go for its silence just comes back.
    tree = server.open()
    time.sleep(0.6)
    assert tree.stat(b"a").size_bytes == 12
    tree.close()


@pytest.mark.slow
def test_slow_loris_cannot_hold_places(server: StreamServer) -> None:
    """S2: a byte of the greeting now and then does not prolong the time there is for it."""
    server.connections_max = 2
    server.start()
    clients = [raw_client(server) for _ in range(2)]
    began = time.monotonic()
    ended = 0
    hello = encode_frame(Kind.HELLO, 0, Hello(MAGIC, VERSION, EXPORT, None))
    for at in range(30):
        for each in clients:
            try:
                each.sendall(hello[at : at + 1])
            except OSError:
                ended += 1
        if ended >= 2:
            break
        time.sleep(0.5)
    assert 8 < time.monotonic() - began < 14
    wait_for_place(server, 5)
    for each in clients:
        each.close()


@pytest.mark.slow
def test_while_all_places_are_attacked_an_honest_client_gets_through(server: StreamServer) -> None:
    """S2: whoever does not say who it is gives way to the next."""
    server.connections_max = 4
    server.authorize = only_token
    server.start()
    hello = encode_frame(Kind.HELLO, 0, Hello(MAGIC, VERSION, EXPORT, TOKEN))
    with besieging(
        ("127.0.0.1", server.port),
        clients=12,
        opening=hello[:1],
        attack=lambda client: client.sendall(hello[1:2]),
    ) as siege:
        for _ in range(SIEGE_ROUNDS):
            tree = open_node_directory(server.address(), token=TOKEN, patience_s=5)
            assert tree.stat(b"a").size_bytes == 12
            time.sleep(0.5)
            assert [path for path, _ in tree.list_names(ROOT_PATH)] == [b"a", b"d", b"snapshots"]
            tree.close()
    assert siege.connections > 2 * server.connections_max


@pytest.mark.parametrize(
    "raw",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"\xff" * 64, os.urandom(200)],
    ids=["http", "zeros", "ones", "random"],
)
def test_another_protocol_is_cut_off(server: StreamServer, raw: bytes) -> None:
    server.start()
    with raw_client(server) as client:
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while data := client.recv(4096):
                answer += data
        except ConnectionResetError:
            pass
    assert len(answer) < 1000
    wait_for_place(server, 5)


def test_requests_that_break_the_rules_end_the_connection(server: StreamServer) -> None:
    server.start()
    for frame in (
        encode_frame(Kind.LIST, 1, ["not", "a", "path"]),
        encode_frame(Kind.LISTING, 1, None),
        encode_frame(Kind.CONTINUE, 1, None),
    ):
        with raw_client(server) as client:
            assert greet(client)
            client.sendall(frame)
            client.settimeout(5)
            assert client.recv(4096) == b""


def test_excluded_entries_are_hidden_and_refused(server: StreamServer) -> None:
    def is_excluded(path: bytes, is_directory: bool) -> bool:
        return (path == b"snapshots" and is_directory) or path.endswith(b".log")

    server.is_excluded = is_excluded
    server.start()
    tree = server.open()

    assert sorted(tree.list_names(ROOT_PATH)) == [(b"a", False), (b"d", True)]
    assert tree.list_names(b"d") == [(b"b", False)]
    buffer = memoryview(bytearray(100))
    for path in (b"d/x.log", b"snapshots/s/old", b"snapshots/s", b"snapshots"):
        calls: list[Callable[[bytes], object]] = [tree.stat, tree.xattrs]
        if path.endswith((b"log", b"old")):
            calls += [tree.open_file, lambda p: tree.read_small(p, buffer)]
        for call in calls:
            with pytest.raises(DeniedError) as raised:
                call(path)
            assert raised.value.code == "excluded"
    for path in (b"snapshots", b"snapshots/s"):
        with pytest.raises(DeniedError):
            tree.list_names(path)
    tree.close()


@pytest.mark.parametrize(
    "path", [b"../secret", b"/etc/passwd", b"a\0b", b"d/../../secret", b"d//b"]
)
def test_paths_that_lead_outside_are_refused(
    server: StreamServer, path: bytes, tmp_path: Path
) -> None:
    write(tmp_path / "secret", "secret")
    server.start()
    tree = server.open()

    calls: list[Callable[[], object]] = [
        lambda: tree.stat(path),
        lambda: tree.list_names(path),
        lambda: tree.open_file(path),
        lambda: tree.read_link(path),
        lambda: tree.read_small(path, memoryview(bytearray(10))),
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError) as raised:
            call()
        assert raised.value.code == "bad-path"
    assert isinstance(
        list(tree.digest_files([path], "blake3", drop_cache=False))[-1], HoldfastError
    )
    tree.close()


def test_symlinks_are_not_followed(server: StreamServer, tmp_path: Path) -> None:
    write(tmp_path / "outside" / "secret", "secret")
    root = Path(os.fsdecode(server.root))
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    server.start()
    tree = server.open()

    for path in (b"out/secret", b"file"):
        with pytest.raises(ConflictError):
            tree.open_file(path)
    with pytest.raises(ConflictError):
        tree.list_names(b"out")
    assert tree.read_link(b"file").endswith(b"secret")
    tree.close()


def test_digests_are_of_what_is_sent(server: StreamServer) -> None:
    """Session invariant 2, for a bundle, for a large file, for a sparse one, and at the source."""
    import blake3

    root = Path(os.fsdecode(server.root))
    content = {b"small": pattern(5000), b"large": pattern((9 << 20) + 17, 1)}
    for name, data in content.items():
        write(root / os.fsdecode(name), data)
    with open(root / "sparse", "wb") as stream:
        stream.seek(3 << 20)
        stream.write(pattern(70_000, 2))
        stream.truncate(6 << 20)
    content[b"sparse"] = (root / "sparse").read_bytes()
    server.start()
    tree = server.open()
    buffer = memoryview(bytearray(1 << 20))

    tree.expect([ExpectedFile(b"small", 5000)], "blake3")
    small = tree.read_small(b"small", buffer)
    assert small is not None
    assert bytes(buffer[:5000]) == content[b"small"]
    assert small.digest == blake3.blake3(content[b"small"]).digest()
    for name in (b"large", b"sparse"):
        reader = tree.open_file(name)
        size = reader.stat().size_bytes
        found = bytearray(size)
        for start, end in reader.data_extents(size):
            at = start
            while at < end:
                got = reader.read_into(memoryview(found)[at : min(at + (1 << 20), end)], at)
                assert got
                at += got
        assert found == content[name]
        assert reader.given_digest() == blake3.blake3(content[name]).digest()
        reader.close()
    digests = [
        each.digest
        for each in tree.digest_files(list(content), "blake3", drop_cache=True)
        if not isinstance(each, int | HoldfastError)
    ]
    assert digests == [blake3.blake3(data).digest() for data in content.values()]
    tree.close()


def test_a_port_in_use_is_an_error(server: StreamServer) -> None:
    server.start()
    settings = StreamSettings(
        listen_address="127.0.0.1",
        port=server.port,
        tls=None,
        authorize=only_token,
        exports={EXPORT: Export(path=server.root)},
        connections_max=1,
        idle_timeout_s=1,
    )
    with pytest.raises(ConflictError) as raised:
        serve_stream(settings, lambda _port: None)
    assert raised.value.code == "port-in-use"


def test_a_client_that_waits_for_a_hole_is_told_of_it(root: Path) -> None:
    """Digesting the hole of a large file takes longer than a client waits for an answer."""
    with open(root / "sparse", "wb") as file:
        file.truncate(GIB)
    server = StreamServer(os.fsencode(root)).start()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        channel = Channel(connection, SystemClock())
        for number, (kind, message) in enumerate(
            (
                (Kind.HELLO, Hello(MAGIC, VERSION, EXPORT, None)),
                (Kind.OPEN, OpenRequest(1, b"sparse", "xxh3-128")),
                (Kind.FINISH, SizeRequest(1, GIB)),
            )
        ):
            channel.send(encode_frame(kind, number, message), 10)
        kinds: list[Kind] = []
        while not kinds or kinds[-1] is not Kind.FINISHED:
            header = channel.receive_header(10, 10)
            channel.receive_payload(header.size_bytes, 10)
            kinds.append(header.kind)
    server.stop()

    assert kinds == [Kind.WELCOME, Kind.STATS, *[Kind.WORKING] * 3, Kind.FINISHED]


def test_a_source_without_descriptors_left_goes_on(root: Path) -> None:
    """S1: whoever comes then is cut off; those it serves are served, and others when there are."""
    server = StreamServer(os.fsencode(root)).start()
    tree = server.open()
    time.sleep(0.3)  # The listener lets go of the connection only after its client is served.
    used = {int(name) for name in os.listdir(f"/proc/{server.process}/fd")}
    free = next(number for number in itertools.count() if number not in used)
    one_left = next(number for number in itertools.count(free + 1) if number not in used)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(server.process, resource.RLIMIT_NOFILE, (one_left, before[1]))
    for _ in range(3):
        with contextlib.suppress(UnavailableError):
            server.open(patience_s=0.5).close()
    assert tree.list_names(ROOT_PATH)
    tree.close()

    resource.prlimit(server.process, resource.RLIMIT_NOFILE, before)
    with contextlib.closing(server.open(patience_s=5)) as again:
        assert again.list_names(ROOT_PATH)
    server.stop()


def test_a_defect_of_a_session_is_seen(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It ends that client's process alone, and not without a word."""

    def broken(_token: bytes | None, _names: tuple[str, ...]) -> frozenset[Permission]:
        raise RuntimeError("a defect of ours")

    server = StreamServer(os.fsencode(root), authorize=broken).start()
    with pytest.raises(UnavailableError):
        server.open(patience_s=0.3)
    server.stop()
    assert "a defect of ours" in capfd.readouterr().err
