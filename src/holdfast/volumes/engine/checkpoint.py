"""Carries a frozen map home: data into its slots, checks, the table; then a superblock.

Order and the crash each step survives:

1. The log is flushed up to the checkpoint before anything at home changes: what stands at home is
   never newer than what a recovery finds in the log.
2. Data and checks are written and flushed before the table refers to new slots. Power lost here
   leaves blocks that do not match their checks; the log still holds every one of them.
3. The table is written and flushed. Power lost here leaves old and new entries; replaying the log
   over either gives the same.
4. The superblock is written and flushed by a second job, and only then the segment and the slots
   that were replaced are free. Power lost before that replays the segment again.

Invariants:

1. A checkpoint is a true prefix: exactly the changes up to its LSN.
2. What is carried home is compared with the check taken when it was written; rot in the log stops
   the checkpoint and is not carried home.
3. Running one again after it failed, or after a crash, gives the same.
"""

from array import array
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.checks import PAGE_CHECKS, CheckPages, damaged
from holdfast.volumes.engine.dirty import NOWHERE, ZERO, DirtyMap, Shard
from holdfast.volumes.engine.files import SyncJob, VolumeFiles
from holdfast.volumes.engine.formats import CHECK_MASK, DATA_BIT, SECTOR_SLOTS, zero_check
from holdfast.volumes.engine.slots import Allocator, SlotTable
from holdfast.volumes.model import BLOCK_BYTES, Lsn

_WINDOW_BITS: Final = 20
"""The log is read in windows of 1 MiB: a core's cache, and little of the memory of a volume."""
_PARTS_MAX: Final = 512
_PAGES_MAX: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPlan:
    """Where the slots of a frozen map go."""

    lsn: Lsn
    frozen: DirtyMap
    moves: dict[int, int]
    """Slots whose physical slot changes: to which, or NOWHERE."""
    fresh: dict[int, int]
    """Physical slots taken for this checkpoint, and for which; they read as zeros until written."""


def plan_checkpoint(maps: Maps, allocator: Allocator, lsn: Lsn) -> CheckpointPlan:
    """Choose homes for the frozen map; takes slots from the allocator."""
    frozen = maps.frozen
    assert frozen is not None
    slot_blocks = frozen.geometry.slot_blocks
    moves: dict[int, int] = {}
    homeless: list[int] = []
    pairs = maps.table.pairs
    for shard in frozen.shards.values():
        moves.update({slot: placed.physical for slot, placed in shard.slots.items()})
        slots = {block // slot_blocks for block in shard.blocks}
        unmapped = [slot for slot in slots if moves.get(slot, pairs[2 * slot] - 1) < 0]
        homeless.extend(slot for slot in unmapped if _has_data(shard, slot, slot_blocks))
    homeless.sort()
    fresh = allocator.take(len(homeless))
    moves.update(zip(homeless, fresh, strict=True))
    return CheckpointPlan(
        lsn=lsn, frozen=frozen, moves=moves, fresh=dict(zip(fresh, homeless, strict=True))
    )


def _has_data(shard: Shard, slot: int, slot_blocks: int) -> bool:
    """Return whether a change of the slot's blocks is more than zeros."""
    blocks = range(slot * slot_blocks, (slot + 1) * slot_blocks)
    return any(shard.blocks.get(block, ZERO) != ZERO for block in blocks)


_Row = tuple[int, int, int]
"""Physical block, block, entry."""


class CheckpointJob:
    """Steps 1 to 3 of the order above."""

    def __init__(
        self, files: VolumeFiles, plan: CheckpointPlan, table: SlotTable, sync: SyncJob | None
    ) -> None:
        self.files = files
        self.plan = plan
        self.sync = sync
        self.changes: dict[int, int] = {}
        """Physical slot of every slot that has a change."""
        self.pages = CheckPages(files.checks, _PAGES_MAX)
        self._table = table
        self._window = memoryview(b"")
        self._slot_blocks = plan.frozen.geometry.slot_blocks

    def run(self) -> None:
        """See Job.run."""
        if self.sync is not None:
            self.sync.run()
        windows = self._place_checks()
        self._window = memoryview(bytearray((1 << _WINDOW_BITS) + BLOCK_BYTES))
        for number in sorted(windows):
            self._carry(windows[number])
        self.files.extent.fdatasync()
        self.pages.flush()
        self.files.checks.fdatasync()
        sectors = {slot // SECTOR_SLOTS for slot in self.changes}
        self._table.write_sectors(self.files.slots, sectors, self.changes, self.plan.lsn)
        self.files.slots.fdatasync()

    def _place_checks(self) -> dict[int, list[_Row]]:
        """Set the checks; return the blocks to carry for each window of the log."""
        plan, pages, slot_blocks = self.plan, self.pages, self._slot_blocks
        windows: dict[int, list[_Row]] = {}
        for physical, slot in sorted(plan.fresh.items()):
            blocks = range(slot * slot_blocks, (slot + 1) * slot_blocks)
            pages.put_many(physical * slot_blocks, array("I", map(zero_check, blocks)))
        for number in sorted(plan.frozen.shards):
            shard = plan.frozen.shards[number]
            for slot, placed in shard.slots.items():
                self.changes[slot] = plan.moves[slot]
                if placed.physical != NOWHERE:
                    pages.put_many(placed.physical * slot_blocks, placed.checks)
            self._place_blocks(shard.blocks, windows)
        return windows

    def _place_blocks(self, blocks: dict[int, int], windows: dict[int, list[_Row]]) -> None:
        """The same for the blocks of a shard."""
        pages, changes, moves = self.pages, self.changes, self.plan.moves
        slot_blocks = self._slot_blocks
        shifts = {}
        """How far the blocks of a slot lie from their places, in blocks; none for a hole."""
        for slot in {block // slot_blocks for block in blocks}:
            physical = moves.get(slot)
            if physical is None:
                physical = self._table.physical(slot)
            changes[slot] = physical
            if physical >= 0:
                shifts[slot] = (physical - slot) * slot_blocks
        page_number, page = -1, memoryview(b"")
        for block, entry in blocks.items():
            shift = shifts.get(block // slot_blocks)
            if shift is None:
                continue
            index = block + shift
            if index // PAGE_CHECKS != page_number:
                page_number = index // PAGE_CHECKS
                page = pages.writable(page_number)
            if entry == ZERO:
                page[index % PAGE_CHECKS] = zero_check(block)
                continue
            page[index % PAGE_CHECKS] = entry & CHECK_MASK
            window = entry >> 32 + _WINDOW_BITS
            if window in windows:
                windows[window].append((index, block, entry))
            else:
                windows[window] = [(index, block, entry)]

    def _carry(self, rows: list[_Row]) -> None:
        """Copy blocks that lie in a window of the log to their places, in the order of these.

        Most of a checkpoint's time without the medium, and the data path waits for whoever runs
        Python: what can be is done in comprehensions, a block by itself is written as it is.
        """
        rows.sort()
        offsets = [entry >> 32 for _, _, entry in rows]
        low = min(offsets)
        view = self._window[: max(offsets) - low + BLOCK_BYTES]
        self.files.log.pread_into(view, low)
        data = [view[at - low : at - low + BLOCK_BYTES] for at in offsets]
        self._verify(rows, data)
        pwrite = self.files.extent.pwrite
        ends = [index for index, _, _ in rows[1:]]
        ends.append(-1)
        first = 0
        for last, (row, following) in enumerate(zip(rows, ends, strict=True)):
            index = row[0]
            if following == index + 1 and last - first < _PARTS_MAX:
                continue
            if first == last:
                pwrite(data[last], index * BLOCK_BYTES)
            else:
                start = (index - last + first) * BLOCK_BYTES
                self.files.extent.pwritev(data[first : last + 1], start)
            first = last + 1

    def _verify(self, rows: list[_Row], data: list[memoryview]) -> None:
        digest = xxh3_64_intdigest
        expected = [entry & CHECK_MASK for _, _, entry in rows]
        found = [
            digest(each, block * BLOCK_BYTES) & CHECK_MASK | DATA_BIT
            for each, (_, block, _) in zip(data, rows, strict=True)
        ]
        if found != expected:
            (block, *_) = [
                row[1] for row, a, b in zip(rows, found, expected, strict=True) if a != b
            ]
            raise damaged(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES, "log")


class PublishJob:
    """Step 4: flushes the superblock that names the checkpoint, then gives back trimmed space."""

    def __init__(
        self,
        files: VolumeFiles,
        lsn: Lsn,
        *,
        released: list[int],
        trimmed: list[int],
        slot_bytes: int,
    ) -> None:
        self.files = files
        self.lsn = lsn
        self.released = released
        """Physical slots that are free once this has run."""
        self._trimmed = trimmed
        self._slot_bytes = slot_bytes

    def run(self) -> None:
        """See Job.run."""
        self.files.meta.fdatasync()
        begin = end = -1
        for physical in sorted(self._trimmed):
            if physical != end:
                self._punch(begin, end)
                begin = physical
            end = physical + 1
        self._punch(begin, end)

    def _punch(self, begin: int, end: int) -> None:
        if begin >= 0:
            self.files.extent.punch(begin * self._slot_bytes, end * self._slot_bytes)
