"""BlockFile on a file of a local file system.

1. A full medium is CapacityError (`disk-full`), everything else it refuses StorageFailedError with
   the code of the call; a flush that fails is `flush-failed` always. No OSError leaves here.
2. After a flush that failed none succeeds, on whatever thread: the kernel tells of a failure once,
   and a flush beside it would hear of success.
"""

import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from holdfast.errors import ConflictError, StorageFailedError, UnsupportedError
from holdfast.ports import Buffer
from holdfast.stores.directories.errors import raise_translated

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_FALLOCATE = ctypes.CDLL(None, use_errno=True).fallocate
_FALLOCATE.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_ZEROS: Final = bytes(1 << 20)
_PIECE_BYTES: Final = 64 << 10
"""Longest write of one call. The page cache keeps together what one call wrote, and ext4 looks at
all of it for each small write there later: 4 KiB take 5 us, after calls of 1 MiB 20 to 30."""


class PosixBlockFile:
    """One open file."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        self._path = os.fsencode(path)
        self._flushing = threading.Lock()
        self._flush_error: OSError | None = None
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise_translated(error, self._path, "read-failed")

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    def lock(self) -> None:
        """Take the file for this process alone; ConflictError (`volume-open`) if another has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"{os.fsdecode(self._path)} is open in another process",
                code="volume-open",
                advice="stop the process that serves this volume first",
            ) from error

    def pread_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """See BlockFile.pread_into."""
        try:
            count = os.preadv(self._fd, [buffer], offset_bytes)
            while 0 < count < len(buffer):
                more = os.preadv(self._fd, [buffer[count:]], offset_bytes + count)
                if not more:
                    break
                count += more
        except OSError as error:
            raise_translated(error, self._path, "read-failed")
        if count < len(buffer):
            buffer[count:] = bytes(len(buffer) - count)

    def pwrite(self, data: Buffer, offset_bytes: int) -> None:
        """See BlockFile.pwrite."""
        size_bytes, count = len(data), 0
        try:
            if size_bytes <= _PIECE_BYTES:
                count = os.pwrite(self._fd, data, offset_bytes)
                if count == size_bytes:
                    return
            view = memoryview(data)
            while count < size_bytes:
                piece = view[count : count + _PIECE_BYTES]
                count += os.pwrite(self._fd, piece, offset_bytes + count)
        except OSError as error:
            raise_translated(error, self._path, "write-failed")

    def pwritev(self, parts: Sequence[Buffer], offset_bytes: int) -> None:
        """See BlockFile.pwritev."""
        try:
            count = os.pwritev(self._fd, parts, offset_bytes)
        except OSError as error:
            raise_translated(error, self._path, "write-failed")
        if count == sum(map(len, parts)):
            return
        for part in parts:
            size = len(part)
            if count < size:
                self.pwrite(memoryview(part)[count:], offset_bytes + count)
                count = size
            offset_bytes += size
            count -= size

    def fdatasync(self) -> None:
        """See BlockFile.fdatasync."""
        with self._flushing:
            if self._flush_error is None:
                try:
                    os.fdatasync(self._fd)
                except OSError as error:
                    self._flush_error = error
            if self._flush_error is None:
                return
            # Whatever the reason, a full disk too: what is on the medium is unknown.
            raise StorageFailedError(
                f"{os.fsdecode(self._path)} could not be flushed: {self._flush_error.strerror}",
                code="flush-failed",
                advice="look at the kernel log and the health of the disk, then open it again",
                errno=self._flush_error.errno,
            )

    def punch(self, start: int, end: int) -> None:
        """See BlockFile.punch; writes zeros where the file system cannot punch."""
        try:
            self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, start, end)
        except UnsupportedError:
            for at in range(start, min(end, self.size_bytes()), len(_ZEROS)):
                self.pwrite(memoryview(_ZEROS)[: min(len(_ZEROS), end - at)], at)

    def allocate(self, start: int, end: int) -> None:
        """See BlockFile.allocate; does nothing where the file system cannot reserve."""
        try:
            self._fallocate(_KEEP_SIZE, start, end)
        except UnsupportedError:
            return

    def _fallocate(self, mode: int, start: int, end: int) -> None:
        while _FALLOCATE(self._fd, mode, start, end - start):
            number = ctypes.get_errno()
            if number != errno.EINTR:
                error = OSError(number, os.strerror(number))
                raise_translated(error, self._path, "write-failed")

    def truncate(self, size_bytes: int) -> None:
        """See BlockFile.truncate."""
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            raise_translated(error, self._path, "write-failed")

    def size_bytes(self) -> int:
        """See BlockFile.size_bytes."""
        try:
            return os.fstat(self._fd).st_size
        except OSError as error:
            raise_translated(error, self._path, "read-failed")

    def close(self) -> None:
        """See BlockFile.close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_block_files(
    directory: Path, names: Sequence[str], *, create: bool = False
) -> dict[str, PosixBlockFile]:
    """Open files in a directory by name, the first one locked: all are this process's alone.

    Raises:
        NotFoundError: One is missing (`no-entry`).
        ConflictError: `volume-open`: another process has them.
    """
    opened: dict[str, PosixBlockFile] = {}
    try:
        for name in names:
            opened[name] = PosixBlockFile(directory / name, create=create)
        opened[names[0]].lock()
    except BaseException:
        for file in opened.values():
            file.close()
        raise
    return opened
