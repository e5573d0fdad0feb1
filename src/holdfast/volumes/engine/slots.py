"""Where slots are: the table of logical to physical slots, its sectors, and what is free.

1. A physical slot belongs to at most one logical slot, or to one change in a map, or is free.
2. A slot is given out again only when no recovery can need what it held: the checkpoint that made
   it free is published. What crash this survives: power lost before that finds the old data whole.
3. The table's file is written only by a checkpoint and an expansion, and a sector whole.
4. There are never more physical slots than logical ones and those of two maps, each PLACED_MAX and
   one request at most: so much larger than the volume its extent file can become.
"""

from array import array
from collections import deque
from collections.abc import Iterable
from itertools import groupby
from typing import Final

from holdfast.ports import BlockFile
from holdfast.volumes.engine.formats import (
    SECTOR_BYTES,
    SECTOR_SLOTS,
    decode_sector,
    encode_sector,
)

_RUN_SECTORS: Final = 256
_PAIR_BYTES: Final = 2 * array("I").itemsize
_GROWN_SLOTS: Final = 1 << 17


def sectors_count(slots_count: int) -> int:
    """Return how many sectors a table of this many slots has."""
    return -(-slots_count // SECTOR_SLOTS)


class SlotTable:
    """The table in memory, as of the last checkpoint; 8 bytes a slot."""

    def __init__(self, slots_count: int, incarnation: int) -> None:
        self.incarnation = incarnation
        self.slots_count = 0
        self.pairs = array("I")
        """For each slot: physical slot + 1 or 0, and LSN / 256, rounded up, of its last change."""
        self.damaged: set[int] = set()
        """Sectors that could not be read."""
        self.extend(slots_count)

    def extend(self, slots_count: int) -> None:
        """Add slots that were never written."""
        while self.slots_count < slots_count:
            more = min(_GROWN_SLOTS, slots_count - self.slots_count)
            self.pairs.frombytes(bytes(_PAIR_BYTES * more))
            self.slots_count += more

    def physical(self, slot: int) -> int:
        """Return the physical slot, or -1."""
        return self.pairs[2 * slot] - 1

    def changed_lsn(self, slot: int) -> int:
        """Return an LSN not below that of the slot's last change."""
        return self.pairs[2 * slot + 1] << 8

    def put(self, changes: dict[int, int], lsn: int) -> list[tuple[int, int]]:
        """Take the mappings of a checkpoint at `lsn`; return (slot, physical slot it lost)."""
        pairs = self.pairs
        changed = (lsn + 255) >> 8
        replaced = []
        for slot, physical in changes.items():
            old = pairs[2 * slot] - 1
            if old != physical:
                if old >= 0:
                    replaced.append((slot, old))
                pairs[2 * slot] = physical + 1
            pairs[2 * slot + 1] = changed
        return replaced

    def load(self, file: BlockFile) -> None:
        """Read the file; sectors that are not what was written are noted in `damaged`."""
        buffer = bytearray(_RUN_SECTORS * SECTOR_BYTES)
        total = sectors_count(self.slots_count)
        for first in range(0, total, _RUN_SECTORS):
            count = min(_RUN_SECTORS, total - first)
            view = memoryview(buffer)[: count * SECTOR_BYTES]
            file.pread_into(view, first * SECTOR_BYTES)
            for index in range(count):
                self._load_sector(first + index, view[index * SECTOR_BYTES :][:SECTOR_BYTES])

    def _load_sector(self, number: int, data: memoryview) -> None:
        entries = decode_sector(data, number, self.incarnation)
        if entries is None:
            self.damaged.add(number)
            return
        first = number * SECTOR_SLOTS
        count = min(SECTOR_SLOTS, self.slots_count - first)
        self.pairs[2 * first : 2 * (first + count)] = entries[: 2 * count]

    def write_sectors(
        self, file: BlockFile, numbers: Iterable[int], changes: dict[int, int], lsn: int
    ) -> None:
        """Write these sectors as they will be after `changes` (slot to physical) at `lsn`."""
        by_sector: dict[int, list[int]] = {}
        for slot in changes:
            by_sector.setdefault(slot // SECTOR_SLOTS, []).append(slot)
        ordered = sorted(numbers)
        for _, group in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
            run = [number for _, number in group]
            for at in range(0, len(run), _RUN_SECTORS):
                part = run[at : at + _RUN_SECTORS]
                data = [self._sector(n, by_sector.get(n, []), changes, lsn) for n in part]
                file.pwrite(b"".join(data), part[0] * SECTOR_BYTES)

    def _sector(self, number: int, slots: list[int], changes: dict[int, int], lsn: int) -> bytes:
        first = number * SECTOR_SLOTS
        entries = self.pairs[2 * first : 2 * (first + SECTOR_SLOTS)]
        for slot in slots:
            entries[2 * (slot - first)] = changes[slot] + 1
            entries[2 * (slot - first) + 1] = (lsn + 255) >> 8
        return encode_sector(number, entries, self.incarnation)


class Allocator:
    """Which physical slots are free. The oldest freed go first, so that runs stay runs."""

    def __init__(self) -> None:
        self.free: deque[int] = deque()
        self.high = 0
        """Physical slots from here on were never used."""

    def load(self, used: Iterable[int]) -> list[int]:
        """Start with these in use; return those that two want, which is damage."""
        taken = bytearray()
        twice = []
        for physical in used:
            if physical >= len(taken):
                taken.extend(bytes(physical + 1 - len(taken)))
            if taken[physical]:
                twice.append(physical)
            taken[physical] = 1
        self.high = len(taken)
        self.free = deque(index for index, flag in enumerate(taken) if not flag)
        return twice

    def take(self, count: int) -> list[int]:
        """Return `count` free slots."""
        free = self.free
        taken = [free.popleft() for _ in range(min(count, len(free)))]
        fresh = count - len(taken)
        taken.extend(range(self.high, self.high + fresh))
        self.high += fresh
        return taken

    def give_back(self, slots: Iterable[int]) -> None:
        """Take back slots that were never referred to."""
        self.free.extendleft(reversed(list(slots)))

    def release(self, slots: Iterable[int]) -> None:
        """Take slots whose last reader is gone (invariant 2)."""
        self.free.extend(slots)
