"""What an entry of a directory tree is, and which names may stand in one.

A path here is relative to a root, is raw bytes (names on Linux are bytes, and any byte but NUL and
`/` may stand in them), has no empty, `.` or `..` component, and never begins or ends with `/`.
The root itself is the empty path. Paths are ordered as bytes, everywhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import NamedTuple

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import NAME_BYTES_MAX, PATH_BYTES_MAX

ROOT_PATH = b""

SIDE_DIRECTORY = b".holdfast"
"""At the root of a target: partial files and quarantined ones. Never listed, copied or deleted."""


class FileKind(StrEnum):
    """The type of an entry."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


class Stat(NamedTuple):
    """What the file system says of one entry, links not followed.

    A named tuple, not a dataclass: a listing makes one for each entry, and this is four times
    cheaper to make.
    """

    kind: FileKind
    size_bytes: int
    """Logical size; of a symlink the length of its target; of others than these and files 0."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    """Number of the file system the entry lives on (st_dev), not of a device node."""
    mode: int
    """Permission bits with set-id and sticky: 0 to 0o7777."""
    uid: int
    gid: int
    links_count: int
    allocated_bytes: int
    """Bytes on the medium; smaller than size_bytes where the file is sparse."""


class StatColumns(NamedTuple):
    """The states of several entries, field by field as in Stat, which is cheaper where all count.

    Every column is as long as the others.
    """

    kind: tuple[FileKind, ...]
    size_bytes: tuple[int, ...]
    mtime_ns: tuple[int, ...]
    ctime_ns: tuple[int, ...]
    inode: tuple[int, ...]
    device: tuple[int, ...]
    mode: tuple[int, ...]
    uid: tuple[int, ...]
    gid: tuple[int, ...]
    links_count: tuple[int, ...]
    allocated_bytes: tuple[int, ...]

    def rows(self) -> Iterator[Stat]:
        """Return the states one by one."""
        return map(Stat._make, zip(*self, strict=True))

    def part(self, start: int, end: int) -> "StatColumns":
        """Return the states of [start, end)."""
        return StatColumns._make([column[start:end] for column in self])


assert StatColumns._fields == Stat._fields


def columns_of(stats: Iterable[Stat]) -> StatColumns:
    """Return states, of which there is at least one, field by field."""
    return StatColumns._make(zip(*stats, strict=True))


class Signature(NamedTuple):
    """What must be the same for a digest taken earlier to be trusted without reading again."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def signature_of(stat: Stat) -> Signature:
    """Return the part of a stat that changes whenever content may have."""
    return Signature(stat.size_bytes, stat.mtime_ns, stat.ctime_ns, stat.inode)


class Metadata(NamedTuple):
    """What is set on an entry beside its content."""

    mode: int
    mtime_ns: int
    uid: int
    gid: int
    xattrs: Mapping[bytes, bytes] = MappingProxyType({})


def digest_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """Return a short digest of extended attributes for comparing; empty for none."""
    if not xattrs:
        return b""
    digest = blake2b(digest_size=16)
    for name in sorted(xattrs):
        value = xattrs[name]
        digest.update(b"%d:%d:" % (len(name), len(value)) + name + value)
    return digest.digest()


def metadata_of(stat: Stat, xattrs: dict[bytes, bytes]) -> Metadata:
    """Return what a copy of this entry is to have."""
    return Metadata(stat.mode, stat.mtime_ns, stat.uid, stat.gid, xattrs)


class MetadataLoss(StrEnum):
    """Metadata a target could not keep; counted by class, never an error."""

    OWNER = "owner-not-kept"
    XATTR = "xattr-not-kept"
    SET_ID = "set-id-bits-not-kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Which metadata a tree can tell beside names, kinds and sizes of files."""

    mtime_unit_ns: int = 1
    """Times are cut to multiples of this."""
    mode: bool = True
    owner: bool = True
    xattrs: bool = True
    links: bool = True
    """Inodes and link counts, so that names of one file are known as such."""
    allocation: bool = True
    """Which parts are holes."""
    change_time: bool = True
    """A ctime and an inode that move whenever content may have."""
    clock_ahead_ns: int = 0
    """How far the clock that stamps its entries is ahead of this machine's."""


FULL_CAPABILITIES = Capabilities()


class Space(NamedTuple):
    """Room on a file system, as an unprivileged writer sees it."""

    free_bytes: int
    free_files: int | None
    """None where the file system has no fixed number of them."""
    block_bytes: int


def check_path(path: bytes) -> bytes:
    """Return a path that came from outside, or raise InvalidRequestError (`bad-path`).

    Refused: empty, absolute, ending in `/`, NUL, an empty, `.` or `..` component, a component over
    NAME_BYTES_MAX, more than PATH_BYTES_MAX in all.
    """
    if not path or len(path) > PATH_BYTES_MAX or b"\0" in path:
        raise _bad_path(path)
    for name in path.split(b"/"):
        if name in (b"", b".", b"..") or len(name) > NAME_BYTES_MAX:
            raise _bad_path(path)
    return path


def _bad_path(path: bytes) -> InvalidRequestError:
    return InvalidRequestError(
        f"{display_path(path[:200])} is not a path inside a tree",
        code="bad-path",
        advice="whoever made this list is broken or hostile; nothing was written for this entry",
        path=path[:200],
    )


def parent_of(path: bytes) -> bytes:
    """Return the directory part; the root's path for a name at the root."""
    return path.rpartition(b"/")[0]


def join_path(directory: bytes, name: bytes) -> bytes:
    """Return the path of `name` in `directory`; neither is checked."""
    return directory + b"/" + name if directory else name


def display_path(path: bytes) -> str:
    """Return a path as one line that a terminal shows safely: controls and bad UTF-8 escaped."""
    if not path:
        return "."
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
