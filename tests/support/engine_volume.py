"""A volume of the real engine in a directory, for tests of what serves it."""

from pathlib import Path

from holdfast.model.limits import MIB
from holdfast.stores.blocks.posix import open_block_files
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.volumes.engine.files import FILE_NAMES, VolumeFiles
from holdfast.volumes.engine.opening import create_volume, open_volume
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import Geometry, VolumeSpec

LOG_BYTES = 16 * MIB


def make_volume(directory: Path, size_bytes: int, *, log_bytes: int = LOG_BYTES) -> Volume:
    """Create a volume with a small log, so that it goes round often, and open it."""
    directory.mkdir(parents=True)
    geometry = Geometry(size_bytes=size_bytes, segment_bytes=log_bytes // 2)
    files = VolumeFiles.of(open_block_files(directory, FILE_NAMES, create=True))
    try:
        create_volume(files, VolumeSpec(geometry=geometry), SystemEntropy(), SystemClock())
    finally:
        files.close()
    return reopen_volume(directory)


def reopen_volume(directory: Path) -> Volume:
    """Open a volume that was closed, or left by a process that died."""
    files = VolumeFiles.of(open_block_files(directory, FILE_NAMES))
    return open_volume(files, entropy=SystemEntropy(), clock=SystemClock())
