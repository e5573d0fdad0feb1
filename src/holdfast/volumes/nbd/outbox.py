"""What a connection has to send: replies are packed at the end, sent from the front. No I/O.

Invariants:

1. What was put in is sent in that order, once.
2. Data of reads is filled in where it will be sent from: it is never copied.
"""

import mmap
from typing import Final

from holdfast.model.limits import NBD_BUFFER_BYTES, NBD_OUTBOX_BYTES_MAX

_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FIRST_BYTES: Final = 2 * NBD_OUTBOX_BYTES_MAX


class Outbox:
    """The answers of one connection that were not sent yet."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, _FIRST_BYTES, _PRIVATE)
        self._view = memoryview(self._pages)
        self._start = 0
        self._end = 0

    @property
    def size_bytes(self) -> int:
        """How much is held."""
        return self._end - self._start

    @property
    def is_full(self) -> bool:
        """Whether no more should be put in before some was sent."""
        return self._end - self._start >= NBD_OUTBOX_BYTES_MAX

    @property
    def room_bytes(self) -> int:
        """How much may be put in before it is full; at least one byte."""
        return max(1, NBD_OUTBOX_BYTES_MAX - (self._end - self._start))

    def add(self, data: bytes) -> None:
        """Put bytes at the end."""
        self.reserve(len(data))[:] = data

    def reserve(self, size_bytes: int) -> memoryview:
        """Return the next bytes at the end, to be filled in at once."""
        end = self._end + size_bytes
        if end > len(self._view):
            self._make_room(size_bytes)
            end = self._end + size_bytes
        room = self._view[self._end : end]
        self._end = end
        return room

    def take_back(self, size_bytes: int) -> None:
        """Forget what was reserved last."""
        self._end -= size_bytes

    def unsent(self) -> memoryview:
        """Return what is to be sent next."""
        return self._view[self._start : self._end]

    def sent(self, size_bytes: int) -> None:
        """Forget so many bytes at the front."""
        self._start += size_bytes
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._view) > NBD_BUFFER_BYTES:
                self._allocate(_FIRST_BYTES)

    def release(self) -> None:
        """Give back memory that holds nothing."""
        if self._start == self._end:
            self._pages.madvise(mmap.MADV_DONTNEED)

    def _make_room(self, size_bytes: int) -> None:
        held = bytes(self.unsent())
        needed_bytes = len(held) + size_bytes
        if needed_bytes > len(self._view):
            self._allocate(max(needed_bytes, 2 * len(self._view)))
        self._view[: len(held)] = held
        self._start, self._end = 0, len(held)

    def _allocate(self, size_bytes: int) -> None:
        # Anonymous pages: memory is taken as it is filled, and given back with the buffer.
        self._pages = mmap.mmap(-1, size_bytes, _PRIVATE)
        self._view = memoryview(self._pages)
