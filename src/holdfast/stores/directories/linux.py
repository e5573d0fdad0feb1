"""System calls of Linux that the standard library lacks. Each raises OSError as `os` would."""

import ctypes
import os
import platform
import signal

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong]

_SYNC_FILE_RANGE_WRITE = 2
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_PR_SET_PDEATHSIG = 1
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
"""Number of the system call, which the C library does not wrap."""


def _check(result: int) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def syncfs(descriptor: int) -> None:
    """Flush the file system `descriptor` lies on; reports write errors since it was opened."""
    _check(_libc.syncfs(descriptor))


def start_writeback(descriptor: int, offset_bytes: int, size_bytes: int) -> None:
    """Begin to write dirty pages of a range, without waiting for them and without promise."""
    _check(_libc.sync_file_range(descriptor, offset_bytes, size_bytes, _SYNC_FILE_RANGE_WRITE))


def punch_hole(descriptor: int, start: int, end: int) -> None:
    """Give back the blocks of [start, end), which then reads as zeros; the size stays."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    _check(_libc.fallocate(descriptor, mode, start, end - start))


def give_way() -> None:
    """Let every other process go first, at the processor and at the disk; children inherit it."""
    os.nice(19)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        _check(_libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE << 13))


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as the thread that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)))
