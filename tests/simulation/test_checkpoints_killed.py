"""Goal: whichever write to a bank a process dies at, nothing is lost and nothing stuck.

Method: one good run of protect, verify, delete or sweep counts its writes; then it is repeated on a
fresh world for each of them, dying before or after it, or losing its reply; then a new process runs
the same again, and everything that was there before is verified. Banks are simulated: what was
staged and not settled dies with its process.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.checkpoints.model import CheckpointState, Depth, Resource, Retention, Verdict
from holdfast.checkpoints.plugins import HookContext, Operation, OperationKind
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError, StateError, UnavailableError, UnsupportedError
from holdfast.ports import StorePromises
from holdfast.testing.objects import StoreCrashError, StoredObject, StoreFaults
from tests.support.checkpoints import BANK, DIRECTORY, MANNER, World, directory_plan, protect
from tests.support.trees import make_tree, pattern, write

ORPHANS = {"chunks/aa/" + "a" * 64, "chunks/bb/" + "b" * 64}
Work = Callable[[Checkpoints], object]


def make_world(root: Path) -> tuple[World, str]:
    """Return a world with one checkpoint, and a tree that has changed since."""
    world = World(root)
    make_tree(root / "tree", files=6)
    write(root / "tree" / "large", pattern(2 << 20, 5))
    facet = world.start()
    directory_plan(facet, root / "tree")
    first = protect(facet)
    write(root / "tree" / "d0" / "new", pattern(3000, 6))
    write(root / "tree" / "large", pattern(2 << 20, 7))
    facet.catalogue.close()
    return world, first


def each_way(writes_count: int) -> list[StoreFaults]:
    faults = [StoreFaults(crash_before=1)]
    for number in range(1, writes_count + 1):
        faults.append(StoreFaults(crash_after=number))
        faults.append(StoreFaults(reply_lost_at=number))
    return faults


def killed_at_every_write(
    root: Path, work: Work, check: Callable[[World, str], None], *, step: int = 1
) -> int:
    """Run `work` dying at every write in turn, then again, then `check`; return the writes.

    With a step only at every so many of the ways to die: for a quick look.
    """
    world, _ = make_world(root / "good")
    counting = StoreFaults()
    work(world.start(counting))
    assert world.store is not None
    writes_count = world.store.writes_count
    for number, faults in enumerate(each_way(writes_count)[::step]):
        world, first = make_world(root / str(number))
        dying = world.start(faults)
        with contextlib.suppress(StoreCrashError, HoldfastError):
            work(dying)
        dying.catalogue.close()
        # Whoever died holds a lease until it runs out.
        world.clock.sleep(3600)
        again = world.start()
        work(again)
        check(world, first)
        again.catalogue.close()
    return writes_count


def all_is_well(world: World, *gone: str) -> list[str]:
    """Verify every checkpoint by digest, what is only in the bank included; return them."""
    facet = world.start()
    told = facet.examine(BANK, MANNER).result or {}
    assert not told["missingChunks"]
    assert told["onlyInCatalogue"] == []
    listed = [c for c in facet.list() if c.manifest_digest]
    assert not [c for c in facet.list() if c.state is CheckpointState.PROTECTING]
    for each in listed:
        assert (facet.verify([each], MANNER).result or {})["verdict"] == "success"
    facet.catalogue.close()
    assert not set(gone) & {c.id for c in listed}
    return [c.id for c in listed]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_protect(tmp_path: Path, step: int) -> None:
    """Protecting invariant 1: the rerun resumes the task, so that there is one new checkpoint."""

    def check(world: World, first: str) -> None:
        found = all_is_well(world)
        assert first in found
        facet = world.start()
        newest = facet.list()[0]
        assert newest.state is CheckpointState.AVAILABLE
        facet.catalogue.close()

    writes_count = killed_at_every_write(tmp_path, lambda facet: protect(facet), check, step=step)
    assert writes_count > 5


def test_verify(tmp_path: Path) -> None:
    def work(facet: Checkpoints) -> None:
        facet.verify(facet.list(), MANNER, depth=Depth.DIGEST)

    def check(world: World, first: str) -> None:
        facet = world.start()
        verified = facet.get(first).verified
        assert verified is not None
        assert verified.verdict is Verdict.SUCCESS
        facet.catalogue.close()

    assert killed_at_every_write(tmp_path, work, check) >= 1


def test_delete(tmp_path: Path) -> None:
    def work(facet: Checkpoints) -> None:
        for each in facet.list():
            facet.delete(each.id, MANNER)

    def check(world: World, first: str) -> None:
        assert all_is_well(world, first) == []
        assert world.start().list() == []

    assert killed_at_every_write(tmp_path, work, check) >= 1


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_sweep(tmp_path: Path, step: int) -> None:
    def work(facet: Checkpoints) -> None:
        for name in ORPHANS:
            with contextlib.suppress(HoldfastError):
                facet.around.open_store(BANK).put(name, b"nobody needs this")
        facet.sweep(BANK, MANNER, grace_s=0)

    def check(world: World, first: str) -> None:
        assert all_is_well(world) == [first]
        assert not world.banks[BANK].keys() & ORPHANS

    assert killed_at_every_write(tmp_path, work, check, step=step) >= 4


def test_two_protects_a_verify_and_a_sweep_at_once(tmp_path: Path) -> None:
    """Bank invariant 1: at every write of a protect, the others run in between."""
    world, first = make_world(tmp_path)
    write(tmp_path / "other" / "a", pattern(5000, 8))
    facet = world.start()
    directory_plan(facet, tmp_path / "other", name="q")
    facet.catalogue.close()
    others = world.start()
    is_inside = False
    deferred = 0

    def meanwhile(number: int, method: str, name: str) -> None:
        nonlocal is_inside, deferred
        if is_inside or name.startswith("probe/"):
            return
        is_inside = True
        try:
            swept = others.sweep(BANK, MANNER, grace_s=0).result or {}
            deferred += bool(swept["deferred"])
            verified = others.verify([others.get(first)], MANNER).result or {}
            assert verified["verdict"] == "success"
            if number % 3 == 0:
                protect(others, "q")
        finally:
            is_inside = False

    protecting = world.start()
    world.on_write = meanwhile
    protect(protecting)
    world.on_write = None

    assert deferred > 3
    assert len(all_is_well(world)) >= 3


@pytest.mark.parametrize("at_settle", [1, 2, 3, 4])
def test_stopped_protect_does_not_write_its_manifest(tmp_path: Path, at_settle: int) -> None:
    """Bank invariant 1: after a sweep took the lease of one thought dead, it ends with an error."""
    world, _ = make_world(tmp_path)
    others = world.start()
    settles = 0

    def stop(_number: int, method: str, name: str) -> None:
        nonlocal settles
        settles += method == "settle" and name.startswith("chunks/")
        if settles == at_settle:
            settles += 1
            world.clock.sleep(7200)
            others.sweep(BANK, MANNER, grace_s=0)

    protecting = world.start()
    world.on_write = stop
    with pytest.raises(HoldfastError, match="stopped for too long"):
        protect(protecting)
    world.on_write = None

    protect(world.start())
    assert len(all_is_well(world)) == 2


def test_catalogue_is_rebuilt_from_the_bank_alone(tmp_path: Path) -> None:
    world, first = make_world(tmp_path)
    facet = world.start()
    second = protect(facet)
    facet.verify([facet.get(first)], MANNER)
    before = facet.get(first), facet.get(second)
    facet.catalogue.close()
    world.lose_catalogue()

    rebuilt = world.start()
    told = rebuilt.examine(BANK, MANNER).result or {}

    assert sorted(told["onlyInBank"]) == sorted([first, second])  # type: ignore[call-overload]
    assert (rebuilt.get(first), rebuilt.get(second)) == before
    assert rebuilt.catalogue.plan("p").resources
    assert world.heads.read(before[0].plan_id) is not None
    assert protect(rebuilt)


def test_swept_bank_holds_nothing_but_what_is_needed(tmp_path: Path) -> None:
    """Also within the grace nothing is deleted."""
    world, first = make_world(tmp_path)
    facet = world.start()
    second = protect(facet)
    size_before = len(world.banks[BANK])
    facet.delete(first, MANNER)
    young = facet.sweep(BANK, MANNER, grace_s=3600).result or {}
    assert young["deleted"] == 0
    world.clock.sleep(4000)

    swept = facet.sweep(BANK, MANNER, grace_s=3600).result or {}

    assert int(str(swept["deleted"])) >= 2
    assert len(world.banks[BANK]) < size_before
    assert all_is_well(world) == [second]


def test_lost_manifest_is_told_and_a_sweep_keeps_what_it_cannot_know(tmp_path: Path) -> None:
    world, first = make_world(tmp_path)
    name = f"manifests/{first}"
    hidden: StoredObject = world.banks[BANK][name]
    world.banks[BANK][name] = StoredObject(data=b"x", modified_ns=hidden.modified_ns)
    facet = world.start()

    with pytest.raises(HoldfastError, match="not known"):
        facet.sweep(BANK, MANNER, grace_s=0)
    del world.banks[BANK][name]
    told = facet.examine(BANK, MANNER).result or {}

    assert told["onlyInCatalogue"] == [first]
    assert facet.get(first).state is CheckpointState.ERROR


def test_store_that_does_not_show_what_was_put_is_refused(tmp_path: Path) -> None:
    """Bank invariant 1 rests on it: who comes second must see who came first."""
    world = World(tmp_path)
    facet = world.start()
    stale = Checkpoints(facet.around, lambda _store: StorePromises(True, False))

    with pytest.raises(UnsupportedError, match="at once"):
        directory_plan(stale, make_tree(tmp_path / "tree"))
    assert world.banks[BANK] == {}


def test_protect_that_begins_while_a_sweep_deletes_waits_or_gives_up(tmp_path: Path) -> None:
    """Bank invariant 1: what the sweep is about to delete is what the protect would share."""
    world, first = make_world(tmp_path)
    facet = world.start()
    second = protect(facet)
    facet.delete(second, MANNER)
    others = world.start()
    refused = 0

    def meanwhile(_number: int, method: str, name: str) -> None:
        nonlocal refused
        if method != "delete" or not name.startswith("chunks/"):
            return
        world.on_write = None
        try:
            protect(others)
        except UnavailableError:
            refused += 1
        world.on_write = meanwhile

    world.on_write = meanwhile
    facet.sweep(BANK, MANNER, grace_s=0)
    world.on_write = None

    assert refused >= 2
    protect(world.start())
    assert len(all_is_well(world)) == 2
    assert first in all_is_well(world)


class SlowPlugin:
    """Is stopped for two hours in the middle, while others sweep; then writes, or fails."""

    resource_type = "Test::Slow"

    def __init__(self) -> None:
        self.pause: Callable[[], object] = lambda: None
        self.fails = False

    def check(self, resource: Resource) -> Resource:
        """See ProtectionPlugin."""
        return resource

    def operation(self, kind: OperationKind) -> Operation | None:
        """See ProtectionPlugin."""
        return Operation(main=self._main) if kind is OperationKind.PROTECT else None

    def _main(self, context: HookContext) -> None:
        assert context.writer is not None
        context.writer.write("first", [pattern(2 << 20, 1)])
        self.pause()
        if self.fails:
            raise StateError("it broke", code="broken")
        context.writer.write("second", [pattern(2 << 20, 2)])


@pytest.mark.parametrize("fails", [False, True])
def test_lease_that_ran_out_stays_lost_whatever_a_plugin_does(tmp_path: Path, fails: bool) -> None:
    """Bank invariant 1: neither a later write nor a failing resource brings it back."""
    plugin = SlowPlugin()
    plugin.fails = fails
    world = World(tmp_path, [plugin])
    facet = world.start()
    good = Resource(type=DIRECTORY, id=str(make_tree(tmp_path / "tree")))
    slow = Resource(type="Test::Slow", id="s")
    facet.make_plan("p", BANK, [good, slow], retention=Retention())
    others = world.start()

    def pause() -> None:
        world.clock.sleep(7200)
        others.sweep(BANK, MANNER, grace_s=0)

    plugin.pause = pause
    with pytest.raises(HoldfastError, match="stopped for too long"):
        protect(facet)

    assert not [name for name in world.banks[BANK] if name.startswith("manifests/")]
