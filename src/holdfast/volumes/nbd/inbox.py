"""What a connection received: bytes arrive at the end, whole requests leave at the front. No I/O.

Payloads are never copied: a request tells where it lies in the buffer, and stays there until
`room` is called next. A header of a request may be overwritten in place; the log does.

Invariants:

1. However the same bytes are cut into pieces, the same requests leave, in the same order within
   writes, within reads, and among all others; no other overtakes a write or a read or is overtaken.
2. Of a malformed stream everything before the first bad header leaves, nothing after it.
3. It never holds more than one request that is over its usual capacity, and none over the limit.
"""

import mmap
from typing import Final, NamedTuple

from holdfast.model.limits import NBD_BATCH_MAX, NBD_BUFFER_BYTES, NBD_REQUEST_BYTES_MAX
from holdfast.volumes.model import Request as WriteRequest
from holdfast.volumes.nbd import codec
from holdfast.volumes.nbd.codec import Command, MalformedError, Request

_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_COMPACT_BELOW_BYTES: Final = 64 << 10
"""With less room than this at the end, what is held moves to the front."""
_new: Final = tuple.__new__
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)


class Batch(NamedTuple):
    """Requests that are under way together: reads and writes in any order, `other` comes last."""

    writes: list[WriteRequest]
    cookies: list[bytes]
    """Of the writes."""
    write_flags: dict[int, int]
    """Of the writes that have any, by their place in `writes`."""
    reads: list[Request]
    other: Request | None


class Inbox:
    """The receive buffer of one connection in transmission."""

    def __init__(self, capacity_bytes: int = NBD_BUFFER_BYTES) -> None:
        self._capacity_bytes = capacity_bytes
        self._needed_bytes = codec.REQUEST_BYTES
        self._start = 0
        self._end = 0
        self._allocate(capacity_bytes)

    @property
    def needs_growth(self) -> bool:
        """Whether the request at the front fits only after `grow`."""
        return self._needed_bytes > len(self.view)

    @property
    def is_grown(self) -> bool:
        """Whether it holds more memory than usual."""
        return len(self.view) > self._capacity_bytes

    @property
    def is_mid_request(self) -> bool:
        """Whether part of a request is held."""
        return self._start != self._end

    def grow(self) -> None:
        """Make room for the request at the front; what is held stays."""
        held = bytes(self.view[self._start : self._end])
        self._allocate(self._needed_bytes)
        self.view[: len(held)] = held
        self._start, self._end = 0, len(held)

    def room(self) -> memoryview:
        """Return where the next bytes go; requests taken before are gone."""
        if self._start == self._end:
            self._start = self._end = 0
            if self.is_grown:
                self._allocate(self._capacity_bytes)
        elif self._start and self._is_short_of_room():
            held_bytes = self._end - self._start
            self.view[:held_bytes] = self.view[self._start : self._end]
            self._start, self._end = 0, held_bytes
        return self.view[self._end :]

    def received(self, size_bytes: int) -> None:
        """Count bytes that were put into `room`."""
        self._end += size_bytes

    def take(self) -> Batch | None:
        """Return requests that are wholly there; None if there is none.

        Raises:
            MalformedError: What comes next is no request, or over the limit.
        """
        at, end = self._start, self._end
        last = end - codec.REQUEST_BYTES
        if at > last:
            self._needed_bytes = codec.REQUEST_BYTES
            return None
        writes: list[WriteRequest] = []
        cookies: list[bytes] = []
        write_flags: dict[int, int] = {}
        reads: list[Request] = []
        other: Request | None = None
        unpack, buffer = codec.REQUEST.unpack_from, self.view
        left = NBD_BATCH_MAX
        self._needed_bytes = codec.REQUEST_BYTES
        while at <= last and left and other is None:
            magic, flags, command, cookie, start, size_bytes = unpack(buffer, at)
            after = at + codec.REQUEST_BYTES
            if magic != codec.REQUEST_MAGIC:
                self._refuse(writes, reads, f"request magic {magic:#x}")
                break
            if command == _WRITE:
                data_at, after = after, after + size_bytes
                if size_bytes > NBD_REQUEST_BYTES_MAX:
                    self._refuse(writes, reads, f"a write of {size_bytes} bytes")
                    break
                if after > end:
                    self._needed_bytes = after - at
                    break
                if flags:
                    write_flags[len(writes)] = flags
                # What a named tuple does, without the call of a function of Python's.
                writes.append(_new(WriteRequest, (at, data_at, start, size_bytes)))
                cookies.append(cookie)
            elif command == _READ:
                reads.append(_new(Request, (flags, command, cookie, start, size_bytes)))
            else:
                other = Request(flags, command, cookie, start, size_bytes)
            at = after
            left -= 1
        self._start = at
        if not writes and not reads and other is None:
            return None
        return Batch(writes, cookies, write_flags, reads, other)

    def release(self) -> None:
        """Give back memory that holds nothing."""
        if self._start == self._end:
            self._pages.madvise(mmap.MADV_DONTNEED)

    def _refuse(self, writes: list[WriteRequest], reads: list[Request], what: str) -> None:
        # What came before it is carried out first, as if it had come in a piece of its own.
        if not writes and not reads:
            raise MalformedError(what)

    def _is_short_of_room(self) -> bool:
        missing_bytes = self._start + self._needed_bytes - len(self.view)
        return missing_bytes > 0 or len(self.view) - self._end < _COMPACT_BELOW_BYTES

    def _allocate(self, size_bytes: int) -> None:
        # Anonymous pages: memory is taken as bytes arrive, and given back with the buffer.
        self._pages = mmap.mmap(-1, size_bytes, _PRIVATE)
        self.view = memoryview(self._pages)
