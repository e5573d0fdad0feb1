"""Verifications and copies as a user runs them: what is read, trusted, sampled, counted and kept.

Method: two simulated trees with the real service between them; the report's figures are compared
with what is known of the trees.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.simulation.world import (
    HOUR_S,
    World,
    look,
    make_world,
    metadata,
    put,
    put_directory,
    settle,
)

from holdfast.errors import CapacityError, InvalidRequestError
from holdfast.files.model import CopyOptions, DeleteLimit, VerifyOptions
from holdfast.files.proving import open_proof
from holdfast.model.limits import BLOCK_BYTES, FILE_BYTES_LARGE, MIB
from holdfast.model.tree import FileKind, Metadata, MetadataLoss, Space
from holdfast.proof.document import read_proof
from holdfast.proof.statement import VerificationMode
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.trees import put_file, read_file

COPY = CopyOptions(delete=True, delete_limit=DeleteLimit(count=100))
FILES = 20
SIZE_BYTES = 5000


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Equal trees, copied and proven an hour ago."""
    world = make_world(tmp_path / "state")
    put_directory(world.source, b"d", 1)
    for number in range(FILES):
        put(world.source, b"d/f%02d" % number, bytes([number]) * SIZE_BYTES, number)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    world.clock.sleep(HOUR_S)
    return world


def report_of(result: dict[str, object]) -> dict[str, Any]:
    report = result["verify"]
    assert isinstance(report, dict)
    assert sum(report["counts"].values()) == report["entries"]
    return report


INCREMENTAL = VerifyOptions(mode=VerificationMode.INCREMENTAL)


def test_incremental_verification_reads_only_what_moved(world: World) -> None:
    """Invariant 5 of rules.py, from one run to the next."""
    first = report_of(world.verify(INCREMENTAL))
    assert first["hashedBytes"] == FILES * SIZE_BYTES  # The target, read too soon to be trusted.
    second = report_of(world.verify(INCREMENTAL))
    assert (second["hashedBytes"], second["trusted"]) == (0, FILES)
    put(world.target, b"d/f03", bytes([3]) * SIZE_BYTES, 3)
    world.clock.sleep(HOUR_S)
    third = report_of(world.verify(INCREMENTAL))
    assert (third["hashedBytes"], third["trusted"]) == (SIZE_BYTES, FILES - 1)
    assert third["verdict"] == "proven"


def test_damage_stays_damage_however_often_it_is_looked_at(world: World) -> None:
    """No digest may be remembered beside the signature of content that has another."""
    world.target.rot(b"d/f05", 17)
    assert world.verify(VerifyOptions())["verdict"] == "damaged"
    for _ in range(2):
        again = report_of(world.verify(INCREMENTAL))
        assert (again["verdict"], again["counts"]["digest-differs"]) == ("damaged", 1)


def test_full_verification_trusts_nothing(world: World) -> None:
    world.verify(INCREMENTAL)
    full = report_of(world.verify(VerifyOptions()))
    assert (full["hashedBytes"], full["trusted"]) == (2 * FILES * SIZE_BYTES, 0)


def test_sample_reads_its_share_and_judges_the_metadata_of_the_rest(world: World) -> None:
    options = VerifyOptions(mode=VerificationMode.SAMPLE, sample_percent=40, sample_seed=7)
    report = report_of(world.verify(options))
    read = report["counts"]["matched"] - 1
    assert 0 < read < FILES
    assert report["counts"]["not-sampled"] == FILES - read
    assert report["hashedBytes"] == 2 * read * SIZE_BYTES
    assert report["verdict"] == "sampled"
    assert f"{read} of {FILES} files" in report["confidence"]
    for number in range(FILES):
        world.target.set_metadata(b"d/f%02d" % number, FileKind.FILE, metadata(number, 0o600))
    again = report_of(world.verify(options))
    assert again["verdict"] == "damaged"
    assert again["counts"]["metadata-differs"] == FILES


def test_sample_by_a_budget_of_bytes(world: World) -> None:
    budget = FILES * SIZE_BYTES // 2
    options = VerifyOptions(mode=VerificationMode.SAMPLE, sample_bytes=budget)
    report = report_of(world.verify(options))
    assert 0 < report["counts"]["not-sampled"] < FILES
    whole = VerifyOptions(mode=VerificationMode.SAMPLE, sample_bytes=10 * budget)
    assert "not-sampled" not in report_of(world.verify(whole))["counts"]
    with pytest.raises(InvalidRequestError):
        world.verify(VerifyOptions(mode=VerificationMode.SAMPLE))


def test_what_only_the_target_has_is_extra_one_way_and_damage_both_ways(world: World) -> None:
    put(world.target, b"extra", b"x", 50)
    world.clock.sleep(HOUR_S)
    one_way = report_of(world.verify(VerifyOptions(one_way=True)))
    assert (one_way["verdict"], one_way["counts"]["extra"]) == ("proven", 1)
    both_ways = report_of(world.verify(VerifyOptions()))
    assert both_ways["counts"]["missing-at-source"] == 1
    assert both_ways["verdict"] == "damaged"


def test_repair_verifies_first_where_nothing_was_found_before(world: World) -> None:
    world.target.rot(b"d/f05", 17)
    assert world.repair(VerifyOptions())["verdict"] == "proven"
    assert look(world.target) == look(world.source)


def test_repair_leaves_what_only_the_target_has_and_says_so(world: World) -> None:
    put(world.target, b"extra", b"x", 50)
    world.target.rot(b"d/f05", 17)
    world.clock.sleep(HOUR_S)
    world.verify(VerifyOptions())
    result = world.repair(VerifyOptions())
    assert result["verdict"] == "damaged"
    assert b"extra" in look(world.target)
    assert read_file(world.target, b"d/f05") == bytes([5]) * SIZE_BYTES


def test_repair_does_not_write_through_an_inode_that_another_name_shares(tmp_path: Path) -> None:
    """Two files at the source, one inode at the target: to mend the one would break the other."""
    world = make_world(tmp_path / "state")
    for tree in (world.source, world.target):
        put(tree, b"a", b"a" * 5000, 1)
    put(world.source, b"b", b"b" * 5000, 1)
    world.target.make_hard_link(b"a", b"b")
    settle(world.source)
    settle(world.target)
    world.clock.sleep(HOUR_S)
    assert world.verify(VerifyOptions())["verdict"] == "damaged"
    assert world.repair(VerifyOptions())["verdict"] == "proven"
    assert look(world.target) == look(world.source)


def test_hard_link_group_stays_one_when_it_is_repaired(tmp_path: Path) -> None:
    world = make_world(tmp_path / "state")
    put(world.source, b"a", b"a" * 5000, 1)
    for name in (b"b", b"c"):
        world.source.make_hard_link(b"a", name)
    settle(world.source)
    world.clock.sleep(HOUR_S)
    world.copy(COPY)
    world.target.rot(b"b", 100)
    world.clock.sleep(HOUR_S)
    assert world.verify(VerifyOptions())["verdict"] == "damaged"
    assert world.repair(VerifyOptions())["verdict"] == "proven"
    assert look(world.target) == look(world.source)


def test_excluded_entries_take_no_part_on_either_side(world: World) -> None:
    put(world.target, b"only.log", b"x", 50)
    put(world.source, b"d/other.log", b"x", 51)
    world.clock.sleep(HOUR_S)
    settle(world.source)
    settle(world.target)
    world.clock.sleep(HOUR_S)
    report = report_of(world.verify(VerifyOptions(exclude=("*.log",))))
    assert report["verdict"] == "proven"
    assert report["entries"] == FILES + 1


def test_special_files_are_skipped_counted_and_never_opened(tmp_path: Path) -> None:
    world = make_world(tmp_path / "state")
    put(world.source, b"f", b"f", 1)
    for number, kind in enumerate((FileKind.FIFO, FileKind.SOCKET, FileKind.DEVICE)):
        world.source.make_special(b"p%d" % number, kind)
    opened: list[bytes] = []
    world.source.gate.faults = SimFaults(
        on_look=lambda _, name, path: opened.append(path) if name == "open_file" else None
    )
    world.clock.sleep(HOUR_S)
    result = world.copy(COPY)
    assert report_of(result)["counts"] == {"matched": 1, "skipped": 3}
    assert set(opened) == {b"f"}


def test_metadata_the_target_cannot_keep_is_counted_and_not_tried_again(tmp_path: Path) -> None:
    world = make_world(tmp_path / "state")
    world.target.gate.faults = SimFaults(
        cannot_keep=frozenset({MetadataLoss.OWNER, MetadataLoss.XATTR})
    )
    kept_not = Metadata(mode=0o4755, mtime_ns=5, uid=7, gid=7, xattrs={b"user.x": b"1"})
    put_file(world.source, b"f", b"f", kept_not)
    world.clock.sleep(HOUR_S)
    result = world.copy(COPY)
    assert result["verdict"] == "proven"
    copied = result["copy"]
    assert isinstance(copied, dict)
    assert copied["losses"] == {
        "owner-not-kept": 1,
        "set-id-bits-not-kept": 1,
        "xattr-not-kept": 1,
    }
    assert world.target.stat(b"f").mode == 0o755
    world.clock.sleep(HOUR_S)
    again = world.copy(COPY)
    assert again["verdict"] == "proven"
    assert world.outcomes() == {}


ATTRIBUTED = Metadata(
    mode=0o644, mtime_ns=1_500_000_000_000_000_007, uid=1000, gid=1000, xattrs={b"user.x": b"1"}
)


def test_attributes_found_different_by_a_verification_are_set_by_the_next_copy(
    world: World,
) -> None:
    """That the source has not moved since says nothing of what was found at the target then."""
    world.source.set_metadata(b"d/f07", FileKind.FILE, ATTRIBUTED)
    world.target.set_metadata(b"d/f07", FileKind.FILE, metadata(7))
    world.clock.sleep(HOUR_S)
    assert world.verify(VerifyOptions())["verdict"] == "damaged"
    assert world.copy(COPY)["verdict"] == "proven"
    assert world.target.xattrs(b"d/f07") == ATTRIBUTED.xattrs


def test_attributes_changed_at_the_target_are_set_back_by_the_next_copy(world: World) -> None:
    world.verify(INCREMENTAL)
    world.target.set_metadata(b"d/f07", FileKind.FILE, ATTRIBUTED)
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    assert world.target.xattrs(b"d/f07") == {}


def test_copy_that_cannot_fit_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    world = make_world(tmp_path / "state")
    put(world.source, b"f", b"f" * MIB, 1)
    world.target = SimDirectory(space=Space(MIB, None, 4096))
    with pytest.raises(CapacityError) as caught:
        world.copy(COPY)
    assert caught.value.code == "disk-would-fill"
    assert look(world.target) == {}
    assert world.target.gate.operations_count == 0


@pytest.mark.parametrize("data", [(), (0,), (3,), (0, 5, 9)])
def test_sparse_file_stays_sparse(data: tuple[int, ...], tmp_path: Path) -> None:
    """Holes are holes at the target too, also where a file without holes stood before."""
    world = make_world(tmp_path / "state")
    size_bytes = FILE_BYTES_LARGE + 2 * MIB + 77
    for tree, blocks in ((world.source, data), (world.target, tuple(range(10)))):
        file = tree.create_file(b"f", resume=False)
        for block in blocks:
            file.write_at(b"x" * 4096, block * BLOCK_BYTES)
        file.truncate(size_bytes)
        file.close()
    put(world.source, b"g", b"", 1)
    world.clock.sleep(HOUR_S)
    assert world.copy(COPY)["verdict"] == "proven"
    assert read_file(world.target, b"f") == read_file(world.source, b"f")
    assert world.target.stat(b"f").allocated_bytes == 4096 * len(data)


def test_proofs_of_one_pair_are_chained(world: World) -> None:

    previous = None
    for _ in range(3):
        proof = world.copy(COPY)["proof"]
        assert isinstance(proof, dict)
        with open_proof(Path(proof["path"])) as stream:
            reader = read_proof(stream)
            assert sum(1 for _ in reader) == FILES + 1
            if previous is not None:
                assert reader.statement.previous == previous
            previous = reader.chain_digest
        world.clock.sleep(HOUR_S)
