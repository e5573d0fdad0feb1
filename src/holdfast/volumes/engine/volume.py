"""An open volume: the one owner of its order, its maps and its files.

Everything here is called by one thread, the owner. Long work is a job: `begin_x` makes it, its
`run` may be called on another thread, `finish_x` takes note of its end in the owner. Nothing here
waits but for the medium. Not here: connections, deadlines and retries (the data process).

Invariants (numbers of the engine, cited by the tests):

1. After any crash and recovery the image is the changes up to some LSN p, with durable <= p <= last
   issued: no hole, no other order.
2. What was acknowledged by `finish_sync` without an error survives.
3. A change that was not acknowledged is whole or absent.
4. Recovering is idempotent; a crash while recovering loses nothing.
5. What is written after a recovery is as safe as what was before.
6. A torn or lost superblock leaves the volume openable.
7. `checkpoint_lsn` only grows, and everything up to it is home and flushed.
8. For each block the greatest LSN counts.
9. A block overwritten while it is carried home keeps the newer data.
10. A read never returns bytes of a place that was used again.
11. Bytes of an earlier pass, run or volume are never replayed.
12. Damage of what was durable is loud: state DAMAGED with the LSN range, or an error naming bytes.
13. There is no hole in the LSNs; a failed write leaves none.
14. Requests that are empty, too large or outside are refused before anything changes.
15. After a trim the range reads as zeros, in memory, at home and after a crash.
16. Neighbours of partial blocks keep their bytes.
17. A change that does not fit is Stalled without side effect; a checkpoint makes room.
18. A sync covers what was appended before it began; a failed one poisons, and nothing is ever
    acknowledged afterwards.
19. Nothing is acknowledged by a fenced copy; epochs never go back.
20. Reads of a fenced copy are refused unless asked for.
21. An expansion leaves the old or the new size; new space reads as zeros.
22. After a clean close nothing is replayed.
23. A read sees every change before it and none after.
24. A scrub finds every damaged block, and nothing else.
"""

from collections.abc import Sequence
from typing import Final

from holdfast.errors import HoldfastError, IntegrityError, StateError, StorageFailedError
from holdfast.ports import Buffer, Clock
from holdfast.volumes import rules
from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.checkpoint import (
    CheckpointJob,
    CheckpointPlan,
    PublishJob,
    plan_checkpoint,
)
from holdfast.volumes.engine.core import VolumeCore
from holdfast.volumes.engine.dirty import NOWHERE
from holdfast.volumes.engine.files import Job, SyncJob, VolumeFiles
from holdfast.volumes.engine.formats import FLAG_CLEAN
from holdfast.volumes.engine.log import Log
from holdfast.volumes.engine.looking import allocation, changed_since
from holdfast.volumes.engine.slots import Allocator
from holdfast.volumes.engine.superblocks import SuperblockStore
from holdfast.volumes.model import (
    BLOCK_BYTES,
    REQUEST_BYTES_MAX,
    ChangedExtent,
    Extent,
    Fence,
    LostRange,
    Lsn,
    Role,
    Stalled,
    VolumeState,
    WriteRun,
)

RETRY_NS: Final = 1_000_000_000
"""A checkpoint that failed for want of room is tried again after this."""


class Volume(VolumeCore):
    """See the module. Made by opening.open_volume."""

    def __init__(
        self,
        *,
        files: VolumeFiles,
        store: SuperblockStore,
        maps: Maps,
        log: Log,
        allocator: Allocator,
        clock: Clock,
        interval_ns: int,
        stale_reads: bool,
        damage: str,
        lost: LostRange | None,
        salvage: bool,
        frozen_lsn: Lsn,
    ) -> None:
        super().__init__(
            files=files,
            store=store,
            maps=maps,
            log=log,
            allocator=allocator,
            clock=clock,
            damage=damage,
            lost=lost,
        )
        self.stale_reads = stale_reads
        self._interval_ns = interval_ns
        self._reads_refused = bool(damage) and not salvage
        self._frozen_lsn = frozen_lsn
        self._plan: CheckpointPlan | None = None
        self._syncing: SyncJob | None = None
        self._placed_synced = 0
        self._checkpointed_ns = clock.monotonic_ns()
        self._seen_lsn = log.last_lsn
        """When last asked for a checkpoint, and since when: how long nothing has changed."""
        self._seen_ns = self._checkpointed_ns

    def write_run(self, run: WriteRun) -> Lsn | Stalled:
        """Log a run of writes, whatever their size and alignment; return the LSN of the last.

        When this returns an LSN they are readable and survive a kill; only a sync makes them
        survive loss of power. A run of whole blocks, back to back, is one batch and one call.

        Raises:
            FencedError: The copy may not write.
            StorageFailedError, IntegrityError: It is poisoned or damaged.
            InvalidRequestError: A range is bad (`bad-range`); nothing happened.
            CapacityError, StorageFailedError: The medium refused; each request is whole or absent.
        """
        self.check_writable()
        return self.writer.write_run(run)

    def write(self, start: int, data: Buffer) -> Lsn | Stalled:
        """Write at any place; from `slot_bytes` on whole slots are stored once, outside the log."""
        self.check_writable()
        return self.writer.write(start, data)

    def trim(self, start: int, size_bytes: int) -> Lsn | Stalled:
        """Make a range read as zeros and give its whole slots back after the next checkpoint."""
        self.check_writable()
        return self.writer.trim(start, size_bytes)

    def zero(self, start: int, size_bytes: int, *, punch: bool) -> Lsn | Stalled:
        """As `trim`; without `punch` space is taken for later writes.

        Without `punch`, from a slot's size on, it is no one change: it may be Stalled, or cut short
        by a crash, with a part of it done; the same call again goes on where it was.
        """
        self.check_writable()
        return self.writer.zero(start, size_bytes, punch=punch)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` (a part of the reply) from byte `start`; every block is checked.

        Raises:
            IntegrityError: `block-damaged` names the range; `volume-damaged`: see `lost`.
            FencedError: This copy may not be read (invariant 20).
        """
        if self.state is VolumeState.CLOSED or self._reads_refused:
            self._refuse_read()
        if not self.stale_reads:
            self.authority.check()
        size_bytes = len(buffer)
        self.writer.check_range(start, size_bytes, REQUEST_BYTES_MAX)
        head = start % BLOCK_BYTES
        if not head and not size_bytes % BLOCK_BYTES:
            self.reader.read_into(start, buffer)
            return
        whole = memoryview(bytearray(head + size_bytes + -(head + size_bytes) % BLOCK_BYTES))
        self.reader.read_into(start - head, whole)
        buffer[:] = whole[head : head + size_bytes]

    def read_run(self, run: Sequence[tuple[int, memoryview]]) -> int:
        """Do as `read_into` for each (start, buffer) up to the first that fails; return how many.

        Raises:
            IntegrityError, FencedError, ...: As `read_into`, if it is the first one that fails.
        """
        if self.state is VolumeState.CLOSED or self._reads_refused:
            self._refuse_read()
        if not self.stale_reads:
            self.authority.check()
        last_start = self.geometry.size_bytes - BLOCK_BYTES
        read_block = self.reader.read_block
        done = 0
        try:
            for start, buffer in run:
                is_block = len(buffer) == BLOCK_BYTES and not start & BLOCK_BYTES - 1
                if is_block and 0 <= start <= last_start:
                    read_block(start, buffer)
                else:
                    self.read_into(start, buffer)
                done += 1
        except HoldfastError:
            if not done:
                raise
        return done

    def allocation(self, start: int, size_bytes: int) -> list[Extent]:
        """Tell holes from data; merged, in order, together exactly `size_bytes`."""
        self.writer.check_range(start, size_bytes, self.geometry.size_bytes)
        return allocation(self.maps, self.checks, self.geometry, start, size_bytes)

    def changed_since(self, lsn: Lsn, start: int, size_bytes: int) -> list[ChangedExtent]:
        """Tell what may have changed after `lsn`: a superset, in whole slots."""
        self.writer.check_range(start, size_bytes, self.geometry.size_bytes)
        return changed_since(self.maps, self.geometry, lsn, start, size_bytes)

    def begin_sync(self) -> Job | None:
        """Begin to make all changes so far durable; None if they are. One at a time.

        Raises:
            StorageFailedError, IntegrityError: See check_usable.
            FencedError: Even what is durable must not be acknowledged (invariant 19).
            StateError: `sync-running`: finish that one first.
        """
        self.check_writable()
        if self.log.durable_lsn >= self.log.last_lsn:
            return None
        if self._syncing is not None:
            raise StateError("a sync of the volume is running already", code="sync-running")
        self._syncing = self._new_sync()
        return self._syncing

    def finish_sync(self, job: Job, error: HoldfastError | None) -> None:
        """Take note of the end of a sync: `durable_lsn` moves, or the volume is poisoned.

        Raises:
            FencedError: It is durable, but must not be acknowledged (invariant 19).
            StorageFailedError: `volume-poisoned`, now or before.
        """
        assert isinstance(job, SyncJob)
        assert job is self._syncing
        self._syncing = None
        if error is not None:
            self.poison(error)
        self.check_usable()
        self._take_sync(job)
        self.authority.check()

    def wants_checkpoint(self) -> bool:
        """Return whether to call begin_checkpoint now; cheap: ask after each batch and on ticks."""
        if self.carrying is not None or self.state is not VolumeState.HEALTHY:
            return False
        now_ns = self.clock.monotonic_ns()
        if self.maps.frozen is not None:
            return now_ns >= self._checkpointed_ns
        if self.log.last_lsn != self._seen_lsn:
            self._seen_lsn, self._seen_ns = self.log.last_lsn, now_ns
        return rules.wants_checkpoint(
            self.writer.fill_fraction(),
            idle_ns=now_ns - self._seen_ns,
            interval_ns=self._interval_ns,
        )

    @property
    def checkpoint_age_ns(self) -> int:
        """How long something has been waiting to be carried home, at most; 0 if nothing is."""
        if self.log.checkpoint_lsn == self.log.last_lsn:
            return 0
        return max(0, self.clock.monotonic_ns() - self._checkpointed_ns)

    def begin_checkpoint(self) -> Job | None:
        """Begin to carry logged data home; None if there is nothing, or one runs."""
        self.check_usable()
        if self.carrying is not None:
            return None
        if self.maps.frozen is None:
            if (not self.maps.active.weight and not self.log.used) or self.log.frozen_used:
                return None
            self._frozen_lsn = self.log.last_lsn
            self.log.rotate()
            self.maps.freeze(self.geometry)
        if self._plan is None:
            self._plan = plan_checkpoint(self.maps, self.allocator, self._frozen_lsn)
        is_durable = self.log.durable_lsn >= self._plan.lsn
        sync = None if is_durable else self._new_sync()
        self.carrying = CheckpointJob(self.files, self._plan, self.maps.table, sync)
        self._checkpointed_ns = self.clock.monotonic_ns()
        return self.carrying

    def finish_checkpoint(self, job: Job, error: HoldfastError | None) -> Job | None:
        """Take note of the end of a job of a checkpoint; return the next one of it to run, if any.

        An error is not raised: a full medium is tried again later, rot in the log makes the volume
        DAMAGED, anything else poisons it.
        """
        assert job is self.carrying
        self.carrying = None
        if error is not None:
            self._fail_checkpoint(job, error)
            return None
        if self.state is not VolumeState.HEALTHY:
            return None
        try:
            if isinstance(job, CheckpointJob):
                self.carrying = self._publish(job)
                return self.carrying
            assert isinstance(job, PublishJob)
            self._finish_publish(job)
        except StorageFailedError as failure:
            self.poison(failure)
        return None

    def fence(self, epoch: int, role: Role, lease_end_ns: int | None) -> None:
        """Take an assignment; durable before a promotion takes effect (invariant 19).

        Raises:
            FencedError: `epoch-old`: it is older than the one in force.
        """
        self.authority.check_epoch(epoch)
        fence = Fence(epoch=epoch, role=role, lease_end_ns=lease_end_ns)
        old = self.authority.now
        if (old.epoch, old.role) != (epoch, role):
            self.check_usable()
            if role is not Role.PRIMARY:
                self.authority.now = fence
            self.write_superblock(epoch=epoch, role=role)
        self.authority.now = fence
        self.log.epoch = epoch

    def close(self) -> None:
        """Carry everything home and release the files; the next open replays nothing.

        A volume that is poisoned or damaged is released as it is.

        Raises:
            StateError: `job-running`: finish it first; nothing happened.
            CapacityError, StorageFailedError: Released, but the next open has something to replay.
        """
        if self.carrying is not None or self._syncing is not None:
            raise StateError("a job of the volume is running", code="job-running")
        try:
            if self.state is VolumeState.HEALTHY:
                self._drain()
                if self.state is VolumeState.HEALTHY:
                    flags = self.store.current.flags | FLAG_CLEAN
                    self.write_superblock(flags=flags, durable_lsn=self.log.durable_lsn)
        finally:
            self.state = VolumeState.CLOSED
            self.files.close()

    def begin_run(self, nonce: bytes) -> None:
        """Part this run from what an earlier one may have left; once, by open_volume."""
        # An earlier process may have been killed before it flushed the table: what was read must
        # stay, or a slot that it no longer refers to is in it again after a loss of power.
        self.files.slots.fdatasync()
        if not self.log.has_room(len(nonce)):
            self._make_room()
        self.log.append_mark(nonce)
        self.files.extent.fdatasync()
        self.files.log.fdatasync()
        self.log.durable_lsn = self.log.last_lsn
        current = self.store.current
        self.write_superblock(
            flags=current.flags & ~FLAG_CLEAN,
            durable_lsn=self.log.durable_lsn,
            prepared_bytes=0,
            prepared_epoch=0,
        )
        self.write_hint()

    def _make_room(self) -> None:
        """Go on in the other segment, carrying home what it holds if need be."""
        while self.log.frozen_used:
            self._run_checkpoint()
        self._frozen_lsn = self.log.last_lsn
        self.log.rotate()
        self.maps.freeze(self.geometry)

    def _drain(self) -> None:
        """Run checkpoints here until the log is empty."""
        while self.state is VolumeState.HEALTHY and (self.log.used or self.maps.frozen is not None):
            self._run_checkpoint()

    def _run_checkpoint(self) -> None:
        job = self.begin_checkpoint()
        while job is not None:
            try:
                job.run()
            except HoldfastError as error:
                self.finish_checkpoint(job, error)
                raise
            job = self.finish_checkpoint(job, None)

    def _new_sync(self) -> SyncJob:
        placed = self.writer.placed_writes
        has_placed = placed > self._placed_synced
        return SyncJob(self.files, self.log.last_lsn, placed=placed, has_placed=has_placed)

    def _take_sync(self, job: SyncJob) -> None:
        self._placed_synced = max(self._placed_synced, job.placed)
        if job.lsn > self.log.durable_lsn:
            self.log.durable_lsn = job.lsn
            self.write_hint()

    def _publish(self, job: CheckpointJob) -> PublishJob:
        plan, table = job.plan, self.maps.table
        replaced = table.put(job.changes, plan.lsn)
        released = {*plan.frozen.releases, *(old for _, old in replaced)}
        trimmed = [old for slot, old in replaced if job.changes[slot] == NOWHERE]
        self.checks.adopt(job.pages)
        self.maps.frozen = None
        self._plan = None
        self.log.checkpoint_lsn = plan.lsn
        if job.sync is not None:
            self._take_sync(job.sync)
        self.store.write(
            self.store.current.next(
                flags=self.store.current.flags & ~FLAG_CLEAN,
                checkpoint_lsn=plan.lsn,
                pass_number=self.log.pass_number,
                chain=self.log.start_chain,
                durable_lsn=self.log.durable_lsn,
            )
        )
        return PublishJob(
            self.files,
            plan.lsn,
            released=sorted(released),
            trimmed=trimmed,
            slot_bytes=self.geometry.slot_bytes,
        )

    def _finish_publish(self, job: PublishJob) -> None:
        self.store.is_synced = True
        self.log.frozen_used = 0
        self.allocator.release(job.released)
        self.write_hint()

    def _fail_checkpoint(self, job: Job, error: HoldfastError) -> None:
        if isinstance(job, PublishJob):
            self.poison(error)  # Whether the superblock is durable is unknown.
        elif isinstance(error, IntegrityError):
            self.state = VolumeState.DAMAGED
            self.state_reason = error.message
        elif error.code == "disk-full":
            self._checkpointed_ns = self.clock.monotonic_ns() + RETRY_NS
        else:
            self.poison(error)

    def _refuse_read(self) -> None:
        if self.state is VolumeState.CLOSED:
            self.check_usable()
        raise IntegrityError(
            f"the volume is damaged: {self.state_reason}",
            code="volume-damaged",
            advice="restore it from a copy or a checkpoint, or open it to salvage what is left",
        )
