"""Goal: a copy over the stream is as whole, as proven and as stoppable as a local one.

Method: the product's own copy task from a real stream server through a proxy that cuts, garbles
and goes down; trees compared without the product's code.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConflictError, HoldfastError, UnavailableError
from holdfast.files.model import CacheUse, CopyOptions, DeleteLimit
from holdfast.files.pair import Manner
from holdfast.files.service import Files
from holdfast.model.limits import MIB
from holdfast.proof.digests import Algorithm
from holdfast.server.local import LocalServices
from holdfast.tasks.model import Task
from tests.support.cut_proxy import CutProxy
from tests.support.stream import StreamServer
from tests.support.trees import hard_links, make_tree, pattern, read_tree, write


class Bench:
    """A source behind a server and a proxy, and a target."""

    def __init__(self, tmp_path: Path) -> None:
        self.source = make_tree(tmp_path / "source", files=600)
        self.target = tmp_path / "target"
        self.server = StreamServer(os.fsencode(self.source)).start()
        self.proxy = CutProxy(self.server.port)
        self.services = LocalServices(tmp_path / "state")
        self.patience_s = 20.0

    def copy(
        self, *, jobs: int = 2, rate: float | None = None, on_task: Any = None, **options: Any
    ) -> Task:
        """Copy and verify over the stream."""
        surroundings = replace(
            self.services.files._in,
            open_source=lambda _root: self.server.open(
                port=self.proxy.port, patience_s=self.patience_s
            ),
        )
        wanted = CopyOptions(
            algorithm=Algorithm.XXH3_128, cache=CacheUse.KEEP, delete=True, **options
        )
        manner = Manner(jobs=jobs, rate_bytes_per_s=rate, listener=on_task or (lambda _task: None))
        source, target = os.fsencode(self.source), os.fsencode(self.target)
        return Files(surroundings).copy(source, target, wanted, manner)

    def close(self) -> None:
        """End everything."""
        self.proxy.close()
        self.server.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A source, a target, and what is between them."""
    made = Bench(tmp_path)
    yield made
    made.close()


def check(bench: Bench, task: Task) -> None:
    """The target is the source, and was proven to be."""
    assert task.result is not None
    assert task.result["verdict"] == "proven"
    assert read_tree(bench.target) == read_tree(bench.source)


def test_everything_arrives(bench: Bench) -> None:
    """Files of all sizes, holes, links, attributes, odd names, empty and forbidden directories."""
    source = bench.source
    write(source / "large", pattern(9 * MIB + 5))
    write(source / "middling", pattern(3 * MIB, 3))
    with open(source / "sparse", "wb") as stream:
        stream.seek(20 * MIB)
        stream.write(pattern(70_000, 4))
        stream.truncate(40 * MIB)
    os.link(source / "large", source / "d1" / "again")
    write(source / os.fsdecode(b"\xff\n odd"), "odd")
    (source / "closed").mkdir(mode=0o500)
    os.setxattr(source / "middling", "user.kept", b"value")

    check(bench, bench.copy())

    assert hard_links(bench.target) == hard_links(source)
    assert os.stat(bench.target / "sparse").st_blocks * 512 < MIB
    check(bench, bench.copy())


def test_connections_cut_all_the_time(bench: Bench) -> None:
    write(bench.source / "large", pattern(12 * MIB))
    bench.proxy.cut_after_bytes = [5000 * 3**n % 4_000_000 + 100 for n in range(12)]

    check(bench, bench.copy())

    assert bench.proxy.connections_count > 12


@pytest.mark.parametrize("flip_at", [200_000, 2_500_000])
def test_garbled_bytes_never_get_a_name(bench: Bench, flip_at: int) -> None:
    """A byte changed on the way: read again, by the digest the source gave, before the rename."""
    write(bench.source / "large", pattern(9 * MIB))
    tree = bench.server.open(port=bench.proxy.port)
    tree.close()
    seen: list[str] = []

    def garble(task: Task) -> None:
        if task.stage == "copying" and not seen:
            seen.append(task.stage)
            bench.proxy.cut()
            bench.proxy.flip_at = flip_at

    check(bench, bench.copy(jobs=1, on_task=garble))
    assert bench.proxy.flip_at is None


def test_source_out_of_reach_for_good_ends_the_run_and_deletes_nothing(bench: Bench) -> None:
    check(bench, bench.copy())
    write(bench.target / "only-here", "kept")
    write(bench.source / "new", pattern(2 * MIB))
    bench.patience_s = 0.5

    def down(task: Task) -> None:
        if task.stage == "copying":
            bench.proxy.is_down = True
            bench.proxy.cut()

    with pytest.raises(UnavailableError) as raised:
        bench.copy(on_task=down)
    assert raised.value.code == "source-unreachable"
    assert (bench.target / "only-here").read_text() == "kept"
    assert not (bench.target / "new").exists()
    bench.proxy.is_down = False
    check(bench, bench.copy())


def test_source_restarted_as_another_tree_ends_the_run(bench: Bench, tmp_path: Path) -> None:
    """Nothing of the other tree arrives, nothing is deleted."""
    check(bench, bench.copy())
    before = read_tree(bench.target)
    write(bench.source / "new", "new")

    def replace_tree(task: Task) -> None:
        if task.stage == "copying" and not (tmp_path / "away").exists():
            os.rename(bench.source, tmp_path / "away")
            write(bench.source / "stranger", "stranger")
            bench.proxy.cut()

    with pytest.raises(ConflictError) as raised:
        bench.copy(on_task=replace_tree, delete_limit=DeleteLimit(percent=100.0))
    assert raised.value.code == "source-replaced"
    assert {p: e for p, e in read_tree(bench.target).items() if p != b"new"}.keys() == before.keys()
    assert not (bench.target / "stranger").exists()


@pytest.mark.parametrize("damage", [False, True])
def test_what_an_interrupted_run_left_is_not_sent_again(bench: Bench, damage: bool) -> None:
    """Stopped inside a large file: the next run proves its beginning by digest and reads the rest.

    Where the beginning was damaged meanwhile, that is found, and sent again from there.
    """
    data = pattern(40 * MIB)
    write(bench.source / "large", data)

    def stop(task: Task) -> None:
        if task.progress.bytes_done > 24 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.copy(rate=64 * MIB, on_task=stop)
    (partial,) = (
        path
        for path in (bench.target / ".holdfast" / "partial").iterdir()
        if path.is_file() and path.stat().st_size > 8 * MIB
    )
    left_bytes = partial.stat().st_size
    if damage:
        with open(partial, "r+b") as stream:
            stream.seek(5 * MIB)
            stream.write(b"damaged")

    passed_before = bench.proxy.passed_bytes
    check(bench, bench.copy(jobs=1))

    passed = bench.proxy.passed_bytes - passed_before
    assert (passed > 40 * MIB) is damage
    assert damage or passed < 40 * MIB - left_bytes + 10 * MIB


def test_a_rate_limit_holds(bench: Bench) -> None:
    write(bench.source / "large", pattern(10 * MIB))

    task = bench.copy(rate=16 * MIB)

    check(bench, task)
    assert task.result is not None
    copied = task.result["copy"]
    assert isinstance(copied, dict)
    assert copied["durationS"] > 0.3


@pytest.mark.slow
def test_a_link_down_for_thirty_seconds_is_survived(bench: Bench) -> None:
    write(bench.source / "large", pattern(30 * MIB))
    bench.patience_s = 120
    seen: list[threading.Timer] = []

    def down(task: Task) -> None:
        if task.stage == "copying" and not seen:
            bench.proxy.is_down = True
            bench.proxy.cut()
            seen.append(threading.Timer(30, up))
            seen[0].start()

    def up() -> None:
        bench.proxy.is_down = False

    check(bench, bench.copy(on_task=down))


def test_a_planted_symlink_leads_nowhere(bench: Bench, tmp_path: Path) -> None:
    """A directory of the source becomes a symlink to a place outside while it is copied."""
    write(tmp_path / "outside" / "f0001", "secret")

    def swap(task: Task) -> None:
        if task.stage == "copying" and not (bench.source / "d1").is_symlink():
            os.rename(bench.source / "d1", bench.source / "was-d1")
            (bench.source / "d1").symlink_to(tmp_path / "outside")

    try:
        bench.copy(on_task=swap)
    except HoldfastError as error:
        raise AssertionError(error.message) from error
    content = {entry.content for entry in read_tree(bench.target).values()}
    assert read_tree(tmp_path / "outside")[b"f0001"].content not in content
