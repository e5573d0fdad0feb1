"""Directory trees, and the files in them, read and written."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from holdfast.errors import HoldfastError
from holdfast.model.tree import (
    Capabilities,
    FileKind,
    Metadata,
    MetadataLoss,
    Signature,
    Space,
    Stat,
)
from holdfast.ports.buffers import Buffer


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
        ...

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
