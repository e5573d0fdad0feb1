"""A regular file of another host, open for reading: large ones in pipelined ranges.

Invariants:
1. Ranges are asked for ahead of the reader, at most two windows, and only where there is data.
2. After the connection was lost the file is opened anew and read on. If it is another file by then,
   or was written, `signature` tells, as it would of a local one.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from holdfast.errors import ConflictError, InvalidRequestError, NotFoundError
from holdfast.model.limits import BLOCK_BYTES, STREAM_WINDOW_BYTES, STREAM_WORKING_BYTES
from holdfast.model.tree import Signature, Stat, display_path, signature_of
from holdfast.ports import FileDigest
from holdfast.stores.nodes.connection import Connection
from holdfast.stores.nodes.messages import (
    Failure,
    FinishedReply,
    HandleRequest,
    HashedReply,
    Kind,
    OpenRequest,
    RangesReply,
    ReadRequest,
    SizeRequest,
    StatsReply,
)
from holdfast.stores.nodes.replies import DataReply, ValueReply
from holdfast.stores.nodes.wire import bad_frame, decode_message, error_of, stats_of, unpack_stat

_T = TypeVar("_T")
_WINDOWS_MAX = 64
_AHEAD_BYTES = 2 * STREAM_WINDOW_BYTES


class NodeFile:
    """ReadableFile over a connection that others use too; see the module."""

    def __init__(
        self,
        connection: Connection,
        path: bytes,
        handle: int,
        algorithm: str,
        *,
        digest_again: Callable[[], FileDigest | None],
    ) -> None:
        """Open it; the errors of ReadableDirectory.open_file."""
        self._connection = connection
        self._request = OpenRequest(handle, path, algorithm)
        self._has_digest = bool(algorithm)
        self._digest_again = digest_again
        self._windows: deque[DataReply] = deque()
        self._ahead: deque[tuple[int, int]] = deque()
        self._is_open = False
        self._was_lost = False
        self._finished: FinishedReply | None = None
        self._first = self._open()
        self._fresh: Stat | None = self._first

    def stat(self) -> Stat:
        """See ReadableFile."""
        fresh, self._fresh = self._fresh, None
        return fresh or unpack_stat(self._finish().stat)

    def signature(self) -> Signature:
        """See ReadableFile."""
        return signature_of(unpack_stat(self._finish().stat))

    def xattrs(self) -> dict[bytes, bytes]:
        """See ReadableFile."""
        return (self._finished or self._finish()).xattrs

    def given_digest(self) -> bytes | None:
        """See ReadableFile."""
        if not self._has_digest:
            return None
        finished = self._finished or self._finish()
        if not self._was_lost:
            return finished.digest
        # What was sent was digested by two connections; the source reads it once more.
        again = self._digest_again()
        if again is None or signature_of(again.stat) != signature_of(unpack_stat(finished.stat)):
            return None
        return again.digest

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """See ReadableFile."""
        ranges = [(0, size_bytes)] if size_bytes else []
        if self._first.allocated_bytes < size_bytes:
            request = SizeRequest(self._request.handle, size_bytes)
            ranges = self._call(Kind.EXTENTS, request, Kind.RANGES, RangesReply).ranges
        last = 0
        for start, end in ranges:
            if not last <= start < end <= size_bytes:
                raise bad_frame("parts of a file that are out of order")
            last = end
        self._plan(ranges)
        yield from ranges

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """See ReadableFile."""
        done = 0

        def attempt() -> None:
            nonlocal done
            while done < len(buffer):
                got = self._take(buffer[done:], offset_bytes + done)
                if not got:
                    return
                done += got

        self._finished = None
        self._persist(attempt)
        return done

    def digest_prefix(self, end: int) -> bytes | None:
        """See ReadableFile."""
        if not self._request.algorithm:
            return None
        request = SizeRequest(self._request.handle, end)
        try:
            return self._call(Kind.HASH, request, Kind.HASHED, HashedReply).digest
        except InvalidRequestError:
            if self._was_lost:
                return None  # Lost meanwhile; the file that was opened anew has no digest.
            raise

    def drop_cache(self) -> None:
        """See ReadableFile."""
        request = HandleRequest(self._request.handle)
        self._call(Kind.DROP_CACHE, request, Kind.DONE, type(None))

    def close(self) -> None:
        """See ReadableFile."""
        if any(not window.is_lost for window in self._windows):
            self._connection.drop()  # Cheaper than to take what is still under way.
        elif self._is_open and self._generation == self._connection.generation:
            reply = ValueReply(Kind.DONE, type(None))
            try:
                self._connection.ask(Kind.CLOSE, HandleRequest(self._request.handle), reply)
            except OSError:
                self._connection.drop()
        self._windows.clear()
        self._is_open = False

    def _open(self) -> Stat:
        reply = ValueReply(Kind.STATS, StatsReply)

        def attempt() -> None:
            nonlocal reply
            reply = ValueReply(Kind.STATS, StatsReply)
            self._connection.ask(Kind.OPEN, self._request, reply)
            self._connection.finish(reply)

        self._connection.persist(attempt)
        found = stats_of(reply.value(), 1)[0]
        if not isinstance(found, Stat):
            raise found
        self._is_open = True
        self._generation = self._connection.generation
        return found

    def _persist(self, attempt: Callable[[], None]) -> None:
        """Make an attempt on the open file, opening it anew wherever the connection was lost."""

        def with_file() -> None:
            if self._generation != self._connection.generation:
                self._open_again()
            attempt()

        self._connection.persist(with_file)

    def _open_again(self) -> None:
        self._was_lost = True
        self._is_open = False
        # No digest: it would be of nothing that was sent, and all before it would count as zeros.
        self._request = self._request._replace(algorithm="")
        for window in reversed(self._windows):
            if window.position < window.end:
                self._ahead.appendleft((window.position, window.end))
        self._windows.clear()
        try:
            self._open()
        except (NotFoundError, ConflictError) as error:
            if error.code == "source-replaced":
                raise
            raise ConflictError(
                f"{display_path(self._request.path)}: replaced or removed while it was read",
                code="replaced-while-read",
                path=self._request.path,
            ) from error

    def _finish(self) -> FinishedReply:
        request = SizeRequest(self._request.handle, self._first.size_bytes)
        self._finished = self._call(
            Kind.FINISH, request, Kind.FINISHED, FinishedReply, working_max=self._working_max()
        )
        return self._finished

    def _working_max(self) -> int:
        """Return how often the source may say that it digests holes, of this file at most."""
        return -(-self._first.size_bytes // STREAM_WORKING_BYTES)

    def _call(
        self,
        kind: Kind,
        message: object,
        awaited: Kind,
        answer: type[_T],
        *,
        working_max: int = 0,
    ) -> _T:
        reply = ValueReply(awaited, answer)

        def attempt() -> None:
            nonlocal reply
            reply = ValueReply(awaited, answer)
            reply.working_max = working_max
            self._connection.ask(kind, message, reply)
            self._connection.finish(reply)

        self._persist(attempt)
        return reply.value()

    def _plan(self, ranges: list[tuple[int, int]]) -> None:
        """Intend to read these."""
        self._ahead = deque(ranges)

    def _take(self, view: memoryview, at: int) -> int:
        """Take some bytes at an offset; 0 at the end of the file."""
        window = self._window(at, len(view))
        if not window.left_bytes and not self._next_frame(window):
            return 0
        count = min(len(view), window.left_bytes)
        self._connection.take_data(view[:count])
        window.left_bytes -= count
        window.position += count
        if not window.left_bytes:
            self._connection.data_ended(window, is_last=window.ends_with_frame)
            if window.is_done and window.position == window.end:
                self._windows.popleft()
                self._ask_ahead()
        return count

    def _next_frame(self, window: DataReply) -> bool:
        """Take the next header of a window; say whether there is more of it."""
        if window.is_done:
            return False  # It ended before its end: there the file ends.
        connection = self._connection
        while not connection.is_due(window):
            if window.is_lost:
                raise ConnectionResetError("the connection was lost")
            connection.take_frame()
        header = connection.take_header()
        if header.kind is Kind.FAILURE:
            raw = memoryview(bytearray(header.size_bytes))
            connection.take_data(raw)
            connection.drop()
            raise error_of(decode_message(Failure, raw))
        if header.size_bytes > min(BLOCK_BYTES, window.end - window.position):
            raise bad_frame("more of a file than was asked for")
        window.left_bytes = header.size_bytes
        window.ends_with_frame = header.is_last
        if not header.size_bytes:
            if not header.is_last:
                raise bad_frame("a frame of no data")
            connection.data_ended(window, is_last=True)
        return header.size_bytes > 0

    def _window(self, at: int, wanted: int) -> DataReply:
        """Return the window that begins at an offset, asking for it where it was not foreseen."""
        if self._windows and self._windows[0].position == at:
            return self._windows[0]
        if self._windows:
            if any(not window.is_done for window in self._windows):
                self._connection.abandon()
            self._windows.clear()
        while self._ahead and self._ahead[0][1] <= at:
            self._ahead.popleft()
        if self._ahead and self._ahead[0][0] <= at:
            self._ahead[0] = (at, self._ahead[0][1])
        elif at == 0 and wanted >= BLOCK_BYTES and self._first.size_bytes > wanted:
            self._plan([(0, self._first.size_bytes)])
        else:
            self._ahead.appendleft((at, at + wanted))
        self._ask_ahead()
        return self._windows[0]

    def _ask_ahead(self) -> None:
        """Ask for the next windows."""
        under_way = sum(window.end - window.position for window in self._windows)
        asked = False
        while self._ahead and under_way < _AHEAD_BYTES and len(self._windows) < _WINDOWS_MAX:
            start, last = self._ahead.popleft()
            end = min(last, start + STREAM_WINDOW_BYTES)
            if end < last:
                self._ahead.appendleft((end, last))
            window = DataReply(self, start, end)
            window.working_max = self._working_max()
            request = ReadRequest(self._request.handle, start, end)
            self._connection.ask(Kind.READ, request, window)
            self._windows.append(window)
            under_way += end - start
            asked = True
        if asked:
            self._connection.send_off()
