"""Files of raw bytes at fixed places, of which volumes are made."""

from collections.abc import Sequence
from typing import Protocol

from holdfast.ports.buffers import Buffer


class BlockFile(Protocol):
    """A file of raw bytes at fixed places: a part of a volume. One process has it open.

    Calls may come from two threads at once, never two that write the same bytes. Every method may
    raise StorageFailedError (`read-failed`, `write-failed`, `flush-failed`); those that need room
    CapacityError (`disk-full`). A write that raised may have written a part.
    """

    def pread_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """Fill all of `buffer`; what lies past the end of the file reads as zeros."""
        ...

    def pwrite(self, data: Buffer, offset_bytes: int) -> None:
        """Write all of `data`; the file grows as needed. Volatile until `fdatasync`."""
        ...

    def pwritev(self, parts: Sequence[Buffer], offset_bytes: int) -> None:
        """Write all parts, at most 1024, one after the other, as one call where the system can."""
        ...

    def fdatasync(self) -> None:
        """When this returns, every write that returned before it began survives loss of power.

        Raises:
            StorageFailedError: `flush-failed`. What is on the medium is unknown; never flush again.
        """
        ...

    def punch(self, start: int, end: int) -> None:
        """Make [start, end) read as zeros and give its room back where the system can."""
        ...

    def allocate(self, start: int, end: int) -> None:
        """Reserve room for [start, end) without changing what it reads as."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Set the size; what is new reads as zeros."""
        ...

    def size_bytes(self) -> int:
        """Return the size now."""
        ...

    def close(self) -> None:
        """Release it without flushing. Never raises."""
        ...
