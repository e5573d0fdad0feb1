"""Growing a volume in two steps, so that all its copies may grow or none.

Order and the crash it survives: `prepare` writes and flushes the new sectors of the slot table,
then a superblock that names the prepared size; the visible size is the old one, and an opening
forgets the preparation. `commit` is one superblock.

1. Nothing behind the visible size can be read or written before the commit.
2. New space reads as zeros whatever the files held there: its slots are written as unmapped.
3. A volume never shrinks.
"""

from holdfast.errors import ConflictError, InvalidRequestError, StateError, StorageFailedError
from holdfast.volumes.engine.formats import SECTOR_SLOTS
from holdfast.volumes.engine.slots import SlotTable, sectors_count
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import Geometry


def prepare_expansion(volume: Volume, size_bytes: int, epoch: int) -> None:
    """Make room for a size; durable when this returns. Called by the owner, no checkpoint running.

    Raises:
        InvalidRequestError: `bad-volume-size`, or `volume-shrinks`.
        ConflictError: `expansion-running`: another one is prepared.
        FencedError: `epoch-old`.
    """
    _check(volume, epoch)
    old = volume.geometry
    new = _geometry(old, size_bytes)
    if volume.store.current.prepared_bytes:
        raise ConflictError(
            "another expansion of the volume is prepared",
            code="expansion-running",
            advice="commit or cancel it first",
        )
    if size_bytes <= old.size_bytes:
        raise InvalidRequestError(
            f"{size_bytes} bytes are not more than the volume has",
            code="volume-shrinks",
            advice="a volume only grows; copy it into a smaller one",
        )
    table = SlotTable(new.slots_count, volume.store.current.incarnation)
    table.pairs[: len(volume.maps.table.pairs)] = volume.maps.table.pairs
    first = old.slots_count // SECTOR_SLOTS
    table.write_sectors(volume.files.slots, range(first, sectors_count(new.slots_count)), {}, 0)
    try:
        volume.files.slots.fdatasync()
    except StorageFailedError as error:
        volume.poison(error)  # A later flush that succeeds would not say what became of these.
        raise
    volume.write_superblock(prepared_bytes=size_bytes, prepared_epoch=epoch)


def commit_expansion(volume: Volume, epoch: int) -> None:
    """Switch to the prepared size; durable when this returns.

    Raises:
        StateError: `expansion-unprepared`.
        ConflictError: `expansion-epoch`: it was prepared in another epoch.
    """
    _check(volume, epoch)
    prepared = _prepared(volume, epoch)
    geometry = _geometry(volume.geometry, prepared)
    volume.write_superblock(geometry=geometry, prepared_bytes=0, prepared_epoch=0)
    volume.maps.table.extend(geometry.slots_count)
    volume.use_geometry(geometry)


def cancel_expansion(volume: Volume, epoch: int) -> None:
    """Forget the prepared size. Raises as commit_expansion."""
    _check(volume, epoch)
    _prepared(volume, epoch)
    volume.write_superblock(prepared_bytes=0, prepared_epoch=0)


def _check(volume: Volume, epoch: int) -> None:
    volume.authority.check_epoch(epoch)
    volume.check_usable()
    if volume.carrying is not None:
        raise StateError(
            "a checkpoint of the volume is running",
            code="checkpoint-running",
            advice="finish it, then ask again",
        )


def _prepared(volume: Volume, epoch: int) -> int:
    current = volume.store.current
    if not current.prepared_bytes:
        raise StateError("no expansion is prepared", code="expansion-unprepared")
    if current.prepared_epoch != epoch:
        raise ConflictError(
            f"the expansion was prepared in epoch {current.prepared_epoch}, not {epoch}",
            code="expansion-epoch",
            advice="cancel it in its epoch and prepare it anew",
        )
    return current.prepared_bytes


def _geometry(old: Geometry, size_bytes: int) -> Geometry:
    return Geometry(
        size_bytes=size_bytes,
        block_bytes=old.block_bytes,
        slot_bytes=old.slot_bytes,
        segment_bytes=old.segment_bytes,
    )
