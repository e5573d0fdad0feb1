"""What is allocated and what has changed, told from the maps without reading data.

1. `allocation`: a hole reads as zeros; data may. `changed_since`: nothing that changed is left out.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.checks import CheckPages
from holdfast.volumes.engine.dirty import NOWHERE, ZERO
from holdfast.volumes.engine.formats import DATA_BIT, zero_check
from holdfast.volumes.model import BLOCK_BYTES, ChangedExtent, Extent, Geometry

KindT = TypeVar("KindT")


def allocation(
    maps: Maps, checks: CheckPages, geometry: Geometry, start: int, size_bytes: int
) -> list[Extent]:
    """See Volume.allocation."""
    end = start + size_bytes
    pieces = (
        (piece_end, kind)
        for first, last in _slot_ranges(geometry, start, end)
        for piece_end, kind in _slot_kinds(maps, checks, geometry, first, last)
    )
    return [
        Extent(size, is_hole=is_hole, is_zero=is_zero)
        for size, (is_hole, is_zero) in _merged(pieces, start, end)
    ]


def changed_since(
    maps: Maps, geometry: Geometry, lsn: int, start: int, size_bytes: int
) -> list[ChangedExtent]:
    """See Volume.changed_since."""
    end = start + size_bytes
    pieces = (
        (last, _has_changed(maps, first // geometry.slot_bytes, lsn))
        for first, last in _slot_ranges(geometry, start, end)
    )
    return [ChangedExtent(size, is_changed) for size, is_changed in _merged(pieces, start, end)]


def _has_changed(maps: Maps, slot: int, lsn: int) -> bool:
    if maps.table.changed_lsn(slot) > lsn:
        return True
    return any(layer.touches(slot) for layer in maps.layers())


def _slot_ranges(geometry: Geometry, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield [first, last) bytes of each slot that the range touches."""
    slot_bytes = geometry.slot_bytes
    for first in range(start - start % slot_bytes, end, slot_bytes):
        yield first, min(first + slot_bytes, geometry.size_bytes)


def _slot_kinds(
    maps: Maps, checks: CheckPages, geometry: Geometry, first: int, last: int
) -> Iterator[tuple[int, tuple[bool, bool]]]:
    """Yield (end, (is hole, is zero)) for a slot, or for each of its blocks if they may differ."""
    slot = first // geometry.slot_bytes
    slot_blocks = geometry.slot_blocks
    physical = maps.table.physical(slot)
    if not any(layer.touches(slot) for layer in maps.layers()):
        if physical < 0:
            yield last, (True, True)
            return
        found = checks.get(physical * slot_blocks, slot_blocks)
        if all(check & DATA_BIT for check in found):
            yield last, (False, False)
            return
        for block, check in enumerate(found, first // BLOCK_BYTES):
            yield (block + 1) * BLOCK_BYTES, (False, check == zero_check(block))
        return
    for block in range(first // BLOCK_BYTES, last // BLOCK_BYTES):
        yield (block + 1) * BLOCK_BYTES, _block_kind(maps, checks, geometry, block)


def _block_kind(
    maps: Maps, checks: CheckPages, geometry: Geometry, block: int
) -> tuple[bool, bool]:
    slot, at = divmod(block, geometry.slot_blocks)
    for layer in maps.layers():
        entry = layer.block_of(block)
        if entry is not None:
            is_zero = entry == ZERO
            return is_zero and maps.table.physical(slot) < 0, is_zero
        placed = layer.slot_of(slot)
        if placed is not None:
            is_hole = placed.physical == NOWHERE
            return is_hole, is_hole or placed.checks[at] == zero_check(block)
    physical = maps.table.physical(slot)
    if physical < 0:
        return True, True
    return False, checks.get(physical * geometry.slot_blocks + at, 1)[0] == zero_check(block)


def _merged(
    pieces: Iterable[tuple[int, KindT]], start: int, end: int
) -> Iterator[tuple[int, KindT]]:
    """Yield (size, kind) of runs of one kind within [start, end), given where each piece ends."""
    begin = at = start
    current: KindT | None = None
    for piece_end, kind in pieces:
        stop = min(piece_end, end)
        if stop <= at:
            continue
        if current is not None and kind != current:
            yield at - begin, current
            begin = at
        current, at = kind, stop
    if current is not None:
        yield at - begin, current
