"""Goal: a bank that fails in the middle gives a clear error, loses nothing and can be gone on with.

Method: one good run of protect counts its writes; then, for each of them, the bank becomes full,
read-only or unreachable there, or one write fails for good. Whatever the run says, what is in the
bank must verify; once the bank is well again, the same command must succeed. Packing invariant 3.
Also: sweeps and verifications beside others who write.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.checkpoints.model import CheckpointState, Verdict
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import (
    CapacityError,
    DeniedError,
    HoldfastError,
    StateError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.model.limits import OBJECT_BYTES_MAX
from holdfast.tasks.model import Task
from holdfast.testing.objects import StoreCrashError, StoreFaults
from tests.support.checkpoints import BANK, MANNER, World, directory_plan, protect
from tests.support.trees import make_tree, pattern, read_tree, write

LARGE_BYTES = (1 << 20) + 1000


def fail_by(kind: str, faults: StoreFaults, number: int) -> None:
    match kind:
        case "full":
            faults.full_from = number
        case "read-only":
            faults.read_only = True
        case "unreachable":
            faults.unreachable = True
        case "medium":
            faults.failed_at = number


ERRORS: dict[str, type[HoldfastError]] = {
    "full": CapacityError,
    "read-only": DeniedError,
    "unreachable": UnavailableError,
    "medium": StorageFailedError,
}


def make_world(root: Path) -> tuple[World, str]:
    """A plan of two resources; files of one content, some of them cut."""
    world = World(root)
    make_tree(root / "one", files=6)
    facet = world.start()
    (root / "two").mkdir()
    directory_plan(facet, root / "one", root / "two")
    first = protect(facet)
    write(root / "one" / "large", pattern(LARGE_BYTES, 1))
    write(root / "one" / "same", pattern(LARGE_BYTES, 1))
    write(root / "two" / "small", pattern(900, 2))
    facet.catalogue.close()
    return world, first


def when_written(world: World, at: int, act: Callable[[], None]) -> None:
    def see(number: int, _method: str, _name: str) -> None:
        if number == at:
            act()

    world.on_write = see


@pytest.mark.parametrize(
    "kind",
    [
        "medium",
        "full",
        pytest.param("read-only", marks=pytest.mark.slow),
        pytest.param("unreachable", marks=pytest.mark.slow),
    ],
)
def test_bank_that_fails_in_the_middle_of_a_protect(tmp_path: Path, kind: str) -> None:
    world, _ = make_world(tmp_path / "good")
    protect(world.start(StoreFaults()))
    assert world.store is not None
    writes_count = world.store.writes_count
    assert writes_count > 10
    told = 0
    for number in range(1, writes_count + 1):
        world, first = make_world(tmp_path / str(number))
        faults = StoreFaults()
        facet = world.start(faults)
        when_written(world, number, lambda f=faults, n=number: fail_by(kind, f, n))  # type: ignore[misc]
        try:
            told += bool((facet.protect("p", MANNER).result or {})["reasons"])
        except (ERRORS[kind], StateError):
            told += 1
        facet.catalogue.close()
        world.on_write = None
        check_nothing_half(world, first)
        protect(world.start())
        check_all_good(world, tmp_path / str(number))
    assert told >= writes_count - 3  # What is written last is tried only.


def check_nothing_half(world: World, first: str) -> None:
    """Whatever a manifest names is there."""
    facet = world.start()
    assert not (facet.examine(BANK, MANNER).result or {})["missingChunks"]
    assert (facet.verify([facet.get(first)], MANNER).result or {})["verdict"] == "success"
    assert not [c for c in facet.list() if c.state is CheckpointState.PROTECTING]
    facet.catalogue.close()


def check_all_good(world: World, root: Path) -> None:
    facet = world.start()
    newest = facet.list()[0]
    assert (facet.verify([newest], MANNER).result or {})["verdict"] == "success"
    for name in ("one", "two"):
        key = f"Holdfast::Directory#{root / name}"
        given = {"Holdfast::Directory": {"target": str(root / "out" / name)}}
        (root / "out").mkdir(exist_ok=True)
        facet.restore(newest.id, MANNER, parameters=given, resource=key)
        assert read_tree(root / "out" / name) == read_tree(root / name)
    facet.catalogue.close()


def test_two_sweeps_at_once_both_hold_back_a_protect(tmp_path: Path) -> None:
    """Bank invariant 1: the end of one sweep does not let a protect in beside the other."""
    world, _ = make_world(tmp_path)
    others = world.start()
    tried: list[str] = []

    def meanwhile(_number: int, method: str, name: str) -> None:
        if method == "delete" and name.startswith("chunks/") and not tried:
            tried.append(name)
            bank = world.banks[BANK]
            # Another machine sweeps too, from the beginning to the end.
            elsewhere = World(tmp_path / "elsewhere")
            elsewhere.banks, elsewhere.clock = world.banks, world.clock
            elsewhere.start().sweep(BANK, MANNER, grace_s=0)
            assert [n for n in bank if n.startswith("sweeps/")]
            with pytest.raises(UnavailableError, match="being swept"):
                protect(others)

    facet = world.start()
    facet.around.open_store(BANK).put("chunks/aa/" + "a" * 64, b"nobody needs this")
    facet.around.open_store(BANK).put("chunks/bb/" + "b" * 64, b"nobody needs this")
    world.on_write = meanwhile
    facet.sweep(BANK, MANNER, grace_s=0)
    world.on_write = None

    assert tried
    protect(world.start())
    check_all_good(world, tmp_path)


def test_chunk_healed_while_it_was_verified_is_not_put_away(tmp_path: Path) -> None:
    """Another protect stores a damaged chunk anew after a verification has read it."""
    world, first = make_world(tmp_path)
    facet = world.start(StoreFaults(slow_s=1.0))
    objects = world.banks[BANK]
    name = max((n for n in objects if n.startswith("chunks/")), key=lambda n: len(objects[n].data))
    whole = objects[name].data
    objects[name].data = whole[:-1]

    def heal(task: Task) -> None:
        if task.progress.entries_done and "reading" in str(task):
            objects[name].data = whole

    manner = replace(MANNER, listener=heal)
    told = facet.verify([facet.get(first)], manner).result or {}

    assert told["verdict"] == Verdict.FAIL.value
    assert objects[name].data == whole
    assert not [n for n in objects if n.startswith("quarantine/")]


def test_bank_away_while_it_is_verified_is_no_verdict(tmp_path: Path) -> None:
    """An error, and what was said before stays; a chunk of an impossible length is damage."""
    world, first = make_world(tmp_path)
    faults = StoreFaults(slow_s=1.0)
    facet = world.start(faults)
    facet.verify([facet.get(first)], MANNER)
    before = facet.get(first).verified

    def cut(task: Task) -> None:
        faults.unreachable |= task.stage == "reading"

    with pytest.raises(UnavailableError):
        facet.verify([facet.get(first)], replace(MANNER, listener=cut))
    assert facet.get(first).verified == before
    faults.unreachable = False
    objects = world.banks[BANK]
    name = max((n for n in objects if n.startswith("chunks/")), key=lambda n: len(objects[n].data))
    objects[name].data += bytes(OBJECT_BYTES_MAX)
    told = facet.verify([facet.get(first)], MANNER).result or {}
    assert (told["verdict"], told["badCount"]) == ("fail", 1)
    assert (facet.protect("p", MANNER).result or {})["healed"] == [name[-64:]]


def test_dead_task_of_this_machine_holds_up_nobody(tmp_path: Path) -> None:
    """Its lease is not waited for: a protect after a dead sweep, a sweep after a dead protect."""
    world, _ = make_world(tmp_path)
    for work, at in ((sweep, 1), (protect, 3)):
        write(tmp_path / "one" / "changed", pattern(900, at))
        with pytest.raises(StoreCrashError):
            work(world.start(StoreFaults(crash_after=at)))
        assert [n for n in world.banks[BANK] if n.startswith(("leases/", "sweeps/"))]
        facet = world.start()
        began_ns = world.clock.now_ns()
        if work is sweep:
            protect(facet)
        else:
            told = facet.sweep(BANK, MANNER, grace_s=0).result or {}
            assert told["deferred"] is False
        assert world.clock.now_ns() - began_ns < 10**9
    check_nothing_half(world, world.start().list()[-1].id)


def sweep(facet: Checkpoints) -> None:
    facet.sweep(BANK, MANNER, grace_s=0)
