"""The contract of the Directory port where the medium says no: full, unreadable, other device.

Goal: the class and code of the error, and what is left behind, are the same for the simulated and
the real tree. Method: a fault plan there, a small tmpfs here, which only root can mount.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import CapacityError, UnsupportedError
from holdfast.ports import Directory, WritableFile
from holdfast.stores.directories.posix import PosixDirectory
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.trees import put_file, read_file


@pytest.fixture
def small_mount(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file system of 256 KiB mounted at `small` in it."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


def write_blocks(file: WritableFile, count: int) -> None:
    """Write `count` times 64 KiB, one after the other."""
    for block in range(count):
        file.write_at(b"x" * 65_536, block * 65_536)


def check_full(tree: Directory) -> None:
    """Write until there is no room; what was written before is still there."""
    put_file(tree, b"before", b"safe")
    file = tree.create_file(b"f", resume=False)
    with pytest.raises(CapacityError) as raised:
        write_blocks(file, 8)
    assert raised.value.code == "disk-full"
    assert raised.value.advice
    file.close()
    assert read_file(tree, b"before") == b"safe"
    assert set(read_file(tree, b"f")) <= {ord("x")}
    tree.remove_file(b"f")


def test_full_disk_on_the_simulated_tree() -> None:
    check_full(SimDirectory(faults=SimFaults(disk_full_from=4)))


@pytest.mark.needs_root
def test_full_disk_on_the_real_tree(small_mount: Path) -> None:
    tree = PosixDirectory(os.fsencode(small_mount / "small"))
    try:
        check_full(tree)
    finally:
        tree.close()


@pytest.mark.needs_root
def test_rename_and_link_to_another_device(small_mount: Path) -> None:
    """Both names stay as they were. The simulated tree has one device only."""
    tree = PosixDirectory(os.fsencode(small_mount))
    try:
        put_file(tree, b"f", b"content")
        for call in (tree.rename, tree.make_hard_link):
            with pytest.raises(UnsupportedError) as raised:
                call(b"f", b"small/f")
            assert raised.value.code == "cross-device"
        assert read_file(tree, b"f") == b"content"
        assert tree.list_names(b"small") == []
        assert tree.stat(b"small").device != tree.stat(b"f").device
    finally:
        tree.close()
