"""What the frames of the stream protocol hold: one named tuple for each kind of message.

Values only; wire.py turns them to bytes and back. Fields are bounded by their types. They cross as
arrays of MessagePack, in the order they stand in here, so fields are only ever added at the end.
"""

from enum import IntEnum
from typing import Annotated, Final, NamedTuple

import msgspec

from holdfast.model.limits import (
    BLOCK_BYTES,
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    STREAM_PATHS_MAX,
    SYMLINK_TARGET_BYTES_MAX,
    XATTR_BYTES_MAX,
)

STAT_BYTES: Final = 64
"""Length of a Stat in a frame."""

Path = Annotated[bytes, msgspec.Meta(max_length=PATH_BYTES_MAX)]
Paths = Annotated[list[Path], msgspec.Meta(max_length=STREAM_PATHS_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=8192)]
Name = Annotated[str, msgspec.Meta(max_length=64)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Handle = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
DigestBytes = Annotated[bytes, msgspec.Meta(max_length=64)]
StatBytes = Annotated[bytes, msgspec.Meta(min_length=STAT_BYTES, max_length=STAT_BYTES)]
Xattrs = dict[
    Annotated[bytes, msgspec.Meta(max_length=NAME_BYTES_MAX)],
    Annotated[bytes, msgspec.Meta(max_length=XATTR_BYTES_MAX)],
]


class Kind(IntEnum):
    """What a frame holds. Requests are below 64."""

    HELLO = 1
    LIST = 2
    STAT = 3
    READ_LINK = 4
    XATTRS = 5
    OPEN = 6
    READ = 7
    EXTENTS = 8
    FINISH = 9
    DROP_CACHE = 10
    CLOSE = 11
    BUNDLE = 12
    DIGEST = 13
    CONTINUE = 14
    HASH = 15
    WELCOME = 64
    FAILURE = 65
    LISTING = 66
    STATS = 67
    LINK = 68
    ATTRIBUTES = 69
    RANGES = 70
    FINISHED = 71
    DATA = 72
    FILES = 73
    DIGESTS = 74
    DONE = 75
    HASHED = 76
    WORKING = 77
    """Of no payload: the answer will take longer."""


class Hello(NamedTuple):
    """The first frame of a client."""

    magic: Annotated[bytes, msgspec.Meta(max_length=16)]
    version: Handle
    export: Annotated[str, msgspec.Meta(max_length=1024)]
    token: Annotated[bytes, msgspec.Meta(max_length=4096)] | None


class Welcome(NamedTuple):
    """The server's answer to Hello."""

    version: Handle
    host: Text
    path: Text
    device: Annotated[int, msgspec.Meta(ge=0)]
    inode: Annotated[int, msgspec.Meta(ge=0)]
    algorithms: Annotated[list[Name], msgspec.Meta(max_length=64)]
    now_ns: int
    """By the clock that stamps the files there."""


class Failure(NamedTuple):
    """An error that crosses the wire."""

    kind: Name
    code: Name
    message: Text
    advice: Text
    retry_after_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0


class PathRequest(NamedTuple):
    """LIST, READ_LINK, XATTRS: of one entry."""

    path: Path


class PathsRequest(NamedTuple):
    """STAT: of several entries."""

    paths: Paths


class OpenRequest(NamedTuple):
    """Open a regular file under a handle of the client's choice."""

    handle: Handle
    path: Path
    algorithm: Name
    """Digest of what is read in order; empty for none."""


class ReadRequest(NamedTuple):
    """Send [start, end) of an open file; fewer bytes only where it ends."""

    handle: Handle
    start: Offset
    end: Offset


class SizeRequest(NamedTuple):
    """EXTENTS, FINISH, HASH: of an open file up to a size."""

    handle: Handle
    size_bytes: Offset


class HandleRequest(NamedTuple):
    """DROP_CACHE, CLOSE."""

    handle: Handle


class BundleRequest(NamedTuple):
    """Send these small files whole, in this order."""

    paths: Paths
    algorithm: Name


class DigestRequest(NamedTuple):
    """Read and digest these files there."""

    paths: Paths
    algorithm: Name
    drop_cache: bool


class ListingPage(NamedTuple):
    """Some entries of a directory, in order; one column each."""

    names: list[Annotated[bytes, msgspec.Meta(min_length=1, max_length=NAME_BYTES_MAX)]]
    stats: bytes
    """STAT_BYTES for each name; where they begin with 0 the entry's error is in `failures`."""
    links: list[Annotated[bytes, msgspec.Meta(max_length=SYMLINK_TARGET_BYTES_MAX)]]
    """The target of each symlink in turn; empty where it could not be read."""
    failures: list[tuple[Handle, Failure]]


class StatsReply(NamedTuple):
    """The state of each path asked for; columns as in ListingPage."""

    stats: bytes
    failures: list[tuple[Handle, Failure]]


class LinkReply(NamedTuple):
    """A symlink's target."""

    target: Annotated[bytes, msgspec.Meta(max_length=SYMLINK_TARGET_BYTES_MAX)]


class AttributesReply(NamedTuple):
    """Extended attributes."""

    xattrs: Xattrs


class RangesReply(NamedTuple):
    """Parts of a file that may hold data."""

    ranges: list[tuple[Offset, Offset]]


class FinishedReply(NamedTuple):
    """An open file now, and the digest of what was sent of it."""

    stat: StatBytes
    xattrs: Xattrs
    digest: DigestBytes | None


class HashedReply(NamedTuple):
    """The digest of an open file's beginning."""

    digest: DigestBytes


class SentFile(NamedTuple):
    """One file of a bundle; its content stands behind the columns, in order."""

    stat: StatBytes
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=BLOCK_BYTES)]
    xattrs: Xattrs
    is_steady: bool
    digest: DigestBytes


class FilesPart(NamedTuple):
    """Some files of a bundle: each sent, or failed, or neither if it must be opened."""

    files: Annotated[
        list[tuple[SentFile | None, Failure | None]], msgspec.Meta(max_length=STREAM_PATHS_MAX)
    ]


class DigestedFile(NamedTuple):
    """One file digested at the source."""

    stat: StatBytes
    digest: DigestBytes
    xattrs: DigestBytes
    is_steady: bool


class DigestsPart(NamedTuple):
    """Progress of a DIGEST request; each but the last is to be answered with CONTINUE."""

    read_bytes: Offset
    results: Annotated[
        list[tuple[DigestedFile | None, Failure | None]], msgspec.Meta(max_length=STREAM_PATHS_MAX)
    ]
