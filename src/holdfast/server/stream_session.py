"""One client of the stream server, from its first frame to its last; in a process of its own.

A client is answered in the order in which it asks. What it may do follows from its token or its
certificate: VERIFY lists and digests, COPY reads bytes too. It cannot hold the process without
taking part: each wait for it, and each frame to it, has an end.

Invariants:
1. Nothing is read before the client is known and its export found; it reaches no other export.
2. A digest that is sent is of the very bytes that were sent, in order, holes as zeros.
3. A file that moved while it was read is said to be not steady, or tells so in FINISHED.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from holdfast.errors import (
    CapacityError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
)
from holdfast.files.hashing import read_digest
from holdfast.model.access import Permission
from holdfast.model.limits import (
    BLOCK_BYTES,
    KIB,
    MIB,
    REQUEST_FRAME_BYTES_MAX,
    STREAM_EXTENTS_MAX,
    STREAM_FILES_OPEN_MAX,
    STREAM_WORKING_BYTES,
)
from holdfast.model.tree import FileKind, Stat
from holdfast.ports import Pace, ReadableFile
from holdfast.proof.digests import Algorithm, Digest, digest_of, new_digest, parse_algorithm
from holdfast.server.stream_tree import ExportedTree
from holdfast.stores.nodes.channel import Channel
from holdfast.stores.nodes.messages import (
    AttributesReply,
    BundleRequest,
    DigestedFile,
    DigestRequest,
    DigestsPart,
    Failure,
    FilesPart,
    FinishedReply,
    HandleRequest,
    HashedReply,
    Kind,
    LinkReply,
    ListingPage,
    OpenRequest,
    PathRequest,
    PathsRequest,
    RangesReply,
    ReadRequest,
    SentFile,
    SizeRequest,
    StatsReply,
)
from holdfast.stores.nodes.wire import (
    HEADER_BYTES,
    Header,
    bad_frame,
    decode_message,
    encode_files,
    encode_frame,
    encode_header,
    failure_of,
    pack_stat,
    pack_stats,
)

FRAME_S: Final = 60.0
"""For one frame to or from a client, once it began: slower clients are let go."""
_PAGE_NAMES: Final = 1024
_PAGE_BYTES: Final = 512 * KIB
_DATA_FRAME_BYTES: Final = 256 * KIB
_BUNDLE_FRAME_BYTES: Final = 256 * KIB
_XATTRS_FRAME_BYTES: Final = MIB
_DIGEST_STEP_BYTES: Final = 4 * MIB
_DIGEST_STEP_FILES: Final = 128
_DIGEST_STEPS_AHEAD: Final = 4
_CONTINUE_S: Final = 600.0
"""A client that keeps a low rate limit is silent for long between two steps."""
_ZEROS: Final = bytes(BLOCK_BYTES)

_VERIFYING: Final = frozenset({Permission.VERIFY, Permission.COPY})
_COPYING: Final = frozenset({Permission.COPY})


class _Answer(NamedTuple):
    message: type[Any]
    allowed: frozenset[Permission]
    answer: Callable[..., None]
    """Given the session, the number of the request, and the request."""


@dataclass(slots=True)
class _OpenFile:
    reader: ReadableFile
    digest: Digest | None
    """Of what was sent; None if none was asked for or it was not sent in order."""
    position: int = 0
    """Up to where the digest is taken."""


class _Steps:
    """The pace of a DIGEST request: tells the client of every step, and waits for it."""

    def __init__(self, session: "StreamSession", number: int, pace: Pace) -> None:
        self._session = session
        self._number = number
        self._pace = pace
        self._read_bytes = 0
        self._unanswered = 0
        self._results: list[tuple[DigestedFile | None, Failure | None]] = []

    def take(self, size_bytes: int) -> None:
        """See Pace."""
        self._pace.take(size_bytes)

    def moved(self, size_bytes: int) -> None:
        """See Pace."""
        self._read_bytes += size_bytes
        if self._read_bytes >= _DIGEST_STEP_BYTES:
            self._step()

    def add(self, digested: DigestedFile | None, failure: Failure | None) -> None:
        """Take the result of one file."""
        if len(self._results) >= _DIGEST_STEP_FILES:
            self._step()  # Before it: the last result of all belongs into the last part.
        self._results.append((digested, failure))

    def end(self) -> None:
        """Tell the rest."""
        while self._unanswered:
            self._await_client()
        self._tell(is_last=True)

    def _step(self) -> None:
        self._tell(is_last=False)
        self._unanswered += 1
        if self._unanswered >= _DIGEST_STEPS_AHEAD:
            self._await_client()

    def _tell(self, *, is_last: bool) -> None:
        part = DigestsPart(self._read_bytes, self._results)
        self._session.send(Kind.DIGESTS, self._number, part, is_last=is_last)
        self._read_bytes, self._results = 0, []

    def _await_client(self) -> None:
        header, _ = self._session.receive(_CONTINUE_S)
        if header.kind is not Kind.CONTINUE or header.number != self._number:
            raise bad_frame("another request in the middle of digests")
        self._unanswered -= 1


class StreamSession:
    """Answers one client until it goes or breaks the rules; see the module."""

    def __init__(
        self,
        channel: Channel,
        tree: ExportedTree,
        permissions: frozenset[Permission],
        *,
        pace: Pace,
        idle_timeout_s: float,
    ) -> None:
        self._channel = channel
        self._tree = tree
        self._permissions = permissions
        self._pace = pace
        self._idle_timeout_s = idle_timeout_s
        self._files: dict[int, _OpenFile] = {}
        self._block = memoryview(bytearray(HEADER_BYTES + BLOCK_BYTES))
        self._content = memoryview(bytearray(_BUNDLE_FRAME_BYTES + BLOCK_BYTES))

    def run(self) -> None:
        """Serve; OSError once the client is gone, InvalidRequestError if it breaks the protocol."""
        try:
            while True:
                self._answer_one()
        finally:
            for opened in self._files.values():
                opened.reader.close()

    def receive(self, wait_s: float) -> tuple[Header, memoryview]:
        """Return the next frame of the client; its payload is good until the next call."""
        header = self._channel.receive_header(wait_s, FRAME_S, limit_bytes=REQUEST_FRAME_BYTES_MAX)
        return header, self._channel.receive_payload(header.size_bytes, FRAME_S)

    def send(self, kind: Kind, number: int, message: object, *, is_last: bool = True) -> None:
        """Send one frame of an answer."""
        self._channel.send(encode_frame(kind, number, message, is_last=is_last), FRAME_S)

    def _answer_one(self) -> None:
        header, payload = self.receive(self._idle_timeout_s)
        row = _ANSWERS.get(header.kind)
        if row is None:
            raise bad_frame(f"{header.kind.name} where a request was due")
        request = decode_message(row.message, payload)
        try:
            if not self._permissions & row.allowed:
                raise DeniedError(
                    "this token or certificate may not do that here",
                    code="forbidden",
                    advice="ask the owner of the source for the permission 'copy'",
                )
            self._tree.refresh()
            row.answer(self, header.number, request)
        except HoldfastError as error:
            if error.code == "bad-frame":
                raise
            self.send(Kind.FAILURE, header.number, failure_of(error))

    def _list(self, number: int, request: PathRequest) -> None:
        names = self._tree.names(request.path)
        for at in range(0, max(1, len(names)), _PAGE_NAMES):
            page = names[at : at + _PAGE_NAMES]
            found = self._tree.stats(request.path, page)
            links = [
                self._tree.link_of(request.path, name)
                for name, stat in zip(page, found, strict=True)
                if isinstance(stat, Stat) and stat.kind is FileKind.SYMLINK
            ]
            stats, failures = pack_stats(found)
            is_last = at + _PAGE_NAMES >= len(names)
            message = ListingPage(page, stats, links, failures)
            self.send(Kind.LISTING, number, message, is_last=is_last)

    def _stat(self, number: int, request: PathsRequest) -> None:
        found: list[Stat | HoldfastError] = []
        for path in request.paths:
            try:
                found.append(self._tree.stat(path))
            except HoldfastError as error:
                found.append(error)
        self.send(Kind.STATS, number, StatsReply(*pack_stats(found)))

    def _read_link(self, number: int, request: PathRequest) -> None:
        self.send(Kind.LINK, number, LinkReply(self._tree.read_link(request.path)))

    def _xattrs(self, number: int, request: PathRequest) -> None:
        self.send(Kind.ATTRIBUTES, number, AttributesReply(self._tree.xattrs(request.path)))

    def _open(self, number: int, request: OpenRequest) -> None:
        if len(self._files) >= STREAM_FILES_OPEN_MAX:
            raise CapacityError(
                f"more than {STREAM_FILES_OPEN_MAX} files open on one connection",
                code="too-many-open-files",
                advice="close some first",
            )
        if request.handle in self._files:
            raise bad_frame("a handle that is in use")
        digest = new_digest(parse_algorithm(request.algorithm)) if request.algorithm else None
        opened = _OpenFile(self._tree.open_file(request.path), digest)
        self._files[request.handle] = opened
        self.send(Kind.STATS, number, StatsReply(*pack_stats([opened.reader.stat()])))

    def _read(self, number: int, request: ReadRequest) -> None:
        opened = self._file(request.handle)
        self._hash_hole(number, opened, request.start)
        position, is_last = request.start, False
        while not is_last:
            # Digested on this thread while it is near: whoever receives it has more to do with it.
            view = self._block[HEADER_BYTES:][: min(_DATA_FRAME_BYTES, request.end - position)]
            self._pace.take(len(view))
            done = opened.reader.read_into(view, position) if len(view) else 0
            position += done
            is_last = done < len(view) or position >= request.end
            self._block[:HEADER_BYTES] = encode_header(Kind.DATA, number, done, is_last=is_last)
            if opened.digest is not None:
                opened.digest.update(view[:done])
                opened.position = position
            self._channel.send(self._block[: HEADER_BYTES + done], FRAME_S)

    def _hash_hole(self, number: int, opened: _OpenFile, start: int) -> None:
        """Take what the client does not ask for into the digest: it lies in a hole.

        The client is told now and then: of a large hole that takes longer than it would wait.
        """
        if opened.digest is None:
            return
        if start < opened.position:
            opened.digest = None
            return
        working = encode_header(Kind.WORKING, number, 0, is_last=False)
        told = opened.position
        for at in range(opened.position, start, BLOCK_BYTES):
            if at - told >= STREAM_WORKING_BYTES:
                self._channel.send(working, FRAME_S)
                told = at
            opened.digest.update(memoryview(_ZEROS)[: start - at])
        opened.position = start

    def _hash_to(self, number: int, request: SizeRequest) -> None:
        """Take what the client has already into the digest, without sending it."""
        opened = self._file(request.handle)
        if opened.digest is None:
            raise InvalidRequestError("no digest was asked for, or not in order", code="no-digest")
        while opened.position < request.size_bytes:
            view = self._block[: min(BLOCK_BYTES, request.size_bytes - opened.position)]
            self._pace.take(len(view))
            done = opened.reader.read_into(view, opened.position)
            if not done:
                break
            opened.digest.update(view[:done])
            opened.position += done
        self.send(Kind.HASHED, number, HashedReply(opened.digest.digest()))

    def _extents(self, number: int, request: SizeRequest) -> None:
        ranges: list[tuple[int, int]] = []
        for start, end in self._file(request.handle).reader.data_extents(request.size_bytes):
            if len(ranges) == STREAM_EXTENTS_MAX - 1:
                ranges.append((start, request.size_bytes))
                break
            ranges.append((start, end))
        self.send(Kind.RANGES, number, RangesReply(ranges))

    def _finish(self, number: int, request: SizeRequest) -> None:
        opened = self._file(request.handle)
        self._hash_hole(number, opened, max(opened.position, request.size_bytes))
        digest = opened.digest.digest() if opened.digest is not None else None
        xattrs = opened.reader.xattrs()
        stat = opened.reader.stat()
        self.send(Kind.FINISHED, number, FinishedReply(pack_stat(stat), xattrs, digest))

    def _drop_cache(self, number: int, request: HandleRequest) -> None:
        self._file(request.handle).reader.drop_cache()
        self.send(Kind.DONE, number, None)

    def _close(self, number: int, request: HandleRequest) -> None:
        self._file(request.handle).reader.close()
        del self._files[request.handle]
        self.send(Kind.DONE, number, None)

    def _file(self, handle: int) -> _OpenFile:
        opened = self._files.get(handle)
        if opened is None:
            raise NotFoundError("no such file is open", code="no-handle")
        return opened

    def _bundle(self, number: int, request: BundleRequest) -> None:
        algorithm = parse_algorithm(request.algorithm) if request.algorithm else None
        files: list[tuple[SentFile | None, Failure | None]] = []
        used = xattrs_bytes = 0
        for path in request.paths:
            sent, more_bytes = self._read_small(path, algorithm, used)
            files.append(sent)
            if sent[0] is not None:
                used += sent[0].size_bytes
            xattrs_bytes += more_bytes
            if used >= _BUNDLE_FRAME_BYTES or xattrs_bytes >= _XATTRS_FRAME_BYTES:
                if path is request.paths[-1]:
                    break
                self._send_files(number, files, used, is_last=False)
                files, used, xattrs_bytes = [], 0, 0
        self._send_files(number, files, used, is_last=True)

    def _read_small(
        self, path: bytes, algorithm: Algorithm | None, at: int
    ) -> tuple[tuple[SentFile | None, Failure | None], int]:
        """Read a file into the content of the frame; return it and the size of its attributes."""
        room = self._content[at : at + BLOCK_BYTES]
        try:
            small = self._tree.read_small(path, room)
        except HoldfastError as error:
            return (None, failure_of(error)), 0
        if small is None:
            return (None, None), 0
        xattrs_bytes = sum(len(name) + len(value) for name, value in small.xattrs.items())
        if xattrs_bytes > _XATTRS_FRAME_BYTES:
            return (None, None), 0
        self._pace.take(small.size_bytes)
        digest = digest_of(algorithm, room[: small.size_bytes]) if algorithm else b""
        sent = SentFile(
            pack_stat(small.stat), small.size_bytes, small.xattrs, small.is_steady, digest
        )
        return (sent, None), xattrs_bytes

    def _send_files(
        self,
        number: int,
        files: list[tuple[SentFile | None, Failure | None]],
        size_bytes: int,
        *,
        is_last: bool,
    ) -> None:
        head = encode_files(number, FilesPart(files), size_bytes, is_last=is_last)
        self._channel.put_off(head)
        self._channel.put_off(bytes(self._content[:size_bytes]))
        self._channel.flush(FRAME_S)

    def _digest(self, number: int, request: DigestRequest) -> None:
        algorithm = parse_algorithm(request.algorithm)
        steps = _Steps(self, number, self._pace)
        for path in request.paths:
            try:
                found = read_digest(
                    self._tree,
                    path,
                    algorithm,
                    pace=steps,
                    buffer=self._block[:BLOCK_BYTES],
                    drop_cache=request.drop_cache,
                )
            except HoldfastError as error:
                if error.code == "bad-frame":
                    raise
                steps.add(None, failure_of(error))
            else:
                digested = DigestedFile(
                    pack_stat(found.stat), found.digest, found.xattrs, found.is_steady
                )
                steps.add(digested, None)
        steps.end()


_ANSWERS: Final[dict[Kind, _Answer]] = {
    Kind.LIST: _Answer(PathRequest, _VERIFYING, StreamSession._list),
    Kind.STAT: _Answer(PathsRequest, _VERIFYING, StreamSession._stat),
    Kind.READ_LINK: _Answer(PathRequest, _VERIFYING, StreamSession._read_link),
    Kind.XATTRS: _Answer(PathRequest, _VERIFYING, StreamSession._xattrs),
    Kind.DIGEST: _Answer(DigestRequest, _VERIFYING, StreamSession._digest),
    Kind.OPEN: _Answer(OpenRequest, _COPYING, StreamSession._open),
    Kind.READ: _Answer(ReadRequest, _COPYING, StreamSession._read),
    Kind.HASH: _Answer(SizeRequest, _COPYING, StreamSession._hash_to),
    Kind.EXTENTS: _Answer(SizeRequest, _COPYING, StreamSession._extents),
    Kind.FINISH: _Answer(SizeRequest, _COPYING, StreamSession._finish),
    Kind.DROP_CACHE: _Answer(HandleRequest, _COPYING, StreamSession._drop_cache),
    Kind.CLOSE: _Answer(HandleRequest, _COPYING, StreamSession._close),
    Kind.BUNDLE: _Answer(BundleRequest, _COPYING, StreamSession._bundle),
}
