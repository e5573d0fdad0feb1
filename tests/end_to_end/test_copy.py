"""Goal: a copy makes the target like the source, and refuses what would lose data.

Method: the real command on real trees; the trees are compared by code of the tests alone. What is
refused must leave the target as it was, entry for entry.
"""

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.support.command import Holdfast
from tests.support.trees import SIDE_DIRECTORY, age, make_tree, pattern, read_tree, write

MIB = 1 << 20


def test_a_copy_is_equal_proven_and_leaves_nothing_beside(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    make_tree(source)
    first = holdfast.copy(source, target)
    again = holdfast.copy(source, target)
    assert (first.exit, first.json["verdict"]) == (0, "proven")
    assert read_tree(target) == read_tree(source)
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
    assert not (target / ".holdfast").exists()
    assert again.exit == 0
    assert set(again.json["plan"]["counts"]) == {"keep"}
    assert again.json["copy"]["writtenBytes"] == 0


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_any_number_of_jobs_gives_the_same_tree(
    holdfast: Holdfast, source: Path, target: Path, jobs: str
) -> None:
    make_tree(source, files=400)
    write(source / "large", pattern(20 * MIB))
    done = holdfast.copy(source, target, "--jobs", jobs)
    assert (done.exit, done.json["verdict"]) == (0, "proven")
    assert read_tree(target) == read_tree(source)


def test_changes_of_every_sort_are_carried_over(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    make_tree(source, files=30)
    assert holdfast.copy(source, target).exit == 0
    write(source / "d0/f0000", b"longer than before")
    write(source / "d1/f0001", pattern(37, 999))
    (source / "d2/f0002").chmod(0o400)
    (source / "d0/f0003").rename(source / "d0/f0003-renamed")
    shutil.rmtree(source / "d1")
    (source / "link").unlink()
    (source / "link").symlink_to("elsewhere")
    write(source / "new/deep/down", b"new")
    done = holdfast.copy(source, target, "--delete")
    assert (done.exit, done.json["verdict"]) == (0, "proven")
    assert read_tree(target) == read_tree(source)
    assert not (target / ".holdfast").exists()


def test_the_plan_touches_nothing(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_tree(source)
    shown = holdfast("copy", source, target, "--plan")
    assert shown.exit == 0
    assert "d0/f0003" in shown.stdout
    assert not target.exists()
    assert holdfast.tasks() == []


def test_without_delete_what_only_the_target_has_stays(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    make_tree(source)
    write(target / "mine/kept", b"mine")
    done = holdfast.copy(source, target)
    assert (done.exit, done.json["verdict"]) == (0, "proven")
    assert (target / "mine/kept").read_bytes() == b"mine"
    assert done.json["verify"]["counts"]["extra"] == 2


@pytest.mark.parametrize(
    ("limit", "is_allowed"),
    [("4", False), ("5", True), ("19%", False), ("25%", True), ("0", False), ("0%", False)],
)
def test_deletions_are_limited(
    holdfast: Holdfast, source: Path, target: Path, limit: str, is_allowed: bool
) -> None:
    """The target has 20 entries, 5 of which are to go."""
    for number in range(15):
        write(source / f"kept{number}")
    shutil.copytree(source, target)
    for number in range(5):
        write(target / f"extra{number}")
    before = read_tree(target)
    done = holdfast.copy(source, target, "--delete", "--max-delete", limit)
    if is_allowed:
        assert (done.exit, read_tree(target)) == (0, read_tree(source))
    else:
        assert (done.exit, done.json["code"]) == (13, "too-many-deletions")
        assert read_tree(target) == before


def test_by_default_at_most_a_thousand_or_a_tenth_may_go(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    write(source / "one")
    target.mkdir()
    for number in range(1001):
        (target / f"extra{number}").touch()
    refused = holdfast.copy(source, target, "--delete")
    assert (refused.exit, refused.json["code"]) == (13, "too-many-deletions")
    assert not (target / "one").exists()
    (target / "extra0").unlink()
    assert holdfast.copy(source, target, "--delete").exit == 0
    assert read_tree(target) == read_tree(source)


def test_an_empty_source_empties_nothing(holdfast: Holdfast, source: Path, target: Path) -> None:
    """As when the file system of the source is not mounted."""
    source.mkdir()
    make_tree(target)
    before = read_tree(target)
    done = holdfast.copy(source, target, "--delete", "--max-delete", "100%")
    assert (done.exit, done.json["code"]) == (13, "source-empty")
    assert read_tree(target) == before


def test_an_empty_source_into_an_empty_target(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """Nothing examined is not success: there is no proof of nothing."""
    source.mkdir()
    done = holdfast.copy(source, target)
    assert (done.exit, done.json["verdict"]) == (13, "incomplete")


def test_a_missing_source_is_told_and_makes_no_target(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    done = holdfast("copy", source, target)
    assert done.exit == 10
    assert f"{source} does not exist" in done.stderr
    assert not target.exists()
    assert holdfast.tasks() == []


def test_a_target_without_parent_is_not_made(
    holdfast: Holdfast, source: Path, tmp_path: Path
) -> None:
    """As when the file system of the target is not mounted."""
    make_tree(source)
    done = holdfast.copy(source, tmp_path / "missing/target")
    assert (done.exit, done.json["code"]) == (10, "no-root")
    assert not (tmp_path / "missing").exists()


def test_only_directories_are_trees(holdfast: Holdfast, source: Path, tmp_path: Path) -> None:
    make_tree(source)
    file = write(tmp_path / "file", b"precious")
    for trees in ((source, file), (file, source), (source, "/dev/null")):
        done = holdfast.copy(*trees)
        assert done.exit in (2, 11)
        assert done.json["code"] == "not-a-directory"
    assert file.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("left", "right"),
    [("tree", "tree"), ("tree", "tree/below"), ("tree/d0", "tree"), ("tree", "alias/below")],
)
def test_overlapping_trees_are_refused(
    holdfast: Holdfast, tmp_path: Path, left: str, right: str
) -> None:
    make_tree(tmp_path / "tree")
    (tmp_path / "alias").symlink_to("tree")
    before = read_tree(tmp_path / "tree")
    done = holdfast.copy(tmp_path / left, tmp_path / right)
    assert (done.exit, done.json["code"]) == (2, "overlapping-trees")
    assert read_tree(tmp_path / "tree") == before


def test_a_neighbour_with_the_same_beginning_does_not_overlap(
    holdfast: Holdfast, tmp_path: Path
) -> None:
    make_tree(tmp_path / "tree")
    assert holdfast.copy(tmp_path / "tree", tmp_path / "tree2").exit == 0


def test_excluded_entries_take_no_part_on_either_side(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    make_tree(source)
    write(source / "cache/big", b"not wanted")
    write(source / "d0/x.tmp", b"not wanted")
    write(target / "d0/mine.tmp", b"not to be deleted")
    write(target / "old", b"to be deleted")
    options = ("--exclude", "*.tmp", "--exclude", "/cache/")
    done = holdfast.copy(source, target, "--delete", *options)
    assert (done.exit, done.json["verdict"]) == (0, "proven")
    assert not (target / "cache").exists()
    assert not (target / "d0/x.tmp").exists()
    assert not (target / "old").exists()
    assert (target / "d0/mine.tmp").read_bytes() == b"not to be deleted"


def test_what_was_replaced_is_kept_until_a_proven_copy(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    make_tree(source)
    write(target / "extra/deep", b"deleted")
    (target / "d0").mkdir()
    write(target / "d0/f0000/below", b"displaced")
    unproven = holdfast.copy(source, target, "--delete", "--no-verify")
    quarantine = Path(unproven.json["quarantine"])
    kept = {path.name: path.read_bytes() for path in quarantine.rglob("*") if path.is_file()}
    assert unproven.exit == 0
    assert kept == {"deep": b"deleted", "below": b"displaced"}
    assert read_tree(target) == read_tree(source)
    proven = holdfast.copy(source, target, "--delete")
    assert (proven.exit, proven.json["verdict"]) == (0, "proven")
    assert not (target / ".holdfast").exists()
    assert read_tree(target) == read_tree(source)
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns


KINDS = ["file", "directory", "symlink"]


def make_kind(path: Path, kind: str) -> None:
    match kind:
        case "file":
            write(path, b"a file")
        case "directory":
            write(path / "inside", b"inside a directory")
        case _:
            path.symlink_to("anywhere")


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_an_entry_becomes_one_of_another_kind(
    holdfast: Holdfast, source: Path, target: Path, old: str, new: str
) -> None:
    """A directory with all in it goes only if deletions are allowed; the rest is copied anyway."""
    source.mkdir()
    target.mkdir()
    make_kind(source / "it", new)
    make_kind(target / "it", old)
    write(source / "other", b"other")
    before = read_tree(target)
    plain = holdfast.copy(source, target)
    if old == "directory" != new:
        assert plain.exit == 11, plain
        assert "it" in str(plain.json["findings"])
        after = read_tree(target)
        assert after.pop(b"other")
        assert after == before
        plain = holdfast.copy(source, target, "--delete")
    assert (plain.exit, plain.json["verdict"]) == (0, "proven")
    assert read_tree(target) == read_tree(source)
    assert not (target / ".holdfast").exists()


def test_an_excluded_entry_keeps_its_directory_from_being_displaced(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    write(source / "it", b"now a file")
    write(target / "it/deep/keep.me", b"excluded")
    write(target / "it/other", b"not excluded")
    before = read_tree(target)
    done = holdfast.copy(source, target, "--delete", "--exclude", "keep.me")
    assert done.exit == 11
    assert read_tree(target) == before


def test_an_excluded_entry_keeps_its_directory_from_being_deleted(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    write(source / "one", b"one")
    write(target / "gone/keep.me", b"excluded")
    write(target / "gone/other", b"to be deleted")
    done = holdfast.copy(source, target, "--delete", "--exclude", "keep.me")
    assert done.exit == 0, done
    assert (target / "gone/keep.me").read_bytes() == b"excluded"
    assert not (target / "gone/other").exists()


def test_the_side_directory_of_a_source_is_not_copied(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """A tree that is itself the target of another copy may be a source."""
    make_tree(source)
    write(source / ".holdfast/partial/x", b"half")
    write(source / "d0/.holdfast/x", b"an ordinary name deeper down")
    assert holdfast.copy(source, target).exit == 0
    assert not (target / ".holdfast").exists()
    assert (target / "d0/.holdfast/x").exists()


def test_a_symlink_in_place_of_the_side_directory_leads_nowhere(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    make_tree(source)
    target.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / os.fsdecode(SIDE_DIRECTORY)).symlink_to(outside)
    done = holdfast("copy", source, target)
    assert done.exit not in (0, 1), done
    assert list(outside.iterdir()) == []
    assert done.stderr.count("Traceback") == 0


def test_a_slow_rate_is_kept(holdfast: Holdfast, source: Path, target: Path) -> None:
    """Both the copy and the reading after it go through the same bucket."""
    write(source / "large", pattern(20 * MIB))
    done = holdfast.copy(source, target, "--bwlimit", "10M", "--no-verify")
    assert done.exit == 0
    assert 1.7 <= done.json["copy"]["durationS"] <= 6


def test_same_size_and_time_is_taken_for_equal_only_until_it_is_read(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """The plan trusts size and time like every tool; the verification does not."""
    write(source / "file", b"one")
    write(target / "file", b"two")
    age(source)
    age(target)
    done = holdfast.copy(source, target)
    assert (done.exit, done.json["verdict"]) == (3, "damaged")
    assert holdfast("repair", source, target).exit == 0
    assert (target / "file").read_bytes() == b"one"


def test_modes_of_directories_that_forbid_writing_are_kept(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    write(source / "closed/file", b"1")
    (source / "closed").chmod(0o555)
    assert holdfast.copy(source, target).exit == 0
    (source / "closed/file").unlink()
    write(source / "closed/file2", b"2")
    assert holdfast.copy(source, target, "--delete").exit == 0
    assert read_tree(target) == read_tree(source)
    assert stat.S_IMODE((target / "closed").stat().st_mode) == 0o555
