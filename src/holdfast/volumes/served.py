"""What front ends need of a volume, whoever keeps it: the engine, or a snapshot of it.

One owner calls all of this; nothing waits, but for reads and writes of the page cache. Long work is
handed out as jobs: `begin_x` in the owner, `run` in a helper thread, `finish_x` in the owner again.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from holdfast.errors import HoldfastError
from holdfast.ports import Buffer


class FileRange(NamedTuple):
    """Bytes of an open file that are the answer to a read, valid until the owner's next call."""

    descriptor: int
    offset_bytes: int
    size_bytes: int


class WriteEntry(Protocol):
    """One write where it was received: 28 bytes that may be overwritten, then the data."""

    @property
    def header_at(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


class Job(Protocol):
    """Work for a helper thread."""

    def run(self) -> None:
        """Do it; raise HoldfastError where it cannot be done."""
        ...


class Stalled(NamedTuple):
    """The log is full: nothing happened, ask again after the next checkpoint."""


class Extent(NamedTuple):
    """What a part of a volume is."""

    size_bytes: int
    is_hole: bool
    is_zero: bool


class ServedVolume(Protocol):
    """A volume as front ends use it. Any call may raise HoldfastError; then nothing happened."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def is_read_only(self) -> bool: ...
    @property
    def last_lsn(self) -> int: ...
    @property
    def durable_lsn(self) -> int: ...

    def write_run(self, buffer: memoryview, entries: Sequence[WriteEntry]) -> int | Stalled:
        """Write all entries in order; returns the last one's LSN."""
        ...

    def read(self, start: int, size_bytes: int) -> list[Buffer | FileRange]:
        """Return the bytes, in parts; what is in memory belongs to the caller."""
        ...

    def trim(self, start: int, size_bytes: int) -> int | Stalled:
        """Make it zeros, giving its space back."""
        ...

    def zero(self, start: int, size_bytes: int, *, punch: bool) -> int | Stalled:
        """Make it zeros; without `punch` its space stays."""
        ...

    def prefetch(self, start: int, size_bytes: int) -> None:
        """Hint that this will be read."""
        ...

    def allocation(self, start: int, size_bytes: int) -> list[Extent]:
        """Return what the range is, in order, neighbours that are alike in one."""
        ...

    def changed_since(self, lsn: int, start: int, size_bytes: int) -> list[tuple[int, bool]]:
        """Return (size, whether written after `lsn`) in order; yes where it is not known."""
        ...

    def begin_sync(self) -> Job | None:
        """Return what makes everything up to now durable; None if it is."""
        ...

    def finish_sync(self, job: Job, error: HoldfastError | None) -> None:
        """Take note of how it ended; raise if it may not be acknowledged."""
        ...

    def wants_checkpoint(self, now_ns: int) -> bool:
        """Whether a checkpoint should begin; False while one is under way."""
        ...

    def begin_checkpoint(self) -> Job | None:
        """Return what moves the log's content to its place; None if there is none."""
        ...

    def finish_checkpoint(self, job: Job, error: HoldfastError | None) -> None:
        """Take note of how it ended; the log has room again."""
        ...
