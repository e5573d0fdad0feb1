"""A volume on a simulated disk, beside an oracle: every image the volume has had, by LSN.

Nothing here repairs what it crashes: a crash drops the process and what was not flushed, and the
next volume is opened from the bytes that are left.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError
from holdfast.testing.clock import SimClock
from holdfast.testing.disk import SimDisk
from holdfast.testing.faults import PowerCutError
from holdfast.volumes.engine.files import FILE_NAMES, Job, SyncJob, VolumeFiles
from holdfast.volumes.engine.opening import create_volume, open_volume
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import (
    BLOCK_BYTES,
    Geometry,
    Lsn,
    Request,
    Stalled,
    VolumeSpec,
    VolumeState,
    WriteRun,
)

SMALL = Geometry(size_bytes=41 * BLOCK_BYTES, slot_bytes=2 * BLOCK_BYTES, segment_bytes=32 << 10)
"""Slots of two blocks, the last one half; half the log holds seven blocks."""


@dataclass
class CountingEntropy:
    """Chance that is none: each call other bytes, the same in every run."""

    calls: int = 0

    def random_bytes(self, count: int) -> bytes:
        """See Entropy.random_bytes."""
        self.calls += 1
        return (self.calls * 0x9E3779B97F4A7C15).to_bytes(16, "little")[:8].ljust(count, b"\x5a")


@dataclass
class Oracle:
    """What the volume must read as."""

    image: bytearray
    images: dict[int, bytes] = field(default_factory=dict)
    """By LSN, from the one that is surely durable on."""
    attempt: bytes | None = None
    """What a change that was not answered would have made of it."""

    def done(self, lsn: int, image: bytes) -> None:
        """Note a change that was answered."""
        self.image[:] = image
        self.images[lsn] = image
        self.attempt = None


class VolumeWorld:
    """Drives one volume and checks each answer; see the module."""

    def __init__(self, geometry: Geometry = SMALL) -> None:
        self.geometry = geometry
        self.disk = SimDisk()
        self.clock = SimClock()
        self.entropy = CountingEntropy()
        self.stamp = 0
        create_volume(self.files(), VolumeSpec(geometry=geometry), self.entropy, self.clock)
        self.volume = self.open()
        self.oracle = Oracle(image=bytearray(geometry.size_bytes))
        self.oracle.images[0] = bytes(self.oracle.image)
        self.durable = 0
        self.sync: Job | None = None
        self.checkpoint: Job | None = None
        self.stalls = 0
        self.is_syncing = self.is_stepping = False
        self.between: Callable[[], None] | None = None
        """What the owner does while a job runs."""

    def files(self) -> VolumeFiles:
        """Return the disk's files as a volume's."""
        return VolumeFiles.of({name: self.disk.file(name) for name in FILE_NAMES})

    def open(self) -> Volume:
        """Open the volume from what the disk holds."""
        return open_volume(self.files(), entropy=self.entropy, clock=self.clock)

    def data(self, size_bytes: int) -> bytes:
        """Return bytes that were never written before."""
        self.stamp += 1
        unit = self.stamp.to_bytes(8, "little")
        return (unit * (size_bytes // 8 + 1))[:size_bytes]

    def change(self, image: bytes, call: Callable[[], Lsn | Stalled]) -> bool:
        """Make a change that should lead to `image`; make room once if it stalls."""
        self.oracle.attempt = image
        answer = call()
        if isinstance(answer, Stalled):
            self.stalls += 1
            assert self.volume.last_lsn in self.oracle.images
            self.oracle.attempt = None
            if self.checkpoint is not None:
                return False
            between, self.between = self.between, None
            try:
                self.drain()
            finally:
                self.between = between
            self.oracle.attempt = image
            answer = call()
            if isinstance(answer, Stalled):
                self.oracle.attempt = None
                return False
        self.oracle.done(answer, image)
        return True

    def write(self, start: int, size_bytes: int) -> None:
        """Write new bytes anywhere."""
        data = self.data(size_bytes)
        image = bytearray(self.oracle.image)
        image[start : start + size_bytes] = data
        self.change(bytes(image), lambda: self.volume.write(start, data))

    def write_run(self, blocks: list[int]) -> None:
        """Write blocks as one run."""
        buffer = bytearray()
        requests = []
        image = bytearray(self.oracle.image)
        for block in blocks:
            data = self.data(BLOCK_BYTES)
            header_at = len(buffer)
            buffer += bytes(28) + data
            requests.append(Request(header_at, header_at + 28, block * BLOCK_BYTES, BLOCK_BYTES))
            image[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = data
        run = WriteRun(memoryview(buffer), requests)
        self.change(bytes(image), lambda: self.volume.write_run(run))

    def trim(self, start: int, size_bytes: int) -> None:
        """Trim anything."""
        image = bytearray(self.oracle.image)
        image[start : start + size_bytes] = bytes(size_bytes)
        self.change(bytes(image), lambda: self.volume.trim(start, size_bytes))

    def zero_kept(self, slot: int, count: int) -> None:
        """Zero whole slots and keep their space."""
        start, size_bytes = slot * self.geometry.slot_bytes, count * self.geometry.slot_bytes
        image = bytearray(self.oracle.image)
        image[start : start + size_bytes] = bytes(size_bytes)
        self.change(bytes(image), lambda: self.volume.zero(start, size_bytes, punch=False))

    def read(self, start: int, size_bytes: int) -> None:
        """Read and compare (invariants 10, 23)."""
        buffer = memoryview(bytearray(size_bytes))
        self.volume.read_into(start, buffer)
        assert buffer == self.oracle.image[start : start + size_bytes]

    def begin_sync(self) -> None:
        """Begin a sync, if none runs."""
        if self.sync is None:
            self.sync = self.volume.begin_sync()

    def finish_sync(self) -> None:
        """Run the sync that was begun, and take what it covers as durable (invariant 18)."""
        if self.sync is None or self.is_syncing:
            return
        job = self.sync
        assert isinstance(job, SyncJob)
        covered = job.lsn
        self.is_syncing = True
        failure = None
        try:
            self.run(job)
        except HoldfastError as error:
            failure = error
        self.sync, self.is_syncing = None, False
        self.volume.finish_sync(job, failure)
        assert self.volume.durable_lsn >= covered
        self.mark_durable(covered)

    def mark_durable(self, lsn: int) -> None:
        """Take an LSN as promised."""
        self.durable = max(self.durable, lsn)
        for old in [old for old in self.oracle.images if old < self.durable]:
            del self.oracle.images[old]

    def flush(self) -> None:
        """Sync everything."""
        self.finish_sync()
        self.begin_sync()
        self.finish_sync()

    def begin_checkpoint(self) -> None:
        """Begin a checkpoint, if none runs."""
        if self.checkpoint is None:
            self.checkpoint = self.volume.begin_checkpoint()

    def step_checkpoint(self) -> None:
        """Run one job of the checkpoint."""
        if self.checkpoint is None or self.is_stepping:
            return
        job = self.checkpoint
        self.is_stepping = True
        before = self.volume.log.checkpoint_lsn
        try:
            self.run(job)
        except HoldfastError as error:
            self.is_stepping = False
            self.checkpoint = self.volume.finish_checkpoint(job, error)
        else:
            self.is_stepping = False
            self.checkpoint = self.volume.finish_checkpoint(job, None)
        assert self.volume.log.checkpoint_lsn >= before

    def run(self, job: Job) -> None:
        """Run a job, with what `between` does before each of its writes and flushes."""
        self.disk.between = self.between
        job.run()
        self.disk.between = None

    def settle(self) -> None:
        """Finish the checkpoint that runs, if one does."""
        while self.checkpoint is not None:
            self.step_checkpoint()

    def drain(self) -> None:
        """Checkpoint until there is nothing to do."""
        for _ in range(2):
            self.begin_checkpoint()
            while self.checkpoint is not None:
                self.step_checkpoint()

    def check(self) -> None:
        """Compare the whole image."""
        self.read(0, self.volume.geometry.size_bytes)

    def reopen_clean(self) -> None:
        """Close and open (invariant 22)."""
        while self.checkpoint is not None:
            self.step_checkpoint()
        self.finish_sync()
        self.volume.close()
        replayed_from = self.volume.last_lsn
        self.volume = self.open()
        assert not self.volume.maps.active.weight
        assert self.volume.last_lsn == replayed_from
        self.mark_durable(replayed_from)
        self.check()

    def crash(self, seed: int, *, keep: float, cut_again: int | None, kill: bool = False) -> None:
        """Lose the process, and the power unless `kill`; open; compare (invariants 1 to 5)."""
        self.sync = self.checkpoint = None
        self.is_syncing = self.is_stepping = False
        if kill:
            self.disk.kill()
        else:
            self.disk.crash(seed, keep)
        if cut_again is not None:
            self.disk.faults.power_cut_at = self.disk.counts["operations"] + cut_again
            try:
                self.open()
            except PowerCutError:
                self.disk.crash(seed + 1, keep)
            self.disk.kill()
        self.volume = self.open()
        assert self.volume.state is VolumeState.HEALTHY, self.volume.state_reason
        found = bytearray(self.volume.geometry.size_bytes)
        self.volume.read_into(0, memoryview(found))
        lsn = self.volume.last_lsn
        assert lsn >= self.durable
        size_bytes = len(found)
        image = self.oracle.images.get(lsn)
        if image is not None and found == image.ljust(size_bytes, b"\0"):
            pass
        else:
            assert self.oracle.attempt is not None
            assert lsn > max(self.oracle.images)
            assert found == self.oracle.attempt.ljust(size_bytes, b"\0")
        self.oracle.attempt = None
        self.oracle.image = found
        self.oracle.images = {lsn: bytes(found)}
        self.durable = lsn
        # Open again: recovery is idempotent (invariant 4), and nothing more was lost by looking.
        assert self.volume.durable_lsn == lsn
