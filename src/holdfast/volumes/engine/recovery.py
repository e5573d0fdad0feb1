"""Finds the end of a log and tells a torn end from damage.

A log ends where the first batch stands that is not the expected one. If anything written later
knows more to have been durable, what is missing was lost, not torn, and nothing may be written.

1. What is replayed is a prefix: one chain from the superblock's, without a hole.
2. Looking changes nothing; the same bytes give the same answer.
3. A loss is named: the first and last LSN that were durable and are no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from holdfast.ports import BlockFile
from holdfast.volumes.engine.formats import (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    NONCE_BYTES,
    BatchHeader,
    Record,
    Superblock,
    decode_batch_header,
    decode_records,
)
from holdfast.volumes.model import LostRange, Lsn

_WINDOW_BYTES: Final = 1 << 20


class FoundBatch(NamedTuple):
    """A valid batch in its place."""

    header: BatchHeader
    digest: int
    offset: int
    """Of its header, in the file."""
    payload: memoryview
    """Good until the next one is asked for."""
    records: list[Record]


@dataclass(slots=True)
class LogEnd:
    """Where a walk over the log stopped."""

    pass_number: int
    used: int
    chain: int
    start_chain: int
    last_lsn: Lsn
    frozen_used: int
    frozen_lsn: Lsn
    """Last LSN of the frozen segment, if there is one."""


class LogReader:
    """Walks over the batches that follow a superblock, as long as each is the expected one."""

    def __init__(self, file: BlockFile, superblock: Superblock) -> None:
        self._file = file
        self._superblock = superblock
        self._buffer = bytearray(_WINDOW_BYTES)
        self._segment_bytes = superblock.geometry.segment_bytes
        self.end = LogEnd(
            pass_number=superblock.pass_number,
            used=0,
            chain=superblock.chain,
            start_chain=superblock.chain,
            last_lsn=superblock.checkpoint_lsn,
            frozen_used=0,
            frozen_lsn=Lsn(0),
        )

    def batches(self, last_lsn: int | None = None) -> Iterator[FoundBatch]:
        """Yield the valid batches, none with records behind `last_lsn`; `end` follows them."""
        end = self.end
        while True:
            found = self._at(end.pass_number, end.used)
            if found is None:
                is_second = end.pass_number > self._superblock.pass_number
                found = None if is_second else self._at(end.pass_number + 1, 0)
                if found is None:
                    return
                if last_lsn is not None and found.header.last_lsn > last_lsn:
                    return
                end.frozen_used = end.used
                end.frozen_lsn = end.last_lsn
                end.pass_number += 1
                end.used = 0
                end.start_chain = end.chain
            if last_lsn is not None and found.header.last_lsn > last_lsn:
                return
            end.used += BATCH_HEADER_BYTES + found.header.payload_bytes
            end.chain = found.digest
            end.last_lsn = Lsn(found.header.last_lsn)
            yield found

    def _at(self, pass_number: int, used: int) -> FoundBatch | None:
        """Return the batch there if it is the one that comes next."""
        offset = (pass_number & 1) * self._segment_bytes + used
        room = self._segment_bytes - used - BATCH_HEADER_BYTES
        if room < 0:
            return None
        head = memoryview(bytearray(BATCH_HEADER_BYTES))
        self._file.pread_into(head, offset)
        decoded = decode_batch_header(head)
        if decoded is None:
            return None
        header, digest = decoded
        end = self.end
        expected = (self._superblock.incarnation, pass_number, end.last_lsn + 1, end.chain)
        found = (header.incarnation, header.pass_number, header.first_lsn, header.previous)
        if expected != found or header.payload_bytes > room:
            return None
        payload = self._payload(offset + BATCH_HEADER_BYTES, header.payload_bytes)
        if xxh3_64_intdigest(payload) != header.payload_digest:
            return None
        try:
            records = decode_records(payload, header, self._superblock.geometry)
        except ValueError:
            return None
        if not header.records_count and header.payload_bytes != NONCE_BYTES:
            return None
        return FoundBatch(header, digest, offset, payload, records)

    def _payload(self, offset: int, size_bytes: int) -> memoryview:
        if size_bytes > len(self._buffer):
            self._buffer = bytearray(size_bytes)
        view = memoryview(self._buffer)[:size_bytes]
        self._file.pread_into(view, offset)
        return view


def find_lost(
    file: BlockFile, superblock: Superblock, last_lsn: Lsn, known_durable: int
) -> LostRange | None:
    """Return what was durable behind `last_lsn`, as the superblock, the hint and any batch know.

    Cost: one read of the whole log.
    """
    durable = max(known_durable, superblock.durable_lsn, superblock.checkpoint_lsn)
    for _, header in stray_headers(file, superblock):
        if header.pass_number >= superblock.pass_number:
            durable = max(durable, header.durable_lsn, header.checkpoint_lsn)
    if durable > last_lsn:
        return LostRange(first=Lsn(last_lsn + 1), last=Lsn(durable))
    return None


def stray_headers(file: BlockFile, superblock: Superblock) -> Iterator[tuple[int, BatchHeader]]:
    """Yield (offset, header) of every valid batch header of this volume, wherever it stands."""
    total = 2 * superblock.geometry.segment_bytes
    needle = BATCH_MAGIC + superblock.incarnation.to_bytes(8, "little")
    buffer = bytearray(_WINDOW_BYTES + BATCH_HEADER_BYTES)
    for window_at in range(0, total, _WINDOW_BYTES):
        size = min(len(buffer), total - window_at)
        view = memoryview(buffer)[:size]
        file.pread_into(view, window_at)
        at = buffer.find(needle, 0, size)
        while 0 <= at < _WINDOW_BYTES:
            decoded = decode_batch_header(view, at)
            if decoded is not None:
                yield window_at + at, decoded[0]
            at = buffer.find(needle, at + 1, size)
