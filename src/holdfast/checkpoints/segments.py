"""How the entries of a resource are listed in a bank: segments of entries in order of paths.

A segment is MessagePack of an array of entries, each an array; docs/formats/bank.md is the
definition. Segments end where the path says so, so that an unchanged stretch of a tree gives the
same segment, which is then stored once. What was read from a bank is checked before it is used.
"""

import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from holdfast.errors import IntegrityError, InvalidRequestError
from holdfast.model.limits import CHUNK_BYTES_MAX, SEGMENT_ENTRIES_MAX
from holdfast.model.tree import FileKind, Signature, check_path

FILE: Final = "f"
DIRECTORY: Final = "d"
SYMLINK: Final = "l"
KINDS: Final = {
    FILE: FileKind.FILE,
    DIRECTORY: FileKind.DIRECTORY,
    SYMLINK: FileKind.SYMLINK,
}
CODES: Final = {kind: code for code, kind in KINDS.items()}
_ENTRIES_MIN: Final = 512
_ENTRIES_MASK: Final = 0x7FF
_BYTES_MAX: Final = CHUNK_BYTES_MAX // 2


class Part(NamedTuple):
    """A stretch of a file: bytes [start, start + size) of a chunk, or zeros without one."""

    chunk: bytes
    """Empty for zeros."""
    start: int
    size_bytes: int


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of a resource; the root of a tree has the empty path."""

    path: bytes
    kind: str
    """`f`, `d` or `l`."""
    size_bytes: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    ctime_ns: int
    """With `inode` and what is above, what must be the same for it to be trusted unread; 0 where
    it may have changed since without a trace."""
    inode: int
    leader: bytes = b""
    """Of a file with several names, the first of them; empty on that itself and on others."""
    link_target: bytes = b""
    xattrs: dict[bytes, bytes] = {}
    digest: bytes = b""
    """BLAKE3 of the content of a file that was packed with others; empty where it was cut."""
    parts: tuple[Part, ...] = ()

    def signature(self) -> Signature:
        """Return what a file's state is compared with."""
        return Signature(self.size_bytes, self.mtime_ns, self.ctime_ns, self.inode)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Entry])


def encode_segments(entries: Iterable[Entry]) -> Iterator[tuple[bytes, list[Entry]]]:
    """Yield segments and what each lists; entries come in order of paths."""
    encoded: list[bytes] = []
    listed: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        one = _encoder.encode(entry)
        if encoded and size_bytes + len(one) > _BYTES_MAX:
            yield _array(encoded), listed
            encoded, listed, size_bytes = [], [], 0
        if len(one) > _BYTES_MAX:
            raise InvalidRequestError(
                "a file has too many parts for this format",
                code="file-too-large",
                advice="leave it out; a file may have up to about 200 GiB",
                path=entry.path,
            )
        encoded.append(one)
        listed.append(entry)
        size_bytes += len(one)
        is_full = len(encoded) >= SEGMENT_ENTRIES_MAX
        if is_full or (
            len(encoded) >= _ENTRIES_MIN and zlib.crc32(entry.path) & _ENTRIES_MASK == 0
        ):
            yield _array(encoded), listed
            encoded, listed, size_bytes = [], [], 0
    if encoded:
        yield _array(encoded), listed


def _array(encoded: list[bytes]) -> bytes:
    """Return MessagePack of an array of values encoded already (array 32)."""
    return b"\xdd" + len(encoded).to_bytes(4, "big") + b"".join(encoded)


def decode_segment(data: bytes, after: bytes | None) -> list[Entry]:
    """Return the entries of a segment.

    Args:
        data: Its bytes.
        after: The last path of the segment before; None for the first segment.

    Raises:
        IntegrityError: `bad-segment`: no writer of this format wrote it.
    """
    try:
        entries = _decoder.decode(data)
        for entry in entries:
            _check(entry, after)
            after = entry.path
    except (msgspec.MsgspecError, ValueError, InvalidRequestError) as error:
        raise IntegrityError(
            f"the listing of a resource cannot be read: {error}",
            code="bad-segment",
            advice="restore another checkpoint, and tell whoever keeps this bank",
        ) from error
    return entries


def _check(entry: Entry, after: bytes | None) -> None:
    if after is not None and entry.path <= after:
        raise ValueError("paths do not ascend")
    if entry.path:
        check_path(entry.path)
    if entry.leader:
        check_path(entry.leader)
    if entry.kind not in KINDS or entry.size_bytes < 0 or not 0 <= entry.mode <= 0o7777:
        raise ValueError("an entry of no kind")
    total = 0
    for part in entry.parts:
        if len(part.chunk) not in (0, 32) or part.start < 0 or part.size_bytes < 0:
            raise ValueError("a part that cannot be")
        total += part.size_bytes
    if entry.kind == FILE and not entry.leader and total != entry.size_bytes:
        raise ValueError("a file and its parts differ in length")


def chunks_of(entries: Iterable[Entry]) -> dict[bytes, int]:
    """Return the chunks that entries use, each with how long it must at least be."""
    found: dict[bytes, int] = {}
    for entry in entries:
        for chunk, start, size_bytes in entry.parts:
            if chunk and found.get(chunk, 0) < start + size_bytes:
                found[chunk] = start + size_bytes
    return found
