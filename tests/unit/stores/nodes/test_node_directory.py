"""Goal: a client of the stream survives what a network and a hostile source do to it.

Method: a real server behind a proxy that cuts and garbles; a source made of a few scripted frames;
listings with the product's own walk. Cites the invariants of connection.py (C1 to C3).
"""

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cut_proxy import CutProxy
from tests.support.hostile_stream import LIST, LISTING, HostileSource, Node, directory, frame
from tests.support.stream import EXPORT, StreamServer
from tests.support.trees import pattern, write

from holdfast.errors import ConflictError, HoldfastError, InvalidRequestError, UnavailableError
from holdfast.files.listing import Exclusions, Walk
from holdfast.model.limits import MIB
from holdfast.model.tree import ROOT_PATH, FileKind, Stat
from holdfast.ports import ExpectedFile, FileDigest
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.nodes import messages
from holdfast.stores.nodes.connection import NodeAddress
from holdfast.stores.nodes.directory import NodeDirectory, open_node_directory
from holdfast.stores.nodes.messages import Kind
from holdfast.stores.nodes.wire import HEADER_BYTES, Header, decode_header, encode_frame, pack_stat


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of some depth."""
    tree = tmp_path / "tree"
    for number in range(300):
        write(tree / f"d{number % 7}" / f"e{number % 31}" / f"f{number:03}", pattern(100, number))
    (tree / "link").symlink_to("d0")
    write(tree / "large", pattern(5 * MIB + 11))
    return tree


@pytest.fixture
def server(root: Path) -> Iterator[StreamServer]:
    """A running server."""
    made = StreamServer(os.fsencode(root)).start()
    yield made
    made.stop()


@pytest.fixture
def proxy(server: StreamServer) -> Iterator[CutProxy]:
    """A proxy before the server."""
    made = CutProxy(server.port)
    yield made
    made.close()


def listing(tree: NodeDirectory | PosixReadableDirectory) -> list[tuple[bytes, Stat]]:
    """Return a whole walk."""
    failures: list[HoldfastError] = []
    walk = Walk(
        directory=tree,
        exclusions=Exclusions(()),
        on_failure=lambda _path, error: failures.append(error),
    )
    found = [(path, stat) for path, stat in walk]
    assert failures == []
    return found


def read_large(tree: NodeDirectory, during: Callable[[int], None] = lambda _at: None) -> bytes:
    """Read the large file in blocks."""
    reader = tree.open_file(b"large")
    before = reader.signature()
    found = bytearray(reader.stat().size_bytes)
    for start, end in reader.data_extents(len(found)):
        for at in range(start, end, MIB):
            assert reader.read_into(memoryview(found)[at : min(at + MIB, end)], at)
            during(at)
    assert reader.signature() == before
    assert reader.given_digest() is None
    reader.close()
    return bytes(found)


def test_a_walk_over_the_socket_is_the_walk_of_the_tree(server: StreamServer, root: Path) -> None:
    """The same entries in the same order, with few round trips: read-ahead follows the walk."""
    tree = server.open()
    local = PosixReadableDirectory(os.fsencode(root))

    assert listing(tree) == listing(local)
    assert tree.read_link(b"link") == b"d0"
    assert listing(tree) == listing(local)
    tree.close()
    local.close()


def test_what_vanishes_during_a_walk_is_left_out(server: StreamServer, root: Path) -> None:
    tree = server.open()
    names = tree.list_names(b"d0/e0")
    for name, _ in names:
        os.unlink(root / "d0" / "e0" / os.fsdecode(name))

    assert tree.list_names(b"d0/e0") == []
    assert len(listing(tree)) == len(listing(PosixReadableDirectory(os.fsencode(root))))
    tree.close()


def test_every_answer_cut_somewhere_is_asked_for_again(
    proxy: CutProxy, server: StreamServer, root: Path
) -> None:
    """Connections cut after 1, 2, 3, ... times so many bytes: the walk and the file come whole."""
    proxy.cut_after_bytes = [300 * 3**n for n in range(8)]
    tree = server.open(port=proxy.port, patience_s=20)

    assert listing(tree) == listing(PosixReadableDirectory(os.fsencode(root)))
    assert proxy.connections_count > 3
    proxy.cut_after_bytes = [200_000, 2 * MIB, 70]
    proxy.cut()
    assert read_large(tree) == (root / "large").read_bytes()
    tree.close()


def test_bundles_go_on_after_a_cut(proxy: CutProxy, server: StreamServer, root: Path) -> None:
    with contextlib.closing(PosixReadableDirectory(os.fsencode(root))) as local:
        paths = [path for path, stat in listing(local) if stat.kind is FileKind.FILE][:-1]
    tree = server.open(port=proxy.port, patience_s=20)
    tree.expect([ExpectedFile(path, 100) for path in paths], "xxh3-128")
    buffer = memoryview(bytearray(MIB))

    for number, path in enumerate(paths):
        if number in (0, 1, 150, 298):
            proxy.cut()
        if number % 3 == 2:
            continue  # One that is not wanted after all is passed over.
        small = tree.read_small(path, buffer)
        assert small is not None
        assert bytes(buffer[: small.size_bytes]) == (root / os.fsdecode(path)).read_bytes()
        assert small.digest is not None
    tree.close()


def test_a_given_digest_survives_a_cut(proxy: CutProxy, server: StreamServer, root: Path) -> None:
    """What two connections sent was hashed by neither; the source then reads the file again."""
    import xxhash

    tree = server.open(port=proxy.port, patience_s=20)
    tree.expect([], "xxh3-128")
    reader = tree.open_file(b"large")
    size = reader.stat().size_bytes
    buffer = memoryview(bytearray(MIB))
    for at in range(0, size, MIB):
        assert reader.read_into(buffer[: min(MIB, size - at)], at)
        if at == MIB:
            proxy.cut()
    assert reader.given_digest() == xxhash.xxh3_128((root / "large").read_bytes()).digest()
    reader.close()
    tree.close()


def test_a_file_that_is_gone_on_with_costs_its_source_nothing_for_what_came_before(
    server: StreamServer, root: Path
) -> None:
    """What came before the loss is not digested anew as zeros, which of a large file takes longer
    than an answer may: it would be asked for again for ever."""
    size = 32 << 30
    with open(root / "large", "r+b") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"end", size - 3)
    tree = server.open(patience_s=5)
    tree.expect([], "md5")
    reader = tree.open_file(b"large")
    buffer = memoryview(bytearray(MIB))
    reader.read_into(buffer, 0)
    server.stop()
    server.start()
    began = time.process_time() + children_s()

    reader.read_into(buffer, size - MIB)
    reader.signature()
    reader.close()
    tree.close()
    server.stop()

    assert bytes(buffer[-3:]) == b"end"
    assert time.process_time() + children_s() - began < 5


def children_s() -> float:
    """Return the processor time of children that ended."""
    found = os.times()
    return found.children_user + found.children_system


def test_a_source_that_is_restarted_is_found_again(server: StreamServer, root: Path) -> None:
    tree = server.open(patience_s=20)

    def restart(at: int) -> None:
        if at == MIB:
            server.stop()
            server.start()

    assert read_large(tree, restart) == (root / "large").read_bytes()
    tree.close()


def test_a_file_replaced_while_the_link_was_down_is_not_passed_off(
    proxy: CutProxy, server: StreamServer, root: Path
) -> None:
    tree = server.open(port=proxy.port, patience_s=20)
    reader = tree.open_file(b"large")
    before = reader.signature()
    buffer = memoryview(bytearray(MIB))
    reader.read_into(buffer, 0)
    write(root / "new", pattern(5 * MIB + 11, 9))
    os.replace(root / "new", root / "large")
    proxy.cut()
    reader.read_into(buffer, MIB)

    assert reader.signature() != before
    reader.close()
    os.unlink(root / "large")
    proxy.cut()
    with pytest.raises(HoldfastError):
        tree.open_file(b"large")
    tree.close()


def list_one(tree: NodeDirectory) -> Iterator[object]:
    """Ask twice, with an absence between: for directories."""
    yield from (tree.list_names(path) for path in (b"d0", b"d1"))


def stat_one(tree: NodeDirectory) -> Iterator[object]:
    """As list_one, for states."""
    yield from (tree.stat(path) for path in (b"d0", b"d1"))


def bundle_one(tree: NodeDirectory) -> Iterator[object]:
    """As list_one, for small files."""
    buffer = memoryview(bytearray(MIB))
    yield from (tree.read_small(path, buffer) for path in (b"d0/e0/f000", b"d1/e1/f001"))


def digest_one(tree: NodeDirectory) -> Iterator[object]:
    """As list_one, for digests, of which the source sends a few at a time."""
    paths = [b"d%d/e%d/f%03d" % (n % 7, n % 31, n) for n in range(300)]
    yield from tree.digest_files(paths, "xxh3-128", drop_cache=False)


@pytest.mark.parametrize("calls", [list_one, stat_one, bundle_one, digest_one])
def test_a_source_that_is_away_for_several_attempts_is_found_soon_after(
    proxy: CutProxy, server: StreamServer, calls: Callable[[NodeDirectory], Iterator[object]]
) -> None:
    """C3: an attempt that could not even ask is made again, not waited for."""
    tree = server.open(port=proxy.port, patience_s=10)
    answers = calls(tree)
    next(answers)
    proxy.is_down = True
    proxy.cut()
    back = threading.Timer(1.0, lambda: setattr(proxy, "is_down", False))
    back.start()

    assert list(answers)

    back.join()
    tree.close()


@pytest.mark.parametrize("count", [1, 128, 256])
def test_digests_taken_whole_leave_the_connection_as_it_was(
    proxy: CutProxy, server: StreamServer, count: int
) -> None:
    """Also where the last result comes in a step of its own: what follows is asked on the same."""
    tree = server.open(port=proxy.port)
    paths = [b"d%d/e%d/f%03d" % (n % 7, n % 31, n) for n in range(count)]
    for _ in range(2):
        answers = list(tree.digest_files(paths, "xxh3-128", drop_cache=False))
        assert sum(isinstance(each, FileDigest) for each in answers) == count
    tree.stat(b"large")

    assert proxy.connections_count == 1
    tree.close()


def test_a_prefix_whose_digest_was_lost_is_read(server: StreamServer, root: Path) -> None:
    """The link goes while the source digests what is here already: it is read instead."""
    tree = server.open(patience_s=5)
    tree.expect([], "blake3")
    reader = tree.open_file(b"large")
    assert reader.digest_prefix(MIB) is not None
    server.stop()
    server.start()

    assert reader.digest_prefix(2 * MIB) is None
    buffer = memoryview(bytearray(MIB))
    assert reader.read_into(buffer, MIB) == MIB
    assert bytes(buffer) == (root / "large").read_bytes()[MIB : 2 * MIB]
    reader.close()
    tree.close()


def test_a_digest_of_a_hole_is_told_of_while_it_is_taken(server: StreamServer, root: Path) -> None:
    """In steps, as of data: else a large hole takes longer than an answer may."""
    with open(root / "sparse", "wb") as file:
        file.truncate(64 * MIB)
    tree = server.open()

    steps = list(tree.digest_files([b"sparse"], "xxh3-128", drop_cache=False))

    assert [each for each in steps if isinstance(each, int)] == [4 * MIB] * 16 + [0]
    tree.close()


@pytest.mark.parametrize("missing", ["root", "export"])
def test_a_source_whose_tree_is_gone_is_not_taken_for_an_empty_one(
    server: StreamServer, root: Path, missing: str
) -> None:
    """C2: it was restarted before its file system was mounted, or without the tree. What was being
    listed then has not vanished: it must not be deleted elsewhere."""
    tree = server.open()
    walk = Walk(directory=tree, exclusions=Exclusions(()), on_failure=lambda _path, _error: None)
    entries = iter(walk)
    assert next(entries).path == b"d0"
    server.stop()
    if missing == "root":
        root.rename(root.with_name("elsewhere"))
    else:
        server.export = "db/data/1"
    server.start()

    with pytest.raises(ConflictError) as raised:
        list(entries)

    assert raised.value.code == "source-replaced"
    tree.close()


def test_a_file_is_closed_without_its_connection(
    proxy: CutProxy, server: StreamServer, root: Path
) -> None:
    """Closing says goodbye to nobody: it makes no connection for that, and never fails."""
    tree = server.open(port=proxy.port, patience_s=1)
    readers = [tree.open_file(b"large"), tree.open_file(b"d0/e0/f000")]
    proxy.cut()
    tree.stat(b"d0")
    count = proxy.connections_count
    server.stop()
    root.rename(root.with_name("elsewhere"))
    server.start()
    tree.close()

    for reader in readers:
        reader.close()

    assert proxy.connections_count == count


def test_a_listing_that_cannot_be_costs_no_other_directory() -> None:
    """A directory asked for ahead lists what none can hold: it alone fails, when it is its turn."""
    good = directory((b"f", Node(content=b"x")))
    tree = directory((b"a", good), (b"b", directory((b"..", Node()))), (b"c", good))
    with HostileSource(tree) as source:
        address = NodeAddress(host="127.0.0.1", port=source.port, export=EXPORT)
        with contextlib.closing(open_node_directory(address, patience_s=2)) as client:
            client.list_names(ROOT_PATH)
            client.expect_directories([b"a", b"b", b"c"])
            assert client.stat(b"a").kind is FileKind.DIRECTORY
            assert client.list_names(b"a") == [(b"f", False)]
            with pytest.raises(InvalidRequestError) as raised:
                client.list_names(b"b")
            assert client.list_names(b"c") == [(b"f", False)]

    assert raised.value.code == "bad-listing"


def endless_names(number: int) -> Iterator[bytes]:
    """Pages of a listing that never ends, of no names at all."""
    return (frame(LISTING, number, [[], b"", [], []], is_last=False) for _ in itertools.count())


@pytest.mark.timeout(30)
def test_pages_of_nothing_end_a_listing() -> None:
    tree = directory((b"a", directory((b"f", Node(content=b"x")))))

    def hook(kind: int, number: int, fields: Any) -> Iterator[bytes] | None:
        return endless_names(number) if (kind, fields) == (LIST, [b"a"]) else None

    with HostileSource(tree, hook) as source:
        address = NodeAddress(host="127.0.0.1", port=source.port, export=EXPORT)
        with contextlib.closing(open_node_directory(address, patience_s=2)) as client:
            client.list_names(ROOT_PATH)
            with pytest.raises(InvalidRequestError):
                client.list_names(b"a")


def test_a_place_at_a_full_source_is_waited_for(root: Path) -> None:
    """C3: whoever was served before, such as one worker of many, is not given up: others finish."""
    server = StreamServer(os.fsencode(root), connections_max=1).start()
    tree = server.open(patience_s=0.2)
    tree.close()
    other = server.open(patience_s=5)
    leaving = threading.Timer(1.5, other.close)
    leaving.start()

    assert tree.stat(b"large").kind is FileKind.FILE

    leaving.join()
    tree.close()
    server.stop()


def test_patience_ends(proxy: CutProxy, server: StreamServer) -> None:
    """C3: each call gives up in a bounded time, and says what to do."""
    tree = server.open(port=proxy.port, patience_s=0.5)
    proxy.is_down = True
    proxy.cut()
    began = time.monotonic()

    with pytest.raises(UnavailableError) as raised:
        tree.stat(b"large")

    assert raised.value.code == "source-unreachable"
    assert time.monotonic() - began < 5
    proxy.is_down = False
    assert tree.stat(b"large").size_bytes == 5 * MIB + 11
    tree.close()


def test_another_tree_in_the_sources_place_is_refused(
    server: StreamServer, root: Path, tmp_path: Path
) -> None:
    """C2: the same path, another directory, as after a remount."""
    tree = server.open(patience_s=5)
    assert listing(tree)
    os.rename(root, tmp_path / "away")
    write(root / "only", "this")
    server.stop()
    server.start()

    for call in (lambda: tree.list_names(ROOT_PATH), lambda: tree.open_file(b"only")):
        with pytest.raises(ConflictError) as raised:
            call()
        assert raised.value.code == "source-replaced"
    tree.close()


def test_a_forked_process_makes_its_own_connection(server: StreamServer, root: Path) -> None:
    """C1: parent and child go on, each with its own; neither takes the other's answers."""
    tree = server.open()
    tree.expect_directories([b"d0", b"d1", b"d2"])
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            same = read_large(tree) == (root / "large").read_bytes()
            os.write(writable, b"1" if same else b"0")
        finally:
            os._exit(0)
    assert len(tree.list_names(b"d0")) == 31
    assert read_large(tree) == (root / "large").read_bytes()
    assert os.read(readable, 1) == b"1"
    os.waitpid(child, 0)
    os.close(readable)
    os.close(writable)
    tree.close()


STAT = Stat(FileKind.FILE, 3, 0, 0, 5, 1, 0o644, 0, 0, 1, 4096)
PAGE = messages.ListingPage
Answer = Callable[[Header, bytes], bytes]


@contextlib.contextmanager
def scripted_source(answer: Answer) -> Iterator[NodeDirectory]:
    """A source that greets well and then answers each request as the script says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as stream:
                    greeted = False
                    while raw := stream.read(HEADER_BYTES):
                        header = decode_header(raw)
                        payload = stream.read(header.size_bytes)
                        if not greeted:
                            welcome = messages.Welcome(1, "h", "/p", 1, 2, ["blake3"], 0)
                            connection.sendall(encode_frame(Kind.WELCOME, 0, welcome))
                            greeted = True
                        else:
                            connection.sendall(answer(header, payload))

    threading.Thread(target=serve, daemon=True).start()
    address = NodeAddress(host="127.0.0.1", port=listener.getsockname()[1], export=EXPORT)
    tree = open_node_directory(address, patience_s=2)
    try:
        yield tree
    finally:
        tree.close()
        listener.close()


def answer_with(kind: Kind, message: object) -> Answer:
    """Answer everything with one message."""
    return lambda header, _payload: encode_frame(kind, header.number, message)


@pytest.mark.parametrize(
    "name", [b"..", b".", b"/etc/cron.d/x", b"../x", b"a/b", b"nul\0", b"", b"n" * 256]
)
def test_names_that_lead_outside_are_refused_by_name(name: bytes) -> None:
    page = PAGE([name], pack_stat(STAT), [], [])
    with (
        scripted_source(answer_with(Kind.LISTING, page)) as tree,
        pytest.raises(InvalidRequestError) as raised,
    ):
        tree.list_names(ROOT_PATH)
    assert raised.value.code in ("bad-listing", "bad-frame")


@pytest.mark.parametrize("names", [[b"a", b"a"], [b"b", b"a"], [b"B", b"a", b"B"]])
def test_names_twice_or_out_of_order_are_refused_by_name(names: list[bytes]) -> None:
    page = PAGE(names, pack_stat(STAT) * len(names), [], [])
    with (
        scripted_source(answer_with(Kind.LISTING, page)) as tree,
        pytest.raises(InvalidRequestError) as raised,
    ):
        tree.list_names(ROOT_PATH)
    assert raised.value.code == "bad-listing"
    assert names[-1].decode() in raised.value.message


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Kind.LISTING, PAGE([b"a"], b"", [], [])),
        (Kind.LISTING, PAGE([b"a", b"b"], pack_stat(STAT), [], [])),
        (Kind.LISTING, ["no", "listing"]),
        (Kind.STATS, messages.StatsReply(b"", [])),
        (Kind.WELCOME, None),
        (Kind.DATA, None),
    ],
)
def test_answers_that_are_none_are_refused(kind: Kind, message: object) -> None:
    with (
        scripted_source(answer_with(kind, message)) as tree,
        pytest.raises(InvalidRequestError) as raised,
    ):
        tree.list_names(ROOT_PATH)
    assert raised.value.code == "bad-frame"


def test_an_answer_to_another_request_is_refused() -> None:
    page = PAGE([], b"", [], [])
    with (
        scripted_source(lambda h, _p: encode_frame(Kind.LISTING, h.number + 1, page)) as tree,
        pytest.raises(InvalidRequestError),
    ):
        tree.list_names(ROOT_PATH)


def test_a_listing_without_end_is_cut_off() -> None:
    """Entries of one directory are bounded, here by the order that names must have."""
    page = PAGE([b"a"], pack_stat(STAT), [], [])
    with (
        scripted_source(
            lambda h, _p: encode_frame(Kind.LISTING, h.number, page, is_last=False) * 1000
        ) as tree,
        pytest.raises(InvalidRequestError),
    ):
        tree.list_names(ROOT_PATH)


def test_more_of_a_file_than_was_asked_for_is_refused() -> None:
    def answer(header: Header, _payload: bytes) -> bytes:
        if header.kind is Kind.OPEN:
            stats = messages.StatsReply(pack_stat(STAT), [])
            return encode_frame(Kind.STATS, header.number, stats)
        return encode_frame(Kind.DATA, header.number, b"x" * 1000)

    with scripted_source(answer) as tree, pytest.raises(InvalidRequestError):
        tree.open_file(b"a").read_into(memoryview(bytearray(3)), 0)


def test_a_hostile_directory_fails_alone(server: StreamServer) -> None:
    """A walk tells of it and goes on with the rest, naming the entry."""
    good = PAGE([b"bad", b"good"], pack_stat(STAT._replace(kind=FileKind.DIRECTORY)) * 2, [], [])
    evil = PAGE([b".."], pack_stat(STAT), [], [])
    inner = PAGE([b"f"], pack_stat(STAT), [], [])

    def answer(header: Header, payload: bytes) -> bytes:
        if header.kind is Kind.XATTRS:
            return encode_frame(Kind.ATTRIBUTES, header.number, messages.AttributesReply({}))
        page = evil if b"bad" in payload else inner if b"good" in payload else good
        return encode_frame(Kind.LISTING, header.number, page)

    failures: dict[bytes, HoldfastError] = {}
    with scripted_source(answer) as tree:
        walk = Walk(directory=tree, exclusions=Exclusions(()), on_failure=failures.__setitem__)
        found = [path for path, _ in walk]

    assert found == [b"bad", b"good", b"good/f"]
    assert list(failures) == [b"bad"]
    assert ".." in failures[b"bad"].message
