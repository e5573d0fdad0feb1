"""Goal: a user without privileges gets what that user may have, and is told of all the rest.

Method: the real command as another user, in trees made for it; what may not be read must cost
neither the rest of the copy nor anything at the target.
"""

import os
import stat
from pathlib import Path

import pytest

from tests.end_to_end.conftest import needs_root
from tests.support.command import NOBODY, Holdfast
from tests.support.trees import list_paths, make_tree, read_tree, write

USER = NOBODY if os.geteuid() == 0 else os.geteuid()


def own(root: Path) -> Path:
    """Give a tree to the user the command runs as."""
    if os.geteuid() == 0:
        for path in [b".", *list_paths(root)]:
            os.chown(os.path.join(os.fsencode(root), path), USER, USER, follow_symlinks=False)
    return root


@pytest.fixture
def source(common_place: Path) -> Path:
    return own(make_tree(common_place / "source"))


@pytest.fixture
def target(common_place: Path) -> Path:
    return common_place / "target"


def test_an_ordinary_copy(nobody: Holdfast, source: Path, target: Path) -> None:
    done = nobody.copy(source, target)
    assert (done.exit, done.json["verdict"]) == (0, "proven"), done
    assert read_tree(target) == read_tree(source)


def test_an_unreadable_file_costs_only_itself(nobody: Holdfast, source: Path, target: Path) -> None:
    write(source / "secret").chmod(0)
    own(source)
    write(target / "extra")
    own(target)
    done = nobody.copy(source, target, "--delete")
    assert (done.exit, done.json["verdict"]) == (17, "incomplete")
    assert not (target / "secret").exists()
    assert {f["path"] for f in done.json["findings"] if f["outcome"] == "failed"} == {"secret"}
    assert done.json["copy"]["deletionsWithheld"] == 1
    assert (target / "extra").exists()
    (source / "secret").chmod(0o600)
    assert nobody.copy(source, target, "--delete").exit == 0
    assert read_tree(target) == read_tree(source)


def test_an_unreadable_directory_costs_only_what_is_in_it(
    nobody: Holdfast, source: Path, target: Path
) -> None:
    assert nobody.copy(source, target).exit == 0
    write(source / "new")
    own(source)
    (source / "d1").chmod(0)
    before = read_tree(target)
    done = nobody.copy(source, target)
    assert (done.exit, done.json["verdict"]) == (17, "incomplete"), done
    assert "d1" in str(done.json["findings"])
    after = read_tree(target)
    assert after.pop(b"new")
    after.pop(b"d1")
    before.pop(b"d1")
    assert after == before
    (source / "d1").chmod(0o700)


def test_nothing_is_deleted_when_the_source_cannot_be_listed_wholly(
    nobody: Holdfast, source: Path, target: Path
) -> None:
    assert nobody.copy(source, target).exit == 0
    (source / "d1").chmod(0)
    before = read_tree(target)
    done = nobody.copy(source, target, "--delete")
    assert (done.exit, done.json["code"]) == (13, "listing-incomplete")
    assert read_tree(target) == before
    (source / "d1").chmod(0o700)


def test_an_unlistable_root_deletes_nothing(nobody: Holdfast, source: Path, target: Path) -> None:
    assert nobody.copy(source, target).exit == 0
    source.chmod(0o300)
    before = read_tree(target)
    done = nobody.copy(source, target, "--delete", "--max-delete", "100%")
    assert done.exit in (13, 17)
    assert read_tree(target) == before
    source.chmod(0o700)


def test_directories_closed_for_writing_on_both_sides(
    nobody: Holdfast, source: Path, target: Path
) -> None:
    """At the source the mode is only copied; at the target the owner may open it for the work."""
    (source / "d1").chmod(0o555)
    assert nobody.copy(source, target).exit == 0
    (source / "d1").chmod(0o755)
    write(source / "d1/new", b"new")
    (source / "d1/f0001").unlink()
    (source / "d1").chmod(0o555)
    own(source)
    done = nobody.copy(source, target, "--delete")
    assert (done.exit, done.json["verdict"]) == (0, "proven"), done
    assert read_tree(target) == read_tree(source)
    assert stat.S_IMODE((target / "d1").stat().st_mode) == 0o555


@needs_root
def test_a_directory_of_somebody_else_at_the_target(
    nobody: Holdfast, source: Path, target: Path
) -> None:
    target.mkdir(mode=0o755)
    own(target)
    (target / "d1").mkdir(mode=0o755)
    done = nobody.copy(source, target)
    assert (done.exit, done.json["verdict"]) == (17, "incomplete"), done
    assert list((target / "d1").iterdir()) == []
    expected = {path for path in list_paths(source) if not path.startswith(b"d1")}
    assert {path for path in list_paths(target) if not path.startswith(b"d1")} == expected


@needs_root
def test_a_target_of_somebody_else_is_refused(
    nobody: Holdfast, source: Path, common_place: Path
) -> None:
    (common_place / "locked").mkdir(mode=0o755)
    for target in (common_place / "locked", common_place / "locked/target"):
        done = nobody("copy", source, target)
        assert done.exit == 17, done
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("holdfast: ")
    assert list((common_place / "locked").iterdir()) == []


@needs_root
def test_owners_that_cannot_be_kept_are_counted_and_set_id_is_dropped(
    nobody: Holdfast, common_place: Path, target: Path
) -> None:
    """A set-id program must never come to run as somebody else than it was meant to."""
    foreign = common_place / "foreign"
    write(foreign / "program").chmod(0o4755)
    write(foreign / "plain").chmod(0o644)
    done = nobody.copy(foreign, target)
    again = nobody.copy(foreign, target)
    assert (done.exit, done.json["verdict"]) == (0, "proven"), done
    assert done.json["copy"]["losses"]["owner-not-kept"] >= 2
    assert done.json["copy"]["losses"]["set-id-bits-not-kept"] == 1
    assert stat.S_IMODE((target / "program").stat().st_mode) == 0o755
    # It is not tried for ever.
    assert (again.exit, set(again.json["plan"]["counts"])) == (0, {"keep"}), again


def test_a_state_directory_that_cannot_be_made(
    nobody: Holdfast, source: Path, target: Path, common_place: Path
) -> None:
    (common_place / "closed").mkdir(mode=0o500)
    if os.geteuid() == 0:
        os.chown(common_place / "closed", USER, USER)
    elsewhere = Holdfast(
        state=common_place / "closed/state",
        interpreter=nobody.interpreter,
        user=nobody.user,
        environment=nobody.environment,
    )
    done = elsewhere("copy", source, target)
    assert done.exit == 17
    assert "HOLDFAST_STATE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not target.exists()


def test_a_state_directory_that_became_read_only(
    nobody: Holdfast, source: Path, target: Path
) -> None:
    assert nobody.copy(source, target).exit == 0
    before = read_tree(target)
    write(source / "d0/f0000", b"another")
    for path in [*nobody.state.rglob("*"), nobody.state]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    done = nobody("copy", source, target)
    assert done.exit in (17, 21), done
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert read_tree(target) == before
