"""The stream protocol between nodes: frames and messages to bytes and back; docs/formats/stream.md.

No I/O and no state: bytes in, values out. What a client asks is a request frame; the server answers
each, in order, with one or more frames of the same number, of which the last says so. Names, sizes
and lists in a frame are bounded before anything is made of them.

Invariants:
1. Whatever bytes come, decoding returns a value within the limits or raises InvalidRequestError
   (`bad-frame`), and makes nothing larger than a few times the frame.
2. A listing that decodes has names that may stand in a directory, each once, in order of bytes.
3. An error that crosses keeps kind, code, message and advice; no peer can send one that means
   something to the receiver's own work (cancelled, fenced, disk full).
"""

import re
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

import msgspec

from holdfast.errors import (
    CapacityError,
    ConflictError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    StateError,
    StorageFailedError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.limits import FRAME_BYTES_MAX, HELLO_BYTES_MAX, NAME_BYTES_MAX
from holdfast.model.tree import FileKind, Stat, display_path
from holdfast.stores.nodes.messages import (
    STAT_BYTES,
    Failure,
    FilesPart,
    Kind,
    ListingPage,
    StatsReply,
)

MAGIC: Final = b"holdfast"
VERSION: Final = 1
_HEADER = struct.Struct("!IIBB2x")
HEADER_BYTES: Final = _HEADER.size
_STAT = struct.Struct("!BxHIIIqqqqQQ")
_META = struct.Struct("!I")
_LAST = 1
_KINDS = (
    None,
    FileKind.FILE,
    FileKind.DIRECTORY,
    FileKind.SYMLINK,
    FileKind.FIFO,
    FileKind.SOCKET,
    FileKind.DEVICE,
)
_KIND_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")

MessageT = TypeVar("MessageT")
_KNOWN = {int(kind): kind for kind in Kind}

assert _STAT.size == STAT_BYTES


class Header(NamedTuple):
    """The beginning of every frame."""

    size_bytes: int
    """Of what follows the header."""
    number: int
    """Of the request it is or answers."""
    kind: Kind
    is_last: bool
    """Whether it ends the answer."""


def encode_frame(kind: Kind, number: int, message: object, *, is_last: bool = True) -> bytes:
    """Return a whole frame with a message in it."""
    payload = msgspec.msgpack.encode(message)
    return encode_header(kind, number, len(payload), is_last=is_last) + payload


def encode_header(kind: Kind, number: int, size_bytes: int, *, is_last: bool) -> bytes:
    """Return the header of a frame whose payload the caller sends."""
    if size_bytes > FRAME_BYTES_MAX:
        raise CapacityError(
            f"a frame of {size_bytes} bytes is longer than {FRAME_BYTES_MAX}",
            code="frame-too-long",
            advice="an entry with this much metadata cannot be sent",
        )
    return _HEADER.pack(size_bytes, number & 0xFFFFFFFF, kind, _LAST if is_last else 0)


def decode_header(data: bytes | memoryview, *, limit_bytes: int = FRAME_BYTES_MAX) -> Header:
    """Return a header; raises InvalidRequestError for an unknown kind or too long a frame."""
    if len(data) != HEADER_BYTES:
        raise bad_frame("a header that is cut short")
    size_bytes, number, code, flags = _HEADER.unpack(data)
    kind = _KNOWN.get(code)
    if kind is None or flags & ~_LAST:
        raise bad_frame("an unknown kind of frame")
    if kind is Kind.HELLO:
        limit_bytes = min(limit_bytes, HELLO_BYTES_MAX)
    if size_bytes > limit_bytes:
        raise bad_frame(f"a frame of {size_bytes} bytes, more than {limit_bytes}")
    return Header(size_bytes, number, kind, bool(flags & _LAST))


def decode_message(kind: type[MessageT], payload: bytes | memoryview) -> MessageT:
    """Return the message in a payload, its limits checked."""
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise bad_frame(f"a {kind.__name__} that is none") from error


def pack_stat(stat: Stat) -> bytes:
    """Return a Stat in STAT_BYTES bytes."""
    return _STAT.pack(
        _KIND_CODES[stat.kind],
        stat.mode,
        stat.uid,
        stat.gid,
        min(stat.links_count, 0xFFFFFFFF),
        stat.size_bytes,
        stat.allocated_bytes,
        stat.mtime_ns,
        stat.ctime_ns,
        stat.inode,
        stat.device,
    )


NO_STAT: Final = bytes(STAT_BYTES)


def unpack_stat(data: bytes | memoryview) -> Stat:
    """Return the Stat in STAT_BYTES bytes."""
    found = unpack_stats(data)
    if len(found) != 1 or found[0] is None:
        raise bad_frame("a state that is none")
    return found[0]


def unpack_stats(data: bytes | memoryview) -> list[Stat | None]:
    """Return the Stats in a column; None where it holds NO_STAT."""
    if len(data) % STAT_BYTES:
        raise bad_frame("a column of states that is cut short")
    found: list[Stat | None] = []
    for code, mode, uid, gid, links, size, room, mtime, ctime, inode, device in _STAT.iter_unpack(
        data
    ):
        if code == 0:
            found.append(None)
            continue
        if code >= len(_KINDS) or mode > 0o7777 or size < 0 or room < 0:
            raise bad_frame("a state that is none")
        kind = _KINDS[code]
        assert kind is not None
        found.append(Stat(kind, size, mtime, ctime, inode, device, mode, uid, gid, links, room))
    return found


def pack_stats(
    found: Iterable[Stat | HoldfastError],
) -> tuple[bytes, list[tuple[int, Failure]]]:
    """Return the columns of states and errors."""
    packed: list[bytes] = []
    failures: list[tuple[int, Failure]] = []
    for each in found:
        if isinstance(each, HoldfastError):
            failures.append((len(packed), failure_of(each)))
            packed.append(NO_STAT)
        else:
            packed.append(pack_stat(each))
    return b"".join(packed), failures


def stats_of(reply: StatsReply | ListingPage, count: int) -> list[Stat | HoldfastError]:
    """Return what the columns say of `count` entries."""
    stats = unpack_stats(reply.stats)
    failures = {index: error_of(failure) for index, failure in reply.failures}
    if len(stats) != count:
        raise bad_frame(f"{len(stats)} states for {count} entries")
    found: list[Stat | HoldfastError] = []
    for index, stat in enumerate(stats):
        if stat is not None:
            found.append(stat)
        elif index in failures:
            found.append(failures[index])
        else:
            raise bad_frame("neither a state nor an error for an entry")
    return found


def check_names(directory: bytes, names: Sequence[bytes], after: bytes) -> None:
    """Raise InvalidRequestError (`bad-listing`) for names no directory can have, naming one.

    Args:
        directory: Where they are said to be.
        after: The last name of the page before; empty if this is the first.
    """
    for name in names:
        if name in (b".", b"..", b"") or b"/" in name or b"\0" in name:
            raise _bad_listing(directory, name, "is no name")
        if len(name) > NAME_BYTES_MAX:
            raise _bad_listing(directory, name, "is too long")
    for before, name in pairwise([after, *names]):
        if name <= before:
            raise _bad_listing(directory, name, "stands there twice or out of order")


def encode_files(number: int, files: FilesPart, size_bytes: int, *, is_last: bool) -> bytes:
    """Return header and columns of a FILES frame; `size_bytes` of content follow them."""
    columns = msgspec.msgpack.encode(files)
    head = encode_header(
        Kind.FILES, number, _META.size + len(columns) + size_bytes, is_last=is_last
    )
    return head + _META.pack(len(columns)) + columns


def decode_files(payload: memoryview) -> tuple[FilesPart, memoryview]:
    """Return the columns of a FILES frame and the content of its files, one after the other."""
    if len(payload) < _META.size:
        raise bad_frame("a bundle that is cut short")
    start = _META.size + _META.unpack(payload[: _META.size])[0]
    if start > len(payload):
        raise bad_frame("a bundle that is cut short")
    part = decode_message(FilesPart, payload[_META.size : start])
    content = payload[start:]
    if sum(sent.size_bytes for sent, _ in part.files if sent is not None) != len(content):
        raise bad_frame("a bundle whose sizes do not sum up")
    return part, content


_CROSSING: Final[dict[str, type[HoldfastError]]] = {
    kind.kind: kind
    for kind in (
        InvalidRequestError,
        DeniedError,
        NotFoundError,
        ConflictError,
        StateError,
        UnavailableError,
        CapacityError,
        UnsupportedError,
        IntegrityError,
        StorageFailedError,
    )
}


def failure_of(error: HoldfastError) -> Failure:
    """Return an error as it crosses."""
    retry_after = error.context.get("retry_after_s", 0.0)
    retry_after_s = float(retry_after) if isinstance(retry_after, int | float) else 0.0
    return Failure(error.kind, error.code, error.message[:8192], error.advice[:8192], retry_after_s)


def error_of(failure: Failure) -> HoldfastError:
    """Return what a peer's error means here; see invariant 3."""
    kind = _CROSSING.get(failure.kind, UnavailableError)
    code = failure.code
    if not _CODE.match(code) or code == "disk-full":
        code = "source-failed"
    message = display_path(failure.message.encode("utf-8", "backslashreplace"))
    advice = display_path(failure.advice.encode("utf-8", "backslashreplace"))
    error = kind(message, code=code, advice="" if advice == "." else advice)
    if failure.retry_after_s:
        error.context["retry_after_s"] = failure.retry_after_s
    return error


def bad_frame(what: str) -> InvalidRequestError:
    """Return the error for a peer that does not keep to the protocol."""
    return InvalidRequestError(
        f"the other side sent {what}",
        code="bad-frame",
        advice="check that a node of holdfast listens there, on its stream port, and its version",
    )


def _bad_listing(directory: bytes, name: bytes, why: str) -> InvalidRequestError:
    where = display_path(directory[:200])
    return InvalidRequestError(
        f"the source lists {display_path(name[:200])!r} in {where}, which {why}",
        code="bad-listing",
        advice="the source is broken or hostile; nothing was written for this directory",
        path=name[:200],
    )
