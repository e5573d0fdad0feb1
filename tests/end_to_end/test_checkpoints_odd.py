"""Goal: what is restored equals what was protected, for every kind of entry that Linux allows.

Method: the commands on one tree full of what is unusual, into a plain and an encrypted bank; the
restored tree is compared without the product's own code, and the restore leaves a proof. Then trees
of files that are written all the time.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import needs_root
from tests.end_to_end.test_copy_kinds import NAMES, make_nested, raw, write_raw
from tests.support.command import Completed, Holdfast
from tests.support.trees import hard_links, list_paths, pattern, read_tree, write

MIB = 1 << 20
GIB = 1 << 30
SKIPPED = 13
"""Exit where something was left out, and told."""


def make_odd(root: Path) -> Path:
    """Names, lengths at every edge, holes, links, attributes, owners, times, kinds."""
    for number, name in enumerate(NAMES):
        directory = raw(root, b"in", name)
        os.makedirs(directory)
        write_raw(raw(root, b"in", name, name), b"content %d" % number)
    sizes = (0, 1, MIB - 1, MIB, MIB + 1, 8 * MIB, 8 * MIB + 1)
    for number, size_bytes in enumerate(sizes):
        write(root / "sizes" / f"random-{size_bytes}", pattern(size_bytes, number))
        write(root / "sizes" / f"zeros-{size_bytes}", bytes(size_bytes))
        write(
            root / "sizes" / f"lines-{size_bytes}",
            (b"a line\n" * (size_bytes // 7 + 1))[:size_bytes],
        )
    with open(root / "sparse", "wb") as stream:
        stream.truncate(GIB)
        for at in (5 * MIB + 17, GIB // 2, GIB - 3):
            stream.seek(at)
            stream.write(b"abc")
    write(root / "linked" / "a", pattern(3000, 50))
    for link in ("b", "c"):
        os.link(root / "linked" / "a", root / "linked" / link)
    os.link(root / "sizes" / f"random-{8 * MIB}", root / "linked" / "large")
    os.symlink("../linked/a", root / "linked" / "link")
    os.symlink(b"nowhere \xff\n", raw(root, b"linked", b"dangling"))
    (root / "empty" / "below").mkdir(parents=True)
    (root / "deep").mkdir()
    make_nested(root / "deep", name=b"n" * 200, levels=12)
    os.setxattr(root / "linked" / "a", "user.note", b"\x00\xff")
    os.setxattr(root / "empty", "user.directory", b"d" * 300)
    write(root / "modes" / "nobody", b"x").chmod(0)
    write(root / "modes" / "sticky", b"x").chmod(0o6751)
    for label, mtime_ns in (
        ("past", -12_345_678_901_234_567),
        ("future", 9_000_000_000 * 10**9 + 1),
    ):
        path = write(root / "times" / label, label)
        os.utime(path, ns=(0, mtime_ns))
    os.utime(root / "times", ns=(0, 1))
    return root


def protect(holdfast: Holdfast, tree: Path, bank: Path, *options: str) -> Completed:
    """Plan and protect."""
    planned = holdfast(
        "checkpoints", "plan", "p", "--bank", bank, "--resource", tree, *options, "--json"
    )
    assert planned.exit == 0, planned
    return holdfast("checkpoints", "protect", "p", "--json")


def restore(holdfast: Holdfast, done: Completed, target: Path) -> Completed:
    checkpoint = done.json["checkpoint"]
    return holdfast("checkpoints", "restore", checkpoint, "--target", target, "--json")


@needs_root
@pytest.mark.needs_root
@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--encrypt",)], ids=["plain", "encrypted"])
def test_every_oddity_comes_back(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    source.mkdir()
    make_odd(source)
    os.chown(source / "modes" / "sticky", 1234, 4321)
    (source / "modes" / "sticky").chmod(0o6751)

    first = protect(holdfast, source, tmp_path / "bank", *options)
    assert (first.exit, first.json["leftOutCount"]) == (0, 0), first
    again = holdfast("checkpoints", "protect", "p", "--json")
    assert again.json["addedBytes"] < 64 << 10
    done = restore(holdfast, again, target)

    assert done.exit == 0, done
    (report,) = done.json["reports"].values()
    assert report["verdict"] == "proven"
    assert holdfast("proof", "check", report["proof"]).exit == 0
    assert read_tree(target) == read_tree(source)
    assert hard_links(target) == hard_links(source)
    assert (target / "sparse").stat().st_blocks * 512 < 8 * MIB
    stored = sum(path.stat().st_size for path in (tmp_path / "bank").rglob("*") if path.is_file())
    assert stored < 40 * MIB


def test_special_files_are_left_out_and_told(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    write(source / "file", b"x")
    os.mkfifo(source / "pipe")

    done = protect(holdfast, source, tmp_path / "bank")

    assert done.exit == SKIPPED
    assert [(each["path"], each["why"]) for each in done.json["leftOut"]] == [
        ("pipe", "skipped: it is a fifo")
    ]
    assert restore(holdfast, done, target).exit == 0
    assert list_paths(target) == [b"file"]


_WRITER = """
import os, sys, itertools
paths = sys.argv[1:]
files = [os.open(path, os.O_RDWR) for path in paths]
sizes = [os.fstat(each).st_size for each in files]
for number in itertools.count():
    for each, size in zip(files, sizes):
        block = bytes([97 + number % 26]) * min(size, 1 << 20)
        for start in range(0, size, 1 << 20):
            os.pwrite(each, block[: size - start], start)
"""


@pytest.mark.slow
def test_files_written_all_the_time_are_told_or_one_moment(
    holdfast: Holdfast, source: Path, tmp_path: Path
) -> None:
    """Small, packed and cut ones; what stands still beside them is always there."""
    sizes = {"tiny": 2000, "small": 300_000, "large": 2 << 20, "larger": 20 << 20}
    for name, size_bytes in sizes.items():
        write(source / "moving" / name, b"a" * size_bytes)
    for number in range(30):
        write(source / "still" / f"{number}", pattern(7000 * number, number))
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, *(source / "moving" / name for name in sizes)]
    )
    try:
        made = [protect(holdfast, source, tmp_path / "bank")]
        made += [holdfast("checkpoints", "protect", "p", "--json") for _ in range(4)]
    finally:
        writer.kill()
        writer.wait()
    for number, done in enumerate(made):
        out = tmp_path / f"out{number}"
        assert restore(holdfast, done, out).exit == 0
        left_out = {each["path"]: each["why"] for each in done.json["leftOut"]}
        assert done.exit == (SKIPPED if left_out else 0)
        assert set(left_out.values()) <= {"changed"}
        for name, size_bytes in sizes.items():
            if f"moving/{name}" in left_out:
                assert not (out / "moving" / name).exists()
            else:
                content = (out / "moving" / name).read_bytes()
                assert (len(content), len(set(content))) == (size_bytes, 1), name
        assert read_tree(out / "still") == read_tree(source / "still")
