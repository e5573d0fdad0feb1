"""Decodes the files of a volume that may be open elsewhere, closed or damaged; writes nothing.

1. Whatever the bytes are, the answer is a description or an error of ours; memory is bounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.volumes.engine.files import VolumeFiles
from holdfast.volumes.engine.formats import RecordKind, Superblock
from holdfast.volumes.engine.recovery import LogReader, find_lost
from holdfast.volumes.engine.slots import SlotTable
from holdfast.volumes.engine.superblocks import newest_superblock, read_hint, read_superblocks
from holdfast.volumes.model import LostRange, Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDescription:
    """A batch of the log and its records."""

    pass_number: int
    offset: int
    first_lsn: int
    last_lsn: int
    epoch: int
    durable_lsn: int
    checkpoint_lsn: int
    payload_bytes: int
    digest: int
    records: list["RecordDescription"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDescription:
    """A record of the log: what it does to [start, end)."""

    lsn: int
    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsDescription:
    """The slot table, counted."""

    slots_count: int
    mapped_count: int
    damaged_sectors: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDescription:
    """What the files say before anything is replayed."""

    superblocks: list[Superblock | None]
    """Of both places; None where there is no valid one."""
    hint_durable_lsn: int | None
    slots: SlotsDescription
    extent_bytes: int
    last_lsn: Lsn
    """Of the last record that would be replayed."""
    lost: LostRange | None


def describe_volume(files: VolumeFiles) -> VolumeDescription:
    """Describe a volume; IntegrityError (`superblock-damaged`) if there is nothing to go by."""
    superblock = newest_superblock(files.meta)
    hint = read_hint(files.meta, superblock.incarnation)
    table = SlotTable(superblock.geometry.slots_count, superblock.incarnation)
    table.load(files.slots)
    reader = LogReader(files.log, superblock)
    known = max((batch.header.durable_lsn for batch in reader.batches()), default=0)
    known = max(known, hint.durable_lsn if hint else 0)
    return VolumeDescription(
        superblocks=read_superblocks(files.meta),
        hint_durable_lsn=hint.durable_lsn if hint else None,
        slots=SlotsDescription(
            slots_count=table.slots_count,
            mapped_count=sum(1 for physical in table.pairs[::2] if physical),
            damaged_sectors=sorted(table.damaged),
        ),
        extent_bytes=files.extent.size_bytes(),
        last_lsn=reader.end.last_lsn,
        lost=find_lost(files.log, superblock, reader.end.last_lsn, known),
    )


def describe_log(files: VolumeFiles) -> Iterator[BatchDescription]:
    """Describe each batch that would be replayed, in order."""
    superblock = newest_superblock(files.meta)
    for batch in LogReader(files.log, superblock).batches():
        header = batch.header
        yield BatchDescription(
            pass_number=header.pass_number,
            offset=batch.offset,
            first_lsn=header.first_lsn,
            last_lsn=header.last_lsn,
            epoch=header.epoch,
            durable_lsn=header.durable_lsn,
            checkpoint_lsn=header.checkpoint_lsn,
            payload_bytes=header.payload_bytes,
            digest=batch.digest,
            records=[
                RecordDescription(
                    lsn=record.lsn,
                    kind=RecordKind(record.kind).name.lower(),
                    start=record.start,
                    end=record.start + record.size_bytes,
                )
                for record in batch.records
            ],
        )
