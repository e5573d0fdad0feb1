"""What the outside must provide, with the contract of each: time, chance, trees, registers.

An adapter behind a port turns foreign exceptions into ours, here only. Each port has one contract
suite in tests/contract that runs on every implementation, the simulated one included.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

from holdfast.errors import HoldfastError
from holdfast.model.head import AdvanceOutcome, Epoch, HeadState, Revision
from holdfast.model.tree import (
    Capabilities,
    FileKind,
    Metadata,
    MetadataLoss,
    Signature,
    Space,
    Stat,
)

Buffer = bytes | bytearray | memoryview

ItemT = TypeVar("ItemT", contravariant=True)
ResultT = TypeVar("ResultT", covariant=True)
InT = TypeVar("InT")
OutT = TypeVar("OutT")


class Clock(Protocol):
    """Time. The two clocks are never compared with each other."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch of Unix; may step."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an unspecified moment; never falls; the same in all processes."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Wait at least `duration_s` seconds."""
        ...


class Entropy(Protocol):
    """Chance, fit for keys."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        ...


class SmallFile(NamedTuple):
    """A whole file read in one call."""

    stat: Stat
    """As it was before the reading."""
    size_bytes: int
    """How much of the buffer was filled."""
    xattrs: dict[bytes, bytes]
    is_steady: bool
    """Whether nothing moved between the beginning and the end of the reading."""
    digest: bytes | None = None
    """What the other side says it sent, in the algorithm given to `expect`; None if nothing."""


class ExpectedFile(NamedTuple):
    """A file that will be read soon, with its size as listed."""

    path: bytes
    size_bytes: int


class FileDigest(NamedTuple):
    """The digest of a file, taken where the file is; stat and is_steady as in SmallFile."""

    stat: Stat
    digest: bytes
    xattrs: bytes
    """Digest of the extended attributes (model.tree.digest_xattrs)."""
    is_steady: bool


class ReadableFile(Protocol):
    """A regular file open for reading; what it names cannot be exchanged under it."""

    def stat(self) -> Stat:
        """Return the state now, of this very file."""
        ...

    def signature(self) -> Signature:
        """Return the part of `stat` that a change of content moves; cheaper."""
        ...

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """Fill `buffer` from `offset_bytes`; fewer bytes only at the end of the file.

        Raises:
            StorageFailedError: The medium would not give these bytes (`read-failed`).
        """
        ...

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the parts below `size_bytes` that may hold data, in order.

        What lies between is holes and reads as zeros. One extent of everything is a right answer.
        """
        ...

    def xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes this process may read; empty where there are none."""
        ...

    def given_digest(self) -> bytes | None:
        """Return the other side's digest of the content it gave, in `expect`'s algorithm.

        Holes count as zeros. None where bytes do not travel, or not once, in order and to the end.
        """
        ...

    def digest_prefix(self, end: int) -> bytes | None:
        """Return the other side's digest of [0, end), which then need not be read, if it can."""
        ...

    def drop_cache(self) -> None:
        """Ask that the next reads come from the medium. A hint: dirty pages stay."""
        ...

    def close(self) -> None:
        """Release it. Never raises."""
        ...


class WritableFile(Protocol):
    """A regular file being made. Nothing is durable before `flush` or the tree's `flush_all`."""

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """As ReadableFile.read_into."""
        ...

    def size_bytes(self) -> int:
        """Return the size now."""
        ...

    def write_at(self, data: Buffer, offset_bytes: int) -> None:
        """Write all of `data`, or raise CapacityError (`disk-full`) or StorageFailedError."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Set the size; what is new is a hole."""
        ...

    def punch(self, start: int, end: int) -> None:
        """Make [start, end) read as zeros, giving its blocks back where the file system can."""
        ...

    def set_metadata(self, metadata: Metadata) -> list[MetadataLoss]:
        """Set owner, mode, extended attributes and, last, times; return what was not possible."""
        ...

    def start_writeback(self, offset_bytes: int, size_bytes: int) -> None:
        """Hint that these bytes will be flushed soon. Promises nothing."""
        ...

    def flush(self) -> None:
        """When this returns, content and metadata survive loss of power (its name may not).

        Raises:
            StorageFailedError: `flush-failed`. What is on the medium is unknown; the file must be
                made anew, never flushed again.
        """
        ...

    def close(self) -> None:
        """Release it without flushing. Never raises."""
        ...


class ReadableDirectory(Protocol):
    """One directory tree, addressed by relative raw-byte paths; the half a source needs.

    No method follows a symlink, in the last component or on the way to it: a component that is not
    a directory raises ConflictError (`not-a-directory`). No method opens anything but regular
    files and directories. Missing entries raise NotFoundError (`no-entry`), forbidden ones
    DeniedError (`forbidden`), a medium's refusal StorageFailedError.
    """

    def describe(self) -> dict[str, object]:
        """Return what identifies the root for a proof: path, host, device, inode."""
        ...

    def capabilities(self) -> Capabilities:
        """Return which metadata this tree can tell; the rest of a Stat means nothing."""
        ...

    def expect_directories(self, paths: Sequence[bytes]) -> None:
        """Take the hint that these directories will be listed next, before those hinted earlier."""
        ...

    def expect_metadata(self, paths: Sequence[bytes]) -> None:
        """Take the hint that these, and none told before, get `stat` and `xattrs` next, once."""

    def expect(self, files: Sequence[ExpectedFile], algorithm: str) -> None:
        """Take the hint that these files, and none told before, will be read next in this order.

        Where bytes travel, the other side digests what it sends: SmallFile.digest, given_digest.
        """
        ...

    def digest_files(
        self, paths: Sequence[bytes], algorithm: str, *, drop_cache: bool
    ) -> Iterator[int | FileDigest | HoldfastError] | None:
        """Have files read and digested where they are, from now on; None: the caller is to read.

        Yields one FileDigest or error for each path, in order, and between them how many bytes were
        read since the last such number; a caller that waits before it draws slows the work.
        """
        ...

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        """Return (name, is a directory) of every entry of a directory, in no order.

        `.` and `..` are left out. Whether it is a directory is a hint that may be stale.
        """
        ...

    def stat(self, path: bytes) -> Stat:
        """Return the state of an entry itself; of the root for the empty path."""
        ...

    def stat_names(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        """Return, for each name in a directory, its state or the error `stat` would raise."""
        ...

    def read_link(self, path: bytes) -> bytes:
        """Return a symlink's target; ConflictError (`not-a-symlink`) for another kind."""
        ...

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes of a file or directory this process may read."""
        ...

    def open_file(self, path: bytes) -> ReadableFile:
        """Open a regular file for reading.

        Raises:
            ConflictError: `not-a-file`; a FIFO, device, socket, directory or symlink stands there.
        """
        ...

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """Open, read and close a regular file; None if it is sparse or larger than `buffer`.

        The same as open_file and the calls on it, in one: trees of small files spend most of their
        time between calls. Raises as these do.
        """
        ...

    def close(self) -> None:
        """Release it. Never raises."""
        ...


class Directory(ReadableDirectory, Protocol):
    """A directory tree that can be written, on the file system below its root.

    A medium that is full raises CapacityError (`disk-full`). A name made, replaced or removed
    survives loss of power once `flush_directory` of its directory or `flush_all` has returned;
    until then either state may.
    """

    def create_file(self, path: bytes, *, resume: bool, mode: int = 0o600) -> WritableFile:
        """Open a regular file for writing, making it if missing, with at most these permissions.

        An existing one is emptied, or kept as it is when `resume`.
        """
        ...

    def write_small(self, path: bytes, data: Buffer, metadata: Metadata) -> list[MetadataLoss]:
        """Make or empty a regular file, write it whole, set its metadata and close it.

        The same as create_file and the calls on it, in one. Not flushed.
        """
        ...

    def make_directory(self, path: bytes) -> None:
        """Make a directory, mode 0700; ConflictError (`exists`) if anything stands there."""
        ...

    def make_symlink(self, path: bytes, target: bytes, metadata: Metadata) -> list[MetadataLoss]:
        """Make a symlink with its owner and time; ConflictError (`exists`) if anything stands."""
        ...

    def make_hard_link(self, existing: bytes, path: bytes) -> None:
        """Give a regular file a second name; ConflictError (`exists`) if anything stands there."""
        ...

    def set_metadata(self, path: bytes, kind: FileKind, metadata: Metadata) -> list[MetadataLoss]:
        """Set metadata of an entry whose kind the caller has seen; see WritableFile."""
        ...

    def rename(self, path: bytes, new_path: bytes) -> None:
        """Give an entry another name at once, replacing a non-directory that has it.

        Raises:
            ConflictError: `is-a-directory`, `not-a-directory` or `not-empty`.
            UnsupportedError: `cross-device`: the two lie on different file systems.
        """
        ...

    def remove_file(self, path: bytes) -> None:
        """Remove anything but a directory."""
        ...

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory; ConflictError (`not-empty`) otherwise."""
        ...

    def flush_directory(self, path: bytes) -> None:
        """When this returns, every name in this directory survives loss of power."""
        ...

    def flush_all(self) -> None:
        """When this returns, everything written below the root before survives loss of power.

        Raises:
            StorageFailedError: `flush-failed`; everything not flushed before is in doubt.
        """
        ...

    def space(self) -> Space:
        """Return the room left on the root's file system."""
        ...


class StoreAnswer(NamedTuple):
    """What an object store answered to a request made with its caller's token."""

    status: int
    """Of HTTP; 2xx means that the caller may do what was tried."""
    body: bytes | None
    """None if it was longer than asked for."""


class ObjectAccess(Protocol):
    """Tries at an object store what a caller may do there, with the caller's own token.

    Redirects are not followed: they are answers like others. Raises UnavailableError:
    `store-unreachable` if no connection was possible or it broke, `store-slow` if time ran out.
    """

    async def read(self, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        """Read an object, the newest copy of those that answer."""
        ...

    async def prove_write(self, url: str, token: str) -> StoreAnswer:
        """Write an empty object beside this one, which only who may write the one can."""
        ...


class ConditionalOutcome(StrEnum):
    """What became of a conditional write."""

    WON = "won"
    LOST = "lost"
    """The condition did not hold, or another write was under way."""
    UNSUPPORTED = "unsupported"
    """The store does not know the condition."""


class ConditionalObjects(Protocol):
    """Objects with conditional writes, as some stores have them and others say they have.

    Raises UnavailableError if the store cannot be reached, DeniedError if it lets nobody in.
    """

    async def create(self, name: str, data: bytes) -> ConditionalOutcome:
        """Write an object only if there is none of this name."""
        ...

    async def replace(self, name: str, data: bytes, etag: str) -> ConditionalOutcome:
        """Write an object only if its present one has this ETag."""
        ...

    async def read(self, name: str) -> tuple[bytes, str]:
        """Return an object and its ETag; NotFoundError if there is none."""
        ...

    async def delete(self, name: str) -> None:
        """Remove an object if it is there."""
        ...


class Pace(Protocol):
    """A rate limit and a stop sign shared by all workers of a task, changeable while they run."""

    def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` may be moved; raise CancelledError once the task is to stop."""
        ...

    def moved(self, size_bytes: int) -> None:
        """Count bytes for the progress display."""
        ...


class PaceControl(Pace, Protocol):
    """The coordinator's end of a Pace."""

    def moved_bytes(self) -> int:
        """Return what all workers have moved so far."""
        ...

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """Change the limit now; None lifts it."""
        ...

    def stop(self) -> None:
        """Have every worker raise CancelledError at its next block."""
        ...


class Workers(Protocol[ItemT, ResultT]):
    """Runs one function over many items, in this process or several, results as they come."""

    def run(self, items: Iterable[ItemT], on_idle: Callable[[], None]) -> Iterator[ResultT]:
        """Yield a result for each item, in any order, drawing items only as workers are free.

        Never more than twice as many items are ahead as there are workers. `on_idle` is called
        about ten times a second while waiting.
        """
        ...


class StartWorkers(Protocol):
    """Chooses workers for a piece of work: here for a little, in processes for more."""

    def __call__(
        self, function: Callable[[InT], OutT], *, entries: int, size_bytes: int
    ) -> Workers[InT, OutT]:
        """Return workers that run `function`."""
        ...


class Register(Protocol):
    """Small values under keys, read and advanced linearizably; the invariants of model/head.py.

    A read that begins after an advance was answered sees it or something later, whoever asks and
    through whichever instance. Any call may raise UnavailableError: then nothing happened, and a
    StorageFailedError (`register-failed`): then this instance is done for and must be reopened.
    """

    async def read(self, key: str) -> HeadState:
        """Return the current state; ABSENT if the key was never written."""
        ...

    async def advance(
        self,
        key: str,
        *,
        expected: Revision,
        value: bytes | None,
        epoch: Epoch,
        write_id: str,
    ) -> AdvanceOutcome:
        """Put a state after the one at `expected`, or say why not; durable when this returns.

        The same call again, with the same arguments, is answered with what it did the first time as
        long as that state is kept. Cancelling the call leaves the outcome unknown.

        Args:
            expected: The revision of the state it follows; 0 if the key was never written.
            value: At most HEAD_VALUE_BYTES_MAX bytes; None deletes and leaves a tombstone.
            epoch: Not below the current state's, or it is refused.
            write_id: Unique to this advance; never used with other arguments.

        Raises:
            InvalidRequestError: Key, value, epoch or write id is over its limit.
        """
        ...

    async def history(self, key: str, limit: int) -> list[HeadState]:
        """Return up to `limit` states, the current one first, as far back as they are kept."""
        ...

    async def list_keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """Return up to `limit` keys with this prefix and greater than `after`, in order.

        The order is that of the keys' UTF-8 bytes. Keys with a tombstone are among them.
        """
        ...

    async def check(self) -> None:
        """Make a real commit; raise UnavailableError if an advance would not get through now."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then release everything. Calls after that are refused."""
        ...
