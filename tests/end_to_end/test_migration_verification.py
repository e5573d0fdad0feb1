"""Goal: a verification counts as Sidecar does, tells of every entry, and what it finds is repaired.

Method: a copied instance, damaged in one way at a time; counters, findings and pages are compared
with what was done to it.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import xxhash

from holdfast.errors import NotFoundError, StateError, StorageFailedError, UnavailableError
from holdfast.files.migration.model import VerificationRequest
from holdfast.files.migration.opening import migration_ledger_path, open_ledger_as_it_is
from holdfast.files.migration.results import results_page
from holdfast.proof.statement import VerificationMode
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.directories.posix_file import PosixFile
from holdfast.tasks.model import Task, TaskState
from tests.support.clocks import QuickClock
from tests.support.migrations import PEER, VERIFICATION, Migration
from tests.support.trees import read_tree

COUNTERS = (
    "filesNotFoundAtSource",
    "filesNotFoundAtDestination",
    "metadataMatched",
    "metadataMismatches",
    "digestMismatches",
    "digestVerificationFailures",
    "filesMatched",
)
FILES, DIRECTORIES = 9, 4


@pytest.fixture
def migration(tmp_path: Path) -> Migration:
    """A copied instance of two directories: nine files, one of them empty, four directories."""
    made = Migration(place=tmp_path, names=(("data", 0), ("data", 1)))
    for number in range(FILES):
        path = made.source(f"data{number % 2}") / f"ks/t{number % 2}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * (number * 50))
        # Old enough for a digest of it to be trusted.
        os.utime(path, ns=(1_600_000_000_000_000_000 + number,) * 2)
    made.copy()
    return made


def counters(task: Task) -> tuple[int, ...]:
    assert task.result is not None
    told = [task.result[name] for name in COUNTERS]
    assert told == [task.detail[name] for name in COUNTERS]
    return tuple(int(str(value)) for value in told)


def outcomes(migration: Migration, task: Task, outcome: str | None = None) -> dict[str, str]:
    page = results_page(
        migration.state, migration.instance, task, outcome=outcome, cursor=None, limit=100
    )
    assert page.cursor_next is None
    return {f"{e['directory']}/{e['path']}": str(e["outcome"]) for e in page.entries}


def damage(migration: Migration) -> str:
    """Change a byte of a file at the target and nothing that a listing shows."""
    path = migration.target("data1") / "ks/t1/f3"
    found = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    return "data/1/ks/t1/f3"


@pytest.mark.parametrize("algorithm", ["MD5", "xxhash32", "XXH3_128", "sha256", "BLAKE3"])
def test_equal_trees_are_proven(migration: Migration, algorithm: str) -> None:
    task = migration.verify(replace(VERIFICATION, digest_algorithm=algorithm))

    assert task.state is TaskState.COMPLETED
    assert task.detail["state"] == "COMPLETED"
    assert counters(task) == (0, 0, FILES + DIRECTORIES, 0, 0, 0, FILES)
    assert task.result is not None
    directories = task.result["directories"]
    assert isinstance(directories, list)
    assert [each["verify"]["verdict"] for each in directories] == ["proven"] * 2
    assert all(Path(each["proof"]["path"]).exists() for each in directories)
    progress = task.detail["progress"]
    assert isinstance(progress, dict)
    assert progress["bytesDone"] == progress["bytesTotal"] > 0
    assert set(outcomes(migration, task).values()) == {"matched"}


def test_metadata_trouble_stops_before_digests(migration: Migration) -> None:
    damaged = damage(migration)
    (migration.target() / "ks/t0/f2").unlink()
    (migration.target() / "ks/extra").write_bytes(b"")
    os.utime(migration.target() / "ks/t0/f4", ns=(0, 0))
    (migration.target() / "ks/t0/f6").write_bytes(b"short")
    listed = FILES + DIRECTORIES - 3

    task = migration.verify()
    assert task.state is TaskState.COMPLETED
    assert task.detail["state"] == "FAILED"
    assert counters(task) == (1, 1, listed, 2, 0, 0, 0)
    assert outcomes(migration, task) == {
        "data/0/ks/extra": "missing-at-source",
        "data/0/ks/t0/f2": "missing-at-target",
        "data/0/ks/t0/f4": "metadata-differs",
        "data/0/ks/t0/f6": "metadata-differs",
    }

    task = migration.verify(replace(VERIFICATION, continue_on_metadata_mismatch=True))
    assert task.detail["state"] == "FAILED"
    assert counters(task) == (1, 1, listed, 2, 1, 0, FILES - 4)
    assert outcomes(migration, task)[damaged] == "digest-differs"


def test_a_repair_mends_what_was_found_and_nothing_else(migration: Migration) -> None:
    damage(migration)
    (migration.target() / "ks/t0/f2").unlink()
    os.utime(migration.target() / "ks/t0/f4", ns=(0, 0))
    found = migration.verify(replace(VERIFICATION, continue_on_metadata_mismatch=True))

    task = migration.repair(found)

    assert task.result is not None
    assert task.result["state"] == "COMPLETED"
    for name in ("data0", "data1"):
        assert read_tree(migration.target(name)) == read_tree(migration.source(name))
    again = migration.verify()
    assert again.detail["state"] == "COMPLETED"
    assert counters(again) == (0, 0, FILES + DIRECTORIES, 0, 0, 0, FILES)


def test_a_repair_of_results_that_are_gone_is_refused(migration: Migration) -> None:
    first = migration.verify()
    migration.verify()
    with pytest.raises(StateError) as caught:
        migration.repair(first)
    assert caught.value.code == "results-replaced"
    with pytest.raises(StateError):
        outcomes(migration, first)


class Unreadable(PosixReadableDirectory):
    """A tree with one file that lists and cannot be read."""

    def __init__(self, root: bytes, path: bytes) -> None:
        super().__init__(root)
        self._unreadable = path

    def open_file(self, path: bytes) -> PosixFile:
        """See ReadableDirectory."""
        if path == self._unreadable:
            raise StorageFailedError("the medium refuses", code="read-failed")
        return super().open_file(path)


def test_a_file_that_cannot_be_read_counts_as_not_verified(migration: Migration) -> None:
    migration.sources = lambda m: [
        Unreadable(str(m.source(f"{kind}{index}")).encode(), b"ks/t0/f2") for kind, index in m.names
    ]
    task = migration.verify()
    assert counters(task) == (0, 0, FILES + DIRECTORIES, 0, 0, 1, FILES - 1)
    assert task.detail["state"] == "FAILED"
    assert outcomes(migration, task, "failed") == {"data/0/ks/t0/f2": "failed"}


class Leaving(PosixReadableDirectory):
    """A tree that cannot be reached while a file stands, which it lets fall after some calls."""

    def __init__(self, root: bytes, away: Path, calls: int) -> None:
        super().__init__(root)
        self._away = away
        self._calls = calls

    def open_file(self, path: bytes) -> PosixFile:
        """See ReadableDirectory."""
        self._calls -= 1
        if self._calls < 0 and self._away.exists():
            self._away.unlink()
            raise UnavailableError("the line is cut", code="source-unreachable")
        return super().open_file(path)


@pytest.mark.parametrize("repairs", [False, True])
def test_an_absent_source_is_waited_for(migration: Migration, repairs: bool) -> None:
    """R3: at the opening and in the middle; what was counted before does not count twice."""
    work = migration.verify
    if repairs:
        damaged = damage(migration)
        found = migration.verify()
        assert outcomes(migration, found, "digest-differs").keys() == {damaged}
        work = partial(migration.repair, found)
    away = migration.place / "away"
    away.touch()
    calls = 0 if repairs else 3
    migration.sources = lambda made: [
        Leaving(str(made.source(f"{kind}{index}")).encode(), away, calls)
        for kind, index in made.names
    ]
    opened = migration.opened

    def refuse(_: Migration, times: int) -> None:
        if times < opened + 2:
            raise UnavailableError("no way there", code="source-unreachable")

    migration.on_open = refuse
    task = work()

    assert not away.exists()
    assert task.result is not None
    assert (task.state, task.result["state"]) == (TaskState.COMPLETED, "COMPLETED")
    if not repairs:
        assert counters(task) == (0, 0, FILES + DIRECTORIES, 0, 0, 0, FILES)
        assert task.detail["reason"] == ""


@pytest.mark.parametrize("repairs", [False, True])
def test_a_source_that_stays_away_ends_it(migration: Migration, repairs: bool) -> None:
    """R3: as long as a copy waits, whatever the number of attempts that met nobody."""

    def refuse(_: Migration, _times: int) -> None:
        raise UnavailableError("no way there", code="source-unreachable")

    work = partial(migration.repair, migration.verify()) if repairs else migration.verify
    migration.on_open = refuse
    with pytest.raises(UnavailableError):
        work()
    assert repairs or migration.last_task().detail["state"] == "FAILED"
    assert isinstance(migration.clock, QuickClock)
    assert migration.clock.slept_s >= 600


def test_a_repair_waits_anew_for_every_absence(migration: Migration) -> None:
    """R3: that it was away once does not make the next absence longer."""
    damage(migration)
    found = migration.verify()
    opened = migration.opened

    def away(made: Migration, times: int) -> None:
        if times == opened:
            raise UnavailableError("no way there", code="source-unreachable")
        if times == opened + 1:
            made.clock.sleep(601)
            made.sources = lambda _: [
                Leaving(str(made.source(f"{kind}{index}")).encode(), made.place / "away", 0)
                for kind, index in made.names
            ]

    (migration.place / "away").touch()
    migration.on_open = away
    assert migration.repair(found).state is TaskState.COMPLETED


def test_incremental_trusts_what_cannot_have_changed(migration: Migration) -> None:
    # A file of this test is too young to be trusted until its times are old on both sides.
    incremental = replace(VERIFICATION, mode=VerificationMode.INCREMENTAL)
    migration.verify()
    task = migration.verify(incremental)
    assert counters(task) == (0, 0, FILES + DIRECTORIES, 0, 0, 0, FILES)
    assert task.detail["state"] == "COMPLETED"


def test_a_sample_says_that_it_is_one(migration: Migration) -> None:
    sample = replace(VERIFICATION, mode=VerificationMode.SAMPLE, sample_percent=40.0)
    task = migration.verify(sample)
    assert task.detail["state"] == "COMPLETED"
    assert counters(task)[:6] == (0, 0, FILES + DIRECTORIES, 0, 0, 0)
    assert counters(task)[6] < FILES
    assert task.result is not None
    directories = task.result["directories"]
    assert isinstance(directories, list)
    assert {each["verify"]["verdict"] for each in directories} <= {"sampled", "proven"}


def test_a_seed_is_used_and_leaves_no_proof(migration: Migration) -> None:
    seeded = VerificationRequest(max_concurrency=1, digest_algorithm="XXHash32", seed=7)
    damaged = damage(migration)
    task = migration.verify(seeded)
    assert counters(task) == (0, 0, FILES + DIRECTORIES, 0, 1, 0, FILES - 1)
    assert outcomes(migration, task, "digest-differs") == {damaged: "digest-differs"}
    assert task.result is not None
    directories = task.result["directories"]
    assert isinstance(directories, list)
    assert not any("proof" in each for each in directories)
    directory = migration.instance.directories[0]
    ledger = open_ledger_as_it_is(migration_ledger_path(migration.state, PEER.host, directory))
    digests = {row.path: row.digest for row in ledger.entries.all()}
    ledger.close()
    content = (migration.source() / "ks/t0/f4").read_bytes()
    assert digests[b"ks/t0/f4"] == xxhash.xxh32_digest(content, seed=7)
    # Other digests than seeded ones are not taken for them.
    assert migration.repair(task).state is TaskState.COMPLETED
    assert migration.verify(replace(seeded, seed=8)).detail["state"] == "COMPLETED"


def test_nothing_examined_is_no_success(tmp_path: Path) -> None:
    migration = Migration(place=tmp_path, names=(("data", 0),))
    task = migration.verify()
    assert task.detail["state"] == "FAILED"
    assert "nothing" in str(task.detail["reason"])


def test_a_target_that_is_not_there_is_an_error(migration: Migration) -> None:
    migration.target("data1").rename(migration.place / "elsewhere")
    with pytest.raises(NotFoundError) as caught:
        migration.verify()
    assert caught.value.code == "no-root"
