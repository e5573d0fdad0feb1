"""NBD on the wire: its numbers, and how each message is packed. No state, no I/O.

Source: the NBD protocol document, doc/proto.md of NetworkBlockDevice/nbd; its names are kept. All
numbers are big-endian.

Invariants:

1. Unpacking what was packed gives the same values.
2. No option and no request is taken whose length is over its limit.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

SERVER_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

GREETING: Final = struct.Struct(">8s8sH")
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">8sII")
OPTION_REPLY: Final = struct.Struct(">QIII")
REQUEST: Final = struct.Struct(">IHH8sQI")
SIMPLE_REPLY: Final = struct.Struct(">II8s")
CHUNK: Final = struct.Struct(">IHH8sI")
DATA_HEAD: Final = struct.Struct(">IHH8sIQ")
"""Of a structured read: a chunk's head, and where its data begins."""
U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")
_EXPORT: Final = struct.Struct(">QH")
_INFO_EXPORT: Final = struct.Struct(">HQH")
_INFO_BLOCK_SIZE: Final = struct.Struct(">HIII")
_EXTENT: Final = struct.Struct(">II")
_ERROR: Final = struct.Struct(">IH")

SUCCESS: Final = struct.pack(">II", SIMPLE_REPLY_MAGIC, 0)
"""A reply without error, but for its cookie."""

REQUEST_BYTES: Final = REQUEST.size
"""28: what a record of the log may write over, in place."""
EXPORT_PADDING: Final = bytes(124)
EXTENT_BYTES_MAX: Final = 0xFFFF_FFFF


class HandshakeFlag(IntFlag):
    """What the server offers first, and what the client answers, bit by bit the same."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """What a client may ask before it moves data."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """What an option is answered with."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x8000_0001
    ERR_POLICY = 0x8000_0002
    ERR_INVALID = 0x8000_0003
    ERR_TLS_REQD = 0x8000_0005
    ERR_UNKNOWN = 0x8000_0006
    ERR_TOO_BIG = 0x8000_0009


class Info(IntEnum):
    """Pieces of information on an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """What an export can do; each is advertised only where it is done."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Command(IntEnum):
    """What a client may ask of an export."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """How a command is meant."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


class ChunkType(IntEnum):
    """Parts of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001


CHUNK_DONE: Final = 1


class Errno(IntEnum):
    """The errors of the protocol."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


class AllocationFlag(IntFlag):
    """States of an extent in the context base:allocation."""

    HOLE = 1
    ZERO = 2


class Request(NamedTuple):
    """One request; the data of a write is elsewhere."""

    flags: int
    command: int
    cookie: bytes
    """Eight bytes that come back in the reply."""
    start: int
    size_bytes: int


class MalformedError(Exception):
    """Bytes that are not NBD, or over a limit: the connection ends, and nothing was changed."""


def pack_greeting(flags: HandshakeFlag) -> bytes:
    """Return the first bytes of a server."""
    return GREETING.pack(SERVER_MAGIC, OPTION_MAGIC, flags)


def pack_option_reply(option: int, kind: OptionReply, payload: bytes = b"") -> bytes:
    """Return one reply to an option."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload


def pack_string(text: str) -> bytes:
    """Return a text with its length before it."""
    encoded = text.encode()
    return U32.pack(len(encoded)) + encoded


def pack_export(size_bytes: int, flags: ExportFlag) -> bytes:
    """Return what EXPORT_NAME is answered with, its padding left out."""
    return _EXPORT.pack(size_bytes, flags)


def pack_info_export(size_bytes: int, flags: ExportFlag) -> bytes:
    """Return size and abilities of an export as information."""
    return _INFO_EXPORT.pack(Info.EXPORT, size_bytes, flags)


def pack_info_block_size(smallest: int, preferred: int, largest: int) -> bytes:
    """Return the sizes of requests as information, in bytes."""
    return _INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, smallest, preferred, largest)


def pack_info_text(kind: Info, text: str) -> bytes:
    """Return a name or a description as information."""
    return U16.pack(kind) + text.encode()


def pack_successes(cookies: list[bytes]) -> bytes:
    """Return replies without data to requests that were carried out."""
    # The head of a reply between the cookies, and before the first.
    return SUCCESS.join([b"", *cookies])


def pack_simple_reply(cookie: bytes, errno: int = 0) -> bytes:
    """Return the reply to a request, without data."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, errno, cookie)


def pack_chunk(cookie: bytes, kind: ChunkType, size_bytes: int, flags: int = CHUNK_DONE) -> bytes:
    """Return the head of a part of a structured reply whose payload has this size."""
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, cookie, size_bytes)


def pack_hole_chunk(cookie: bytes, start: int, size_bytes: int, flags: int = CHUNK_DONE) -> bytes:
    """Return a part of a structured read that is all zeros."""
    head = pack_chunk(cookie, ChunkType.OFFSET_HOLE, U64.size + U32.size, flags)
    return head + U64.pack(start) + U32.pack(size_bytes)


def pack_error_chunk(cookie: bytes, errno: int, message: str = "") -> bytes:
    """Return a structured reply that tells an error and ends."""
    text = message.encode()[:4096]
    head = pack_chunk(cookie, ChunkType.ERROR, _ERROR.size + len(text))
    return head + _ERROR.pack(errno, len(text)) + text


def pack_status_chunk(
    cookie: bytes, context: int, extents: list[tuple[int, int]], flags: int = CHUNK_DONE
) -> bytes:
    """Return the (size, state) of extents in one context."""
    body = b"".join([_EXTENT.pack(size, state) for size, state in extents])
    head = pack_chunk(cookie, ChunkType.BLOCK_STATUS, U32.size + len(body), flags)
    return head + U32.pack(context) + body


def pack_request(request: Request) -> bytes:
    """Return a request's header, as a client sends it."""
    return REQUEST.pack(
        REQUEST_MAGIC,
        request.flags,
        request.command,
        request.cookie,
        request.start,
        request.size_bytes,
    )
