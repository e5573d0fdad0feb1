"""A tree whose entries are exchanged under the reader, on a real file system.

Goal: invariants 1 and 2 of stores/directories/posix.py: no symlink planted before or during the
work leads out of the root, and a FIFO blocks nobody. Method: a second process swaps a directory and
a symlink to the outside thousands of times while every method is called on paths through it.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import ConflictError, HoldfastError
from holdfast.model.tree import FileKind, Metadata
from holdfast.stores.directories.posix import PosixDirectory

METADATA = Metadata(
    mode=0o644, mtime_ns=1_500_000_000_000_000_000, uid=os.getuid(), gid=os.getgid()
)
SWAPS_S = 1.5
_RENAME_EXCHANGE = 2


def exchange(one: bytes, other: bytes) -> None:
    """Give two entries each other's name at once (renameat2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, one, -100, other, _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Have a process exchange two entries as fast as it can."""
    child = os.fork()
    if not child:
        while os.getppid() != 1:
            exchange(os.fsencode(one), os.fsencode(other))
        os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def make_trees(tmp_path: Path) -> tuple[Path, Path]:
    """Return a root holding `d` and a symlink `s` to the outside, and that outside."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    for directory in (root / "d", outside):
        (directory / "f").write_bytes(os.fsencode(directory))
        (directory / "victim").write_bytes(b"v")
    (root / "s").symlink_to(outside)
    return root, outside


def snapshot(directory: Path) -> list[tuple[str, bytes, int, int]]:
    return [
        (path.name, path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(directory.iterdir())
    ]


def use(tree: PosixDirectory, number: int) -> None:
    """Call every method that takes a path below `d`."""
    calls = (
        lambda: read(tree, b"d/f"),
        lambda: tree.create_file(b"d/made%d" % number, resume=False).close(),
        lambda: tree.create_file(b"d/f", resume=True).close(),
        lambda: tree.make_directory(b"d/dir%d" % number),
        lambda: tree.make_symlink(b"d/link%d" % number, b"x", METADATA),
        lambda: tree.make_hard_link(b"d/f", b"d/hard%d" % number),
        lambda: tree.set_metadata(b"d/f", FileKind.FILE, METADATA),
        lambda: tree.rename(b"d/made%d" % number, b"d/renamed%d" % number),
        lambda: tree.remove_file(b"d/victim"),
        lambda: tree.remove_directory(b"d/dir%d" % number),
        lambda: tree.flush_directory(b"d"),
        lambda: check_listed(tree),
    )
    for call in calls:
        with contextlib.suppress(HoldfastError):
            call()


def read(tree: PosixDirectory, path: bytes) -> None:
    file = tree.open_file(path)
    try:
        buffer = bytearray(1000)
        count = file.read_into(memoryview(buffer), 0)
        assert b"outside" not in buffer[:count]
    finally:
        file.close()


def check_listed(tree: PosixDirectory) -> None:
    assert b"only-outside" not in {name for name, _ in tree.list_names(b"d")}


def test_symlink_swapped_into_the_way_never_leads_outside(tmp_path: Path) -> None:
    """Invariant 1. A fresh adapter each round, so that no open descriptor helps it."""
    root, outside = make_trees(tmp_path)
    (outside / "only-outside").write_bytes(b"x")
    before = snapshot(outside)
    number = 0
    with swapping(root / "d", root / "s"):
        deadline = time.monotonic() + SWAPS_S
        while time.monotonic() < deadline:
            number += 1
            tree = PosixDirectory(os.fsencode(root))
            try:
                use(tree, number)
            finally:
                tree.close()
    assert number > 50
    assert snapshot(outside) == before


def test_descriptor_kept_open_stays_inside_too(tmp_path: Path) -> None:
    """Invariant 1, with one adapter for the whole time."""
    root, outside = make_trees(tmp_path)
    before = snapshot(outside)
    tree = PosixDirectory(os.fsencode(root))
    with swapping(root / "d", root / "s"):
        deadline = time.monotonic() + SWAPS_S
        number = 0
        while time.monotonic() < deadline:
            number += 1
            use(tree, number)
    tree.close()
    assert snapshot(outside) == before


@pytest.mark.timeout(20)
def test_fifo_never_blocks(tmp_path: Path) -> None:
    """Invariant 2: planted beforehand, nobody at its other end."""
    os.mkfifo(tmp_path / "p")
    tree = PosixDirectory(os.fsencode(tmp_path))
    with pytest.raises(ConflictError, match="not a regular file"):
        tree.open_file(b"p")
    for resume in (False, True):
        with pytest.raises(ConflictError, match="not a regular file"):
            tree.create_file(b"p", resume=resume)
    assert tree.stat(b"p").kind is FileKind.FIFO
    tree.close()


@pytest.mark.timeout(20)
def test_fifo_swapped_in_never_blocks(tmp_path: Path) -> None:
    """Invariant 2: what a race put in the place of a file is found after opening."""
    (tmp_path / "f").write_bytes(b"content")
    os.mkfifo(tmp_path / "p")
    tree = PosixDirectory(os.fsencode(tmp_path))
    found = {"file": 0, "other": 0}
    with swapping(tmp_path / "f", tmp_path / "p"):
        deadline = time.monotonic() + SWAPS_S
        while time.monotonic() < deadline:
            try:
                tree.open_file(b"f").close()
                found["file"] += 1
            except ConflictError:
                found["other"] += 1
    assert min(found.values()) > 0
    tree.close()
