"""An open volume: the one owner of its order, maps and files.

SKELETON: signatures stand; bodies follow.
"""

from dataclasses import dataclass
from typing import Protocol

from holdfast.errors import HoldfastError
from holdfast.ports import BlockFile, Buffer, Clock, Entropy
from holdfast.volumes.model import (
    ChangedExtent,
    Extent,
    Fence,
    Geometry,
    LostRange,
    Lsn,
    Role,
    Stalled,
    VolumeSpec,
    VolumeState,
    WriteRun,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFiles:
    """The open files of one volume; see docs/formats/volume.md."""

    meta: BlockFile
    log: BlockFile
    extent: BlockFile
    checks: BlockFile
    slots: BlockFile


class Job(Protocol):
    """Long work. `run` may be called on another thread; nothing else of the engine may."""

    def run(self) -> None:
        """Do it; raises HoldfastError, which goes to `finish_...` with the job."""
        ...


def create_volume(files: VolumeFiles, spec: VolumeSpec, entropy: Entropy, clock: Clock) -> None:
    """Write an empty volume into empty files; durable when this returns."""
    raise NotImplementedError


def open_volume(
    files: VolumeFiles, *, entropy: Entropy, clock: Clock, salvage: bool = False
) -> "Volume":
    """Recover a volume and return it; `salvage` lets what is left of a damaged one be read."""
    raise NotImplementedError


class Volume:
    """Everything is called by one thread, the owner; `Job.run` alone may be elsewhere."""

    geometry: Geometry
    state: VolumeState
    state_reason: str
    lost: LostRange | None
    fence_now: Fence
    last_lsn: Lsn
    durable_lsn: Lsn
    checkpoint_lsn: Lsn

    def write_run(self, run: WriteRun) -> Lsn | Stalled:
        """Log a run of writes as one batch; return the LSN of the last. Any sizes, any alignment."""
        raise NotImplementedError

    def write(self, start: int, data: Buffer) -> Lsn | Stalled:
        """Write at any place; from `slot_bytes` on the data is stored once, outside the log."""
        raise NotImplementedError

    def trim(self, start: int, size_bytes: int) -> Lsn | Stalled:
        """Make a range read as zeros and give its space back."""
        raise NotImplementedError

    def zero(self, start: int, size_bytes: int, *, punch: bool) -> Lsn | Stalled:
        """As trim; without `punch` space is kept, or taken, for later writes."""
        raise NotImplementedError

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` (a part of the reply) with the bytes from `start`, every block checked.

        There is no sendfile: what was checked is what is sent.
        """
        raise NotImplementedError

    def allocation(self, start: int, size_bytes: int) -> list[Extent]:
        """Tell holes from data; merged, in order, together exactly `size_bytes`."""
        raise NotImplementedError

    def changed_since(self, lsn: Lsn, start: int, size_bytes: int) -> list[ChangedExtent]:
        """Tell what may have changed after `lsn`: a superset, in slots."""
        raise NotImplementedError

    def begin_sync(self) -> Job | None:
        """Begin to make all changes so far durable; None if they are. One at a time."""
        raise NotImplementedError

    def finish_sync(self, job: Job, error: HoldfastError | None) -> None:
        """Take note of the end of a sync: `durable_lsn` moves, or the volume is poisoned."""
        raise NotImplementedError

    def wants_checkpoint(self) -> bool:
        """Whether begin_checkpoint should be called now (cheap; ask after each batch and on a tick)."""
        raise NotImplementedError

    def begin_checkpoint(self) -> Job | None:
        """Begin to move logged data home; None if there is nothing, or one runs."""
        raise NotImplementedError

    def finish_checkpoint(self, job: Job, error: HoldfastError | None) -> Job | None:
        """Take note of the end of a job of a checkpoint; return the next one of it to run, if any."""
        raise NotImplementedError

    def fence(self, epoch: int, role: Role, lease_end_ns: int | None) -> None:
        """Take an assignment: FencedError for an older epoch; durable before a promotion takes effect."""
        raise NotImplementedError

    def check_fence(self) -> None:
        """Raise FencedError unless this copy may acknowledge now. Writes and finish_sync ask it too."""
        raise NotImplementedError

    def close(self) -> None:
        """Checkpoint everything and close the files; the next open replays nothing."""
        raise NotImplementedError
