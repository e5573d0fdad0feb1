"""Reads everything a volume stores and compares it with its checks, beside its normal work.

A scrub goes in steps of a few slots: `begin` notes what is at home, the step reads it elsewhere,
`finish` looks again, in the owner, at whatever differed: only what still differs is damage.

1. Every block that has a place in the extent file, every sector of the slot table, the newest
   superblock and every batch in the log that is not home yet is read once in a pass.
2. Nothing is reported that the owner did not see itself: no false positive beside writers.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from holdfast.errors import HoldfastError, IntegrityError, StorageFailedError
from holdfast.volumes.engine.checks import CheckPages, verify_blocks
from holdfast.volumes.engine.files import VolumeFiles
from holdfast.volumes.engine.formats import (
    BATCH_HEADER_BYTES,
    SECTOR_BYTES,
    SECTOR_SLOTS,
    decode_batch_header,
    decode_sector,
)
from holdfast.volumes.engine.superblocks import read_superblocks
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import BLOCK_BYTES, Damage

STEP_SLOTS: Final = 64
_PASSED_SLOTS_MAX: Final = 1 << 14
"""Slots that a step looks for; most of a large volume may have no space."""


class _Place(NamedTuple):
    """Where a slot is; its checks, unless they are at home."""

    slot: int
    physical: int
    checks: list[int] | None


class ScrubStep:
    """Some slots and where they were when the step began; a Job."""

    def __init__(self, files: VolumeFiles, slot_bytes: int, places: list[_Place]) -> None:
        self.places = places
        self.suspects: list[int] = []
        self._files = files
        self._slot_bytes = slot_bytes

    def run(self) -> None:
        """See Job.run; what cannot be read is a suspect like what differs."""
        pages = CheckPages(self._files.checks, 8)
        buffer = memoryview(bytearray(self._slot_bytes))
        blocks = self._slot_bytes // BLOCK_BYTES
        for slot, physical, placed_checks in self.places:
            try:
                checks = placed_checks or pages.get(physical * blocks, blocks)
                self._files.extent.pread_into(buffer, physical * self._slot_bytes)
                verify_blocks(buffer, slot * self._slot_bytes, checks, "extent")
            except (IntegrityError, StorageFailedError):
                self.suspects.append(slot)


@dataclass(slots=True)
class Scrub:
    """One pass over a volume; the owner's. `begin`, run the step, `finish`, until `is_done`."""

    volume: Volume
    next_slot: int = 0
    is_done: bool = False
    scanned_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)

    def begin(self) -> ScrubStep:
        """Return the next step; the last one also looks at the log and the tables."""
        places: list[_Place] = []
        end = min(self.volume.maps.table.slots_count, self.next_slot + _PASSED_SLOTS_MAX)
        while self.next_slot < end and len(places) < STEP_SLOTS:
            place = self._place_of(self.next_slot)
            if place.physical >= 0:
                places.append(place)
            self.next_slot += 1
        return ScrubStep(self.volume.files, self.volume.geometry.slot_bytes, places)

    def _place_of(self, slot: int) -> _Place:
        maps = self.volume.maps
        for layer in maps.layers():
            placed = layer.slot_of(slot)
            if placed is not None:
                return _Place(slot, placed.physical, placed.checks.tolist())
        return _Place(slot, maps.table.physical(slot), None)

    def finish(self, step: ScrubStep, error: HoldfastError | None) -> None:
        """Look again at what differed; raises `error` if the step could not run."""
        if error is not None:
            raise error
        self.scanned_bytes += len(step.places) * self.volume.geometry.slot_bytes
        for slot in step.suspects:
            self._confirm(slot)
        if self.next_slot >= self.volume.maps.table.slots_count:
            self._look_at_slots()
            self._look_at_log()
            self._look_at_superblock()
            self.is_done = True

    def _confirm(self, slot: int) -> None:
        geometry = self.volume.geometry
        block = memoryview(bytearray(BLOCK_BYTES))
        first = slot * geometry.slot_bytes
        for start in range(first, min(first + geometry.slot_bytes, geometry.size_bytes), 4096):
            try:
                self.volume.reader.read_block(start, block)
            except (IntegrityError, StorageFailedError) as error:
                self._note("extent", start, start + BLOCK_BYTES, error.message)

    def _look_at_slots(self) -> None:
        """Read the slot table; a checkpoint may be writing it, but each sector is whole."""
        volume = self.volume
        sector = memoryview(bytearray(SECTOR_BYTES))
        incarnation = volume.store.current.incarnation
        for number in range(-(-volume.maps.table.slots_count // SECTOR_SLOTS)):
            volume.files.slots.pread_into(sector, number * SECTOR_BYTES)
            if decode_sector(sector, number, incarnation) is None:
                at = number * SECTOR_BYTES
                self._note("slots", at, at + SECTOR_BYTES, f"sector {number} is damaged")

    def _look_at_log(self) -> None:
        log = self.volume.log
        self._look_at_segment(log.pass_number, log.used)
        if log.frozen_used:
            self._look_at_segment(log.pass_number - 1, log.frozen_used)

    def _look_at_segment(self, pass_number: int, used: int) -> None:
        log = self.volume.log
        segment_at = (pass_number & 1) * log.segment_bytes
        at = 0
        while at < used:
            head = memoryview(bytearray(BATCH_HEADER_BYTES))
            log.file.pread_into(head, segment_at + at)
            decoded = decode_batch_header(head)
            if decoded is None or decoded[0].pass_number != pass_number:
                self._note("log", segment_at + at, segment_at + used, "a batch header is damaged")
                return
            header = decoded[0]
            begin = segment_at + at + BATCH_HEADER_BYTES
            payload = memoryview(bytearray(header.payload_bytes))
            log.file.pread_into(payload, begin)
            if xxh3_64_intdigest(payload) != header.payload_digest:
                detail = f"records {header.first_lsn} to {header.last_lsn} are damaged"
                self._note("log", begin, begin + header.payload_bytes, detail)
            at += BATCH_HEADER_BYTES + header.payload_bytes

    def _look_at_superblock(self) -> None:
        found = read_superblocks(self.volume.files.meta)
        if self.volume.store.current not in found:
            at = self.volume.store.current.generation % 2 * 4096
            self._note("superblock", at, at + 4096, "the newest superblock is damaged")

    def _note(self, place: str, start: int, end: int, detail: str) -> None:
        self.damage.append(Damage(place=place, start=start, end=end, detail=detail))
