"""Goal: a full target is refused before the first byte where that can be known, and harmless else.

Method: a small file system mounted for the test. It is filled behind the back of a running copy;
what stands under final names must be whole, and once there is room the same command finishes.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import needs_root
from tests.support.command import Holdfast
from tests.support.trees import list_paths, pattern, read_entry, read_tree, write

MIB = 1 << 20
SIZE_BYTES = 96 * MIB

pytestmark = [needs_root, pytest.mark.needs_root]


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.slow)])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with room for less than 100 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if request.param == "tmpfs":
        command: list[str | Path] = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={SIZE_BYTES}",
            "tmpfs",
            place,
        ]
    else:
        image = tmp_path / "image"
        with open(image, "wb") as stream:
            stream.truncate(SIZE_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", image)
        command = ["mount", "-o", "loop", image, place]
    _run(*command)
    yield place
    subprocess.run(["umount", place], check=True)


def _run(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system: {error}")


def test_what_does_not_fit_is_refused_before_the_first_byte(
    holdfast: Holdfast, source: Path, small: Path
) -> None:
    write(source / "large", pattern(SIZE_BYTES))
    write(source / "small", b"would fit")
    write(small / "target/old", b"old")
    before = read_tree(small / "target")
    done = holdfast.copy(source, small / "target")
    assert (done.exit, done.json["code"]) == (16, "disk-would-fill")
    assert done.json["context"]["short_bytes"] > 0
    assert read_tree(small / "target") == before
    assert not (small / "target/.holdfast").exists()


def test_what_only_just_fits_is_not_refused(holdfast: Holdfast, source: Path, small: Path) -> None:
    """What is replaced, sparse or there already takes no room of its own."""
    for number in range(6):
        write(source / f"f{number}", pattern(8 * MIB, number))
    with open(source / "sparse", "wb") as stream:
        stream.truncate(128 * MIB)
    target = small / "target"
    assert holdfast.copy(source, target, "--digest", "xxh3-128").exit == 0
    for number in range(6):
        write(source / f"f{number}", pattern(8 * MIB, 10 + number))
    done = holdfast.copy(source, target, "--digest", "xxh3-128")
    assert (done.exit, done.json["verdict"]) == (0, "proven"), done
    assert read_tree(target) == read_tree(source)


def test_filled_behind_its_back(holdfast: Holdfast, source: Path, small: Path) -> None:
    """Small and large files; a first version of each stands at the target already."""
    target = small / "target"
    for number in range(200):
        write(source / f"s{number}", pattern(1000, number))
    write(source / "large", pattern(10 * MIB))
    assert holdfast.copy(source, target).exit == 0
    old = read_tree(target)
    for number in range(200):
        write(source / f"s{number}", pattern(100_000, 1000 + number))
    write(source / "large", pattern(30 * MIB, 1))
    hog = _fill_soon(small, target)
    done = holdfast.copy(source, target, "--bwlimit", "25M")
    hog.join()
    assert (done.exit, done.json["code"]) == (16, "disk-full"), done
    new = read_tree(source)
    for path in list_paths(target):
        assert read_entry(os.path.join(os.fsencode(target), path)) in (old[path], new[path])
    assert (small / "hog").exists()
    (small / "hog").unlink()
    again = holdfast.copy(source, target)
    assert (again.exit, again.json["verdict"]) == (0, "proven"), again
    assert read_tree(target) == new
    assert not (target / ".holdfast").exists()


def _fill_soon(small: Path, target: Path) -> threading.Thread:
    """Take all the room as soon as the copy has begun to write."""

    def fill() -> None:
        partial = target / ".holdfast/partial"
        while not (partial.is_dir() and any(partial.iterdir())):
            pass
        with open(small / "hog", "wb", buffering=0) as stream:
            try:
                while stream.write(bytes(MIB // 4)):
                    pass
            except OSError:
                pass

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    return thread


def test_no_inodes_left(holdfast: Holdfast, source: Path, tmp_path: Path) -> None:
    """Free bytes say nothing of free inodes."""
    place = tmp_path / "few"
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=96m,nr_inodes=60", "tmpfs", place)
    try:
        for number in range(100):
            write(source / f"f{number}", b"x")
        done = holdfast.copy(source, place / "target")
        assert done.exit == 16, done
        for path in list_paths(place / "target"):
            assert (place / "target" / os.fsdecode(path)).read_bytes() == b"x"
    finally:
        subprocess.run(["umount", place], check=True)
