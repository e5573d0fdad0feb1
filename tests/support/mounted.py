"""A file system on an NBD export, without the kernel's NBD: nbdkit, nbdfuse, a loop device, ext4.

nbdkit's retry filter stands before nbdfuse and connects anew when the server has died, as a
kernel's client told to would. Everything is taken down again, whatever the test did.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.support.volumes import ENVIRONMENT, need, run

PROGRAMS = ("nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "fsck.ext4", "mount", "umount")


def need_mounting() -> None:
    """Skip the test where such a file system cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            pytest.skip(f"there is no {device}")
    need(*PROGRAMS)


@contextmanager
def device(uri: str, place: Path) -> Iterator[str]:
    """Yield a loop device that is the export, which may die and come back at the same URI."""
    socket, bridge, file = place / "bridge.sock", place / "bridge.log", place / "device"
    file.touch()
    with ExitStack() as undo, open(bridge, "wb") as log:
        retry = ("retries=60", "retry-delay=1", "retry-exponential=no")
        kit = ("nbdkit", "-f", "-U", socket, "--filter=retry", "nbd", f"uri={uri}", *retry)
        undo.callback(socket.unlink, missing_ok=True)
        _start(undo, *kit, log=log)
        _until(socket.exists, "nbdkit to listen", bridge)
        _start(undo, "nbdfuse", file, f"nbd+unix:///?socket={socket}", log=log)
        undo.callback(_quietly, "umount", "-l", file)
        # An unmounted file is an empty plain one: a file system on that would be the host's.
        _until(lambda: file.stat().st_size > 0, "nbdfuse to mount", bridge)
        loop = run("losetup", "-f", "--show", file).strip()
        undo.callback(_quietly, "losetup", "-d", loop)
        yield loop


@contextmanager
def mounted(loop: str, place: Path) -> Iterator[Path]:
    """Yield where the ext4 file system of a device is mounted."""
    directory = place / "fs"
    directory.mkdir(exist_ok=True)
    run("mount", loop, directory)
    try:
        assert os.path.ismount(directory), "else all that follows would pass on the host's disk"
        yield directory
    finally:
        run("umount", directory)


def _start(undo: ExitStack, *command: str | Path, log: IO[bytes]) -> None:
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    undo.callback(process.wait)
    undo.callback(process.terminate)


def _quietly(*command: str | Path) -> None:
    subprocess.run(command, capture_output=True, check=False, timeout=60)


def _until(is_done: Callable[[], bool], what: str, log: Path) -> None:
    for _ in range(500):
        if is_done():
            return
        time.sleep(0.02)
    raise AssertionError(f"waited for {what}: {log.read_text()}")


def postgres_programs() -> Path:
    """Return where PostgreSQL's programs are, or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or shutil.which("su") is None:
        pytest.skip("PostgreSQL is not installed; see tools/deps")
    return found[-1].parent
