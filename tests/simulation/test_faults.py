"""A medium that refuses: full disks, failing flushes, blocks that cannot be read.

Goal: nothing half-written under a final name, the rest of the work done where that is safe, the
right error for the entry or the task, and a run after the fault is lifted ends proven. Method: one
good run counts writes and flushes, then each of them meets the fault in turn.
"""

from functools import partial
from pathlib import Path

import pytest

from holdfast.errors import CancelledError, CapacityError, StateError, StorageFailedError
from holdfast.files.model import CopyOptions, DeleteLimit, VerifyOptions
from holdfast.files.side_directory import PARTIAL_DIRECTORY
from holdfast.model.limits import FILE_BYTES_LARGE, MIB
from holdfast.testing.faults import SimFaults
from holdfast.testing.pace import SimPace
from holdfast.testing.trees import Seen
from tests.simulation.world import (
    HOUR_S,
    World,
    is_aside,
    look,
    make_world,
    metadata,
    put,
    put_directory,
    same_content,
    settle,
)

COPY = CopyOptions(delete=True, delete_limit=DeleteLimit(count=100))
LARGE_BYTES = FILE_BYTES_LARGE + MIB


def make(state: Path) -> World:
    """Return two trees with something of each kind to do: few files, so flushed one by one."""
    world = make_world(state)
    put_directory(world.source, b"d", 1)
    put(world.source, b"d/f", b"new" * 3000, 2)
    put(world.source, b"g", b"newer" * 3000, 3)
    put(world.source, b"h", b"h" * 3000, 4, 0o600)
    put(world.source, b"h1", b"hard" * 1000, 5)
    world.source.make_hard_link(b"h1", b"h2")
    put(world.source, b"large", b"L" * LARGE_BYTES, 6)
    put(world.target, b"g", b"old" * 4000, 7)
    put(world.target, b"h", b"h" * 3000, 4)
    put(world.target, b"gone", b"gone" * 1000, 8)
    put(world.target, b"large", b"O" * LARGE_BYTES, 9)
    settle(world.source)
    settle(world.target, 950)
    world.clock.sleep(HOUR_S)
    return world


def check_whole(world: World, states: list[dict[bytes, Seen]]) -> None:
    for path, seen in look(world.target).items():
        if not is_aside(path):
            assert any(same_content(seen, state.get(path)) for state in states), path


def check_lifted(world: World) -> None:
    """The same command, when the fault is gone, ends what was begun."""
    world.target.gate.faults = SimFaults()
    world.source.gate.faults = SimFaults()
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    assert look(world.target) == look(world.source)
    assert world.target.open_files_count == world.source.open_files_count == 0


def test_disk_full_from_every_write_on(states: Path) -> None:
    whole = make(states / "whole")
    before = whole.target.gate.writes_count
    whole.copy(COPY)
    count = whole.target.gate.writes_count - before
    assert count > 10
    for number in range(1, count + 1):
        world = make(states / f"{number}")
        seen = [look(world.target), look(world.source)]
        first = world.target.gate.writes_count
        world.target.gate.faults = SimFaults(disk_full_from=first + number)
        with pytest.raises(CapacityError) as caught:
            world.copy(COPY)
        assert caught.value.code == "disk-full"
        check_whole(world, seen)
        assert b"gone" in look(world.target)  # Deletion comes last.
        assert world.target.open_files_count == 0
        check_lifted(world)


def test_disk_full_leaves_no_small_partial(states: Path) -> None:
    """What cannot be gone on with must not hold the room it is wanted for."""
    world = make_world(states / "state")
    for number in range(9):
        put(world.source, b"f%d" % number, b"f" * 5000, number)
    settle(world.source)
    world.target.gate.faults = SimFaults(disk_full_from=5)
    with pytest.raises(CapacityError):
        world.copy(COPY)
    assert world.target.list_names(PARTIAL_DIRECTORY) == []


def test_every_flush_fails_once(states: Path) -> None:
    """Invariant 3 of transfer.py: no content that a failed flush lost is ever named or settled.

    The simulated medium forgets what it could not write: were it named all the same, or flushed
    again as it is, the power cut after the run would show it.
    """
    whole = make(states / "whole")
    before = whole.target.gate.flushes_count
    whole.copy(COPY)
    count = whole.target.gate.flushes_count - before
    assert count > 8
    for number in range(1, count + 1):
        world = make(states / f"{number}")
        seen = [look(world.target), look(world.source)]
        first = world.target.gate.flushes_count
        world.target.gate.faults = SimFaults(flush_fails_at=first + number)
        try:
            assert world.copy(COPY)["verdict"] != "damaged"
        except StorageFailedError as error:
            if error.code != "flush-failed":
                raise
        check_whole(world, seen)
        check_settled_is_durable(world)
        check_lifted(world)
        assert look(world.target.power_cut(None)) == look(world.source)


def check_settled_is_durable(world: World) -> None:
    durable, source = look(world.target.power_cut_names_first(zeros=True)), look(world.source)
    for path, (_, outcome) in world.outcomes().items():
        if outcome == "settled" and path in source:
            assert same_content(durable.get(path), source[path]), path


def test_failed_flush_of_a_batch_names_none_of_it_and_keeps_no_partial(states: Path) -> None:
    """More than FLUSH_EACH_MAX files are one flush; large ones must not be gone on with either."""
    for flush in (1, 3):  # The content of the large file; then, its name flushed, the batch.
        world = make_world(states / f"{flush}")
        for number in range(9):
            put(world.source, b"f%d" % number, b"f" * 5000, number)
        put(world.source, b"large", b"L" * LARGE_BYTES, 20)
        settle(world.source)
        world.clock.sleep(HOUR_S)
        world.target.gate.faults = SimFaults(flush_fails_at=flush)
        flushed: list[bytes] = []
        world.target.gate.faults.on_operation = lambda _, name, path, seen=flushed: (
            seen.append(path) if name == "flush" else None
        )
        result = world.copy(COPY)
        failed = {path for path, (_, outcome) in world.outcomes().items() if outcome == "failed"}
        assert failed
        assert not failed & set(look(world.target))
        assert len(flushed) == len(set(flushed))
        assert result["verdict"] == "incomplete"
        assert not any(path.startswith(PARTIAL_DIRECTORY + b"/") for path in look(world.target))
        check_lifted(world)


def test_stop_after_a_failed_flush_leaves_no_partial_to_go_on_with(states: Path) -> None:
    """Invariant 3 of transfer.py, where no end of the run tidies up.

    In memory the partial looks right, so a later run that compared would find nothing to write.
    """
    world = make_world(states / "state")
    put(world.source, b"large", b"L" * LARGE_BYTES, 1)
    put(world.source, b"small", b"s" * 5000, 2)
    settle(world.source)
    world.clock.sleep(HOUR_S)

    def stop(number: int, name: str, path: bytes) -> None:
        if name == "flush":
            world.paces[-1].stop()

    world.target.gate.faults = SimFaults(flush_fails_at=1, on_operation=stop)
    with pytest.raises(CancelledError):
        world.copy(COPY)
    check_lifted(world)
    assert look(world.target.power_cut_names_first(zeros=True)) == look(world.source)


def test_what_was_deleted_is_kept_until_all_is_proven(states: Path) -> None:
    world = make(states / "state")
    gone = look(world.target)[b"gone"]
    world.target.gate.faults = SimFaults(unreadable={(b"g", 0)})
    result = world.copy(COPY)
    assert result["verdict"] == "incomplete"
    assert result["quarantine"] == "/target/.holdfast/quarantine"
    world.target.gate.faults = SimFaults()
    found = look(world.target)
    assert b"gone" not in found
    assert any(is_aside(path) and same_content(seen, gone) for path, seen in found.items())
    check_lifted(world)


@pytest.mark.parametrize("block", range(9))
def test_unreadable_block_of_the_source_fails_that_entry_alone(block: int, states: Path) -> None:
    world = make(states / "state")
    old = look(world.target)[b"large"]
    world.source.gate.faults = SimFaults(unreadable={(b"large", block)})
    result = world.copy(COPY)
    assert result["verdict"] == "incomplete"
    outcomes = {path: outcome.value for path, (_, outcome) in world.outcomes().items()}
    assert outcomes.pop(b"large") == "failed"
    assert set(outcomes.values()) == {"settled"}
    assert same_content(look(world.target)[b"large"], old)
    assert b"gone" in look(world.target)  # Invariant 3 of rules.py: something failed.
    check_lifted(world)


def test_unreadable_target_is_failed_not_damaged(states: Path) -> None:
    world = make(states / "state")
    world.copy(COPY)
    world.clock.sleep(HOUR_S)
    world.target.gate.faults = SimFaults(unreadable={(b"large", 3), (b"g", 0)})
    result = world.verify(VerifyOptions())
    assert result["verdict"] == "incomplete"
    findings = result["findings"]
    assert isinstance(findings, list)
    assert [(row["path"], row["outcome"]) for row in findings] == [
        ("g", "failed"),
        ("large", "failed"),
    ]


@pytest.mark.parametrize("side", ["source", "target"])
def test_directory_that_cannot_be_listed_is_failed_not_damaged(side: str, states: Path) -> None:
    """What is in it is neither missing nor extra: nothing is known of it."""
    world = make(states / "state")
    world.copy(COPY)
    world.clock.sleep(HOUR_S)
    tree = world.source if side == "source" else world.target
    tree.gate.faults = SimFaults(forbidden={b"d"})
    result = world.verify(VerifyOptions())
    assert result["verdict"] == "incomplete"


def test_nothing_is_deleted_when_part_of_the_source_cannot_be_listed(states: Path) -> None:
    """Invariant 3 of rules.py, for the whole run."""
    world = make(states / "state")
    put_directory(world.target, b"d", 1)
    put(world.target, b"d/only-here", b"x", 2)
    world.source.gate.faults = SimFaults(forbidden={b"d"})
    before = look(world.target)
    with pytest.raises(StateError, match="could not be listed"):
        world.copy(COPY)
    assert look(world.target) == before


def test_entry_that_cannot_be_deleted_is_told(states: Path) -> None:
    world = make(states / "state")
    world.target.gate.faults = SimFaults(forbidden={b"gone"})
    result = world.copy(COPY)
    assert result["verdict"] == "incomplete"
    assert world.outcomes()[b"gone"][1] == "failed"
    check_lifted(world)


def test_cancelled_at_any_block_keeps_what_is_settled(states: Path) -> None:
    """A stop is no fault, but must leave no more than one: each `take` of the pace is a moment."""
    whole = make(states / "whole")
    whole.copy(COPY)
    count = whole.paces[0].takes_count
    for number in range(1, count + 1, 3):
        world = make(states / f"{number}")
        seen = [look(world.target), look(world.source)]
        world.pace = partial(SimPace, stop_at=number)
        with pytest.raises(CancelledError):
            world.copy(COPY)
        check_whole(world, seen)
        assert world.target.open_files_count == 0
        world.pace = SimPace
        check_lifted(world)


def test_metadata_is_as_at_the_source_whatever_failed_first(states: Path) -> None:
    world = make(states / "state")
    world.source.set_metadata(b"d", world.source.stat(b"d").kind, metadata(77, 0o500))
    world.clock.sleep(HOUR_S)
    world.copy(COPY)
    assert world.target.stat(b"d").mode == 0o500


def test_what_could_not_be_read_gets_no_name_with_its_new_directory(states: Path) -> None:
    """Six files of a new directory get their place by one rename; one of them breaks off midway."""
    world = make_world(states / "world")
    put_directory(world.source, b"new", 1)
    for number in range(5):
        put(world.source, b"new/f%d" % number, b"%d" % number * 5000, number)
    put(world.source, b"new/half", b"h" * (2 * MIB + 5), 9)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    # The faults count blocks of 1 MiB: the first can be read and is written, the second cannot.
    world.source.gate.faults = SimFaults(unreadable={(b"new/half", 1)})
    result = world.copy(CopyOptions())
    assert result["verdict"] == "incomplete"
    found = look(world.target)
    assert b"new/half" not in found
    assert {b"new/f%d" % number for number in range(5)} <= found.keys()
    check_lifted(world)
