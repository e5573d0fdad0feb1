"""The write path: from requests to one batch in the log and new entries in the active map.

Order and the crash each step survives: data of whole slots goes to free space first, then the
batch with its description to the log, then the maps change. Power lost between leaves unreferenced
space, or a record whose data recovery finds missing (opening.py); never half a change.

1. Room is checked before an LSN exists; what does not fit is Stalled and has changed nothing.
2. Whatever a request's size or alignment, it becomes one batch: all of it survives, or nothing.
3. Blocks that a request covers in part are read, changed and logged whole, between no other
   changes: neighbours keep their bytes.
4. Requests outside the volume, of no bytes or too many, are refused before anything changes.
"""

from array import array
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast.errors import HoldfastError, InvalidRequestError
from holdfast.ports import Buffer
from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.dirty import SHARD_BITS, Placed, Shard
from holdfast.volumes.engine.files import VolumeFiles
from holdfast.volumes.engine.formats import (
    BATCH_HEADER_BYTES,
    CHECK_MASK,
    DATA_BIT,
    PHYSICAL,
    RECORD,
    RECORD_HEADER_BYTES,
    RecordKind,
    block_check,
    placed_entry,
    zero_check,
)
from holdfast.volumes.engine.log import Log
from holdfast.volumes.engine.reading import Reader
from holdfast.volumes.engine.slots import Allocator
from holdfast.volumes.model import (
    BLOCK_BYTES,
    REQUEST_BYTES_MAX,
    Lsn,
    Stalled,
    StallReason,
    WriteRun,
)

MAP_WEIGHT_MAX: Final = 1 << 16
"""Entries of a map from which on changes wait: about 100 bytes each."""
PLACED_MAX: Final = 4096
"""Placed slots of a map from which on changes wait: what a recovery may have to read again."""
TRIM_BYTES_MAX: Final = 0xFFFF_F000
_KEPT_SLOTS_MAX: Final = 256
_BLOCK_MASK: Final = BLOCK_BYTES - 1
_WRITE: Final = int(RecordKind.WRITE)
_LOG_FULL: Final = Stalled(StallReason.LOG_FULL)


class Writer:
    """Turns requests into batches; the owner's."""

    def __init__(
        self,
        files: VolumeFiles,
        maps: Maps,
        log: Log,
        *,
        allocator: Allocator,
        reader: Reader,
    ) -> None:
        self.files = files
        self.maps = maps
        self.log = log
        self.allocator = allocator
        self.reader = reader
        self.geometry = maps.active.geometry
        self.placed_writes = 0
        """Writes of data of placed slots so far."""

    def write_run(self, run: WriteRun) -> Lsn | Stalled:
        """See Volume.write_run."""
        buffer, requests = run
        log = self.log
        first = expected = requests[0].header_at
        end = requests[-1].data_at + requests[-1].size_bytes
        if not log.has_room(end - first):
            if BATCH_HEADER_BYTES + end - first <= log.segment_bytes:
                return _LOG_FULL
            return self._slow_run(run)
        lsn: int = log.last_lsn
        shift = log.payload_at() - first
        last_start = self.geometry.size_bytes - BLOCK_BYTES
        pack = RECORD.pack_into
        entries = []
        for header_at, data_at, start, size_bytes in requests:
            if (
                size_bytes != BLOCK_BYTES
                or start & _BLOCK_MASK
                or header_at != expected
                or data_at - header_at != RECORD_HEADER_BYTES
                or start > last_start
            ):
                return self._slow_run(run)
            expected = data_at + BLOCK_BYTES
            lsn += 1
            check = xxh3_64_intdigest(buffer[data_at:expected], start) & CHECK_MASK | DATA_BIT
            entries.append((start >> 12, data_at + shift << 32 | check))
            pack(buffer, header_at, lsn, start, BLOCK_BYTES, _WRITE, 0)
        stalled = self._map_stall()
        if stalled is not None:
            return stalled
        log.append([buffer[first:end]], end - first, len(requests))
        active = self.maps.active
        shards = active.shards
        for block, entry in entries:
            shard = shards.get(block >> SHARD_BITS)
            if shard is None:
                shard = shards[block >> SHARD_BITS] = Shard()
            shard.blocks[block] = entry
        active.weight += len(entries)
        return log.last_lsn

    def _slow_run(self, run: WriteRun) -> Lsn | Stalled:
        """Any sizes, any alignment: one batch for each request, all of which must fit before."""
        bound = 0
        for request in run.requests:
            self.check_range(request.start, request.size_bytes, REQUEST_BYTES_MAX)
            bound += BATCH_HEADER_BYTES + self._log_bytes_max(request.start, request.size_bytes)
        if bound > self.log.segment_bytes:
            raise InvalidRequestError(
                f"writes of {bound} bytes at once do not fit half the log",
                code="run-too-large",
                advice="send fewer at once, or make the volume with a larger log",
            )
        if not self.log.has_room(bound - BATCH_HEADER_BYTES):
            return _LOG_FULL
        stalled = self._map_stall()
        if stalled is not None:
            return stalled
        for request in run.requests:
            data = run.buffer[request.data_at : request.data_at + request.size_bytes]
            self._write(request.start, data)
        return self.log.last_lsn

    def write(self, start: int, data: Buffer) -> Lsn | Stalled:
        """See Volume.write."""
        size_bytes = len(data)
        self.check_range(start, size_bytes, REQUEST_BYTES_MAX)
        if not self.log.has_room(self._log_bytes_max(start, size_bytes)):
            return _LOG_FULL
        return self._map_stall() or self._write(start, data)

    def trim(self, start: int, size_bytes: int) -> Lsn | Stalled:
        """See Volume.trim."""
        self.check_range(start, size_bytes, TRIM_BYTES_MAX)
        if not self.log.has_room(3 * RECORD_HEADER_BYTES + 2 * BLOCK_BYTES):
            return _LOG_FULL
        stalled = self._map_stall()
        if stalled is not None:
            return stalled
        end = start + size_bytes
        aligned, aligned_end = start + -start % BLOCK_BYTES, end - end % BLOCK_BYTES
        batch = _Batch(self.log)
        if aligned > aligned_end:
            self._add_partial(batch, start, bytes(size_bytes))
        else:
            self._add_partial(batch, start, bytes(aligned - start))
            if aligned < aligned_end:
                batch.add(aligned, aligned_end - aligned, RecordKind.TRIM, b"")
            self._add_partial(batch, aligned_end, bytes(end - aligned_end))
        batch.append()
        if aligned < aligned_end:
            self.maps.apply_trim(self.geometry, aligned, aligned_end, batch.lsn)
        self._put_blocks(batch)
        return self.log.last_lsn

    def zero(self, start: int, size_bytes: int, *, punch: bool) -> Lsn | Stalled:
        """See Volume.zero."""
        self.check_range(start, size_bytes, TRIM_BYTES_MAX)
        if punch:
            return self.trim(start, size_bytes)
        slot_bytes = self.geometry.slot_bytes
        if size_bytes < slot_bytes:
            return self.write(start, bytes(size_bytes))  # In one batch, also across two slots.
        at, end = start, start + size_bytes
        answer: Lsn | Stalled = self.log.last_lsn
        while at < end:
            if at % slot_bytes or end - at < slot_bytes:
                stop = min(end, at - at % slot_bytes + slot_bytes)
                answer = self.write(at, bytes(stop - at))
            else:
                last = min(end // slot_bytes, at // slot_bytes + _KEPT_SLOTS_MAX)
                stop = last * slot_bytes
                if not all(map(self.reader.has_kept_zeros, range(at // slot_bytes, last))):
                    answer = self._keep(at // slot_bytes, last)
            if isinstance(answer, Stalled):
                return answer
            at = stop
        return answer

    def check_range(self, start: int, size_bytes: int, size_max: int) -> None:
        """Raise InvalidRequestError for a range that is empty, too large or not in the volume."""
        if 0 < size_bytes <= size_max and 0 <= start <= self.geometry.size_bytes - size_bytes:
            return
        raise InvalidRequestError(
            f"{size_bytes} bytes at {start} are not a range of a volume of "
            f"{self.geometry.size_bytes} bytes",
            code="bad-range",
            advice=f"stay within the volume and below {size_max} bytes a request",
        )

    def fill_fraction(self) -> float:
        """Return how full the active half is, by whatever is scarcest."""
        active = self.maps.active
        return max(
            self.log.used / self.log.segment_bytes,
            active.weight / MAP_WEIGHT_MAX,
            active.placed_count / PLACED_MAX,
        )

    def _map_stall(self) -> Stalled | None:
        active = self.maps.active
        if active.weight >= MAP_WEIGHT_MAX:
            return Stalled(StallReason.MAP_FULL)
        if active.placed_count >= PLACED_MAX:
            return Stalled(StallReason.SLOTS_FULL)
        return None

    def _log_bytes_max(self, start: int, size_bytes: int) -> int:
        if not (start | size_bytes) & _BLOCK_MASK and size_bytes < self.geometry.slot_bytes:
            return RECORD_HEADER_BYTES + size_bytes
        slots = size_bytes // self.geometry.slot_bytes
        edges = min(size_bytes + 2 * BLOCK_BYTES, 2 * self.geometry.slot_bytes)
        return 3 * RECORD_HEADER_BYTES + edges + slots * placed_entry(self.geometry).size

    def _write(self, start: int, data: Buffer) -> Lsn:
        """Write what was found to fit."""
        view = memoryview(data)
        slot_bytes = self.geometry.slot_bytes
        end = start + len(view)
        first, last = -(-start // slot_bytes), end // slot_bytes
        batch = _Batch(self.log)
        if first >= last:
            self._add_small(batch, start, view)
            batch.append()
            self._put_blocks(batch)
            return self.log.last_lsn
        cut, tail = first * slot_bytes - start, last * slot_bytes - start
        physicals = self.allocator.take(last - first)
        try:
            placed = self._place(first, view[cut:tail], physicals)
            self._add_small(batch, start, view[:cut])
            batch.add(first * slot_bytes, tail - cut, RecordKind.PLACED, self._describe(placed))
            self._add_small(batch, last * slot_bytes, view[tail:])
            batch.append()
        except HoldfastError:
            self.allocator.give_back(physicals)
            raise
        self._put_placed(first, placed, batch.lsn)
        self._put_blocks(batch)
        return self.log.last_lsn

    def _keep(self, first: int, last: int) -> Lsn | Stalled:
        """Make whole slots read as zeros and give them space."""
        size_bytes = (last - first) * placed_entry(self.geometry).size
        if not self.log.has_room(RECORD_HEADER_BYTES + size_bytes):
            return _LOG_FULL
        stalled = self._map_stall()
        if stalled is not None:
            return stalled
        slot_bytes = self.geometry.slot_bytes
        physicals = self.allocator.take(last - first)
        blocks = self.geometry.slot_blocks
        placed = [
            (physical, array("I", map(zero_check, range(slot * blocks, (slot + 1) * blocks))))
            for slot, physical in enumerate(physicals, first)
        ]
        batch = _Batch(self.log)
        try:
            for begin, count in _runs(physicals):
                self.files.extent.allocate(begin * slot_bytes, (begin + count) * slot_bytes)
            batch.add(
                first * slot_bytes,
                (last - first) * slot_bytes,
                RecordKind.PLACED,
                self._describe(placed),
            )
            batch.append()
        except HoldfastError:
            self.allocator.give_back(physicals)
            raise
        self._put_placed(first, placed, batch.lsn)
        return self.log.last_lsn

    def _place(
        self, first: int, data: memoryview, physicals: list[int]
    ) -> list[tuple[int, "array[int]"]]:
        """Write whole slots into free space; return where, and the checks of their blocks."""
        slot_bytes = self.geometry.slot_bytes
        self.placed_writes += 1
        at = 0
        for begin, count in _runs(physicals):
            size_bytes = count * slot_bytes
            self.files.extent.pwrite(data[at : at + size_bytes], begin * slot_bytes)
            at += size_bytes
        start = first * slot_bytes
        digest = xxh3_64_intdigest
        checks = array("I")
        checks.extend(
            [
                digest(data[at : at + BLOCK_BYTES], start + at) & CHECK_MASK | DATA_BIT
                for at in range(0, len(data), BLOCK_BYTES)
            ]
        )
        blocks = self.geometry.slot_blocks
        return [
            (physical, checks[index * blocks : (index + 1) * blocks])
            for index, physical in enumerate(physicals)
        ]

    def _describe(self, placed: list[tuple[int, "array[int]"]]) -> bytes:
        pack = PHYSICAL.pack
        return b"".join([pack(physical) + checks.tobytes() for physical, checks in placed])

    def _put_placed(self, first: int, placed: list[tuple[int, "array[int]"]], lsn: int) -> None:
        for index, (physical, checks) in enumerate(placed):
            self.maps.active.put_slot(first + index, Placed(physical, checks, lsn))

    def _add_small(self, batch: "_Batch", start: int, data: memoryview) -> None:
        """Add a write of less than a slot at any place, as whole blocks."""
        if not data:
            return
        if not (start | len(data)) & _BLOCK_MASK:
            batch.add(start, len(data), RecordKind.WRITE, data)
            return
        aligned = start - start % BLOCK_BYTES
        end = start + len(data)
        whole = bytearray(end + -end % BLOCK_BYTES - aligned)
        if start != aligned:
            self.reader.read_block(aligned, memoryview(whole)[:BLOCK_BYTES])
        if end % BLOCK_BYTES and (len(whole) > BLOCK_BYTES or start == aligned):
            self.reader.read_block(end - end % BLOCK_BYTES, memoryview(whole)[-BLOCK_BYTES:])
        whole[start - aligned : end - aligned] = data
        batch.add(aligned, len(whole), RecordKind.WRITE, memoryview(whole))

    def _add_partial(self, batch: "_Batch", start: int, data: bytes) -> None:
        self._add_small(batch, start, memoryview(data))

    def _put_blocks(self, batch: "_Batch") -> None:
        for start, data, at in batch.writes:
            for offset in range(0, len(data), BLOCK_BYTES):
                check = block_check(data[offset : offset + BLOCK_BYTES], start + offset)
                self.maps.active.put_block(start + offset >> 12, at + offset << 32 | check)


class _Batch:
    """Records gathered for one append."""

    __slots__ = ("_at", "_log", "_parts", "_size_bytes", "lsn", "writes")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._parts: list[Buffer] = []
        self._size_bytes = 0
        self._at = log.payload_at()
        self.lsn = log.last_lsn
        self.writes: list[tuple[int, memoryview, int]] = []
        """Start, data and place in the log of each write in it."""

    def add(self, start: int, size_bytes: int, kind: RecordKind, data: Buffer) -> None:
        """Add a record; `size_bytes` is the size of its range."""
        self.lsn = Lsn(self.lsn + 1)
        self._parts.append(RECORD.pack(self.lsn, start, size_bytes, kind, 0))
        self._size_bytes += RECORD_HEADER_BYTES
        if kind is RecordKind.WRITE:
            self.writes.append((start, memoryview(data), self._at + self._size_bytes))
        if len(data):
            self._parts.append(data)
            self._size_bytes += len(data)

    def append(self) -> None:
        """Write what was added."""
        if self._parts:
            count = self.lsn - self._log.last_lsn
            self._log.append(self._parts, self._size_bytes, count)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return (first, count) of runs of consecutive numbers, in order."""
    runs: list[tuple[int, int]] = []
    begin, count = numbers[0], 0
    for number in numbers:
        if number != begin + count:
            runs.append((begin, count))
            begin, count = number, 0
        count += 1
    runs.append((begin, count))
    return runs
