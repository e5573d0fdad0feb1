"""Makes a volume, and opens one: recovery from whatever a crash left.

Order of an opening, and the crash each step survives: everything is read first, which changes
nothing. The slot table is flushed as it was read: what is taken for free now is free after a loss
of power. Then a mark goes to the end of the log and what was found is flushed, so that whatever is
shown from now on is durable; then a superblock. Power lost at any point leaves a log that ends at
the same LSN or, before the flush, is read anew.

1. Nothing is written into a volume that is damaged.
2. A record of placed slots behind what is known to be durable counts only if its data is there:
   the log ends before the first whose data is not.
3. What was durable and is no more is never passed over: the volume opens DAMAGED.
"""

from dataclasses import dataclass

from holdfast.errors import IntegrityError, StateError
from holdfast.ports import BlockFile, Clock, Entropy
from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.checks import verify_blocks
from holdfast.volumes.engine.dirty import NOWHERE, DirtyMap
from holdfast.volumes.engine.files import VolumeFiles
from holdfast.volumes.engine.formats import (
    BATCH_HEADER_BYTES,
    FLAG_CLEAN,
    META_BYTES,
    NONCE_BYTES,
    SECTOR_BYTES,
    Superblock,
    encode_superblock,
    zero_check,
)
from holdfast.volumes.engine.log import Log
from holdfast.volumes.engine.recovery import LogEnd, LogReader, find_lost
from holdfast.volumes.engine.slots import Allocator, SlotTable, sectors_count
from holdfast.volumes.engine.superblocks import SuperblockStore, newest_superblock, read_hint
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import BLOCK_BYTES, LostRange, Lsn, Role, VolumeSpec

_ZEROS_BYTES = 1 << 20


def create_volume(files: VolumeFiles, spec: VolumeSpec, entropy: Entropy, clock: Clock) -> None:
    """Write an empty volume into empty files; durable (their names aside) when this returns.

    The log is written through once, so that later flushes of it change no metadata.

    Raises:
        StateError: `volume-exists`: there is a superblock already.
    """
    if files.meta.size_bytes():
        raise StateError("there is a volume in these files already", code="volume-exists")
    geometry = spec.geometry
    superblock = Superblock(
        generation=1,
        volume_id=entropy.random_bytes(16),
        incarnation=int.from_bytes(entropy.random_bytes(8), "little"),
        geometry=geometry,
        flags=spec.flags | FLAG_CLEAN,
        checkpoint_lsn=Lsn(0),
        pass_number=1,
        chain=int.from_bytes(entropy.random_bytes(8), "little"),
        durable_lsn=Lsn(0),
        epoch=0,
        role=Role.PRIMARY,
        prepared_bytes=0,
        prepared_epoch=0,
        created_ns=clock.now_ns(),
    )
    write_zeros(files.log, 0, 2 * geometry.segment_bytes)
    empty = SlotTable(0, superblock.incarnation)
    empty.write_sectors(files.slots, range(sectors_count(geometry.slots_count)), {}, 0)
    for file in (files.log, files.slots, files.extent, files.checks):
        file.fdatasync()
    files.meta.pwrite(bytes(META_BYTES), 0)
    files.meta.pwrite(encode_superblock(superblock), SECTOR_BYTES * 8)
    files.meta.fdatasync()


def write_zeros(file: BlockFile, start: int, end: int) -> None:
    """Write zeros, as data and not as a hole."""
    zeros = bytes(_ZEROS_BYTES)
    for at in range(start, end, _ZEROS_BYTES):
        file.pwrite(memoryview(zeros)[: min(_ZEROS_BYTES, end - at)], at)


@dataclass(slots=True)
class _Recovered:
    """What the files hold."""

    maps: Maps
    end: LogEnd
    lost: LostRange | None
    damage: str


def open_volume(
    files: VolumeFiles,
    *,
    entropy: Entropy,
    clock: Clock,
    checkpoint_interval_ms: int = 100,
    stale_reads: bool = False,
    salvage: bool = False,
) -> Volume:
    """Recover a volume and return it.

    Its `state` is HEALTHY, or DAMAGED: then nothing is written, and reads are refused unless
    `salvage`.

    Args:
        files: Open, and nobody else's.
        entropy: For the mark of this opening.
        clock: For leases and the interval.
        checkpoint_interval_ms: How long nothing must change for what is logged to be carried home;
            sooner when the log fills.
        stale_reads: Let a copy be read that is not primary, or whose lease ended.
        salvage: Let what is left of a damaged volume be read; it may be older than what was lost.

    Raises:
        IntegrityError: `superblock-damaged`: there is nothing to go by.
        UnsupportedError: `format-newer`.
    """
    superblock = newest_superblock(files.meta)
    recovered = _recover(files, superblock)
    allocator = Allocator()
    twice = allocator.load(recovered.maps.used_physical())
    if twice and not recovered.damage:
        recovered.damage = f"physical slot {twice[0]} belongs to two slots"
    end = recovered.end
    log = Log(
        files.log,
        segment_bytes=superblock.geometry.segment_bytes,
        incarnation=superblock.incarnation,
        pass_number=end.pass_number,
        chain=end.chain,
    )
    log.used, log.frozen_used, log.start_chain = end.used, end.frozen_used, end.start_chain
    log.last_lsn, log.checkpoint_lsn = end.last_lsn, superblock.checkpoint_lsn
    log.epoch = superblock.epoch
    store = SuperblockStore(files.meta, superblock)
    volume = Volume(
        files=files,
        store=store,
        maps=recovered.maps,
        log=log,
        allocator=allocator,
        clock=clock,
        interval_ns=checkpoint_interval_ms * 1_000_000,
        stale_reads=stale_reads,
        damage=recovered.damage,
        lost=recovered.lost,
        salvage=salvage,
        frozen_lsn=end.frozen_lsn,
    )
    if not recovered.damage:
        volume.begin_run(entropy.random_bytes(NONCE_BYTES))
    return volume


def _recover(files: VolumeFiles, superblock: Superblock) -> _Recovered:
    geometry = superblock.geometry
    table = SlotTable(geometry.slots_count, superblock.incarnation)
    table.load(files.slots)
    hint = read_hint(files.meta, superblock.incarnation)
    durable = max(superblock.durable_lsn, superblock.checkpoint_lsn)
    if hint is not None:
        durable = max(durable, hint.durable_lsn, hint.checkpoint_lsn)
    limit: int | None = None
    while True:
        maps = Maps(table, DirtyMap(geometry), None)
        known, end = _replay(files, superblock, maps, limit)
        missing = _first_missing(files, maps, max(known, durable))
        if missing is None:
            break
        limit = missing - 1
    lost = find_lost(files.log, superblock, end.last_lsn, durable)
    damage = ""
    if lost is not None:
        damage = f"changes {lost.first} to {lost.last} were durable and are missing from its log"
    elif table.damaged:
        damage = f"sector {min(table.damaged)} of its slot table is damaged"
    return _Recovered(maps=maps, end=end, lost=lost, damage=damage)


def _replay(
    files: VolumeFiles, superblock: Superblock, maps: Maps, limit: int | None
) -> tuple[int, LogEnd]:
    """Fill the maps from the log up to `limit`; return what it says was durable, and its end."""
    geometry = superblock.geometry
    reader = LogReader(files.log, superblock)
    known = 0
    pass_number = superblock.pass_number
    for batch in reader.batches(limit):
        if batch.header.pass_number != pass_number:
            pass_number = batch.header.pass_number
            maps.freeze(geometry)
        known = max(known, batch.header.durable_lsn)
        payload_at = batch.offset + BATCH_HEADER_BYTES
        for record in batch.records:
            maps.apply_record(geometry, record, batch.payload, payload_at)
    return known, reader.end


def _first_missing(files: VolumeFiles, maps: Maps, durable: int) -> int | None:
    """Return the LSN of the first placed slot behind `durable` whose data is not there."""
    missing: int | None = None
    geometry = maps.active.geometry
    buffer = memoryview(bytearray(geometry.slot_bytes))
    layers = list(maps.layers())
    for index, layer in enumerate(layers):
        for shard in layer.shards.values():
            for slot, placed in shard.slots.items():
                if placed.physical == NOWHERE or placed.lsn <= durable:
                    continue
                if missing is not None and placed.lsn >= missing:
                    continue
                if any(newer.slot_of(slot) is not None for newer in layers[:index]):
                    continue
                checks = list(placed.checks)
                first = slot * geometry.slot_blocks
                for at in range(geometry.slot_blocks):
                    if any(newer.block_of(first + at) is not None for newer in layers[: index + 1]):
                        checks[at] = zero_check(first + at)
                files.extent.pread_into(buffer, placed.physical * geometry.slot_bytes)
                try:
                    verify_blocks(buffer, first * BLOCK_BYTES, checks, "extent")
                except IntegrityError:
                    missing = placed.lsn
    return missing
