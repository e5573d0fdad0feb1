"""Two entries that are exchanged under the reader, by a process of its own."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_RENAME_EXCHANGE = 2


def exchange(one: bytes, other: bytes) -> None:
    """Give two entries each other's name at once (renameat2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, one, -100, other, _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextlib.contextmanager
def swapping(one: Path, other: Path, *, pause_s: float = 0.0) -> Iterator[None]:
    """Have a process exchange two entries, as fast as it can unless told; one may be missing."""
    child = os.fork()
    if not child:
        while os.getppid() != 1:
            with contextlib.suppress(FileNotFoundError):
                exchange(os.fsencode(one), os.fsencode(other))
            if pause_s:
                time.sleep(pause_s)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
