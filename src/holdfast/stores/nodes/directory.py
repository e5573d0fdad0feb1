"""A directory tree that a node exports, behind the ReadableDirectory port: the stream's client.

Nothing is cached but what was asked for ahead on a hint, and that is given out once. Ahead of a
walk, directories are listed with states and symlink targets, and asked for their own attributes;
ahead of a transfer, small files come in bundles. Held are at most READ_AHEAD_DIRECTORIES_MAX
listings, of which no more are asked for once they hold READ_AHEAD_ENTRIES_MAX entries, and
_BUNDLES_AHEAD bundles.

Invariants:
1. Whatever the source sends, a name, path or target given out is one that may stand in a tree.
2. A process forked from the owner makes its own connection, and starts with nothing ahead.
"""

import ssl
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from holdfast.errors import HoldfastError
from holdfast.model.limits import (
    BLOCK_BYTES,
    KIB,
    READ_AHEAD_DIRECTORIES_MAX,
    READ_AHEAD_ENTRIES_MAX,
    STREAM_PATHS_MAX,
)
from holdfast.model.tree import ROOT_PATH, Capabilities, Stat, display_path, join_path
from holdfast.ports import Clock, Entropy, ExpectedFile, FileDigest, SmallFile
from holdfast.stores.nodes.connection import PATIENCE_S, Connection, NodeAddress, check_algorithm
from holdfast.stores.nodes.file import NodeFile
from holdfast.stores.nodes.messages import (
    AttributesReply,
    BundleRequest,
    DigestRequest,
    Failure,
    Kind,
    LinkReply,
    PathRequest,
    PathsRequest,
    SentFile,
    StatsReply,
)
from holdfast.stores.nodes.replies import (
    BundleReply,
    DigestsReply,
    ListingReply,
    Reply,
    ValueReply,
    small_file,
)
from holdfast.stores.nodes.wire import bad_frame, error_of, stats_of
from holdfast.stores.system import SystemClock, SystemEntropy

_LISTINGS_AT_ONCE: Final = 16
"""Directories asked for ahead on one hint, whatever else is under way."""
_HINTS_MAX: Final = 8192
_LISTINGS_OPEN_MAX: Final = 256
_LINKS_MAX: Final = 4096
_BUNDLES_AHEAD: Final = 4
_BUNDLE_BYTES: Final = BLOCK_BYTES
_REQUEST_BYTES: Final = 16 * KIB
"""Of paths in a request that is sent ahead. All of these together must fit what the kernel holds
for a source that is busy answering: or both sides would wait for the other to read."""
_AHEAD_PATH_BYTES_MAX: Final = 256

_T = TypeVar("_T")


def open_node_directory(
    address: NodeAddress,
    *,
    token: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    patience_s: float = PATIENCE_S,
) -> "NodeDirectory":
    """Open a tree that a node exports; the first connection is made here, to know it.

    Args:
        address: Where.
        token: What the node is to know this side by; None where its certificate says it.
        tls: None for a plain connection.
        clock: For deadlines and pauses.
        entropy: For the jitter of pauses.
        patience_s: How long a source may be out of reach before a call gives up.

    Raises:
        UnavailableError: `source-unreachable`, `busy`, `host-unknown`, `certificate-untrusted`.
        DeniedError: The node does not let this side read (`forbidden`).
        NotFoundError: It exports no such tree (`no-export`), or its root is gone (`no-root`).
    """
    directory = NodeDirectory(
        Connection(
            address,
            token=token,
            tls=tls,
            clock=clock or SystemClock(),
            entropy=entropy or SystemEntropy(),
            patience_s=patience_s,
        )
    )
    directory.describe()
    return directory


class NodeDirectory:
    """ReadableDirectory over a connection; see the module."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection that nobody else uses."""
        self._connection = connection
        self._handle = 0
        self._algorithm = ""
        self._hints: list[bytes] = []
        self._listed: dict[bytes, ListingReply] = {}
        self._open_listings: OrderedDict[bytes, ListingReply] = OrderedDict()
        self._links: dict[bytes, bytes] = {}
        self._metadata: dict[tuple[Kind, bytes], ValueReply[Any]] = {}
        self._expected: deque[ExpectedFile] = deque()
        self._bundled: set[bytes] = set()
        self._bundles: deque[BundleReply] = deque()

    def describe(self) -> dict[str, object]:
        """See ReadableDirectory."""
        root = self._connection.root()
        return {
            "path": root.path,
            "host": root.host,
            "device": root.device,
            "inode": root.inode,
        }

    def capabilities(self) -> Capabilities:
        """See ReadableDirectory."""
        self._connection.root()
        return Capabilities(clock_ahead_ns=self._connection.clock_ahead_ns)

    def expect_directories(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory."""
        self._enter()
        self._hints += reversed(paths)
        del self._hints[:-_HINTS_MAX]
        self._list_ahead(_LISTINGS_AT_ONCE, READ_AHEAD_DIRECTORIES_MAX)

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        """See ReadableDirectory."""
        self._enter()
        if path == ROOT_PATH:
            self._forget()  # A new walk, which is to see what is there now.
        self._metadata.pop((Kind.XATTRS, path), None)  # Its entry came before what is in it.
        reply = self._take_listing(path, self._listed.pop(path, None))
        self._list_ahead(_LISTINGS_AT_ONCE, 2 * _LISTINGS_AT_ONCE)
        if reply.error is not None:
            raise reply.error
        if reply.count:
            self._open_listings[path] = reply
            if len(self._open_listings) > _LISTINGS_OPEN_MAX:
                self._open_listings.popitem(last=False)
        return reply.take_names()

    def stat(self, path: bytes) -> Stat:
        """See ReadableDirectory."""
        self._enter()
        ahead = self._metadata.pop((Kind.STAT, path), None)
        request = PathsRequest([path])
        found = stats_of(self._ask_value(Kind.STAT, request, Kind.STATS, StatsReply, ahead), 1)[0]
        if isinstance(found, HoldfastError):
            raise found
        return found

    def stat_names(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        """See ReadableDirectory."""
        self._enter()
        listing = self._open_listings.get(path)
        found = listing.stats(names) if listing is not None else None
        if listing is None or found is None:
            return self._stat_paths([join_path(path, name) for name in names])
        if listing.is_taken():
            del self._open_listings[path]
        if len(self._links) > _LINKS_MAX:
            self._links.clear()
        for name, target in listing.take_links():
            self._links[join_path(path, name)] = target
        return found

    def read_link(self, path: bytes) -> bytes:
        """See ReadableDirectory."""
        self._enter()
        known = self._links.pop(path, None)
        if known is not None:
            return known
        target = self._ask_value(Kind.READ_LINK, PathRequest(path), Kind.LINK, LinkReply).target
        if not target or b"\0" in target:
            raise bad_frame(f"a target that no symlink can have, of {display_path(path)}")
        return target

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ReadableDirectory."""
        self._enter()
        ahead = self._metadata.pop((Kind.XATTRS, path), None)
        request, answer = PathRequest(path), AttributesReply
        return self._ask_value(Kind.XATTRS, request, Kind.ATTRIBUTES, answer, ahead).xattrs

    def open_file(self, path: bytes) -> NodeFile:
        """See ReadableDirectory."""
        self._enter()
        self._handle = (self._handle + 1) & 0xFFFFFFFF
        algorithm = self._algorithm
        return NodeFile(
            self._connection,
            path,
            self._handle,
            algorithm,
            digest_again=lambda: self._digest_one(path, algorithm),
        )

    def expect_metadata(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory."""
        self._enter()
        self._metadata.clear()
        room = _REQUEST_BYTES
        for path in paths:
            room -= 2 * len(path) + 64
            if room < 0:
                break
            stat = self._metadata[Kind.STAT, path] = ValueReply(Kind.STATS, StatsReply)
            self._ask_ahead(Kind.STAT, PathsRequest([path]), stat)
            self._ask_xattrs(path)
        self._send_off()

    def expect(self, files: Sequence[ExpectedFile], algorithm: str) -> None:
        """See ReadableDirectory."""
        self._enter()
        check_algorithm(self._connection.root(), algorithm)
        self._algorithm = algorithm
        self._bundles.clear()
        self._expected = deque(each for each in files if each.size_bytes <= BLOCK_BYTES)
        self._bundled = {each.path for each in self._expected}
        self._bundle_ahead()

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """See ReadableDirectory."""
        self._enter()
        sent, data = self._take_bundled(path) if path in self._bundled else self._fetch(path)
        if sent is None:
            return None
        if isinstance(sent, Failure):
            raise error_of(sent)
        return small_file(sent, data, buffer)

    def digest_files(
        self, paths: Sequence[bytes], algorithm: str, *, drop_cache: bool
    ) -> Iterator[int | FileDigest | HoldfastError]:
        """See ReadableDirectory."""
        self._enter()
        check_algorithm(self._connection.root(), algorithm)
        pages = [
            DigestRequest(list(paths[at : at + STREAM_PATHS_MAX]), algorithm, drop_cache)
            for at in range(0, len(paths), STREAM_PATHS_MAX)
        ]
        first = self._begin_digests(pages[0]) if pages else None

        def results() -> Iterator[int | FileDigest | HoldfastError]:
            reply = first
            for page in pages:
                yield from self._take_digests(page, reply)
                reply = None

        return results()

    def close(self) -> None:
        """See ReadableDirectory."""
        self._forget()
        self._connection.drop()

    def _enter(self) -> None:
        if self._connection.is_inherited():
            self._forget()

    def _forget(self) -> None:
        self._hints.clear()
        self._listed.clear()
        self._open_listings.clear()
        self._links.clear()
        self._metadata.clear()
        self._expected.clear()
        self._bundled.clear()
        self._bundles.clear()

    def _ask_value(
        self,
        kind: Kind,
        message: object,
        awaited: Kind,
        answer: type[_T],
        ahead: ValueReply[Any] | None = None,
    ) -> _T:
        reply: ValueReply[_T] = ahead or _lost(ValueReply(awaited, answer))

        def attempt() -> None:
            nonlocal reply
            if reply.is_lost:
                fresh = ValueReply(awaited, answer)
                self._connection.ask(kind, message, fresh)
                reply = fresh
            self._connection.finish(reply)

        self._connection.persist(attempt)
        return reply.value()

    def _stat_paths(self, paths: list[bytes]) -> list[Stat | HoldfastError]:
        found: list[Stat | HoldfastError] = []
        for at in range(0, len(paths), STREAM_PATHS_MAX):
            page = paths[at : at + STREAM_PATHS_MAX]
            reply = self._ask_value(Kind.STAT, PathsRequest(page), Kind.STATS, StatsReply)
            found += stats_of(reply, len(page))
        return found

    def _ask_ahead(self, kind: Kind, message: object, reply: Reply) -> None:
        """Ask for what will be wanted; if the connection is down, whoever wants it asks again."""
        try:
            self._connection.ask(kind, message, reply)
        except (OSError, HoldfastError):
            self._connection.drop()
            reply.is_lost = True

    def _ask_xattrs(self, path: bytes) -> None:
        reply = self._metadata[Kind.XATTRS, path] = ValueReply(Kind.ATTRIBUTES, AttributesReply)
        self._ask_ahead(Kind.XATTRS, PathRequest(path), reply)

    def _send_off(self) -> None:
        try:
            self._connection.send_off()
        except OSError:
            self._connection.drop()

    def _list_ahead(self, count: int, limit: int) -> None:
        asked = False
        held = sum(each.count for each in self._listed.values())
        while self._hints and count and len(self._listed) < limit and held < READ_AHEAD_ENTRIES_MAX:
            path = self._hints.pop()
            if len(path) > _AHEAD_PATH_BYTES_MAX:
                continue
            self._ask_xattrs(path)
            reply = ListingReply(path)
            self._ask_ahead(Kind.LIST, PathRequest(path), reply)
            self._listed[path] = reply
            count -= 1
            asked = True
        if asked:
            self._send_off()

    def _take_listing(self, path: bytes, ahead: ListingReply | None) -> ListingReply:
        """Return the whole listing of a directory, asked for ahead or now."""
        reply = ahead or _lost(ListingReply(path))

        def attempt() -> None:
            nonlocal reply
            if reply.is_lost:
                fresh = ListingReply(path)
                self._connection.ask(Kind.LIST, PathRequest(path), fresh)
                reply = fresh
            self._connection.finish(reply)

        self._connection.persist(attempt)
        return reply

    def _bundle_ahead(self) -> None:
        """Ask for the next bundles."""
        asked = False
        while self._expected and len(self._bundles) < _BUNDLES_AHEAD:
            paths: list[bytes] = []
            size_bytes = 0
            room = _REQUEST_BYTES
            while (
                self._expected
                and len(paths) < STREAM_PATHS_MAX
                and size_bytes < _BUNDLE_BYTES
                and room > 0
            ):
                each = self._expected.popleft()
                paths.append(each.path)
                size_bytes += each.size_bytes
                room -= len(each.path)
            reply = BundleReply(paths)
            self._ask_ahead(Kind.BUNDLE, BundleRequest(paths, self._algorithm), reply)
            self._bundles.append(reply)
            asked = True
        if asked:
            self._send_off()

    def _take_bundled(self, path: bytes) -> tuple[SentFile | Failure | None, bytes]:
        """Return a file of the bundles; those before it are not wanted any more."""
        while self._bundles:
            found, sent, data = self._next_bundled()
            self._bundled.discard(found)
            if found == path:
                return sent, data
        return self._fetch(path)

    def _next_bundled(self) -> tuple[bytes, SentFile | Failure | None, bytes]:
        bundle = self._bundles[0]
        if not bundle.ready:
            bundle = self._bundles[0] = self._receive_bundle(bundle)
        entry = bundle.ready.popleft()
        if not bundle.ready and not bundle.due:
            self._bundles.popleft()
            self._bundle_ahead()
        return entry

    def _receive_bundle(self, bundle: BundleReply) -> BundleReply:
        """Wait for more of a bundle, asking anew for what was lost of it."""

        def attempt() -> None:
            nonlocal bundle
            if bundle.is_lost:
                fresh = BundleReply(list(bundle.due))
                request = BundleRequest(list(bundle.due), self._algorithm)
                self._connection.ask(Kind.BUNDLE, request, fresh)
                bundle = fresh
            while not bundle.ready and bundle.error is None:
                self._connection.take_frame()

        self._connection.persist(attempt)
        if bundle.error is not None:
            self._bundles.clear()
            raise bundle.error
        return bundle

    def _fetch(self, path: bytes) -> tuple[SentFile | Failure | None, bytes]:
        """Return one file that nobody foresaw."""
        _, sent, data = self._receive_bundle(_lost(BundleReply([path]))).ready.popleft()
        return sent, data

    def _begin_digests(self, request: DigestRequest) -> DigestsReply:
        reply = DigestsReply(len(request.paths))
        self._ask_ahead(Kind.DIGEST, request, reply)
        self._send_off()
        return reply

    def _take_digests(
        self, request: DigestRequest, reply: DigestsReply | None
    ) -> Iterator[int | FileDigest | HoldfastError]:
        """Yield the digests of one page, going on where it was when the connection was lost."""
        left = list(request.paths)
        reply = reply or _lost(DigestsReply(len(left)))

        def attempt() -> None:
            nonlocal reply
            assert reply is not None
            if reply.is_lost and left:
                fresh = DigestsReply(len(left))
                self._connection.ask(Kind.DIGEST, request._replace(paths=left), fresh)
                reply = fresh
            while not (reply.ready or reply.error or reply.is_done or reply.is_lost):
                self._connection.take_frame()

        try:
            # Also to the end of an answer whose last part holds none: it is in the way otherwise.
            while left or not (reply.is_done or reply.is_lost):
                self._connection.persist(attempt)
                if reply.error is not None:
                    raise reply.error
                while reply.ready:
                    each = reply.ready.popleft()
                    if not isinstance(each, int):
                        left.pop(0)
                    yield each
                if not reply.is_done and not reply.is_lost:
                    self._go_on(reply)
        finally:
            if left:
                self._connection.drop()  # Nobody will take the rest.

    def _go_on(self, reply: DigestsReply) -> None:
        try:
            self._connection.go_on(reply)
        except OSError:
            self._connection.drop()

    def _digest_one(self, path: bytes, algorithm: str) -> FileDigest | None:
        for each in self.digest_files([path], algorithm, drop_cache=False):
            if isinstance(each, FileDigest) and each.is_steady:
                return each
        return None


_ReplyT = TypeVar("_ReplyT", bound=Reply)


def _lost(reply: _ReplyT) -> _ReplyT:
    """Return a reply as if its connection had been lost: it is asked for when it is wanted."""
    reply.is_lost = True
    return reply
