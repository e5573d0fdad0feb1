"""Answers of a source while they arrive, one object for each request; no I/O."""

from collections import deque
from typing import Generic, TypeVar, cast

from holdfast.errors import HoldfastError, InvalidRequestError
from holdfast.model.limits import DIRECTORY_ENTRIES_MAX, STREAM_PATHS_MAX
from holdfast.model.tree import FileKind, Stat
from holdfast.ports import FileDigest, SmallFile
from holdfast.stores.nodes.messages import (
    STAT_BYTES,
    DigestsPart,
    Failure,
    Kind,
    ListingPage,
    SentFile,
)
from holdfast.stores.nodes.wire import (
    bad_frame,
    check_names,
    decode_files,
    decode_message,
    error_of,
    stats_of,
    unpack_stat,
)

MessageT = TypeVar("MessageT")


class Reply:
    """What became of one request."""

    def __init__(self, kind: Kind, owner: object = None) -> None:
        """Await frames of one kind.

        Args:
            kind: Which.
            owner: If set, nothing that another owner asks may follow before this is complete.
        """
        self.kind = kind
        self.owner = owner
        self.number = 0
        self.is_done = False
        self.is_lost = False
        """Whether the connection went before the end; ask again."""
        self.error: HoldfastError | None = None
        self.working_max = 0
        """How often it may be put off because the source is at work on it."""

    def note_working(self) -> None:
        """Take it that the answer will take longer."""
        self.working_max -= 1
        if self.working_max < 0:
            raise bad_frame("that it is at work more often than there is work")

    def feed(self, kind: Kind, payload: memoryview, *, is_last: bool) -> None:
        """Take a frame of the awaited kind; the payload is good for this call only."""
        raise NotImplementedError

    def fail(self, error: HoldfastError) -> None:
        """Take an error, which ends the answer."""
        self.error = error


class ValueReply(Reply, Generic[MessageT]):
    """One message."""

    def __init__(self, kind: Kind, message: type[MessageT]) -> None:
        super().__init__(kind)
        self._message = message
        self._value: MessageT | None = None

    def feed(self, kind: Kind, payload: memoryview, *, is_last: bool) -> None:  # noqa: ARG002
        """See Reply."""
        if not is_last:
            raise bad_frame("a second part of a single answer")
        self._value = decode_message(self._message, payload)

    def value(self) -> MessageT:
        """Return it, or raise the error that came instead."""
        if self.error is not None:
            raise self.error
        assert self.is_done
        return cast(MessageT, self._value)  # Which may be None: some answers only say "done".


class DataReply(Reply):
    """A range of a file; its frames are taken by the file itself."""

    def __init__(self, owner: object, start: int, end: int) -> None:
        super().__init__(Kind.DATA, owner)
        self.position = start
        """Of the next byte."""
        self.end = end
        self.left_bytes = 0
        """Of the frame that is being taken."""
        self.ends_with_frame = False


class ListingReply(Reply):
    """A directory: names, and states in packed pages that go as they are asked for."""

    def __init__(self, path: bytes) -> None:
        super().__init__(Kind.LISTING)
        self.path = path
        self.count = 0
        self._names: list[tuple[bytes, bool]] = []
        self._links: list[tuple[bytes, bytes]] = []
        self._pages: deque[ListingPage] = deque()
        self._page: dict[bytes, Stat | HoldfastError] = {}
        self._last = b""

    def feed(self, kind: Kind, payload: memoryview, *, is_last: bool) -> None:  # noqa: ARG002
        """See Reply."""
        page = decode_message(ListingPage, payload)
        if not (page.names or is_last):
            raise bad_frame("a page of a listing with nothing on it")
        self.count += len(page.names)
        if self.count > DIRECTORY_ENTRIES_MAX:
            raise bad_frame(f"more than {DIRECTORY_ENTRIES_MAX} entries of one directory")
        try:
            check_names(self.path, page.names, self._names[-1][0] if self._names else b"")
        except InvalidRequestError as error:
            if not is_last:
                raise  # Nobody is to wait for the rest of it.
            self.fail(error)
            return
        if len(page.stats) != STAT_BYTES * len(page.names):
            raise bad_frame("a column of states that does not fit its names")
        kinds = page.stats[::STAT_BYTES]
        self._names += [(name, code == 2) for name, code in zip(page.names, kinds, strict=True)]
        if page.names:
            self._pages.append(page)

    def take_names(self) -> list[tuple[bytes, bool]]:
        """Return each name with whether it is a directory; once."""
        names, self._names = self._names, []
        return names

    def stats(self, names: list[bytes]) -> list[Stat | HoldfastError] | None:
        """Return the states of some names, asked for in order; None if they are not at hand."""
        found: list[Stat | HoldfastError] = []
        for name in names:
            while name not in self._page:
                if not self._pages or name < self._pages[0].names[0]:
                    return None
                self._turn_page()
            found.append(self._page[name])
        if names and not self._pages and names[-1] == self._last:
            self._page = {}
        return found

    def take_links(self) -> list[tuple[bytes, bytes]]:
        """Return the symlinks of the pages that were looked at since, and their targets."""
        links, self._links = self._links, []
        return links

    def is_taken(self) -> bool:
        """Say whether the state of its last entry was asked for."""
        return not self._pages and not self._page

    def _turn_page(self) -> None:
        page = self._pages.popleft()
        stats = stats_of(page, len(page.names))
        self._page = dict(zip(page.names, stats, strict=True))
        self._last = page.names[-1]
        links = iter(page.links)
        for name, stat in self._page.items():
            if isinstance(stat, Stat) and stat.kind is FileKind.SYMLINK:
                target = next(links, b"")
                if target and b"\0" not in target:
                    self._links.append((name, target))


class BundleReply(Reply):
    """Small files, in the order they were asked for."""

    def __init__(self, paths: list[bytes]) -> None:
        super().__init__(Kind.FILES)
        self.due = deque(paths)
        self.ready: deque[tuple[bytes, SentFile | Failure | None, bytes]] = deque()
        """Path, what is said of it, and its content."""

    def feed(self, kind: Kind, payload: memoryview, *, is_last: bool) -> None:  # noqa: ARG002
        """See Reply."""
        part, content = decode_files(payload)
        if not (part.files or is_last):
            raise bad_frame("a part of a bundle with nothing in it")
        if len(part.files) > len(self.due) or (is_last and len(part.files) < len(self.due)):
            raise bad_frame(f"{len(part.files)} files where {len(self.due)} were due")
        at = 0
        for sent, failure in part.files:
            size_bytes = sent.size_bytes if sent is not None else 0
            data = bytes(content[at : at + size_bytes])
            self.ready.append((self.due.popleft(), failure or sent, data))
            at += size_bytes


class DigestsReply(Reply):
    """Digests of files, taken at the source step by step."""

    def __init__(self, count: int) -> None:
        assert count <= STREAM_PATHS_MAX
        super().__init__(Kind.DIGESTS, self)
        self.due = count
        self.ready: deque[int | FileDigest | HoldfastError] = deque()

    def feed(self, kind: Kind, payload: memoryview, *, is_last: bool) -> None:  # noqa: ARG002
        """See Reply."""
        part = decode_message(DigestsPart, payload)
        self.due -= len(part.results)
        if self.due < 0 or (is_last and self.due):
            raise bad_frame("another number of digests than was asked for")
        self.ready.append(part.read_bytes)
        for digested, failure in part.results:
            if failure is not None:
                self.ready.append(error_of(failure))
            elif digested is not None:
                self.ready.append(
                    FileDigest(
                        unpack_stat(digested.stat),
                        digested.digest,
                        digested.xattrs,
                        digested.is_steady,
                    )
                )
            else:
                raise bad_frame("neither a digest nor an error")


def small_file(sent: SentFile, data: bytes, buffer: memoryview) -> SmallFile | None:
    """Put a file of a bundle where the caller wants it; None if it does not fit."""
    if len(data) > len(buffer):
        return None
    buffer[: len(data)] = data
    stat = unpack_stat(sent.stat)
    is_steady = sent.is_steady and stat.size_bytes == len(data)
    return SmallFile(stat, len(data), sent.xattrs, is_steady, sent.digest or None)
