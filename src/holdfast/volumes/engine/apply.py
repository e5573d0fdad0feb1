"""What a record of the log means for a map: the one place, for replaying and for living.

1. A trim of a slot that nothing refers to is no entry: it reads as zeros already.
2. A placed slot that a later change of the same map covers is not looked at again.
"""

from array import array
from collections.abc import Iterator

from holdfast.volumes.engine.dirty import (
    NO_CHECKS,
    NOWHERE,
    ZERO,
    DirtyMap,
    Placed,
    edge_blocks,
    split_slots,
)
from holdfast.volumes.engine.formats import Record, RecordKind, block_check, placed_entry
from holdfast.volumes.engine.slots import SlotTable
from holdfast.volumes.model import BLOCK_BYTES, Geometry


class Maps:
    """The table and the maps above it, newest first: where the newest change of anything is."""

    __slots__ = ("active", "frozen", "table")

    def __init__(self, table: SlotTable, active: DirtyMap, frozen: DirtyMap | None) -> None:
        self.table = table
        self.active = active
        self.frozen = frozen

    def is_empty(self, slot: int) -> bool:
        """Return whether nothing refers to a slot: it reads as zeros."""
        if self.table.physical(slot) >= 0 or self.active.touches(slot):
            return False
        return self.frozen is None or not self.frozen.touches(slot)

    def layers(self) -> Iterator[DirtyMap]:
        """Yield the maps, the newest first."""
        yield self.active
        if self.frozen is not None:
            yield self.frozen

    def apply_trim(self, geometry: Geometry, start: int, end: int, lsn: int) -> None:
        """Take a trim of an aligned range."""
        first, last = split_slots(geometry, start, end)
        for slot in range(first, last):
            if not self.is_empty(slot):
                self.active.put_slot(slot, Placed(NOWHERE, NO_CHECKS, lsn))
        for block in edge_blocks(geometry, start, end):
            if not self.is_empty(block // geometry.slot_blocks):
                self.active.put_block(block, ZERO)

    def apply_record(
        self, geometry: Geometry, record: Record, payload: memoryview, payload_at: int
    ) -> None:
        """Take a record read from the log, whose batch's payload begins at `payload_at` there."""
        match record.kind:
            case RecordKind.WRITE:
                at = record.data_at
                for start in range(record.start, record.start + record.size_bytes, BLOCK_BYTES):
                    check = block_check(payload[at : at + BLOCK_BYTES], start)
                    self.active.put_block(start // BLOCK_BYTES, payload_at + at << 32 | check)
                    at += BLOCK_BYTES
            case RecordKind.TRIM:
                self.apply_trim(
                    geometry, record.start, record.start + record.size_bytes, record.lsn
                )
            case RecordKind.PLACED:
                first = record.start // geometry.slot_bytes
                data = payload[record.data_at : record.data_at + record.data_bytes]
                for index, entry in enumerate(placed_entry(geometry).iter_unpack(data)):
                    placed = Placed(entry[0], array("I", entry[1:]), record.lsn)
                    self.active.put_slot(first + index, placed)

    def freeze(self, geometry: Geometry) -> None:
        """Begin a new active map; there must be no frozen one."""
        assert self.frozen is None
        self.frozen = self.active
        self.active = DirtyMap(geometry)

    def used_physical(self) -> Iterator[int]:
        """Yield every physical slot that the table or a map refers to, and none twice if sound."""
        seen: set[int] = set()
        for layer in self.layers():
            seen.update(layer.releases)
            for shard in layer.shards.values():
                seen.update(p.physical for p in shard.slots.values() if p.physical != NOWHERE)
        # A checkpoint that was under way may have put a slot of a map into the table already.
        table = self.table
        mapped = [table.physical(slot) for slot in range(table.slots_count)]
        yield from (physical for physical in mapped if physical >= 0)
        yield from seen.difference(mapped)
