"""Goal: what two commands do to one bank or catalogue at once loses nothing and says nothing wrong.

Method: a hook in the store, the runner or a listener lets the other command run at the one moment
that matters; clocks stand still, jump, or are set back.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpoints.bank import Lease
from holdfast.checkpoints.catalogue import Catalogue
from holdfast.checkpoints.model import (
    CheckpointId,
    CheckpointState,
    Depth,
    Resource,
    Retention,
    Verdict,
)
from holdfast.checkpoints.plugins import HookContext, Operation, OperationKind
from holdfast.checkpoints.scheduling import ScheduledOperation, Scheduler
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import (
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    StateError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.ports import ObjectInfo, ObjectStore, ReadableDirectory, StorePromises
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.tasks.database import opening
from holdfast.tasks.model import Task
from holdfast.testing.clock import SimClock
from holdfast.testing.objects import SimObjectStore, StoreFaults
from tests.support.checkpoints import (
    BANK,
    DIRECTORY,
    MANNER,
    MemoryHeads,
    World,
    directory_plan,
    protect,
)
from tests.support.trees import pattern, read_tree, write

OTHER = "sim:other"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    write(tmp_path / "one" / "a", pattern(5000, 1))
    write(tmp_path / "one" / "large", pattern(3 << 20, 2))
    write(tmp_path / "two" / "b", pattern(5000, 3))
    return world


def verify(facet: Checkpoints, checkpoint: str, **given: Any) -> dict[str, Any]:
    return dict(facet.verify([facet.get(checkpoint)], MANNER, **given).result or {})


class _Watched:
    """A runner whose `settle` lets something happen first."""

    def __init__(self, facet: Checkpoints, first: threading.Event, then: threading.Thread) -> None:
        self.run = facet.around.runner.run
        self._settle = facet.around.runner.settle
        self._first = first
        self._then = then

    def settle(self) -> object:
        self._first.set()
        self._then.join()
        return self._settle()


def test_checkpoint_that_is_made_while_others_look_stays_available(world: World) -> None:
    """The looker read PROTECTING; the protect ends before the looker asks for its task."""
    protecting = world.start()
    directory_plan(protecting, world.root / "one")
    written, go = threading.Event(), threading.Event()

    def pause(_number: int, _method: str, name: str) -> None:
        if name.startswith("manifests/"):
            written.set()
            go.wait(20)

    world.on_write = pause
    thread = threading.Thread(target=protect, args=(protecting,))
    thread.start()
    assert written.wait(20)
    looking = world.start()
    watched = _Watched(looking, go, thread)
    looking = Checkpoints(
        replace(looking.around, runner=watched),
        lambda _store: pytest.fail("not measured"),
    )

    looking.list()

    assert [each.state for each in looking.list()] == [CheckpointState.AVAILABLE]


class _BrokenHeads(MemoryHeads):
    def advance(self, plan_id: str, checkpoint_id: str, digest: str, task_id: str) -> None:
        raise StorageFailedError("the register failed", code="register-failed")


def test_what_fails_after_the_manifest_unmakes_no_checkpoint(world: World) -> None:
    """It is whole in the bank: retention must not take it for one that never was."""
    world.heads = _BrokenHeads()
    facet = world.start()
    directory_plan(facet, world.root / "one")

    with pytest.raises(StorageFailedError):
        protect(facet)

    (left,) = facet.list()
    assert left.state is CheckpointState.AVAILABLE
    assert verify(facet, left.id)["verdict"] == "success"


def test_sweep_of_a_bank_that_takes_long_to_read_ends(world: World) -> None:
    """Reading what is live takes longer than the sweep's lease lasts."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    for number in range(12):
        write(world.root / "one" / "a", pattern(4000, number + 10))
        last = protect(facet)
    facet.delete(last, MANNER)
    world.clock.sleep(7200)

    told = world.start(StoreFaults(slow_s=20.0)).sweep(BANK, MANNER, grace_s=60).result or {}

    assert int(str(told["deleted"])) > 0


def test_protect_whose_checkpoint_before_takes_long_to_read_ends(world: World) -> None:
    """So do many resources that are unchanged, and their listings."""
    trees = [world.root / f"tree{number}" for number in range(40)]
    for number, tree in enumerate(trees):
        write(tree / "a", pattern(3000, number))
    facet = world.start()
    directory_plan(facet, *trees)
    protect(facet)

    slow = world.start(StoreFaults(slow_s=20.0))

    assert slow.get(protect(slow)).state is CheckpointState.AVAILABLE


def hurt_one(world: World) -> str:
    """Flip a bit of the largest chunk and return its name."""
    objects = world.banks[BANK]
    name = max((n for n in objects if n.startswith("chunks/")), key=lambda n: len(objects[n].data))
    data = bytearray(objects[name].data)
    data[len(data) // 2] ^= 1
    objects[name].data = bytes(data)
    return name


@pytest.mark.parametrize("healer", ["heal", "protect"])
def test_chunk_healed_while_it_is_put_away_is_not_lost(world: World, healer: str) -> None:
    """The healer comes between the last look at the damaged chunk and its removal."""
    facet = world.start()
    directory_plan(facet, world.root / "one", name="copy", bank=OTHER)
    protect(facet, "copy")
    directory_plan(facet, world.root / "one")
    first = protect(facet)
    name = hurt_one(world)
    healers = world.start()
    tried: list[str] = []

    def heal(_number: int, _method: str, written: str) -> None:
        if written.startswith("quarantine/") and not tried:
            tried.append(written)
            try:
                if healer == "heal":
                    healers.heal(BANK, OTHER, MANNER)
                else:
                    protect(healers)
            except HoldfastError as error:
                tried.append(error.code)

    world.on_write = heal
    verify(facet, first)
    world.on_write = None

    assert tried
    bank_id = facet.get(first).bank_id
    known = facet.catalogue.chunks.known(bank_id)
    assert name in world.banks[BANK] or bytes.fromhex(name[-64:]) not in known
    protect(world.start())
    assert verify(world.start(), first)["verdict"] == "success"


def test_protect_stopped_while_it_writes_its_manifest_claims_nothing(world: World) -> None:
    """Bank invariant 1: the pause comes after the lease was looked at."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    others = world.start()
    paused: list[str] = []

    def pause(_number: int, method: str, name: str) -> None:
        if method == "create" and name.startswith("manifests/") and not paused:
            paused.append(name)
            world.clock.sleep(7200)
            others.sweep(BANK, MANNER, grace_s=0)

    world.on_write = pause
    with pytest.raises(StateError, match="stopped for too long"):
        protect(facet)
    world.on_write = None

    assert paused
    assert paused[0] not in world.banks[BANK]
    assert verify(facet, protect(world.start()))["verdict"] == "success"


def test_clock_that_is_set_back_lengthens_no_lease() -> None:
    clock = SimClock()
    store = SimObjectStore(clock)
    lease = Lease(store, clock, "leases/task-1", duration_s=600)
    lease.renew()
    clock.step_wall_clock(-7200 * 10**9)
    clock.sleep(400)
    writes = store.writes_count
    lease.keep()
    assert store.writes_count == writes + 1
    clock.step_wall_clock(-7200 * 10**9)
    clock.sleep(700)

    with pytest.raises(StateError, match="stopped for too long"):
        lease.check()


def test_drill_goes_on_after_a_kill(world: World) -> None:
    """What a killed drill left is no reason to call a checkpoint bad."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    checkpoint = protect(facet)

    def interrupt(task: Task) -> None:
        if task.stage == "restoring":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        facet.verify(
            [facet.get(checkpoint)], replace(MANNER, listener=interrupt), depth=Depth.RESTORE
        )
    (left,) = _tasks(facet)
    write(world.state / "drills" / left / "tree" / "left", b"by a kill")

    result = verify(world.start(), checkpoint, depth=Depth.RESTORE)

    assert result["verdict"] == "success"
    assert not (world.state / "drills" / left).exists()


def _tasks(facet: Checkpoints) -> list[str]:
    from holdfast.server.local import LocalServices

    services = LocalServices(facet.around.state)
    page = services.journal.list_tasks(kind="checkpoints.verify")
    services.journal.close()
    return [str(task.id) for task in page.tasks]


def test_schedule_removed_while_it_runs_stays_removed(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "one")
    scheduler = Scheduler(facet)
    added = scheduler.add("p", ScheduledOperation.PROTECT, "0 * * * *", {})
    world.clock.sleep(7200)
    removed: list[str] = []

    def remove(_task: Task) -> None:
        if not removed:
            removed.append(added.id)
            scheduler.remove(added.id)

    scheduler.run_due(replace(MANNER, listener=remove))

    assert removed
    assert scheduler.schedules() == []


def test_clock_that_was_wrong_for_a_while_stops_no_schedule(world: World) -> None:
    """It ran ten years ahead at one look: the next run is not put off until then."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    scheduler = Scheduler(facet)
    scheduler.add("p", ScheduledOperation.PROTECT, "0 * * * *", {})
    ten_years_ns = 3650 * 86_400 * 10**9
    world.clock.step_wall_clock(ten_years_ns)
    assert len(scheduler.run_due(MANNER)) == 1
    world.clock.step_wall_clock(-ten_years_ns)
    scheduler.run_due(MANNER)

    world.clock.sleep(7200)

    assert len(scheduler.run_due(MANNER)) == 1


def test_lesser_verification_takes_back_neither_fail_nor_success(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "one", world.root / "two")
    checkpoint = protect(facet)
    two = f"{DIRECTORY}#{(world.root / 'two').resolve()}"
    verify(facet, checkpoint)
    lesser: list[Mapping[str, Any]] = [{"depth": Depth.PRESENCE}, {"resource": two}]
    for given in lesser:
        verify(facet, checkpoint, **given)
        now = facet.get(checkpoint).verified
        assert now is not None
        assert (now.verdict, now.depth) == (Verdict.SUCCESS, Depth.DIGEST)
    name = hurt_one(world)
    read_only = world.start(StoreFaults(read_only=True))
    assert verify(read_only, checkpoint)["verdict"] == "fail"
    assert name in world.banks[BANK]

    for given in lesser:
        verify(facet, checkpoint, **given)
        with pytest.raises(StateError, match="verification"):
            facet.restore(checkpoint, MANNER)

    facet.catalogue.close()
    world.lose_catalogue()
    rebuilt = world.start()
    rebuilt.examine(BANK, MANNER)
    again = rebuilt.get(checkpoint).verified
    assert again is not None
    assert again.verdict is Verdict.FAIL


def test_resource_that_is_not_in_a_checkpoint_is_not_verified(world: World) -> None:
    """Nothing examined leaves no verdict."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    checkpoint = protect(facet)

    with pytest.raises(HoldfastError, match="no resource"):
        verify(facet, checkpoint, resource=f"{DIRECTORY}#/nowhere")

    assert facet.get(checkpoint).verified is None


def test_catalogue_that_others_hold_is_unavailable(world: World) -> None:
    facet, other = world.start(), world.start()
    directory_plan(facet, world.root / "one")
    facet.catalogue._sql.execute("PRAGMA busy_timeout = 10")
    with (
        other.catalogue._database.transaction(),
        pytest.raises(UnavailableError, match="locked"),
    ):
        directory_plan(facet, world.root / "two")


def test_sweep_takes_nothing_while_a_manifest_that_should_be_there_is_not(world: World) -> None:
    """A bank that shows less than it held: its chunks may be all that is left of it."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    first = protect(facet)
    write(world.root / "one" / "a", pattern(700, 9))
    protect(facet)
    objects = world.banks[BANK]
    hidden = {name: objects.pop(name) for name in list(objects) if first in name}
    assert hidden
    before = set(objects)

    for _ in range(2):
        with pytest.raises(StateError, match="not known"):
            facet.sweep(BANK, MANNER, grace_s=0)
        assert {name for name in objects if name.startswith("chunks/")} <= before
        # Also once somebody was told, until it is deleted or back.
        facet.examine(BANK, MANNER)
    objects |= hidden
    assert verify(facet, first)["verdict"] == "success"
    del objects[f"manifests/{first}"]
    facet.delete(first, MANNER)
    assert int(str((facet.sweep(BANK, MANNER, grace_s=-1).result or {})["deleted"])) > 0


def test_lock_lifts_no_hold(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "one")
    checkpoint = protect(facet)
    facet.set_protection(checkpoint, is_protected=True)
    locked_ns = world.clock.now_ns() + 10**9

    locked = facet.set_protection(checkpoint, is_protected=None, locked_until_ns=locked_ns)

    assert (locked.is_protected, locked.locked_until_ns) == (True, locked_ns)
    again = facet.set_protection(checkpoint, is_protected=False, locked_until_ns=locked_ns - 5)
    assert (again.is_protected, again.locked_until_ns) == (False, locked_ns)


def test_checkpoint_deleted_while_it_is_examined_stays_deleted(world: World) -> None:
    """The doctor read its manifest before, and writes down what it read after."""
    facet, deleting = world.start(), world.start()
    directory_plan(facet, world.root / "one")
    first, second = protect(facet), protect(facet)

    class Meddled(SimObjectStore):
        def get(self, name: str, limit_bytes: int) -> bytes:
            data = super().get(name, limit_bytes)
            if name == f"manifests/{first}":
                deleting.delete(first, MANNER)
            return data

    def open_meddled(_url: str) -> SimObjectStore:
        return Meddled(world.clock, objects=world.banks[BANK])

    examining = Checkpoints(
        replace(world.start().around, open_store=open_meddled),
        lambda _store: StorePromises(True, True),
    )
    examining.examine(BANK, MANNER)

    assert [each.id for each in facet.list()] == [second]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_checkpoints_that_come_and_go_while_manifests_are_listed_are_told_right(
    world: World, moment: str
) -> None:
    """A protect ends, and another checkpoint is deleted, right before or after the listing."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    first = protect(facet)
    made: list[str] = []

    def meddle() -> None:
        made.append(protect(facet))
        facet.delete(first, MANNER)

    class Meddled(SimObjectStore):
        def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
            is_now = prefix == "manifests/" and not made
            if is_now and moment == "before":
                meddle()
            found = list(super().list(prefix, after))
            if is_now and moment == "after":
                meddle()
            yield from found

    def open_meddled(_url: str) -> SimObjectStore:
        return Meddled(world.clock, objects=world.banks[BANK])

    examining = Checkpoints(
        replace(world.start().around, open_store=open_meddled),
        lambda _store: StorePromises(True, True),
    )
    examining.examine(BANK, MANNER)

    told = [(each.id, each.state) for each in facet.list()]
    assert told == [(made[0], CheckpointState.AVAILABLE)]


class TinyPlugin:
    """Keeps a few bytes of each of its resources, of which there may be many."""

    resource_type = "Test::Tiny"

    def check(self, resource: Resource) -> Resource:
        """See ProtectionPlugin."""
        return resource

    def operation(self, kind: OperationKind) -> Operation | None:
        """See ProtectionPlugin."""
        match kind:
            case OperationKind.PROTECT:
                return Operation(main=self._protect)
            case OperationKind.RESTORE:
                return Operation(main=self._restore)
            case _:
                return None

    def _protect(self, context: HookContext) -> None:
        assert context.writer is not None
        context.writer.write("content", [context.resource.id.encode()])

    def _restore(self, context: HookContext) -> None:
        context.report["told"] = "x" * 300


def test_result_of_many_resources_fails_no_task(tmp_path: Path) -> None:
    """What does not fit into a task's result is cut, the worst told first."""
    world = World(tmp_path, [TinyPlugin()])
    facet = world.start()
    resources = [
        Resource(type="Test::Tiny", id=f"{number:04}-{'long' * 225}") for number in range(300)
    ]
    facet.make_plan("p", BANK, resources, retention=Retention(last=1))
    for _ in range(2):
        protect(facet)
    checkpoints = facet.list()

    told = facet.verify(checkpoints, MANNER).result or {}
    restored = facet.restore(checkpoints[0].id, MANNER).result or {}

    assert (told["verdict"], told["checkpointsCount"], told["isCut"]) == ("success", 2, True)
    assert restored["isCut"]
    assert (facet.retain_durably("p", MANNER).result or {})["deletedCount"] == 1


def test_verification_of_what_was_deleted_meanwhile_is_no_success(world: World) -> None:
    facet, deleting = world.start(), world.start()
    directory_plan(facet, world.root / "one")
    checkpoint = protect(facet)

    class Meddled(SimObjectStore):
        def get(self, name: str, limit_bytes: int) -> bytes:
            if name == f"manifests/{checkpoint}":
                deleting.catalogue.set_state(CheckpointId(checkpoint), CheckpointState.DELETED)
                world.banks[BANK].pop(name, None)
            return super().get(name, limit_bytes)

    def open_meddled(_url: str) -> SimObjectStore:
        return Meddled(world.clock, objects=world.banks[BANK])

    verifying = Checkpoints(
        replace(world.start().around, open_store=open_meddled),
        lambda _store: StorePromises(True, True),
    )

    told = verify(verifying, checkpoint)

    assert [each["verdict"] for each in told["checkpoints"]] == ["gone"]
    assert told["verdict"] == "partial"


def test_failures_are_named_first(world: World) -> None:
    """Of more checkpoints than a result names, those that failed are then among the named."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    oldest = protect(facet)
    protect(facet)
    del world.banks[BANK][f"manifests/{oldest}"]

    told: dict[str, Any] = dict(facet.verify(facet.list(), MANNER).result or {})

    assert told["verdict"] == "fail"
    assert told["checkpoints"][0]["checkpoint"] == oldest


def test_bank_is_not_made_with_a_key_that_nobody_has(world: World) -> None:
    """Or no plan could ever use the place."""
    facet = world.start()
    write(world.root / "one" / "a", b"x")
    resources = [Resource(type=DIRECTORY, id=str(world.root / "one"))]

    with pytest.raises(DeniedError):
        facet.make_plan("p", BANK, resources, retention=Retention(), key_id="0123456789abcdef")

    assert world.banks[BANK] == {}
    directory_plan(facet, world.root / "one", encrypted=True)


class LeavingPlugin(TinyPlugin):
    """Leaves out as many entries as are named."""

    def _protect(self, context: HookContext) -> None:
        super()._protect(context)
        assert context.writer is not None
        for number in range(100):
            context.writer.leave_out(b"%d-%s" % (number, b"long" * 240), "why " * 100)


def test_names_of_what_was_left_out_fail_no_protect(tmp_path: Path) -> None:
    """Each of many resources names some; the counts stay where the names are too many."""
    world = World(tmp_path, [LeavingPlugin()])
    facet = world.start()
    resources = [Resource(type="Test::Tiny", id=f"{number}") for number in range(70)]
    facet.make_plan("p", BANK, resources, retention=Retention())

    told = facet.protect("p", MANNER).result or {}

    assert told["leftOutCount"] == 7000
    found, body = facet.show(str(told["checkpoint"]))
    assert body is not None
    assert [record.left_out_count for record in body.records] == [100] * 70
    assert all(record.left_out for record in body.records)
    assert verify(facet, found.id)["verdict"] == "success"


def test_catalogue_is_opened_by_one_after_the_other(tmp_path: Path) -> None:
    """Two that switch a new file to a log at once would find it locked, without any waiting."""
    opened = threading.Event()

    def open_one() -> None:
        Catalogue(tmp_path / "checkpoints.sqlite").close()
        opened.set()

    thread = threading.Thread(target=open_one)
    with opening(tmp_path / "checkpoints.sqlite"):
        thread.start()
        assert not opened.wait(0.2)
    assert opened.wait(10)
    thread.join()


def test_holds_outlive_the_catalogue_and_bind_every_machine(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "one", retention=Retention(last=1))
    held, locked, free = protect(facet), protect(facet), protect(facet)
    until_ns = world.clock.now_ns() + 3600 * 10**9
    facet.set_protection(held, is_protected=True)
    facet.set_protection(locked, is_protected=None, locked_until_ns=until_ns)
    other = World(world.root / "elsewhere")
    other.banks, other.clock = world.banks, world.clock
    key = world.state / "keys"
    shutil.copytree(key, other.state / "keys")
    elsewhere = other.start()
    elsewhere.examine(BANK, MANNER)
    facet.set_protection(free, is_protected=True)

    for one in (held, locked, free):
        with pytest.raises(StateError):
            elsewhere.delete(one, MANNER)
    assert elsewhere.get(free).is_protected

    facet.catalogue.close()
    world.lose_catalogue()
    rebuilt = world.start()
    rebuilt.examine(BANK, MANNER)
    assert [rebuilt.get(one).is_protected for one in (held, locked, free)] == [True, False, True]
    assert rebuilt.get(locked).locked_until_ns == until_ns
    rebuilt.set_protection(held, is_protected=False)
    world.clock.sleep(7200)
    for one in (held, locked):
        rebuilt.delete(one, MANNER)
    assert [name for name in world.banks[BANK] if name.startswith("holds/")] == [f"holds/{free}"]


@pytest.mark.parametrize(
    "url",
    [
        "s3+https://KEY:Hidden@host/bucket",
        "s3+https://Hidden@host/bucket",
        "s3+http://host/bucket?sig=Hidden",
        "s3+http://host/bucket#Hidden",
    ],
)
def test_secret_in_the_url_of_a_bank_is_written_nowhere(world: World, url: str) -> None:
    """Neither catalogue nor journal, nor the error that refuses it."""
    facet = world.start()
    resources = [Resource(type=DIRECTORY, id=str(world.root / "one"))]
    asked: list[Callable[[], object]] = [
        lambda: facet.make_plan("p", url, resources, retention=Retention()),
        lambda: facet.examine(url, MANNER),
        lambda: facet.sweep(url, MANNER),
        lambda: facet.heal(BANK, url, MANNER),
    ]
    for ask in asked:
        with pytest.raises(InvalidRequestError) as raised:
            ask()
        assert raised.value.code == "bank-with-secret"
        assert "Hidden" not in json.dumps(raised.value.as_problem())

    files = [path for path in world.state.iterdir() if path.is_file()]
    assert len(files) >= 2
    assert not [path for path in files if b"Hidden" in path.read_bytes()]


def test_what_is_remembered_is_for_its_owner_alone(world: World) -> None:
    """Also where the state directory was made by somebody else, open to all."""
    world.state.mkdir(mode=0o755)
    facet = world.start()
    directory_plan(facet, world.root / "one")

    modes = {path.name: path.stat().st_mode & 0o777 for path in world.state.glob("*.sqlite*")}

    assert len(modes) >= 4
    assert set(modes.values()) == {0o600}


def test_tree_that_is_not_mounted_is_no_new_state_of_it(world: World) -> None:
    """Empty checkpoints would push the full ones out of what is kept."""
    facet = world.start()
    tree = world.root / "one"
    directory_plan(facet, tree, retention=Retention(last=1))
    full = protect(facet)
    tree.rename(world.root / "away")
    tree.mkdir()

    for _ in range(2):
        with pytest.raises(StateError, match="is empty"):
            protect(facet)
        facet.retain("p", MANNER, dry_run=False)
    assert full in [each.id for each in facet.list()]

    tree.rmdir()
    (world.root / "away").rename(tree)
    assert facet.get(protect(facet)).entries == 3
    for left in tree.iterdir():
        left.unlink()
    assert facet.get(protect(facet)).entries == 1


def test_tree_that_cannot_be_listed_at_all_is_not_protected(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "one", world.root / "two")

    class Refusing(PosixReadableDirectory):
        def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
            raise DeniedError("not for you", code="denied")

    def open_source(root: bytes) -> ReadableDirectory:
        kind = Refusing if root.endswith(b"two") else PosixReadableDirectory
        return kind(root)

    refused = Checkpoints(
        replace(facet.around, open_source=open_source), lambda _store: StorePromises(True, True)
    )
    told: dict[str, Any] = dict(refused.protect("p", MANNER).result or {})

    (reason,) = told["reasons"].values()
    assert "not for you" in reason
    assert facet.get(told["checkpoint"]).state is CheckpointState.ERROR


def test_bank_that_cannot_be_written_is_examined_and_restored_from(world: World) -> None:
    """As a copy on a medium that is mounted read-only: the last thing there may be."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    checkpoint = protect(facet)
    facet.catalogue.close()
    world.lose_catalogue()

    def refuse(_store: ObjectStore) -> StorePromises:
        raise DeniedError("the store is read-only", code="store-denied")

    around = world.start(StoreFaults(read_only=True)).around
    rebuilt = Checkpoints(around, refuse)
    told: dict[str, Any] = dict(rebuilt.examine(BANK, MANNER).result or {})

    assert (told["onlyInBank"], told["promises"]) == ([checkpoint], {})
    out = world.root / "out"
    rebuilt.restore(checkpoint, MANNER, parameters={DIRECTORY: {"target": str(out)}})
    assert read_tree(out) == read_tree(world.root / "one")


def test_manifest_of_another_format_hides_no_other(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "one")
    first, second = protect(facet), protect(facet)
    stored = world.banks[BANK][f"manifests/{second}"]
    stored.data = stored.data.replace(b"holdfast-checkpoint/1", b"holdfast-checkpoint/2")
    facet.catalogue.close()
    world.lose_catalogue()

    rebuilt = world.start()
    told: dict[str, Any] = dict(rebuilt.examine(BANK, MANNER).result or {})

    assert told["onlyInBank"] == [first]
    assert list(told["damagedManifests"]) == [second]


@pytest.mark.parametrize("stages", [1, 2])
def test_restore_that_was_cut_off_goes_on_and_no_other_does(world: World, stages: int) -> None:
    """Only where it had begun is what it finds at the target its own."""
    facet = world.start()
    directory_plan(facet, world.root / "one")
    checkpoint, out = protect(facet), world.root / "out"
    given = {DIRECTORY: {"target": str(out)}}
    entered: list[str] = []

    def interrupt(task: Task) -> None:
        entered.append(task.stage)
        if entered.count("restoring") == stages:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        facet.restore(checkpoint, replace(MANNER, listener=interrupt), parameters=given)
    write(out / "a", b"in part")

    again = world.start()
    if stages == 1:
        with pytest.raises(StateError, match="not empty"):
            again.restore(checkpoint, MANNER, parameters=given)
        assert (out / "a").read_bytes() == b"in part"
    else:
        again.restore(checkpoint, MANNER, parameters=given)
        assert read_tree(out) == read_tree(world.root / "one")
