"""The read path: each block from its newest place, every block checked.

1. What a read returns is the newest change of each block, or an error that names the range; never
   other bytes, whatever the medium did.
2. A read is over before anything it resolved can move: it is made by the owner in one go.
"""

from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.checks import CheckPages, damaged, verify_blocks
from holdfast.volumes.engine.dirty import NOWHERE, SHARD_BITS, ZERO, Placed
from holdfast.volumes.engine.files import VolumeFiles
from holdfast.volumes.engine.formats import CHECK_MASK, DATA_BIT, SECTOR_SLOTS, zero_check
from holdfast.volumes.engine.slots import SlotTable
from holdfast.volumes.model import BLOCK_BYTES

_ZERO_BLOCK: Final = bytes(BLOCK_BYTES)
_SHIFT: Final = 12
_LOG: Final = "log"
_EXTENT: Final = "extent"
_CHECKS: Final = "checks"


class Reader:
    """Reads aligned ranges; the owner's."""

    __slots__ = ("_checks", "_files", "_maps", "_slot_blocks")

    def __init__(self, files: VolumeFiles, maps: Maps, checks: CheckPages) -> None:
        self._files = files
        self._maps = maps
        self._checks = checks
        self._slot_blocks = maps.active.geometry.slot_blocks

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from block-aligned `start`; its size is whole blocks."""
        slot_blocks = self._slot_blocks
        block = start >> _SHIFT
        end = block + (len(buffer) >> _SHIFT)
        maps = self._maps
        run = _Run(self._files, start)
        while block < end:
            slot = block // slot_blocks
            stop = min(end, (slot + 1) * slot_blocks)
            if self._is_dirty(block):
                self._add_dirty(run, buffer, block, stop)
            else:
                self._add_clean(run, buffer, block, stop, maps.table)
            block = stop
        run.finish(buffer)

    def has_kept_zeros(self, slot: int) -> bool:
        """Return whether a whole slot reads as zeros and has space of its own."""
        for layer in self._maps.layers():
            placed = layer.slot_of(slot)
            if layer.has_blocks_of(slot):
                return False
            if placed is not None:
                return placed.physical != NOWHERE and self._are_zero(slot, placed.checks)
        physical = self._maps.table.physical(slot)
        if physical < 0:
            return False
        checks = self._checks.get(physical * self._slot_blocks, self._slot_blocks)
        return self._are_zero(slot, checks)

    def _are_zero(self, slot: int, checks: Sequence[int]) -> bool:
        first = slot * self._slot_blocks
        return all(check == zero_check(block) for block, check in enumerate(checks, first))

    def _is_dirty(self, block: int) -> bool:
        number = block >> SHARD_BITS
        maps = self._maps
        if number in maps.active.shards:
            return True
        return maps.frozen is not None and number in maps.frozen.shards

    def _add_clean(
        self, run: "_Run", buffer: memoryview, block: int, stop: int, table: SlotTable
    ) -> None:
        slot = block // self._slot_blocks
        physical = table.physical(slot)
        if table.damaged and slot // SECTOR_SLOTS in table.damaged:
            raise damaged(block << _SHIFT, stop << _SHIFT, "slots")
        if physical < 0:
            run.add(buffer, _EXTENT, -1, [0] * (stop - block))
            return
        index = physical * self._slot_blocks + block % self._slot_blocks
        run.add(buffer, _EXTENT, index << _SHIFT, self._checks.get(index, stop - block))

    def _add_dirty(self, run: "_Run", buffer: memoryview, block: int, stop: int) -> None:
        """Add blocks of one slot that a map may hold."""
        number = block >> SHARD_BITS
        for layer in self._maps.layers():
            shard = layer.shards.get(number)
            if shard is None:
                continue
            if not shard.blocks.keys().isdisjoint(range(block, stop)):
                for each in range(block, stop):
                    self._add_block(run, buffer, each)
                return
            placed = shard.slots.get(block // self._slot_blocks)
            if placed is not None:
                self._add_placed(run, buffer, block, stop, placed)
                return
        self._add_clean(run, buffer, block, stop, self._maps.table)

    def _add_block(self, run: "_Run", buffer: memoryview, block: int) -> None:
        number = block >> SHARD_BITS
        for layer in self._maps.layers():
            shard = layer.shards.get(number)
            if shard is None:
                continue
            entry = shard.blocks.get(block)
            if entry is not None:
                if entry == ZERO:
                    run.add(buffer, _EXTENT, -1, [0])
                else:
                    run.add(buffer, _LOG, entry >> 32, [entry & CHECK_MASK])
                return
            placed = shard.slots.get(block // self._slot_blocks)
            if placed is not None:
                self._add_placed(run, buffer, block, block + 1, placed)
                return
        self._add_clean(run, buffer, block, block + 1, self._maps.table)

    def _add_placed(
        self, run: "_Run", buffer: memoryview, block: int, stop: int, placed: Placed
    ) -> None:
        at, count = block % self._slot_blocks, stop - block
        if placed.physical == NOWHERE:
            run.add(buffer, _EXTENT, -1, [0] * count)
        else:
            index = placed.physical * self._slot_blocks + at
            run.add(buffer, _EXTENT, index << _SHIFT, placed.checks[at : at + count].tolist())

    def read_block(self, start: int, buffer: memoryview) -> None:
        """As read_into for exactly one block: what most reads are, with nothing to gather."""
        block = start >> _SHIFT
        slot, at = divmod(block, self._slot_blocks)
        maps = self._maps
        number = block >> SHARD_BITS
        for layer in (maps.active, maps.frozen) if maps.frozen is not None else (maps.active,):
            shard = layer.shards.get(number)
            if shard is None:
                continue
            entry = shard.blocks.get(block)
            if entry is None:
                if slot not in shard.slots:
                    continue
                self.read_into(start, buffer)
                return
            if entry == ZERO:
                buffer[:] = _ZERO_BLOCK
                return
            self._files.log.pread_into(buffer, entry >> 32)
            if (xxh3_64_intdigest(buffer, start) & CHECK_MASK | DATA_BIT) != entry & CHECK_MASK:
                raise damaged(start, start + BLOCK_BYTES, _LOG)
            return
        physical = maps.table.pairs[2 * slot] - 1
        if physical < 0:
            self.read_into(start, buffer)
            return
        index = physical * self._slot_blocks + at
        page = self._checks.pages.get(index >> 10) or self._checks.page(index >> 10)
        check = page[index & 1023]
        if not check & DATA_BIT:
            if check != zero_check(block):
                raise damaged(start, start + BLOCK_BYTES, _CHECKS)
            buffer[:] = _ZERO_BLOCK
            return
        self._files.extent.pread_into(buffer, index << _SHIFT)
        if (xxh3_64_intdigest(buffer, start) & CHECK_MASK | DATA_BIT) != check:
            raise damaged(start, start + BLOCK_BYTES, _EXTENT)


class _Run:
    """Blocks that lie one after the other in one file, read by one call."""

    __slots__ = ("_at", "_begin", "_checks", "_files", "_offset", "_place", "_start")

    def __init__(self, files: VolumeFiles, start: int) -> None:
        self._files = files
        self._start = start
        self._begin = 0
        self._at = 0
        self._place = _EXTENT
        self._offset = -1
        self._checks: list[int] = []

    def add(self, buffer: memoryview, place: str, offset: int, checks: list[int]) -> None:
        """Take the next blocks; offset -1: zeros."""
        count = len(self._checks)
        if count:
            follows = (
                offset == -1
                if self._offset == -1
                else (offset == self._offset + count * BLOCK_BYTES)
            )
            if place != self._place or not follows:
                self.finish(buffer)
        if not self._checks:
            self._place, self._offset = place, offset
        self._checks.extend(checks)
        self._at += len(checks) * BLOCK_BYTES

    def finish(self, buffer: memoryview) -> None:
        """Read and check what was gathered."""
        if not self._checks:
            return
        view = buffer[self._begin : self._at]
        if self._offset == -1:
            view[:] = bytes(len(view))
        else:
            file = self._files.log if self._place is _LOG else self._files.extent
            file.pread_into(view, self._offset)
            verify_blocks(view, self._start + self._begin, self._checks, self._place)
        self._checks = []
        self._begin = self._at
