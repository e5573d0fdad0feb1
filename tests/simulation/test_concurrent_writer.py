"""A source that is written to while it is copied and verified.

Goal: invariant 2 of transfer.py (what moved while it was read is never named), closed accounting,
and no false verdict: what the writer changed is `changed`, never damage. Method: between any two
calls on the source a writer edits, renames, removes or replaces an entry; the files it writes are
of one letter each, so that a mix of two states shows. When the writer rests, one more copy ends
proven and equal.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import StateError
from holdfast.files.model import CopyOptions, DeleteLimit, VerifyOptions
from holdfast.model.limits import FILE_BYTES_LARGE, MIB
from holdfast.model.tree import FileKind
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.trees import Seen
from tests.simulation.world import (
    HOUR_S,
    World,
    look,
    make_world,
    metadata,
    put,
    put_directory,
    same_content,
    settle,
)

COPY = CopyOptions(delete=True, delete_limit=DeleteLimit(count=100))
LETTER_BYTES = MIB + 4096

Edit = Callable[[SimDirectory], None]


def fill(tree: SimDirectory) -> None:
    put_directory(tree, b"d", 1)
    put(tree, b"d/f", b"a" * LETTER_BYTES, 2)
    put(tree, b"g", b"b" * 5000, 3)
    put(tree, b"h1", b"c" * 5000, 4)
    tree.make_hard_link(b"h1", b"h2")
    tree.make_symlink(b"s", b"g", metadata(5))


def remove(tree: SimDirectory, path: bytes) -> None:
    tree.remove_file(path)


def replace_by_directory(tree: SimDirectory) -> None:
    tree.remove_file(b"g")
    put_directory(tree, b"g", 6)
    put(tree, b"g/in", b"d" * 3000, 7)


def replace_by_symlink(tree: SimDirectory) -> None:
    tree.remove_file(b"d/f")
    tree.make_symlink(b"d/f", b"../g", metadata(8))


def replace_by_special(tree: SimDirectory) -> None:
    tree.remove_file(b"g")
    tree.make_special(b"g", FileKind.FIFO)


def rewrite_in_place(tree: SimDirectory) -> None:
    file = tree.create_file(b"d/f", resume=True)
    file.write_at(b"e" * LETTER_BYTES, 0)
    file.close()


def replace_atomically(tree: SimDirectory) -> None:
    put(tree, b"d/f.new", b"x" * LETTER_BYTES, 9)
    tree.rename(b"d/f.new", b"d/f")


def remove_directory(tree: SimDirectory) -> None:
    tree.remove_file(b"d/f")
    tree.remove_directory(b"d")


def unlink_and_write(tree: SimDirectory) -> None:
    tree.remove_file(b"h2")
    put(tree, b"h2", b"y" * 4000, 10)


def retarget(tree: SimDirectory) -> None:
    tree.remove_file(b"s")
    tree.make_symlink(b"s", b"elsewhere", metadata(11))


def add_entries(tree: SimDirectory) -> None:
    put(tree, b"d/added", b"z" * 3000, 12)
    put(tree, b"added", b"z" * 3000, 13)


EDITS: dict[str, Edit] = {
    "rewrite in place": rewrite_in_place,
    "replace atomically": replace_atomically,
    "rename": lambda tree: tree.rename(b"d/f", b"moved"),
    "rename a directory": lambda tree: tree.rename(b"d", b"e"),
    "remove": lambda tree: remove(tree, b"g"),
    "remove a directory": remove_directory,
    "file by directory": replace_by_directory,
    "file by symlink": replace_by_symlink,
    "file by FIFO": replace_by_special,
    "break a hard link": unlink_and_write,
    "another link target": retarget,
    "mode only": lambda tree: _chmod(tree, b"d/f"),
    "add": add_entries,
    "truncate": lambda tree: put(tree, b"d/f", b"", 14),
}


def _chmod(tree: SimDirectory, path: bytes) -> None:
    tree.set_metadata(path, FileKind.FILE, metadata(2, 0o600))


def world_with(state: Path, *, target_filled: bool) -> World:
    world = make_world(state)
    fill(world.source)
    settle(world.source)
    if target_filled:
        # The same names with other contents and modes, and something to delete.
        put_directory(world.target, b"d", 21, 0o700)
        put(world.target, b"d/f", b"o" * LETTER_BYTES, 22)
        put(world.target, b"g", b"b" * 5000, 3, 0o600)
        put(world.target, b"gone", b"p" * 3000, 23)
        settle(world.target, 950)
    world.clock.sleep(HOUR_S)
    return world


def looks_of(run: Callable[[World], object], state: Path, *, target_filled: bool) -> int:
    world = world_with(state, target_filled=target_filled)
    before = world.source.gate.looks_count
    run(world)
    return world.source.gate.looks_count - before


def edit_at(world: World, number: int, edit: Edit) -> None:
    """Have the writer act before look `number` on the source, once."""
    first = world.source.gate.looks_count

    def act(count: int, name: str, path: bytes) -> None:
        if count == first + number:
            world.clock.sleep(0.001)
            edit(world.source)

    world.source.gate.faults = SimFaults(on_look=act)


def check_names(world: World, states: list[dict[bytes, Seen]]) -> None:
    """Under a final name stands what stood there in one of the states, whole."""
    for path, seen in look(world.target).items():
        if not path.startswith(b".holdfast"):
            assert any(same_content(seen, state.get(path)) for state in states), path


def check_accounting(result: dict[str, object]) -> None:
    report = result["verify"]
    assert isinstance(report, dict)
    assert sum(report["counts"].values()) == report["entries"]


def check_copy(states: Path, name: str, number: int, *, target_filled: bool) -> None:
    """Copy while the writer acts before look `number`, then once more when it rests."""
    world = world_with(states / f"{number}", target_filled=target_filled)
    seen = [look(world.target), look(world.source)]
    edit_at(world, number, EDITS[name])
    try:
        result = world.copy(COPY)
    except StateError as error:
        if error.code != "listing-incomplete":
            raise
        # Nothing may be deleted by a listing with a hole, so nothing at all was done.
        assert look(world.target) == seen[0]
    else:
        check_names(world, [*seen, look(world.source)])
        check_accounting(result)
        assert result["verdict"] in ("proven", "incomplete"), result["findings"]
    world.source.gate.faults = SimFaults()
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    check_equal_but_special(world)


def run_copies(states: Path, name: str, *, target_filled: bool, step: int) -> None:
    count = looks_of(lambda w: w.copy(COPY), states / "whole", target_filled=target_filled)
    for number in range(1 + list(EDITS).index(name) % step, count + 1, step):
        try:
            check_copy(states, name, number, target_filled=target_filled)
        except BaseException as error:
            error.add_note(f"{name!r} before look {number} of {count}")
            raise


@pytest.mark.parametrize("target_filled", [False, True], ids=["new", "replace"])
@pytest.mark.parametrize("name", EDITS)
def test_written_to_during_a_copy(name: str, target_filled: bool, states: Path) -> None:
    """Every ninth moment, another one for each edit."""
    run_copies(states, name, target_filled=target_filled, step=9)


@pytest.mark.slow
@pytest.mark.parametrize("target_filled", [False, True], ids=["new", "replace"])
@pytest.mark.parametrize("name", EDITS)
def test_written_to_between_any_two_looks_of_a_copy(
    name: str, target_filled: bool, states: Path
) -> None:
    run_copies(states, name, target_filled=target_filled, step=1)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose trees are equal and proven, to be cloned."""
    world = world_with(tmp_path_factory.mktemp("copied") / "state", target_filled=False)
    assert world.copy(COPY)["verdict"] == "proven"
    world.clock.sleep(HOUR_S)
    return world


@pytest.mark.parametrize("name", EDITS)
def test_written_to_between_any_two_looks_of_a_verification(
    name: str, copied: World, states: Path
) -> None:
    world = copied.copied_to(states / "whole")
    world.verify(VerifyOptions())
    for number in range(1, world.source.gate.looks_count + 1):
        world = copied.copied_to(states / f"{number}")
        edit_at(world, number, EDITS[name])
        result = world.verify(VerifyOptions())
        check_accounting(result)
        assert result["verdict"] in ("proven", "incomplete"), (number, result["findings"])


def test_file_that_never_holds_still_is_changed_and_the_rest_settles(states: Path) -> None:
    """Every reading meets a write: after some attempts the entry is CHANGED, the old one stays."""
    world = world_with(states / "state", target_filled=True)
    letters = itertools.cycle(b"qrst")

    def act(number: int, name: str, path: bytes) -> None:
        if (name, path) == ("read_into", b"d/f"):
            put(world.source, b"d/f", bytes([next(letters)]) * LETTER_BYTES, 30)

    old = look(world.target)[b"d/f"]
    world.source.gate.faults = SimFaults(on_look=act)
    result = world.copy(COPY)
    assert same_content(look(world.target)[b"d/f"], old)
    assert result["verdict"] == "incomplete"
    outcomes = {path: outcome.value for path, (_, outcome) in world.outcomes().items()}
    assert outcomes.pop(b"d/f") == "changed"
    assert set(outcomes.values()) == {"settled"}
    assert b"gone" in look(world.target)  # Invariant 3 of rules.py.


def edit_after_planning(world: World, edit: Edit) -> None:
    """Have the writer act before the first operation on the target."""

    def act(number: int, name: str, path: bytes) -> None:
        world.target.gate.faults = SimFaults()
        world.clock.sleep(0.001)
        edit(world.source)

    world.target.gate.faults = SimFaults(on_operation=act)


def test_names_that_part_after_planning_are_not_linked(states: Path) -> None:
    """To call the old content settled under the parted name would be a lie."""
    world = world_with(states / "state", target_filled=True)
    edit_after_planning(world, unlink_and_write)
    world.copy(COPY)
    assert world.outcomes()[b"h2"][1] == "changed"
    assert b"h2" not in look(world.target)


def test_time_of_new_content_is_not_set_on_the_old(states: Path) -> None:
    """Planned was the mode alone; with the new time the old content would hide from every plan."""
    world = world_with(states / "state", target_filled=True)
    edit_after_planning(world, lambda tree: put(tree, b"g", b"k" * 5000, 31))
    world.copy(COPY)
    assert world.outcomes()[b"g"][1] == "changed"
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    assert look(world.target) == look(world.source)


@pytest.mark.parametrize("moment", ["read_into", "xattrs"])
def test_small_file_rewritten_while_it_is_read_in_one_call_is_read_again(
    moment: str, states: Path
) -> None:
    """More files than are flushed one by one; size and kind stay, content and time do not."""
    world = make_world(states / "state")
    for number in range(8):
        put(world.source, b"f%d" % number, b"a" * 5000, number)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    reads = itertools.count()

    def act(number: int, name: str, path: bytes) -> None:
        if (name, path) == (moment, b"f3") and next(reads) == 0:
            put(world.source, b"f3", b"b" * 5000, 30)

    world.source.gate.faults = SimFaults(on_look=act)
    result = world.copy(COPY)
    assert look(world.target) == look(world.source)
    assert result["verdict"] == "proven"


def test_large_file_rewritten_while_it_is_copied_is_not_named(states: Path) -> None:
    world = make_world(states / "state")
    size_bytes = FILE_BYTES_LARGE + MIB
    put(world.source, b"large", b"a" * size_bytes, 1)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    reads = itertools.count()

    def act(number: int, name: str, path: bytes) -> None:
        if name == "read_into" and next(reads) == 4:
            put(world.source, b"large", b"b" * size_bytes, 2)

    world.source.gate.faults = SimFaults(on_look=act)
    assert world.copy(COPY)["verdict"] == "incomplete"
    assert b"large" not in look(world.target)
    world.source.gate.faults = SimFaults()
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    assert look(world.target) == look(world.source)


def check_equal_but_special(world: World) -> None:
    source, target = look(world.source), look(world.target)
    specials = {path for path, seen in source.items() if seen.kind is FileKind.FIFO}
    for path in specials:
        source.pop(path)
        target.pop(path, None)
    assert target == source
