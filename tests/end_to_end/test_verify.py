"""Goal: a verification finds every difference, names it, and calls nothing else damage.

Method: the real command on a copied pair in which one thing is changed by hand, without the
product's help. Repair must mend exactly what was found.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Completed, Holdfast
from tests.support.trees import age, list_paths, make_tree, pattern, read_tree, write

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "source")


@pytest.fixture
def target(holdfast: Holdfast, source: Path, tmp_path: Path) -> Path:
    """A proven copy."""
    write(source / "large", pattern(9 * MIB))
    age(source)
    target = tmp_path / "target"
    assert holdfast.copy(source, target).exit == 0
    return target


def damage(path: Path, offset: int = 0) -> None:
    """Change one byte and leave size, time and mode as they were, as a bad disk does."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 0x01]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def findings(done: Completed) -> dict[str, str]:
    return {finding["path"]: finding["outcome"] for finding in done.json["findings"]}


def details(done: Completed) -> str:
    return str([finding["detail"] for finding in done.json["findings"]])


def test_equal_trees_are_proven(holdfast: Holdfast, source: Path, target: Path) -> None:
    done = holdfast.verify(source, target)
    report = done.json["verify"]
    assert (done.exit, done.json["verdict"], done.json["findings"]) == (0, "proven", [])
    assert report["entries"] == report["counts"]["matched"] == sum(report["counts"].values())
    assert report["hashedBytes"] >= 18 * MIB


def remove(target: Path) -> None:
    (target / "d0/f0003").unlink()


def add(target: Path) -> None:
    write(target / "d0/new")


def change_mode(target: Path) -> None:
    (target / "d0/f0003").chmod(0o600)


def change_directory_mode(target: Path) -> None:
    (target / "empty").chmod(0o700)


def change_time(target: Path) -> None:
    os.utime(target / "d0/f0003", ns=(0, 1))


def change_directory_time(target: Path) -> None:
    os.utime(target / "empty", ns=(0, 1))


def change_size(target: Path) -> None:
    with (target / "d0/f0003").open("ab") as stream:
        stream.write(b"!")


def change_content(target: Path) -> None:
    damage(target / "d0/f0003")


def change_link(target: Path) -> None:
    (target / "link").unlink()
    (target / "link").symlink_to("d0/f0009")


def change_kind(target: Path) -> None:
    (target / "link").unlink()
    shutil.copy(target / "d0/f0000", target / "link")


def change_attribute(target: Path) -> None:
    os.setxattr(target / "d0/f0003", "user.added", b"1")


def change_attribute_of_directory(target: Path) -> None:
    os.setxattr(target / "empty", "user.added", b"1")


Change = Callable[[Path], None]

CHANGES: list[tuple[Change, str, str, str]] = [
    (remove, "d0/f0003", "missing-at-target", ""),
    (add, "d0/new", "missing-at-source", ""),
    (change_mode, "d0/f0003", "metadata-differs", "mode should be 0644, is 0600"),
    (change_directory_mode, "empty", "metadata-differs", "is 0700"),
    (change_time, "d0/f0003", "metadata-differs", "modification time differs"),
    (change_directory_time, "empty", "metadata-differs", "modification time differs"),
    (change_size, "d0/f0003", "metadata-differs", "size should be 111, is 112"),
    (change_content, "d0/f0003", "digest-differs", "1 block differs: bytes 0-111"),
    (change_link, "link", "metadata-differs", "link target differs"),
    (change_kind, "link", "metadata-differs", "should be a symlink, is a file"),
    (change_attribute, "d0/f0003", "metadata-differs", "extended attributes differ"),
    (change_attribute_of_directory, "empty", "metadata-differs", "extended attributes differ"),
]


@pytest.mark.parametrize(("change", "path", "outcome", "said"), CHANGES)
def test_every_difference_is_found_and_mended(
    holdfast: Holdfast,
    source: Path,
    target: Path,
    change: Change,
    path: str,
    outcome: str,
    said: str,
) -> None:
    """Found by a full and by an incremental reading; mended by repair, but for what is extra."""
    change(target)
    for mode in ("full", "incremental"):
        done = holdfast.verify(source, target, "--mode", mode)
        assert (done.exit, done.json["verdict"]) == (3, "damaged"), mode
        assert findings(done)[path] == outcome
        assert said in details(done)
    repaired = holdfast("repair", source, target, "--json")
    if outcome == "missing-at-source":
        assert (target / path).exists()
        return
    assert (repaired.exit, repaired.json["verdict"]) == (0, "proven"), repaired
    assert read_tree(target) == read_tree(source)


def test_one_way_allows_what_only_the_target_has(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    mtime_ns = (target / "d0").stat().st_mtime_ns
    for number in range(30):
        write(target / f"d0/extra{number}")
    os.utime(target / "d0", ns=(0, mtime_ns))
    done = holdfast.verify(source, target, "--one-way")
    assert (done.exit, done.json["verify"]["counts"]["extra"]) == (0, 30)
    assert holdfast.verify(source, target).exit == 3
    (source / "d0/f0003").unlink()
    os.utime(source / "d0", ns=(0, mtime_ns))
    assert holdfast.verify(source, target, "--one-way").exit == 0
    (target / "d0/f0006").unlink()
    done = holdfast.verify(source, target, "--one-way")
    assert (done.exit, findings(done)["d0/f0006"]) == (3, "missing-at-target")


def test_the_damaged_block_of_a_large_file_is_named_and_only_it_written(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    for offset in (3 * MIB + 5, 7 * MIB, 9 * MIB - 1):
        damage(target / "large", offset)
    inode = (target / "large").stat().st_ino
    found = holdfast.verify(source, target)
    assert found.exit == 3
    blocks = [(3, 4), (7, 9)]
    named = ", ".join(f"{start * MIB}-{end * MIB}" for start, end in blocks)
    assert f"3 blocks differ: bytes {named}" in details(found)
    repaired = holdfast("repair", source, target, "--json")
    assert (repaired.exit, repaired.json["verdict"]) == (0, "proven")
    assert repaired.json["copy"]["writtenBytes"] == 3 * MIB
    assert (target / "large").stat().st_ino == inode
    assert read_tree(target) == read_tree(source)


def test_one_damaged_block_is_one_block_written(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """The last verification found nothing; repair looks again before it says that all is well."""
    damage(target / "large", 5 * MIB)
    repaired = holdfast("repair", source, target, "--json")
    assert (repaired.exit, repaired.json["verdict"]) == (0, "proven")
    assert repaired.json["copy"]["writtenBytes"] == MIB
    assert read_tree(target) == read_tree(source)


def test_metadata_alone_is_repaired_without_writing_content(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    (target / "large").chmod(0o600)
    assert holdfast.verify(source, target).exit == 3
    repaired = holdfast("repair", source, target, "--json")
    assert (repaired.exit, repaired.json["copy"]["writtenBytes"]) == (0, 0)
    assert read_tree(target) == read_tree(source)


def test_a_missing_tree_is_repaired(holdfast: Holdfast, source: Path, target: Path) -> None:
    write(source / "deep/down/there/file", b"deep")
    age(source)
    assert holdfast.copy(source, target).exit == 0
    shutil.rmtree(target / "deep")
    shutil.rmtree(target / "d1")
    assert holdfast.verify(source, target).exit == 3
    repaired = holdfast("repair", source, target, "--json")
    assert (repaired.exit, repaired.json["verdict"]) == (0, "proven")
    assert read_tree(target) == read_tree(source)


def test_repair_without_a_verification_verifies_first(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    damage(target / "d0/f0003")
    fresh = Holdfast(state=tmp_path / "fresh")
    repaired = fresh("repair", source, target, "--json")
    assert (repaired.exit, repaired.json["verdict"]) == (0, "proven")
    assert [f["path"] for f in repaired.json["repaired"]] == ["d0/f0003"]
    assert read_tree(target) == read_tree(source)


def test_repair_never_writes_through_a_shared_inode(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    """A snapshot of hard links beside the target keeps what it has, good or bad."""
    damage(target / "large", MIB)
    os.link(target / "large", tmp_path / "snapshot")
    kept = (tmp_path / "snapshot").read_bytes()
    assert holdfast.verify(source, target).exit == 3
    assert holdfast("repair", source, target).exit == 0
    assert (tmp_path / "snapshot").read_bytes() == kept
    assert read_tree(target) == read_tree(source)


def settle_clocks(holdfast: Holdfast, source: Path, target: Path) -> None:
    """Have every digest trusted: only what did not change in the last two seconds is."""
    newest = max(
        os.lstat(os.path.join(os.fsencode(root), path)).st_ctime
        for root in (source, target)
        for path in list_paths(root)
    )
    _wait_until(newest + 2.5)
    assert holdfast.verify(source, target).exit == 0


def _wait_until(moment_s: float) -> None:
    while time.time() < moment_s:
        time.sleep(0.1)


def test_incremental_trusts_what_did_not_change_and_nothing_else(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """Damage that moves the change time is found without the rest being read again."""
    settle_clocks(holdfast, source, target)
    done = holdfast.verify(source, target, "--mode", "incremental")
    assert done.exit == 0
    assert done.json["verify"]["trusted"] == 11
    assert done.json["verify"]["hashedBytes"] == 0
    damage(target / "d0/f0003")
    done = holdfast.verify(source, target, "--mode", "incremental")
    assert (done.exit, findings(done)) == (3, {"d0/f0003": "digest-differs"})
    assert done.json["verify"]["trusted"] == 10
    again = holdfast.verify(source, target, "--mode", "incremental")
    assert (again.exit, findings(again)) == (3, {"d0/f0003": "digest-differs"})
    assert holdfast("repair", source, target).exit == 0
    damage(source / "d0/f0006")
    done = holdfast.verify(source, target, "--mode", "incremental")
    assert (done.exit, findings(done)) == (3, {"d0/f0006": "digest-differs"})


def test_a_fresh_copy_is_not_trusted_before_its_clock_has_moved_on(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """A write within the tick of a time stamp leaves no trace in it."""
    write(source / "fresh", b"one")
    assert holdfast.copy(source, target).exit == 0
    done = holdfast.verify(source, target, "--mode", "incremental")
    assert done.json["verify"]["hashedBytes"] >= 6


@pytest.mark.parametrize("cache", ["drop", "keep"])
def test_where_it_was_read_from_is_told(
    holdfast: Holdfast, source: Path, target: Path, cache: str
) -> None:
    done = holdfast.verify(source, target, "--cache", cache)
    assert (done.exit, done.json["verify"]["cacheDropped"]) == (0, cache == "drop")


def test_a_sample_states_its_confidence(holdfast: Holdfast, source: Path, target: Path) -> None:
    for number in range(200):
        write(source / "many" / f"f{number}", pattern(1000, number))
    assert holdfast.copy(source, target).exit == 0
    done = holdfast.verify(source, target, "--sample", "10%")
    counts = done.json["verify"]["counts"]
    assert (done.exit, done.json["verdict"]) == (0, "sampled")
    assert 2 <= 211 - counts["not-sampled"] <= 60
    assert "had one file in a hundred been damaged" in done.json["verify"]["confidence"]
    assert done.json["verify"]["hashedBytes"] < 20 * MIB
    shown = holdfast("verify", source, target, "--sample", "10%", "--seed", "7")
    assert "not a proof" in shown.stdout
    whole = holdfast.verify(source, target, "--sample", "100%")
    assert "all 211 files were read" in whole.json["verify"]["confidence"]
    budget = holdfast.verify(source, target, "--sample", "50KiB")
    assert (budget.exit, budget.json["verdict"]) == (0, "sampled")
    damage(target / "many/f7")
    assert holdfast.verify(source, target, "--sample", "100%").exit == 3
    (target / "many/f9").chmod(0o600)
    assert findings(holdfast.verify(source, target, "--sample", "0.1%"))["many/f9"]


def test_trees_with_nothing_in_common(holdfast: Holdfast, source: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    done = holdfast.verify(source, tmp_path / "other")
    assert done.exit == 3
    assert len(done.json["findings"]) == sum(done.json["verify"]["counts"].values())


def test_two_empty_trees_prove_nothing(holdfast: Holdfast, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = holdfast.verify(tmp_path / "a", tmp_path / "b")
    assert (done.exit, done.json["verdict"]) == (13, "incomplete")


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_missing_tree_is_told(
    holdfast: Holdfast, source: Path, tmp_path: Path, side: str
) -> None:
    trees = [source, tmp_path / "missing"]
    done = holdfast.verify(*(trees if side == "target" else reversed(trees)))
    assert (done.exit, done.json["code"]) == (10, "no-root")


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm", ["xxh3-128", "sha256", "blake3", "md5", "xxh32", "crc32", "crc32c"]
)
def test_every_algorithm_finds_damage(
    holdfast: Holdfast, source: Path, target: Path, algorithm: str
) -> None:
    assert holdfast.verify(source, target, "--digest", algorithm).exit == 0
    damage(target / "large", 4 * MIB)
    done = holdfast.verify(source, target, "--digest", algorithm)
    assert (done.exit, findings(done)) == (3, {"large": "digest-differs"})
