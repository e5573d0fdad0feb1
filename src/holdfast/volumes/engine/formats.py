"""Bytes of a volume's files, as docs/formats/volume.md writes them: encoding and decoding only.

Little-endian throughout. Digests are XXH3-64. Not here: where things are written and when.

1. Nothing that a digest does not cover is believed: a decoder returns None for bytes that are not
   exactly what an encoder made, whatever they are.
2. A batch is believed only in its place: volume incarnation, pass, first LSN and the digest of the
   batch before it must be those expected (log.py, recovery.py).
3. A sector of the slot table is bound to its number, a block's check to its address in the volume.
"""

import sys
from array import array
from dataclasses import dataclass, replace
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from holdfast.errors import InvalidRequestError, UnsupportedError
from holdfast.ports import Buffer
from holdfast.volumes.model import BLOCK_BYTES, Geometry, Lsn, Role

FORMAT: Final = 1
SUPERBLOCK_BYTES: Final = 4096
SUPERBLOCK_MAGIC: Final = b"hfVOLsup"
HINT_AT: Final = 2 * SUPERBLOCK_BYTES
HINT_BYTES: Final = 64
META_BYTES: Final = 3 * SUPERBLOCK_BYTES
HINT_MAGIC: Final = b"hfVOLhnt"
BATCH_MAGIC: Final = b"hfVOLlog"
FLAG_CLEAN: Final = 1
FLAG_IMPORTED: Final = 2

_SUPERBLOCK: Final = Struct("<8sHHIQ16sQQIIQQQQQQB7xQQQ")
_HINT: Final = Struct("<8sQQQ24x")
_BATCH: Final = Struct("<8sQQQQQQIIQQ")
RECORD: Final = Struct("<QQIBB6x")
"""LSN, start, size in bytes, kind, flags."""
BATCH_HEADER_BYTES: Final = _BATCH.size + 8
RECORD_HEADER_BYTES: Final = RECORD.size
NONCE_BYTES: Final = 16
SECTOR_BYTES: Final = 512
SECTOR_SLOTS: Final = 63
_SECTOR_BODY: Final = SECTOR_SLOTS * 8
_U64: Final = Struct("<Q")
PHYSICAL: Final = Struct("<I")
CHECK_MASK: Final = 0xFFFFFFFF
DATA_BIT: Final = 1 << 16
"""Set in the check of a block with data, clear in that of a block that reads as zeros."""
_ZERO_MASK: Final = CHECK_MASK ^ DATA_BIT
_ODD: Final = 0x9E3779B1
_U64_MAX: Final = 0xFFFFFFFFFFFFFFFF
LSN_MAX: Final = (1 << 40) - 1
"""Largest LSN: the slot table keeps them in units of 256, in 32 bits."""

assert RECORD_HEADER_BYTES == 28
assert sys.byteorder == "little", "arrays of checks are written as they stand in memory"
assert BATCH_HEADER_BYTES == 96 - 8
assert _HINT.size + 8 == HINT_BYTES


class RecordKind(IntEnum):
    """What a record of the log does."""

    WRITE = 1
    """Its data follows."""
    TRIM = 2
    """The range reads as zeros; whole slots in it are given back."""
    PLACED = 3
    """The data of whole slots stands in the extent file already; where, and its checks, follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What a volume is and from where its log is replayed."""

    generation: int
    volume_id: bytes
    incarnation: int
    geometry: Geometry
    flags: int
    checkpoint_lsn: Lsn
    pass_number: int
    """The pass of a segment in which the record after the checkpoint goes, at its beginning."""
    chain: int
    """Digest of the last batch before that."""
    durable_lsn: Lsn
    epoch: int
    role: Role
    prepared_bytes: int
    prepared_epoch: int
    created_ns: int

    def next(self, **changes: object) -> "Superblock":
        """Return the superblock to write after this one."""
        return replace(self, generation=self.generation + 1, **changes)  # type: ignore[arg-type]


def encode_superblock(superblock: Superblock) -> bytes:
    """Return the 4096 bytes of a superblock."""
    geometry = superblock.geometry
    head = _SUPERBLOCK.pack(
        SUPERBLOCK_MAGIC,
        FORMAT,
        superblock.flags,
        geometry.block_bytes,
        superblock.generation,
        superblock.volume_id,
        superblock.incarnation,
        geometry.size_bytes,
        geometry.slot_bytes,
        0,
        geometry.segment_bytes,
        superblock.checkpoint_lsn,
        superblock.pass_number,
        superblock.chain,
        superblock.durable_lsn,
        superblock.epoch,
        superblock.role,
        superblock.prepared_bytes,
        superblock.prepared_epoch,
        superblock.created_ns,
    )
    body = head.ljust(SUPERBLOCK_BYTES - 8, b"\0")
    return body + _U64.pack(xxh3_64_intdigest(body))


def decode_superblock(data: bytes) -> Superblock | None:
    """Return the superblock, or None if this is none.

    Raises:
        UnsupportedError: `format-newer`: whole, but of a later format.
    """
    body, check = data[:-8], data[-8:]
    if len(data) != SUPERBLOCK_BYTES or not data.startswith(SUPERBLOCK_MAGIC):
        return None
    if _U64.pack(xxh3_64_intdigest(body)) != check:
        return None
    (_, version, flags, block, generation, volume_id, incarnation, size, slot, _, segment) = (
        _SUPERBLOCK.unpack_from(body)[:11]
    )
    rest = _SUPERBLOCK.unpack_from(body)[11:]
    if version != FORMAT:
        raise UnsupportedError(
            f"the volume has format {version}, newer than {FORMAT}",
            code="format-newer",
            advice="use the version of holdfast that made it, or a newer one",
        )
    try:
        geometry = Geometry(size_bytes=size, slot_bytes=slot, segment_bytes=segment)
        role = Role(rest[5])
    except (InvalidRequestError, ValueError):
        return None
    if block != BLOCK_BYTES:
        return None
    return Superblock(
        generation=generation,
        volume_id=volume_id,
        incarnation=incarnation,
        geometry=geometry,
        flags=flags,
        checkpoint_lsn=Lsn(rest[0]),
        pass_number=rest[1],
        chain=rest[2],
        durable_lsn=Lsn(rest[3]),
        epoch=rest[4],
        role=role,
        prepared_bytes=rest[6],
        prepared_epoch=rest[7],
        created_ns=rest[8],
    )


class Hint(NamedTuple):
    """What was durable when last looked: written after each flush, itself not flushed."""

    incarnation: int
    durable_lsn: Lsn
    checkpoint_lsn: Lsn


def encode_hint(hint: Hint) -> bytes:
    """Return the bytes of a hint."""
    body = _HINT.pack(HINT_MAGIC, *hint)
    return body + _U64.pack(xxh3_64_intdigest(body))


def decode_hint(data: bytes, incarnation: int) -> Hint | None:
    """Return the hint of this volume, or None."""
    if len(data) != HINT_BYTES or _U64.pack(xxh3_64_intdigest(data[:-8])) != data[-8:]:
        return None
    magic, found, durable_lsn, checkpoint_lsn = _HINT.unpack(data[:-8])
    if magic != HINT_MAGIC or found != incarnation:
        return None
    return Hint(found, Lsn(durable_lsn), Lsn(checkpoint_lsn))


class BatchHeader(NamedTuple):
    """Identity and extent of a batch: records written by one call, whole or not there."""

    incarnation: int
    pass_number: int
    first_lsn: int
    epoch: int
    durable_lsn: int
    checkpoint_lsn: int
    records_count: int
    """0: a mark made when the volume was opened, its payload a nonce."""
    payload_bytes: int
    payload_digest: int
    previous: int
    """Digest of the batch before this one."""

    @property
    def last_lsn(self) -> Lsn:
        """LSN of the last record; of the last before it for a mark."""
        return Lsn(self.first_lsn + self.records_count - 1)


def encode_batch_header(header: BatchHeader) -> tuple[bytes, int]:
    """Return the bytes of a batch header, and its digest, which the next batch carries."""
    return pack_batch_header(*header)


def pack_batch_header(*fields: int) -> tuple[bytes, int]:
    """As encode_batch_header, from the fields in their order."""
    body = _BATCH.pack(BATCH_MAGIC, *fields)
    digest = xxh3_64_intdigest(body)
    return body + _U64.pack(digest), digest


def decode_batch_header(data: Buffer, offset: int = 0) -> tuple[BatchHeader, int] | None:
    """Return the header at `offset` and its digest, or None."""
    view = memoryview(data)[offset : offset + BATCH_HEADER_BYTES]
    if len(view) != BATCH_HEADER_BYTES or bytes(view[:8]) != BATCH_MAGIC:
        return None
    digest = xxh3_64_intdigest(view[:-8])
    if _U64.unpack(view[-8:])[0] != digest:
        return None
    return BatchHeader(*_BATCH.unpack(view[:-8])[1:]), digest


class Record(NamedTuple):
    """A record of the log without its data."""

    lsn: int
    start: int
    size_bytes: int
    kind: RecordKind
    data_at: int
    """Where its data begins, in the payload."""
    data_bytes: int


def placed_entry(geometry: Geometry) -> Struct:
    """Return the layout of one slot of a PLACED record: physical slot, then its blocks' checks."""
    return Struct(f"<I{geometry.slot_blocks}I")


def decode_records(payload: memoryview, header: BatchHeader, geometry: Geometry) -> list[Record]:
    """Return the records of a batch whose digest was right; ValueError if they make no sense."""
    records = []
    at = 0
    for index in range(header.records_count):
        if at + RECORD_HEADER_BYTES > len(payload):
            raise ValueError("a record begins behind its batch")
        lsn, start, size_bytes, number, _ = RECORD.unpack_from(payload, at)
        kind = RecordKind(number)
        at += RECORD_HEADER_BYTES
        data_bytes = _data_bytes(kind, size_bytes, geometry)
        is_aligned = not (start % BLOCK_BYTES or size_bytes % BLOCK_BYTES)
        if lsn != header.first_lsn + index or at + data_bytes > len(payload) or not is_aligned:
            raise ValueError("a record does not fit its batch")
        if start + size_bytes > geometry.size_bytes and kind is not RecordKind.PLACED:
            raise ValueError("a record ends behind the volume")
        records.append(Record(lsn, start, size_bytes, kind, at, data_bytes))
        at += data_bytes
    return records


def _data_bytes(kind: RecordKind, size_bytes: int, geometry: Geometry) -> int:
    match kind:
        case RecordKind.WRITE:
            return size_bytes
        case RecordKind.TRIM:
            return 0
        case RecordKind.PLACED:
            return size_bytes // geometry.slot_bytes * placed_entry(geometry).size


def block_check(data: Buffer, start: int) -> int:
    """Return the check of a block with data that begins at `start` of the volume."""
    return xxh3_64_intdigest(data, start) & CHECK_MASK | DATA_BIT


def zero_check(block: int) -> int:
    """Return the check of a block that reads as zeros whatever its place holds; never 0.

    It depends on the block, so that neither zeros nor the checks of other blocks pass for it.
    """
    return (block + 1) * _ODD & _ZERO_MASK | 1


def encode_sector(number: int, entries: "array[int]", incarnation: int) -> bytes:
    """Return a sector of the slot table: up to 63 pairs (physical slot + 1, changed LSN / 256)."""
    body = entries.tobytes().ljust(_SECTOR_BODY, b"\0")
    return body + _U64.pack(xxh3_64_intdigest(body, (incarnation + number) & _U64_MAX))


def decode_sector(data: Buffer, number: int, incarnation: int) -> "array[int] | None":
    """Return the 126 numbers of a sector, or None if it is damaged or not this sector."""
    view = memoryview(data)
    digest = xxh3_64_intdigest(view[:_SECTOR_BODY], (incarnation + number) & _U64_MAX)
    if _U64.unpack(view[_SECTOR_BODY:])[0] != digest:
        return None
    entries = array("I")
    entries.frombytes(view[:_SECTOR_BODY])
    return entries
