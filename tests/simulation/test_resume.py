"""Going on after an interruption, and a source that rots.

Goal: a second run writes no block again that was there; what an interrupted run left never gets
into another entry; damage at the source is told apart from damage at the target and never copied.
Method: cut, count the bytes written by path, look at the trees.
"""

from pathlib import Path

import pytest

from holdfast.files.model import CopyOptions, DeleteLimit, VerifyOptions
from holdfast.files.side_directory import partial_path
from holdfast.model.limits import FILE_BYTES_LARGE, MIB
from holdfast.testing.faults import PowerCutError, SimFaults
from holdfast.testing.trees import read_file
from tests.simulation.world import (
    HOUR_S,
    World,
    look,
    make_world,
    put,
    same_content,
    settle,
)

COPY = CopyOptions(delete=True, delete_limit=DeleteLimit(count=100))
LARGE_BYTES = FILE_BYTES_LARGE + MIB + 5


def large_content() -> bytes:
    return b"".join(bytes([65 + number]) * MIB for number in range(LARGE_BYTES // MIB)) + b"tail!"


def world_with_large(state: Path) -> World:
    world = make_world(state)
    put(world.source, b"large", large_content(), 1)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    return world


def cut_at_write(world: World, number: int) -> None:
    """Run a copy whose power fails before this write."""
    writes = 0

    def act(count: int, name: str, path: bytes) -> None:
        nonlocal writes
        writes += name == "write_at"
        if writes == number:
            world.target.gate.faults.power_cut_at = count

    world.target.gate.faults = SimFaults(on_operation=act)
    with pytest.raises(PowerCutError):
        world.copy(COPY)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
@pytest.mark.parametrize("number", [2, 6, 10])
def test_rerun_writes_no_block_of_a_large_file_again_that_is_there(
    number: int, kept: bool, states: Path
) -> None:
    """Where the medium kept the blocks of the partial file, only the rest is written."""
    world = world_with_large(states / "cut")
    cut_at_write(world, number)
    if kept:
        world.target.gate.faults = SimFaults()
        world.target.gate.is_off = False
        world.target.flush_all()
    survivor = world.target.power_cut(None)
    again = world.with_target(states / "again", survivor)
    assert again.copy(COPY)["verdict"] == "proven"
    assert read_file(survivor, b"large") == large_content()
    there = (number - 1) * MIB if kept else 0
    assert survivor.gate.written_bytes[partial_path(b"large")] == LARGE_BYTES - there


def test_partial_file_is_compared_and_not_trusted(states: Path) -> None:
    """Blocks that power left wrong, in a partial of the right size, are written again."""
    world = world_with_large(states / "cut")
    cut_at_write(world, 10)
    survivor = world.target.power_cut_names_first(zeros=True)
    again = world.with_target(states / "again", survivor)
    assert again.copy(COPY)["verdict"] == "proven"
    assert read_file(survivor, b"large") == large_content()


def test_source_that_changed_after_the_cut_gives_its_new_content(states: Path) -> None:
    world = world_with_large(states / "cut")
    cut_at_write(world, 6)
    survivor = world.target.power_cut(3)
    put(world.source, b"large", large_content()[::-1], 2)
    world.clock.sleep(HOUR_S)
    again = world.with_target(states / "again", survivor)
    assert again.copy(COPY)["verdict"] == "proven"
    assert read_file(survivor, b"large") == large_content()[::-1]


def cut_before(world: World, name: str, path: bytes) -> None:
    """Run a copy whose power fails before the first such operation."""

    def act(count: int, called: str, at: bytes) -> None:
        if (called, at) == (name, path):
            world.target.gate.faults.power_cut_at = count

    world.target.gate.faults = SimFaults(on_operation=act)
    with pytest.raises(PowerCutError):
        world.copy(COPY)


@pytest.mark.parametrize("size_bytes", [5000, LARGE_BYTES], ids=["small", "large"])
def test_second_name_left_in_the_side_directory_is_never_written_through(
    size_bytes: int, states: Path
) -> None:
    """Cut off between linking and renaming; then the two names part at the source.

    The partial file is a name of the settled leader: to write into it would change the leader.
    """
    world = make_world(states / "cut")
    put(world.source, b"a", b"a" * LARGE_BYTES, 1)
    world.source.make_hard_link(b"a", b"b")
    settle(world.source)
    world.clock.sleep(HOUR_S)
    cut_before(world, "rename", partial_path(b"b"))
    survivor = world.target.power_cut_names_first()
    assert survivor.stat(b"a").links_count == 2
    world.source.remove_file(b"b")
    put(world.source, b"b", b"b" * size_bytes, 2)
    world.clock.sleep(HOUR_S)

    def check(count: int, name: str, path: bytes) -> None:
        assert read_file(survivor, b"a") == b"a" * LARGE_BYTES

    survivor.gate.faults = SimFaults(on_operation=check)
    again = world.with_target(states / "again", survivor)
    assert again.copy(COPY)["verdict"] == "proven"
    assert look(survivor) == look(world.source)


def test_partial_that_its_owner_may_not_write_is_opened_up_first(states: Path) -> None:
    """Cut off after the mode was set: a file of mode 0400 must not stop its own second run."""
    world = make_world(states / "cut")
    put(world.source, b"large", b"a" * LARGE_BYTES, 1, 0o400)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    cut_before(world, "rename", partial_path(b"large"))
    survivor = world.target.power_cut_names_first()
    modes: list[int] = []

    def note(count: int, name: str, path: bytes) -> None:
        if name == "create_file":
            modes.append(survivor.stat(path).mode)

    survivor.gate.faults = SimFaults(on_operation=note)
    assert world.with_target(states / "again", survivor).copy(COPY)["verdict"] == "proven"
    assert modes == [0o600]
    assert look(survivor) == look(world.source)


def test_rotten_source_is_told_apart_and_never_copied(states: Path) -> None:
    """The target's copy is the only good one left: neither repair nor copy may touch it."""
    world = make_world(states / "state")
    put(world.source, b"f", b"f" * 50_000, 1)
    put(world.source, b"g", b"g" * 50_000, 2)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    good = look(world.target)
    world.source.rot(b"f", 20_000)
    world.clock.sleep(HOUR_S)
    for _ in range(2):
        result = world.verify(VerifyOptions())
        assert result["verdict"] == "damaged"
        assert outcomes_of(result) == [("f", "source-damaged")]
    world.target.rot(b"g", 30_000)
    verified = world.verify(VerifyOptions())
    assert outcomes_of(verified) == [("f", "source-damaged"), ("g", "digest-differs")]
    before = world.target.gate.written_bytes.copy()
    result = world.repair(VerifyOptions())
    assert result["verdict"] == "damaged"
    assert outcomes_of(result) == [("f", "source-damaged")]
    assert world.target.gate.written_bytes - before == {b"g": 50_000}
    world.copy(COPY)
    assert look(world.target) == good


def test_rotten_target_names_the_block_and_repair_writes_only_that(states: Path) -> None:
    world = world_with_large(states / "state")
    world.copy(COPY)
    world.clock.sleep(HOUR_S)
    world.target.rot(b"large", 3 * MIB + 17)
    result = world.verify(VerifyOptions())
    findings = result["findings"]
    assert isinstance(findings, list)
    assert findings[0]["detail"] == f"1 block differs: bytes {3 * MIB}-{4 * MIB}"
    before = world.target.gate.written_bytes.copy()
    assert world.repair(VerifyOptions())["verdict"] == "proven"
    assert world.target.gate.written_bytes - before == {b"large": MIB}
    assert same_content(look(world.target)[b"large"], look(world.source)[b"large"])


def outcomes_of(result: dict[str, object]) -> list[tuple[str, str]]:
    findings = result["findings"]
    assert isinstance(findings, list)
    return [(row["path"], row["outcome"]) for row in findings]
