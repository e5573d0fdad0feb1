"""The plan of a copy: which rows it has, what it counts, and what it protects.

Method: two simulated trees, a ledger without a file, rows read back.
"""

import pytest

from holdfast.errors import CapacityError
from holdfast.files.ledger import Known, Ledger
from holdfast.files.listing import Exclusions
from holdfast.files.model import FULL_FIDELITY, Action, CopyOptions, PlanItem, PlanSummary, Reason
from holdfast.files.planning import Planner
from holdfast.files.rules import bytes_short
from holdfast.model.limits import MIB
from holdfast.model.tree import FileKind, Metadata, Space, signature_of
from holdfast.proof.digests import Algorithm
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.trees import put_file

METADATA = Metadata(mode=0o644, mtime_ns=1_500_000_000_000_000_000, uid=1000, gid=1000)
DELETE = CopyOptions(delete=True)


def put(tree: SimDirectory, *paths: bytes, content: bytes = b"x") -> None:
    for path in paths:
        put_file(tree, path, content, METADATA)


def directories(tree: SimDirectory, *paths: bytes) -> None:
    for path in paths:
        tree.make_directory(path)


def settle(*trees: SimDirectory) -> None:
    for tree in trees:
        for path in (b"d", b"a", b"a-b", b"e"):
            if path in {name for name, _ in tree.list_names(b"")}:
                kind = tree.stat(path).kind
                if kind is FileKind.DIRECTORY:
                    tree.set_metadata(path, kind, METADATA)


def plan(
    source: SimDirectory, target: SimDirectory | None, options: CopyOptions = DELETE
) -> tuple[PlanSummary, dict[bytes, PlanItem], Planner]:
    planner = make_planner(source, target, Ledger(None, Algorithm.BLAKE3), options)
    summary = planner.make()
    return summary, {item.path: item for item in planner.ledger.plan.open_items(*Action)}, planner


def make_planner(
    source: SimDirectory,
    target: SimDirectory | None,
    ledger: Ledger,
    options: CopyOptions = DELETE,
) -> Planner:
    return Planner(
        source=source,
        target=target,
        ledger=ledger,
        options=options,
        exclusions=Exclusions(options.exclude),
        fidelity=FULL_FIDELITY,
        on_progress=lambda _entries, _bytes: None,
    )


def test_first_copy_has_a_row_for_everything() -> None:
    source = SimDirectory()
    directories(source, b"d")
    put(source, b"d/f", content=b"x" * 10)
    source.make_symlink(b"s", b"d/f", METADATA)
    source.make_special(b"p", FileKind.FIFO)
    summary, rows, _ = plan(source, None)
    assert {path: row.action for path, row in rows.items()} == {
        b"d": Action.MAKE_DIRECTORY,
        b"d/f": Action.FETCH,
        b"p": Action.SKIP,
        b"s": Action.MAKE_SYMLINK,
    }
    assert (summary.source_entries, summary.source_bytes, summary.target_entries) == (4, 10, 0)
    assert not summary.is_empty


def test_equal_trees_give_an_empty_plan() -> None:
    source, target = SimDirectory(), SimDirectory()
    for tree in (source, target):
        directories(tree, b"d")
        put(tree, b"d/f")
        tree.make_symlink(b"s", b"d/f", METADATA)
    settle(source, target)
    summary, rows, _ = plan(source, target)
    assert rows == {}
    assert summary.is_empty
    assert summary.counts == {Action.KEEP: 3}


def test_hard_link_group_has_one_leader_and_rows_for_the_rest() -> None:
    source, target = SimDirectory(), SimDirectory()
    put(source, b"a")
    for name in (b"b", b"c"):
        source.make_hard_link(b"a", name)
    _, rows, _ = plan(source, None)
    assert [(row.action, row.leader) for row in rows.values()] == [
        (Action.FETCH, None),
        (Action.RELINK, b"a"),
        (Action.RELINK, b"a"),
    ]
    put(target, b"a", b"b")
    target.make_hard_link(b"a", b"c")
    _, rows, _ = plan(source, target)
    assert {path: (row.action, row.reason) for path, row in rows.items()} == {
        b"b": (Action.RELINK, Reason.LINK_GROUP)
    }


def test_two_files_on_one_inode_at_the_target_are_parted() -> None:
    source, target = SimDirectory(), SimDirectory()
    put(source, b"a", b"b")
    put(target, b"a")
    target.make_hard_link(b"a", b"b")
    _, rows, _ = plan(source, target)
    assert {path: row.action for path, row in rows.items()} == {b"b": Action.FETCH}


def test_displaced_directory_takes_its_contents_with_it_and_counts_them() -> None:
    source, target = SimDirectory(), SimDirectory()
    put(source, b"a")
    directories(target, b"a", b"a/below")
    put(target, b"a/below/x", b"a/y")
    summary, rows, _ = plan(source, target)
    assert list(rows) == [b"a"]
    assert rows[b"a"].displaces is FileKind.DIRECTORY
    assert (summary.counts, summary.goes_along) == ({Action.FETCH: 1}, 3)


def test_two_displaced_directories_whose_contents_interleave() -> None:
    """`a`, `a-b`, `a-b/y`, `a/x`: the second stands between the first and what is in it."""
    source, target = SimDirectory(), SimDirectory()
    put(source, b"a", b"a-b")
    directories(target, b"a", b"a-b")
    put(target, b"a/x", b"a-b/y")
    summary, rows, _ = plan(source, target)
    assert list(rows) == [b"a", b"a-b"]
    assert (summary.counts, summary.goes_along) == ({Action.FETCH: 2}, 2)


def test_excluded_entry_in_a_displaced_directory_protects_it() -> None:
    """Also where another displaced directory stands between; and it is counted once."""
    source, target = SimDirectory(), SimDirectory()
    put(source, b"a", b"a-b")
    directories(target, b"a", b"a-b")
    put(target, b"a/keep.log", b"a/keep2.log", b"a-b/y")
    options = CopyOptions(delete=True, exclude=("*.log",))
    summary, rows, _ = plan(source, target, options)
    assert {path: row.action for path, row in rows.items()} == {
        b"a": Action.REFUSE,
        b"a-b": Action.FETCH,
    }
    assert summary.counts[Action.REFUSE] == 1
    assert summary.counts[Action.FETCH] == 1


def test_without_delete_only_what_is_in_both_is_touched() -> None:
    """Invariant 1 of rules.py."""
    source, target = SimDirectory(), SimDirectory()
    put(source, b"a")
    directories(target, b"a", b"e")
    put(target, b"a/x", b"e/y")
    _, rows, _ = plan(source, target, CopyOptions())
    assert {path: row.action for path, row in rows.items()} == {b"a": Action.REFUSE}


def test_touched_directories_are_those_whose_times_move_deepest_first() -> None:
    source, target = SimDirectory(), SimDirectory()
    directories(source, b"d", b"d/e", b"d/f", b"k")
    put(source, b"d/e/new", b"k/same")
    directories(target, b"d", b"d/e", b"d/f", b"k")
    put(target, b"d/f/gone", b"k/same")
    for tree in (source, target):
        for path in (b"d", b"d/e", b"d/f", b"k"):
            tree.set_metadata(path, FileKind.DIRECTORY, METADATA)
    _, _, planner = plan(source, target)
    assert list(planner.ledger.plan.touched) == [b"d/f", b"d/e"]


def test_unchanged_page_is_kept_whole_and_a_changed_one_entry_by_entry() -> None:
    """The ledger knows all files and many that are gone; of one page an attribute changed."""
    source, target = SimDirectory(), SimDirectory()
    for tree in (source, target):
        directories(tree, b"d", b"e")
        put(tree, *(b"d/%02d" % number for number in range(30)), b"e/0", b"e/1", b"e/2")
    ledger = Ledger(None, Algorithm.BLAKE3)
    rows = [known(path, source, target) for path in (b"d/07", b"d/08", b"e/0", b"e/1", b"e/2")]
    gone = [rows[0]._replace(path=b"d/07/%05d" % number) for number in range(5000)]
    ledger.entries.put([*rows, *gone], run=1)
    planner = make_planner(source, target, ledger)
    assert planner.make().counts == {Action.KEEP: 35}

    with_attribute = METADATA._replace(xattrs={b"user.a": b"1"})
    target.set_metadata(b"e/1", FileKind.FILE, with_attribute)
    planner = make_planner(source, target, ledger)
    assert planner.make().counts == {Action.KEEP: 34, Action.SET_METADATA: 1}
    assert [item.path for item in planner.ledger.plan.open_items(*Action)] == [b"e/1"]


def known(path: bytes, source: SimDirectory, target: SimDirectory) -> Known:
    one, other = source.stat(path), target.stat(path)
    return Known(
        path,
        FileKind.FILE,
        one.size_bytes,
        one.mode,
        None,
        b"digest",
        b"",
        signature_of(one),
        signature_of(other),
        "matched",
        "",
    )


def test_new_files_are_planned_alike_in_a_page_and_one_by_one() -> None:
    """A FIFO among them has a page planned entry by entry."""
    alone, beside = SimDirectory(), SimDirectory()
    put(alone, b"a", b"b", b"c", content=b"12345")
    put(beside, b"a", b"b", b"c", content=b"12345")
    beside.make_special(b"p", FileKind.FIFO)
    (one, rows, _), (other, rows_beside, _) = plan(alone, None), plan(beside, None)
    del rows_beside[b"p"]
    assert rows == rows_beside
    assert (one.fetch_bytes, one.room_bytes) == (other.fetch_bytes, other.room_bytes)


@pytest.mark.parametrize(
    ("source_bytes", "target_bytes", "room_bytes"),
    [
        (MIB, None, MIB + 0),  # New: all of it.
        (MIB, 3 * MIB, MIB),  # Replaced: beside the old one until it is there.
        (3 * MIB, MIB, 3 * MIB),  # Grows by two, and the old one is given back later.
    ],
)
def test_room_is_what_must_be_free_at_once(
    source_bytes: int, target_bytes: int | None, room_bytes: int
) -> None:
    source, target = SimDirectory(), SimDirectory()
    put(source, b"f", content=b"x" * source_bytes)
    if target_bytes is not None:
        put(target, b"f", content=b"y" * target_bytes)
    summary, _, _ = plan(source, target)
    assert summary.room_bytes == pytest.approx(room_bytes, abs=4096)
    assert bytes_short(summary, Space(0, None, 4096)) > room_bytes
    assert CapacityError.kind == "capacity"


def test_room_of_many_replaced_files_counts_the_largest_once() -> None:
    source, target = SimDirectory(), SimDirectory()
    for number, size_bytes in enumerate((MIB, 2 * MIB, MIB)):
        put(source, b"%d" % number, content=b"x" * size_bytes)
        put(target, b"%d" % number, content=b"y" * (size_bytes + 1))
    summary, _, _ = plan(source, target)
    assert summary.room_bytes == pytest.approx(2 * MIB, abs=4096)
    assert summary.fetch_bytes == 4 * MIB


def test_sparse_file_needs_room_for_its_data_alone() -> None:
    source = SimDirectory()
    file = source.create_file(b"f", resume=False)
    file.write_at(b"x" * 4096, 0)
    file.truncate(1 << 40)
    file.close()
    summary, _, _ = plan(source, None)
    assert summary.room_bytes <= 8192
    assert summary.fetch_bytes == 1 << 40


def test_attributes_are_compared_and_a_vanished_entry_is_left_to_the_transfer() -> None:
    source, target = SimDirectory(), SimDirectory()
    put(source, b"f")
    put(target, b"f")
    with_attribute = Metadata(
        mode=0o644, mtime_ns=METADATA.mtime_ns, uid=1000, gid=1000, xattrs={b"user.x": b"1"}
    )
    target.set_metadata(b"f", FileKind.FILE, with_attribute)
    assert plan(source, target)[1][b"f"].action is Action.SET_METADATA
    target.gate.faults = SimFaults(
        on_look=lambda _, name, path: target.remove_file(path) if name == "xattrs" else None
    )
    assert plan(source, target)[1] == {}


def test_unlistable_parts_of_either_side_are_counted() -> None:
    """Invariant 3 of rules.py: the count forbids every deletion."""
    for side in (0, 1):
        trees = (SimDirectory(), SimDirectory())
        for tree in trees:
            directories(tree, b"d")
        trees[side].gate.faults.forbidden.add(b"d")
        summary, _, planner = plan(*trees)
        assert summary.listing_failures == 1
        assert [finding.path for finding in planner.listing_findings] == [b"d"]
