"""A volume in a few lines, for tests of front ends: bytes in memory, and told what to do wrong.

It is a model to compare with, not an engine: everything happens at once, nothing is ever lost.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import HoldfastError
from holdfast.volumes.model import (
    ChangedExtent,
    Extent,
    Geometry,
    Lsn,
    Stalled,
    StallReason,
    VolumeState,
    WriteRun,
)
from holdfast.volumes.served import Job

BLOCK_BYTES = 4096


@dataclass(slots=True)
class _SyncJob:
    lsn: Lsn
    volume: "PlainVolume"

    def run(self) -> None:
        assert self.volume.flush_gate.wait(30)
        if self.volume.flush_error is not None:
            raise self.volume.flush_error


class _NoJob:
    def run(self) -> None:
        pass


class PlainVolume:
    """Keeps the bytes, and the LSN at which each block was last written."""

    def __init__(self, size_bytes: int) -> None:
        self.geometry = Geometry(size_bytes=size_bytes)
        self.state = VolumeState.HEALTHY
        self.last_lsn = Lsn(0)
        self.durable_lsn = Lsn(0)
        self.log_fraction = 0.0
        self.content = bytearray(size_bytes)
        self.written: dict[int, int] = {}
        self.trims: list[tuple[str, int, int]] = []
        self.runs: list[list[tuple[int, int]]] = []
        self.stalls_left = 0
        self.error: HoldfastError | None = None
        self.flush_error: HoldfastError | None = None
        self.flush_gate = threading.Event()
        """While it is clear, flushes take their time."""
        self.flush_gate.set()

    def write_run(self, run: WriteRun) -> Lsn | Stalled:
        """Copy the data; overwrite the headers, as the engine may."""
        if self._stalls():
            return Stalled(StallReason.LOG_FULL)
        for header_at, data_at, start, size_bytes in run.requests:
            data = bytes(run.buffer[data_at : data_at + size_bytes])
            assert len(data) == size_bytes
            run.buffer[header_at:data_at] = b"\xee" * (data_at - header_at)
            self.content[start : start + size_bytes] = data
            self._change(start, size_bytes)
        self.runs.append([(start, size_bytes) for _, _, start, size_bytes in run.requests])
        return self.last_lsn

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Copy the bytes."""
        if self.error is not None:
            raise self.error
        buffer[:] = self.content[start : start + len(buffer)]

    def read_run(self, run: Sequence[tuple[int, memoryview]]) -> int:
        """Copy all; the error counts for the first."""
        for start, buffer in run:
            self.read_into(start, buffer)
        return len(run)

    def trim(self, start: int, size_bytes: int) -> Lsn | Stalled:
        """Zero, and remember."""
        return self._zero("trim", start, size_bytes)

    def zero(self, start: int, size_bytes: int, *, punch: bool) -> Lsn | Stalled:
        """Zero, and remember."""
        return self._zero("punch" if punch else "keep", start, size_bytes)

    def allocation(self, start: int, size_bytes: int) -> list[Extent]:
        """Never-written blocks are holes."""
        extents: list[Extent] = []
        for size, is_changed in self.changed_since(Lsn(0), start, size_bytes):
            extents.append(Extent(size, not is_changed, not is_changed))
        return extents

    def changed_since(self, lsn: Lsn, start: int, size_bytes: int) -> list[ChangedExtent]:
        """Block by block, neighbours merged."""
        extents: list[ChangedExtent] = []
        end = start + size_bytes
        while start < end:
            following = min(end, (start // BLOCK_BYTES + 1) * BLOCK_BYTES)
            is_changed = self.written.get(start // BLOCK_BYTES, 0) > lsn
            size = following - start
            if extents and extents[-1].is_changed is is_changed:
                size += extents.pop().size_bytes
            extents.append(ChangedExtent(size, is_changed))
            start = following
        return extents

    def check_writable(self) -> None:
        """Raise what it was told to."""
        if self.error is not None:
            raise self.error

    def begin_sync(self) -> Job | None:
        """All of it."""
        if self.durable_lsn == self.last_lsn:
            return None
        return _SyncJob(self.last_lsn, self)

    def finish_sync(self, job: Job, error: HoldfastError | None) -> None:
        """Count it."""
        assert isinstance(job, _SyncJob)
        if error is None:
            self.durable_lsn = max(self.durable_lsn, job.lsn)

    def wants_checkpoint(self) -> bool:
        """Never."""
        return False

    def begin_checkpoint(self) -> Job | None:
        """One that moves nothing, and frees what stalls."""
        return _NoJob()

    def finish_checkpoint(self, job: Job, error: HoldfastError | None) -> Job | None:
        """Count down what stalls."""
        self.stalls_left = max(0, self.stalls_left - 1)
        return None

    def _zero(self, how: str, start: int, size_bytes: int) -> Lsn | Stalled:
        if self._stalls():
            return Stalled(StallReason.LOG_FULL)
        self.trims.append((how, start, size_bytes))
        self.content[start : start + size_bytes] = bytes(size_bytes)
        self._change(start, size_bytes)
        return self.last_lsn

    def _change(self, start: int, size_bytes: int) -> None:
        self.last_lsn = Lsn(self.last_lsn + 1)
        for block in range(start // BLOCK_BYTES, -(-(start + size_bytes) // BLOCK_BYTES)):
            self.written[block] = self.last_lsn

    def _stalls(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.stalls_left > 0
