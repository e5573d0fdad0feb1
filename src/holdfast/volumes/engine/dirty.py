"""What the log holds that is not home yet: for each block and slot, its newest change.

A map is a dict of shards of 4 MiB, so that no step over one is long. Within a shard a block's own
entry is newer than that of its slot. Not here: what lies at home (slots.py, checks.py).

1. Only the owner changes a map, in the order of LSNs; the newest change of a block wins.
2. A frozen map is never changed.
3. A physical slot that a change of the same map replaced stands in `releases` and may be reused
   only when this map's checkpoint is published: until then a recovery may still need it.
"""

from array import array
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from holdfast.volumes.model import BLOCK_BYTES, Geometry

SHARD_BITS: Final = 10
"""Blocks of a shard, as a power of two: 4 MiB."""
ZERO: Final = -1
"""Entry of a block that reads as zeros. Others: offset in the log << 32 | check."""
NOWHERE: Final = -1
"""Physical slot of a slot that reads as zeros and has no space."""
NO_CHECKS: Final = array("I")


class Placed(NamedTuple):
    """Newest change of a whole slot: where its data stands, and the checks of its blocks."""

    physical: int
    checks: "array[int]"
    """Empty if `physical` is NOWHERE."""
    lsn: int


@dataclass(slots=True)
class Shard:
    """Changes of 4 MiB."""

    blocks: dict[int, int] = field(default_factory=dict)
    slots: dict[int, Placed] = field(default_factory=dict)


class DirtyMap:
    """The changes of one segment of the log."""

    __slots__ = ("geometry", "placed_count", "releases", "shards", "weight")

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.shards: dict[int, Shard] = {}
        self.weight = 0
        """Upper bound of the entries in it."""
        self.placed_count = 0
        self.releases: list[int] = []

    def put_block(self, block: int, entry: int) -> None:
        """Take a change of a block."""
        shard = self.shards.get(block >> SHARD_BITS)
        if shard is None:
            shard = self.shards[block >> SHARD_BITS] = Shard()
        shard.blocks[block] = entry
        self.weight += 1

    def put_slot(self, slot: int, placed: Placed) -> None:
        """Take a change of a whole slot."""
        slot_blocks = self.geometry.slot_blocks
        first = slot * slot_blocks
        shard = self.shards.get(first >> SHARD_BITS)
        if shard is None:
            shard = self.shards[first >> SHARD_BITS] = Shard()
        if shard.blocks:
            for block in range(first, first + slot_blocks):
                shard.blocks.pop(block, None)
        old = shard.slots.get(slot)
        if old is not None and old.physical != NOWHERE:
            self.releases.append(old.physical)
        shard.slots[slot] = placed
        self.weight += 1
        self.placed_count += placed.physical != NOWHERE

    def slot_of(self, slot: int) -> Placed | None:
        """Return the newest change of a whole slot, if there is one."""
        shard = self.shards.get(slot * self.geometry.slot_blocks >> SHARD_BITS)
        return shard.slots.get(slot) if shard else None

    def block_of(self, block: int) -> int | None:
        """Return the newest change of a block of its own, if there is one."""
        shard = self.shards.get(block >> SHARD_BITS)
        return shard.blocks.get(block) if shard else None

    def has_blocks_of(self, slot: int) -> bool:
        """Return whether a block of a slot has a change of its own."""
        first = slot * self.geometry.slot_blocks
        shard = self.shards.get(first >> SHARD_BITS)
        if shard is None or not shard.blocks:
            return False
        blocks = shard.blocks
        return any(block in blocks for block in range(first, first + self.geometry.slot_blocks))

    def touches(self, slot: int) -> bool:
        """Return whether anything of a slot is in it."""
        return self.slot_of(slot) is not None or self.has_blocks_of(slot)


def split_slots(geometry: Geometry, start: int, end: int) -> tuple[int, int]:
    """Return [first, last) whole slots of the aligned range; the last slot ends with the volume."""
    slot_bytes = geometry.slot_bytes
    first = -(-start // slot_bytes)
    last = geometry.slots_count if end == geometry.size_bytes else end // slot_bytes
    return (first, last) if first < last else (0, 0)


def edge_blocks(geometry: Geometry, start: int, end: int) -> list[int]:
    """Return the blocks of the aligned range that lie outside its whole slots."""
    first, last = split_slots(geometry, start, end)
    if first == last:
        return list(range(start // BLOCK_BYTES, end // BLOCK_BYTES))
    head = range(start // BLOCK_BYTES, first * geometry.slot_blocks)
    tail = range(min(last * geometry.slot_blocks, end // BLOCK_BYTES), end // BLOCK_BYTES)
    return [*head, *tail]
