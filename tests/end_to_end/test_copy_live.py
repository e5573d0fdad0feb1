"""Goal: a source that is being written is copied as far as it holds still, and nothing is called
damage that is only change.

Method: a writer in a process of its own creates, changes, renames and deletes in one half of the
tree while the real command copies both. What was left alone must be equal, all else whole.
"""

import multiprocessing
import os
import random
import time
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.support.command import Completed, Holdfast
from tests.support.trees import SIDE_DIRECTORY, list_paths, pattern, read_entry, read_tree, write

MIB = 1 << 20
LIVE_BYTES = 3000


def write_for_ever(root: Path, seed: int, stop: Event) -> None:
    """Change files until told to stop. Every file is one repeated letter, of one length."""
    chance = random.Random(seed)
    number = 0
    while not stop.is_set():
        names = sorted(root.rglob("*"))
        files = [path for path in names if path.is_file() and path.name != "large"]
        number += 1
        match chance.choice(
            ("create", "create", "overwrite", "append", "rename", "delete", "tree")
        ):
            case "create":
                write(root / f"n{number % 50}" / f"new{number}", letter(chance, LIVE_BYTES))
            case "overwrite":
                with chance.choice(files).open("r+b") as stream:
                    stream.write(letter(chance, LIVE_BYTES))
            case "append":
                with chance.choice(files).open("ab") as stream:
                    stream.write(letter(chance, 10))
            case "rename":
                old = chance.choice(files)
                old.rename(old.with_name(f"renamed{number}"))
            case "delete":
                chance.choice(files).unlink()
            case _:
                place = chance.choice([path for path in names if path.is_dir()])
                place.rename(place.with_name(f"moved{number}"))
        # Large files are written in the middle, so that whoever reads them meets it.
        with (root / "large").open("r+b") as stream:
            os.pwrite(stream.fileno(), letter(chance, 4096), chance.randrange(20 * MIB))
        time.sleep(0.001)


def letter(chance: random.Random, size_bytes: int) -> bytes:
    return bytes([chance.randrange(97, 123)]) * size_bytes


def start_writer(root: Path, seed: int) -> tuple[BaseProcess, Event]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=write_for_ever, args=(root, seed, stop), daemon=True)
    writer.start()
    return writer, stop


def make_source(source: Path, *, files: int, large: int) -> None:
    for number in range(files):
        write(source / "stable" / f"d{number % 40}" / f"f{number}", pattern(number % 5000, number))
    for number in range(large):
        write(source / "stable" / f"large{number}", pattern(20 * MIB, number))
    for number in range(files // 4):
        write(source / "live" / f"d{number % 20}" / f"f{number}", b"a" * LIVE_BYTES)
    write(source / "live/large", b"a" * (20 * MIB))


def check_run(done: Completed, source: Path, target: Path) -> None:
    """Judge one copy made while the writer wrote."""
    assert done.exit in (0, 13), done
    assert done.json["verdict"] in ("proven", "incomplete")
    counts = done.json["verify"]["counts"]
    assert not {"digest-differs", "metadata-differs", "source-damaged"} & counts.keys(), counts
    assert read_tree(target / "stable") == read_tree(source / "stable")
    for path in list_paths(target):
        assert not path.startswith(SIDE_DIRECTORY)
        if path.startswith(b"live/") and path != b"live/large":
            check_whole(os.path.join(os.fsencode(target), path))


def check_whole(path: bytes) -> None:
    """A file of the writer is one letter for its first part, however much was appended since."""
    if os.path.isfile(path):
        with open(path, "rb") as stream:
            content = stream.read()
        assert len(content) >= LIVE_BYTES or not content
        assert len(set(content[:LIVE_BYTES])) <= 1, path


def copy_while_written(
    holdfast: Holdfast, source: Path, target: Path, *, runs: int, seed: int
) -> None:
    writer, stop = start_writer(source / "live", seed)
    try:
        for _ in range(runs):
            done = holdfast.copy(source, target, "--delete", "--max-delete", "50%")
            assert writer.is_alive()
            check_run(done, source, target)
    finally:
        stop.set()
        writer.join()
    final = holdfast.copy(source, target, "--delete", "--max-delete", "50%")
    assert (final.exit, final.json["verdict"]) == (0, "proven"), final
    assert read_tree(target) == read_tree(source)
    assert not (target / ".holdfast").exists()


def test_a_small_live_source(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_source(source, files=600, large=1)
    copy_while_written(holdfast, source, target, runs=2, seed=1)


@pytest.mark.slow
def test_a_large_live_source(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_source(source, files=20_000, large=6)
    copy_while_written(holdfast, source, target, runs=3, seed=2)


def test_a_file_that_never_holds_still_is_told_and_what_stands_there_stays(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    make_source(source, files=8, large=0)
    assert holdfast.copy(source, target).exit == 0
    before = read_entry(os.fsencode(target / "live/large"))
    writer, stop = start_writer(source / "live", 3)
    try:
        while read_entry(os.fsencode(source / "live/large")) == before:
            time.sleep(0.05)
        done = holdfast.copy(source, target, "--bwlimit", "40M")
    finally:
        stop.set()
        writer.join()
    assert (done.exit, done.json["verdict"]) == (13, "incomplete"), done
    outcomes = {f["path"]: f["outcome"] for f in done.json["findings"]}
    assert outcomes["live/large"] == "changed"
    assert read_entry(os.fsencode(target / "live/large")) == before
