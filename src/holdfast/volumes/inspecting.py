"""What the files of a volume hold, as plain objects, in the order in which an opening reads them.

Reads only, and believes only what has its digest right, like the engine itself. Of a volume that is
served it shows a moment that may not have been: look twice, or stop it first.

Invariants:

1. Nothing is written, whatever is found.
2. Memory is bounded by one batch and the slot table: objects are yielded as they are found.
"""

from collections.abc import Iterator

from holdfast.volumes.engine.files import VolumeFiles
from holdfast.volumes.engine.formats import BatchHeader, Record, RecordKind, Superblock
from holdfast.volumes.engine.recovery import LogReader, find_lost
from holdfast.volumes.engine.slots import SlotTable
from holdfast.volumes.engine.superblocks import newest_superblock, read_hint, read_superblocks

Found = dict[str, object]
"""One thing found; `what` says which."""


def inspect_files(files: VolumeFiles) -> Iterator[Found]:
    """Yield both superblocks, the hint, the runs of the slot map, and the log batch by batch.

    Raises:
        IntegrityError: Neither superblock is valid; raised after both were yielded.
    """
    for slot, superblock in zip("AB", read_superblocks(files.meta), strict=True):
        yield {"what": "superblock", "slot": slot, **_plain_superblock(superblock)}
    current = newest_superblock(files.meta)
    hint = read_hint(files.meta, current.incarnation)
    yield {"what": "hint", "is_valid": hint is not None} | (
        {"durable_lsn": hint.durable_lsn, "checkpoint_lsn": hint.checkpoint_lsn} if hint else {}
    )
    yield from _map(files, current)
    yield from _log(files, current, max(hint.durable_lsn, hint.checkpoint_lsn) if hint else 0)


def _plain_superblock(superblock: Superblock | None) -> Found:
    if superblock is None:
        return {"is_valid": False}
    return {
        "is_valid": True,
        "generation": superblock.generation,
        "volume_id": superblock.volume_id.hex(),
        "incarnation": f"{superblock.incarnation:016x}",
        "size_bytes": superblock.geometry.size_bytes,
        "block_bytes": superblock.geometry.block_bytes,
        "slot_bytes": superblock.geometry.slot_bytes,
        "segment_bytes": superblock.geometry.segment_bytes,
        "flags": superblock.flags,
        "checkpoint_lsn": superblock.checkpoint_lsn,
        "durable_lsn": superblock.durable_lsn,
        "pass_number": superblock.pass_number,
        "chain": f"{superblock.chain:016x}",
        "epoch": superblock.epoch,
        "role": superblock.role.name.lower(),
        "prepared_bytes": superblock.prepared_bytes,
        "prepared_epoch": superblock.prepared_epoch,
        "created_ns": superblock.created_ns,
    }


def _map(files: VolumeFiles, superblock: Superblock) -> Iterator[Found]:
    geometry = superblock.geometry
    table = SlotTable(geometry.slots_count, superblock.incarnation)
    table.load(files.slots)
    mapped_count = 0
    start = 0
    while start < table.slots_count:
        physical = table.physical(start)
        end = start + 1
        while end < table.slots_count and table.physical(end) == _following(physical, end - start):
            end += 1
        if physical >= 0:
            mapped_count += end - start
            yield {
                "what": "slots",
                "start": start * geometry.slot_bytes,
                "end": end * geometry.slot_bytes,
                "at": physical * geometry.slot_bytes,
            }
        start = end
    yield {
        "what": "map",
        "slots_count": table.slots_count,
        "mapped_count": mapped_count,
        "damaged_sectors": sorted(table.damaged),
    }


def _following(physical: int, distance: int) -> int:
    """Return where a slot lies that goes on a run: behind the one before it, or nowhere too."""
    return physical + distance if physical >= 0 else -1


def _log(files: VolumeFiles, superblock: Superblock, known_durable: int) -> Iterator[Found]:
    reader = LogReader(files.log, superblock)
    for found in reader.batches():
        yield {"what": "batch", "offset": found.offset, **_plain_header(found.header)}
        for record in found.records:
            yield {"what": "record", **_plain_record(record)}
    end = reader.end
    lost = find_lost(files.log, superblock, end.last_lsn, known_durable)
    yield {
        "what": "end",
        "pass_number": end.pass_number,
        "used_bytes": end.used,
        "last_lsn": end.last_lsn,
        "lost_first_lsn": lost.first if lost else 0,
        "lost_last_lsn": lost.last if lost else 0,
    }


def _plain_header(header: BatchHeader) -> Found:
    return {
        "pass_number": header.pass_number,
        "first_lsn": header.first_lsn,
        "epoch": header.epoch,
        "durable_lsn": header.durable_lsn,
        "checkpoint_lsn": header.checkpoint_lsn,
        "records_count": header.records_count,
        "payload_bytes": header.payload_bytes,
        "payload_digest": f"{header.payload_digest:016x}",
        "previous": f"{header.previous:016x}",
    }


def _plain_record(record: Record) -> Found:
    return {
        "lsn": record.lsn,
        "kind": RecordKind(record.kind).name.lower(),
        "start": record.start,
        "end": record.start + record.size_bytes,
    }
