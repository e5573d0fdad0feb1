"""What front ends need of a volume, whoever keeps it: the engine, or a snapshot of it.

One owner calls all of this; nothing in it waits, but for reads and writes of the page cache. Long
work is handed out as jobs: `begin_x` in the owner, `run` in a helper thread, `finish_x` in the
owner again. The engine's `Volume` is one of these; engine/volume.py has the contract of each call.
"""

from collections.abc import Sequence
from typing import Protocol

from holdfast.errors import HoldfastError
from holdfast.volumes.model import (
    ChangedExtent,
    Extent,
    Geometry,
    Lsn,
    Stalled,
    VolumeState,
    WriteRun,
)


class Job(Protocol):
    """Work for a helper thread."""

    def run(self) -> None:
        """Do it; raise HoldfastError where it cannot be done."""
        ...


class ServedVolume(Protocol):
    """A volume as front ends use it. Any call may raise HoldfastError; then nothing happened."""

    @property
    def geometry(self) -> Geometry:
        """Its sizes; the visible one may grow."""
        ...

    @property
    def state(self) -> VolumeState:
        """What it is fit for."""
        ...

    @property
    def last_lsn(self) -> Lsn:
        """LSN of the last change."""
        ...

    @property
    def durable_lsn(self) -> Lsn:
        """Every change up to this one survives loss of power."""
        ...

    @property
    def log_fraction(self) -> float:
        """How full its log is."""
        ...

    def write_run(self, run: WriteRun) -> Lsn | Stalled:
        """Write all requests of a run in their order; return the LSN of the last."""
        ...

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `start`."""
        ...

    def read_run(self, run: Sequence[tuple[int, memoryview]]) -> int:
        """Fill buffers in order up to the first that fails; raise only if that is the first."""
        ...

    def trim(self, start: int, size_bytes: int) -> Lsn | Stalled:
        """Make a range zeros, giving its space back."""
        ...

    def zero(self, start: int, size_bytes: int, *, punch: bool) -> Lsn | Stalled:
        """Make a range zeros; without `punch` its space stays."""
        ...

    def allocation(self, start: int, size_bytes: int) -> list[Extent]:
        """Tell holes from data, in order; neighbours that are alike are one."""
        ...

    def changed_since(self, lsn: Lsn, start: int, size_bytes: int) -> list[ChangedExtent]:
        """Tell what may have changed after `lsn`, in order."""
        ...

    def check_writable(self) -> None:
        """Raise unless what is durable may be acknowledged now."""
        ...

    def begin_sync(self) -> Job | None:
        """Begin to make all changes so far durable; None if they are."""
        ...

    def finish_sync(self, job: Job, error: HoldfastError | None) -> None:
        """Take note of its end; raise if what it covers may not be acknowledged."""
        ...

    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint should begin now."""
        ...

    def begin_checkpoint(self) -> Job | None:
        """Begin to move logged data home; None if there is nothing to move."""
        ...

    def finish_checkpoint(self, job: Job, error: HoldfastError | None) -> Job | None:
        """Take note of the end of a job of a checkpoint; return its next one, if any."""
        ...
