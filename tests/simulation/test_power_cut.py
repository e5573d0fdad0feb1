"""Loss of power at every operation of a copy.

Goal: invariant 1 of transfer.py and the orders of writes of transfer.py and copying.py: whatever
power takes, nothing recorded as settled is lost, under a final name stands an old or a new file and
nothing else, what was displaced or deleted is in the tree or in the quarantine, and a second run
ends proven. Method: one copy is cut off before its n-th operation, for every n (of the large tree,
where it has to be quick, for every third), and each adversary says what is left; the ledger, on a
real disk, keeps what it was told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.files.model import Action, CopyOptions, CopyOutcome, DeleteLimit
from holdfast.model.limits import FILE_BYTES_LARGE, MIB
from holdfast.model.tree import FileKind
from holdfast.testing.clock import SimClock
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import PowerCutError, SimFaults
from holdfast.testing.trees import Seen
from tests.simulation.world import (
    HOUR_S,
    World,
    clone,
    is_aside,
    look,
    make_world,
    metadata,
    put,
    put_directory,
    same_content,
    settle,
)

OPTIONS = CopyOptions(delete=True, delete_limit=DeleteLimit(count=100))
LARGE_BYTES = FILE_BYTES_LARGE + MIB
Adversary = Callable[[SimDirectory], SimDirectory]

ADVERSARIES: dict[str, Adversary] = {
    "flushed only": lambda tree: tree.power_cut(None),
    "names, no contents": lambda tree: tree.power_cut_names_first(),
    "names and sizes, zeros": lambda tree: tree.power_cut_names_first(zeros=True),
    "seed 1": lambda tree: tree.power_cut(1),
    "seed 2": lambda tree: tree.power_cut(2),
}


def large(tree: SimDirectory, path: bytes, fill: bytes, number: int) -> None:
    """Put a file of 9 MiB: three blocks of data, and holes between."""
    file = tree.create_file(path, resume=False)
    for at in (0, 3 * MIB, LARGE_BYTES - MIB):
        file.write_at(fill * (MIB // len(fill)), at)
    file.set_metadata(metadata(number))
    file.close()


def fill_source(tree: SimDirectory) -> None:
    """Files new and to replace, links of both kinds, a large file, kinds that conflict."""
    for number, path in enumerate((b"new", b"new/deep", b"was-file", b"kept-directory")):
        put_directory(tree, path, number)
    put(tree, b"new/deep/a", b"alpha" * 2000, 10)
    put(tree, b"new/b", b"beta" * 3000, 11, 0o600)
    put(tree, b"empty", b"", 12)
    put(tree, b"replaced", b"new content " * 1500, 13)
    put(tree, b"kept-directory/replaced", b"newer " * 4000, 14)
    put(tree, b"kept-directory/same", b"same" * 1000, 15)
    put(tree, b"mode-only", b"m" * 5000, 16, 0o640)
    put(tree, b"was-directory", b"a file now" * 900, 17)
    put(tree, b"was-file/in", b"in a directory now", 18)
    tree.make_symlink(b"link", b"new/b", metadata(19))
    tree.make_symlink(b"link-replaced", b"empty", metadata(20))
    put(tree, b"hard-1", b"hard" * 2500, 21)
    tree.make_hard_link(b"hard-1", b"hard-2")
    tree.make_hard_link(b"hard-1", b"new/hard-3")
    large(tree, b"large", b"L", 22)
    large(tree, b"large-replaced", b"R", 23)
    settle(tree)


def fill_target(tree: SimDirectory) -> None:
    """What an earlier copy of other content may have left."""
    for number, path in enumerate((b"was-directory", b"was-directory/below", b"kept-directory")):
        put_directory(tree, path, number)
    put_directory(tree, b"gone", 40)
    put(tree, b"gone/x", b"x" * 6000, 41)
    put(tree, b"gone-file", b"g" * 4100, 42)
    put(tree, b"was-directory/below/y", b"y" * 5000, 43)
    put(tree, b"was-file", b"a file before", 44)
    put(tree, b"replaced", b"old content " * 1000, 45)
    put(tree, b"kept-directory/replaced", b"older " * 5000, 46)
    put(tree, b"kept-directory/same", b"same" * 1000, 15)
    put(tree, b"mode-only", b"m" * 5000, 16)
    tree.make_symlink(b"link-replaced", b"elsewhere", metadata(47))
    put(tree, b"hard-1", b"hard" * 2500, 21)
    put(tree, b"hard-2", b"no link yet", 48)
    large(tree, b"large-replaced", b"O", 49)
    settle(tree, 950)


@dataclass(slots=True, kw_only=True)
class Setting:
    """Both trees as they are before the copy."""

    clock: SimClock
    source: SimDirectory
    target: SimDirectory
    wanted: dict[bytes, Seen]
    before: dict[bytes, Seen]

    def world(self, state: Path, faults: SimFaults) -> World:
        """Return a world of its own, in which a copy meets these faults."""
        target = clone(self.target, faults)
        return World(state=state, clock=self.clock, source=self.source, target=target)


@pytest.fixture(scope="module")
def setting() -> Setting:
    world = make_world(Path("unused"))
    fill_source(world.source)
    fill_target(world.target)
    world.clock.sleep(HOUR_S)
    return Setting(
        clock=world.clock,
        source=world.source,
        target=world.target,
        wanted=look(world.source),
        before=look(world.target),
    )


def operations_of_copy(setting: Setting, states: Path) -> int:
    world = setting.world(states / "whole", SimFaults())
    result = world.copy(OPTIONS)
    assert result["verdict"] == "proven"
    assert look(world.target) == setting.wanted
    return world.target.gate.operations_count


def cut_at(setting: Setting, state: Path, number: int) -> World:
    """Return the world as it stands when the power fails before operation `number`."""
    world = setting.world(state, SimFaults(power_cut_at=number))
    with pytest.raises(PowerCutError):
        world.copy(OPTIONS)
    return world


def check_survivor(setting: Setting, world: World, survivor: SimDirectory) -> None:
    found = look(survivor)
    check_settled(setting, world, found)
    check_names(setting, found)
    # Only when all that was wanted is durable may what it replaced be let go.
    if not all(same_content(found.get(path), seen) for path, seen in setting.wanted.items()):
        check_nothing_lost(setting, found)


def check_settled(setting: Setting, world: World, found: dict[bytes, Seen]) -> None:
    """Nothing the ledger says is settled may be lost."""
    for path, (action, outcome) in world.outcomes().items():
        if outcome is not CopyOutcome.SETTLED:
            continue
        if action is Action.DELETE:
            assert path not in found, path
            continue
        seen, wanted = found[path], setting.wanted[path]
        assert same_content(seen, wanted), path
        if seen.kind is not FileKind.DIRECTORY:
            assert (seen.mtime_ns, seen.xattrs) == (wanted.mtime_ns, wanted.xattrs), path
            assert seen.mode == wanted.mode or seen.kind is FileKind.SYMLINK, path


def check_names(setting: Setting, found: dict[bytes, Seen]) -> None:
    """Under every final name stands what stood there or what is to stand there, whole."""
    for path, seen in found.items():
        if not is_aside(path):
            candidates = (setting.before.get(path), setting.wanted.get(path))
            assert any(same_content(seen, candidate) for candidate in candidates), path


def check_nothing_lost(setting: Setting, found: dict[bytes, Seen]) -> None:
    """What the plan deletes or displaces is in the tree or in the quarantine, whole."""
    kept = [seen for path, seen in found.items() if is_aside(path)]
    for path, seen in setting.before.items():
        wanted = setting.wanted.get(path)
        displaced = wanted is None or FileKind.DIRECTORY in {seen.kind, wanted.kind}
        if displaced and seen.kind is FileKind.FILE:
            still = same_content(found.get(path), seen)
            assert still or any(same_content(other, seen) for other in kept), path


def check_rerun(setting: Setting, world: World, state: Path, survivor: SimDirectory) -> None:
    """A run after the power is back ends with equal trees, proven, and tidies up."""
    again = world.with_target(state, survivor)
    result = again.copy(OPTIONS)
    assert result["verdict"] == "proven"
    assert look(survivor) == setting.wanted
    assert survivor.open_files_count == 0


def run_cuts(
    setting: Setting, states: Path, numbers: range, adversaries_of: Callable[[int], list[str]]
) -> None:
    for number in numbers:
        world = cut_at(setting, states / f"{number}", number)
        for name, adversary in ADVERSARIES.items():
            survivor = adversary(world.target)
            try:
                check_survivor(setting, world, survivor)
                if name in adversaries_of(number):
                    check_rerun(setting, world, states / f"{number} {name}", survivor)
            except BaseException as error:
                error.add_note(f"cut before operation {number}, adversary {name!r}")
                raise


def in_turns(number: int) -> list[str]:
    return [list(ADVERSARIES)[number % len(ADVERSARIES)]]


def test_power_cut_at_every_third_operation(setting: Setting, states: Path) -> None:
    """Every cut meets every adversary; one of them, in turns, is followed by a second run."""
    count = operations_of_copy(setting, states)
    run_cuts(setting, states, range(1, count + 1, 3), in_turns)


@pytest.mark.slow
def test_power_cut_at_every_operation_then_run_again_after_every_adversary(
    setting: Setting, states: Path
) -> None:
    count = operations_of_copy(setting, states)
    run_cuts(setting, states, range(1, count + 1), lambda _: list(ADVERSARIES))


def test_settled_survives_what_follows_without_a_flush(setting: Setting, states: Path) -> None:
    """A second cut, during the run after the first: settled by either run is there in the end."""
    count = operations_of_copy(setting, states)
    first = cut_at(setting, states / "first", count // 2)
    survivor = first.target.power_cut(7, faults=SimFaults(power_cut_at=count // 4))
    again = first.with_target(states / "again", survivor)
    with pytest.raises(PowerCutError):
        again.copy(OPTIONS)
    for name, adversary in ADVERSARIES.items():
        last = adversary(survivor)
        check_survivor(setting, again, last)
        check_rerun(setting, again, states / name, last)


def many_files(source: SimDirectory, target: SimDirectory) -> None:
    """More than FLUSH_EACH_MAX: made durable by one flush of the file system."""
    for number in range(9):
        put(source, b"f%d" % number, b"%d" % number * 5000, number)


def new_directories(source: SimDirectory, target: SimDirectory) -> None:
    """Nothing but files in new directories, which are put in place whole by one rename each."""
    for directory in (b"a", b"a/below", b"b"):
        put_directory(source, directory, 1)
        for number in range(4):
            put(source, directory + b"/f%d" % number, b"%d" % number * 5000, number)


def file_for_directory(source: SimDirectory, target: SimDirectory) -> None:
    """The only change displaces a directory, so no other flush makes its way durable."""
    put(source, b"d", b"a file now" * 900, 1)
    put_directory(target, b"d", 2)
    put(target, b"d/x", b"x" * 5000, 3)


def directory_for_file(source: SimDirectory, target: SimDirectory) -> None:
    put_directory(source, b"deep", 1)
    put_directory(source, b"deep/d", 2)
    put(source, b"deep/d/x", b"x" * 5000, 3)
    put_directory(target, b"deep", 1)
    put(target, b"deep/d", b"a file before" * 900, 4)


def link_for_directory(source: SimDirectory, target: SimDirectory) -> None:
    """A further name of a hard link group and a symlink displace directories."""
    put(source, b"a", b"linked" * 1000, 1)
    source.make_hard_link(b"a", b"b")
    source.make_symlink(b"c", b"a", metadata(2))
    put(target, b"a", b"linked" * 1000, 1)
    put_directory(target, b"b", 3)
    put(target, b"b/x", b"x" * 5000, 4)
    put_directory(target, b"c", 5)
    put(target, b"c/x", b"x" * 5001, 6)


def mixed_kinds_in_one_batch(source: SimDirectory, target: SimDirectory) -> None:
    """Symlinks between files: a second run numbers what is left anew and meets other partials."""
    for number in range(8):
        if number % 3 == 1:
            source.make_symlink(b"e%d" % number, b"to%d" % number, metadata(number))
        else:
            put(source, b"e%d" % number, b"%d" % number * 3000, number)


def only_deletions(source: SimDirectory, target: SimDirectory) -> None:
    put(source, b"kept", b"kept", 1)
    put(target, b"kept", b"kept", 1)
    put_directory(target, b"gone", 2)
    put_directory(target, b"gone/below", 3)
    put(target, b"gone/below/x", b"x" * 5000, 4)
    put(target, b"gone-file", b"y" * 5000, 5)


def only_metadata(source: SimDirectory, target: SimDirectory) -> None:
    for tree, mode in ((source, 0o600), (target, 0o644)):
        put(tree, b"f", b"f" * 5000, 1, mode)
        tree.make_symlink(b"l", b"f", metadata(mode))
        put_directory(tree, b"d", mode, mode | 0o100)
        put(tree, b"d/f", b"f" * 5000, 1, mode)


SMALL_TREES = (
    many_files,
    new_directories,
    file_for_directory,
    directory_for_file,
    link_for_directory,
    mixed_kinds_in_one_batch,
    only_deletions,
    only_metadata,
)


@pytest.mark.parametrize("fill", SMALL_TREES, ids=lambda fill: fill.__name__)
def test_power_cut_at_every_operation_of_a_small_tree(
    fill: Callable[[SimDirectory, SimDirectory], None], states: Path
) -> None:
    """Trees with one kind of change each, so that no flush for another kind helps it."""
    cut_small_tree(fill, states, in_turns)


@pytest.mark.slow
@pytest.mark.parametrize("fill", SMALL_TREES, ids=lambda fill: fill.__name__)
def test_power_cut_of_a_small_tree_then_run_again_after_every_adversary(
    fill: Callable[[SimDirectory, SimDirectory], None], states: Path
) -> None:
    cut_small_tree(fill, states, lambda _: list(ADVERSARIES))


def cut_small_tree(
    fill: Callable[[SimDirectory, SimDirectory], None],
    states: Path,
    adversaries_of: Callable[[int], list[str]],
) -> None:
    world = make_world(states / "unused")
    fill(world.source, world.target)
    settle(world.source)
    settle(world.target, 950)
    world.clock.sleep(HOUR_S)
    setting = Setting(
        clock=world.clock,
        source=world.source,
        target=world.target,
        wanted=look(world.source),
        before=look(world.target),
    )
    count = operations_of_copy(setting, states)
    run_cuts(setting, states, range(1, count + 1), adversaries_of)
