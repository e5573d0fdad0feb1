"""Goal: directories that share a file system share its room, and a full one loses nothing.

Method: a small file system mounted for the test below two directories of an instance. What does not
fit together is refused before the first byte; what fills up behind the back of the check stops.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import CapacityError
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.directories.posix_file import PosixFile
from holdfast.tasks.model import TaskState
from tests.end_to_end.conftest import needs_root
from tests.support.migrations import Migration, iterations
from tests.support.trees import list_paths, read_tree

MIB = 1 << 20
SIZE_BYTES = 64 * MIB

pytestmark = [needs_root, pytest.mark.needs_root]


@pytest.fixture
def migration(tmp_path: Path) -> Iterator[Migration]:
    """Two directories of a target with 64 MiB for both."""
    place = tmp_path / "target"
    place.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs")
    try:
        subprocess.run(["mount", *options, place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system: {error}")
    try:
        yield Migration(place=tmp_path, names=(("data", 0), ("data", 1)))
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_does_not_fit_together_is_refused(migration: Migration) -> None:
    for name in ("data0", "data1"):
        (migration.source(name) / "f").write_bytes(os.urandom(30 * MIB))

    with pytest.raises(CapacityError) as caught:
        migration.copy()

    assert caught.value.code == "disk-would-fill"
    assert "data/0, data/1" in caught.value.message
    assert [list_paths(migration.target(name)) for name in ("data0", "data1")] == [[], []]
    assert iterations(migration.last_task())[0]["state"] == "FAILED"


class Filling(PosixReadableDirectory):
    """A tree that fills the target's file system as its first file is opened."""

    def __init__(self, root: bytes, filler: Path) -> None:
        super().__init__(root)
        self._filler = filler

    def open_file(self, path: bytes) -> PosixFile:
        """See ReadableDirectory."""
        if not self._filler.exists():
            descriptor = os.open(self._filler, os.O_CREAT | os.O_WRONLY)
            os.posix_fallocate(descriptor, 0, SIZE_BYTES - 10 * MIB)
            os.close(descriptor)
        return super().open_file(path)


def test_a_disk_that_fills_stops_the_copy_and_room_lets_it_go_on(migration: Migration) -> None:
    contents = {name: os.urandom(20 * MIB) for name in ("data0", "data1")}
    for name, content in contents.items():
        (migration.source(name) / "f").write_bytes(content)
    filler = migration.place / "target" / "filler"
    migration.sources = lambda made: [
        Filling(str(made.source(name)).encode(), filler) for name in contents
    ]

    with pytest.raises(CapacityError) as caught:
        migration.copy()

    assert caught.value.code == "disk-full"
    assert [list_paths(migration.target(name)) for name in contents] == [[], []]
    assert migration.last_task().state is TaskState.FAILED

    filler.write_bytes(b"")
    assert iterations(migration.copy())[-1]["state"] == "SUCCESS"
    for name in contents:
        assert read_tree(migration.target(name)) == read_tree(migration.source(name))
