"""The open files of a volume, and long work on them.

1. A flush that failed is never tried again: whoever finishes the job poisons the volume.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.ports import BlockFile
from holdfast.volumes.model import Lsn

FILE_NAMES: Final = ("meta", "log", "extent", "checks", "slots")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFiles:
    """The open files of one volume; see docs/formats/volume.md."""

    meta: BlockFile
    log: BlockFile
    extent: BlockFile
    checks: BlockFile
    slots: BlockFile

    @classmethod
    def of(cls, files: Mapping[str, BlockFile]) -> "VolumeFiles":
        """Return the files by the names of FILE_NAMES."""
        return cls(**{name: files[name] for name in FILE_NAMES})

    def close(self) -> None:
        """Release all."""
        for file in (self.meta, self.log, self.extent, self.checks, self.slots):
            file.close()


class Job(Protocol):
    """Long work. `run` may be called on another thread; nothing else of the engine may."""

    def run(self) -> None:
        """Do it; raises HoldfastError, which goes to `finish_...` with the job."""
        ...


class SyncJob:
    """Makes the log durable up to `lsn`: first the data of placed slots, then their records."""

    def __init__(self, files: VolumeFiles, lsn: Lsn, *, placed: int, has_placed: bool) -> None:
        self.files = files
        self.lsn = lsn
        self.placed = placed
        """Writes of placed data that this covers."""
        self.has_placed = has_placed

    def run(self) -> None:
        """See Job.run."""
        if self.has_placed:
            self.files.extent.fdatasync()
        self.files.log.fdatasync()
