"""Goal: an instance is copied in passes while its source changes, and nothing is lost on the way.

Method: real trees, ledgers and journal; the source is changed between passes, taken away, emptied.
Cites the invariants of files/migration/rules.py (R) and latch.py (L).
"""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import (
    CancelledError,
    ConflictError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from holdfast.files.migration.model import LatchState
from holdfast.files.migration.opening import latch_of
from holdfast.files.migration.results import results_page
from holdfast.files.migration.service import complete_migration
from holdfast.files.model import DeleteLimit
from holdfast.model.limits import MIB
from holdfast.ports import SmallFile
from holdfast.proof.statement import VerificationMode
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.system import SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import TaskState
from tests.support.clocks import QuickClock
from tests.support.migrations import COPY, Migration, iterations
from tests.support.trees import read_tree


@pytest.fixture
def migration(tmp_path: Path) -> Migration:
    """An instance of three directories, one of them empty, with some of everything."""
    made = Migration(place=tmp_path)
    for number in range(12):
        write(made.source() / f"ks/t-{number % 3}/f{number}", b"%d" % number * (number * 100))
    os.link(made.source() / "ks/t-0/f3", made.source() / "ks/hard")
    os.symlink("t-0/f3", made.source() / "ks/soft")
    (made.source() / "empty").mkdir()
    write(made.source("commitlog0") / "log", b"l" * MIB)
    return made


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def assert_equal(migration: Migration) -> None:
    for kind, index in migration.names:
        name = f"{kind}{index}"
        assert read_tree(migration.target(name)) == read_tree(migration.source(name)), name


def test_passes_follow_a_source_that_changes_until_both_are_equal(migration: Migration) -> None:
    """R1, R2: the last pass found both sides equal, over fresh listings."""

    def change(_: Migration, times: int) -> None:
        if times in (1, 2):
            write(migration.source() / "ks/t-0/f3", b"written again %d" % times)
            write(migration.source("data1") / f"new{times}", b"n" * times)
            (migration.source() / f"ks/t-1/f{3 * times + 1}").unlink()

    migration.on_open = change
    task = migration.copy()

    assert task.state is TaskState.COMPLETED
    states = [each["state"] for each in iterations(task)]
    assert states == ["DOWNLOAD_COMPLETE"] * 3 + ["SUCCESS"]
    first, second, third, last = iterations(task)
    assert first["filesDownloaded"] == first["filesToDownload"] == 20
    assert first["bytesDownloaded"] == first["bytesToDownload"]
    assert first["totalFiles"] == 20
    assert (second["deleted"], third["deleted"]) == (1, 1)
    assert (last["bytesToDownload"], last["filesToDownload"]) == (-1, -1)
    assert_equal(migration)
    trend = task.detail["trend"]
    assert isinstance(trend, dict)
    assert trend["number"] == 4
    assert trend["shrinking"] is True
    assert trend["finalPassS"] > 0


def test_what_was_deleted_is_kept_until_the_migration_is_complete(migration: Migration) -> None:
    """L1, L2; and a completed migration is never copied over again."""
    migration.copy()
    (migration.source() / "ks/t-0/f6").unlink()
    (migration.source() / "ks/hard").unlink()
    migration.copy()
    kept = [path.name for path in migration.target().rglob(".holdfast/quarantine/**/f6")]
    assert kept == ["f6"]

    around = migration.surroundings()
    status = complete_migration(around, migration.instance, 1_700_000_000_123_000_000)
    assert (status.state, status.end_time_ms) == (LatchState.COMPLETED, 1_700_000_000_123)
    assert not list(migration.target().rglob("f6"))
    assert_equal(migration)

    write(migration.target() / "ks/t-0/f0", b"the database here has written")
    with pytest.raises(StateError) as caught:
        migration.copy()
    assert caught.value.code == "migration-completed"
    assert (migration.target() / "ks/t-0/f0").read_bytes() == b"the database here has written"
    with pytest.raises(ConflictError):
        complete_migration(around, migration.instance, 0)


def test_the_latch_holds_without_its_record(migration: Migration) -> None:
    """L1: whoever empties the staging directory does not open it."""
    migration.copy()
    complete_migration(migration.surroundings(), migration.instance, 5_000_000)
    latch = latch_of(migration.instance)
    (migration.instance.staging / "live_migration_status.json").unlink()

    assert latch.read().state is LatchState.COMPLETED
    assert latch.read().end_time_ms == 5
    with pytest.raises(StateError):
        migration.copy()
    latch.clear()
    assert latch.read().state is LatchState.NOT_COMPLETED
    assert migration.copy().state is TaskState.COMPLETED


def test_a_threshold_leaves_the_rest_and_deletes_nothing(migration: Migration) -> None:
    migration.copy()
    write(migration.source() / "ks/t-0/f3", b"changed")
    (migration.source() / "ks/t-0/f6").unlink()
    before = read_tree(migration.target())

    task = migration.copy(replace(COPY, success_threshold=0.5))

    (only,) = iterations(task)
    assert only["state"] == "SUCCESS"
    assert "left" in str(only["reason"])
    assert read_tree(migration.target()) == before
    page = results_page(
        migration.state, migration.instance, task, outcome="pending", cursor=None, limit=10
    )
    left = {entry["path"] for entry in page.entries}
    assert {"ks/t-0/f3", "ks/t-0/f6"} <= left


def test_more_deletions_than_allowed_touch_no_directory(migration: Migration) -> None:
    migration.copy()
    (migration.source() / "ks/t-0/f6").unlink()
    write(migration.source("data1") / "new", b"new")
    before = [read_tree(migration.target(name)) for name in ("data0", "data1")]

    with pytest.raises(StateError) as caught:
        migration.copy(replace(COPY, delete_limit=DeleteLimit(count=0)))

    assert caught.value.code == "too-many-deletions"
    assert [read_tree(migration.target(name)) for name in ("data0", "data1")] == before
    task = migration.last_task()
    assert (task.state, iterations(task)[0]["state"]) == (TaskState.FAILED, "FAILED")


def test_a_source_that_is_not_there_costs_nothing(migration: Migration) -> None:
    migration.copy()
    before = read_tree(migration.target())
    migration.source().rename(migration.place / "unmounted")

    with pytest.raises(NotFoundError) as caught:
        migration.copy()
    assert caught.value.code == "no-root"

    migration.source().mkdir()
    with pytest.raises(StateError) as refused:
        migration.copy()
    assert refused.value.code == "source-empty"
    assert read_tree(migration.target()) == before


def test_a_directory_that_may_empty_does(migration: Migration) -> None:
    migration.copy()
    (migration.source("commitlog0") / "log").unlink()
    migration.copy(replace(COPY, allow_emptied=("commitlog/0",)))
    assert_equal(migration)


def test_excluded_entries_take_no_part_and_block_removal(tmp_path: Path) -> None:
    migration = Migration(
        place=tmp_path,
        names=(("data", 0),),
        exclude_directories=("glob:${DATA_FILE_DIR}/*/*/snapshots",),
        exclude_files=("regex:.*\\.tmp",),
    )
    write(migration.source() / "ks/t/a", b"a")
    write(migration.source() / "ks/t/snapshots/s", b"s")
    write(migration.source() / "ks/t/x.tmp", b"x")
    write(migration.target() / "ks/old/snapshots/mine", b"m")
    write(migration.target() / "ks/old/b", b"b")

    migration.copy()

    here = sorted(read_tree(migration.target()))
    assert here == [
        b"ks", b"ks/old", b"ks/old/snapshots", b"ks/old/snapshots/mine", b"ks/t", b"ks/t/a"
    ]  # fmt: skip


def test_deletions_wait_for_every_directory(migration: Migration) -> None:
    """R4: what fails in one directory keeps what goes in another."""
    migration.copy()
    (migration.source() / "ks/t-0/f6").unlink()
    write(migration.source("data1") / "new", b"new")
    # Excluded entries are in a directory where the source has a file: nothing may take its place.
    migration.exclude_files = ("glob:${DATA_FILE_DIR_1}/new/mine",)
    write(migration.target("data1") / "new/mine", b"mine")

    with pytest.raises(StateError) as caught:
        migration.copy(replace(COPY, max_iterations=1))

    assert caught.value.code == "passes-failed"
    assert (migration.target() / "ks/t-0/f6").exists()
    assert (migration.target("data1") / "new/mine").read_bytes() == b"mine"
    first = iterations(migration.last_task())[0]
    assert (first["state"], first["deletionsWithheld"], first["deleted"]) == ("FAILED", 1, 0)


def test_a_source_that_is_away_is_waited_for_and_costs_no_pass(migration: Migration) -> None:
    """R3."""

    def away(_: Migration, times: int) -> None:
        if times < 5:
            raise UnavailableError("no way there", code="source-unreachable")

    migration.on_open = away
    task = migration.copy(replace(COPY, max_iterations=1))

    assert task.state is TaskState.COMPLETED
    assert len(iterations(task)) == 2
    assert isinstance(migration.clock, QuickClock)
    assert 2 * migration.clock.slept_s >= 1 + 2 + 4 + 8
    assert_equal(migration)


class Leaving(PosixReadableDirectory):
    """A tree that is gone for every process while a file stands."""

    def __init__(self, root: bytes, away: Path) -> None:
        super().__init__(root)
        self._away = away

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """See ReadableDirectory."""
        if self._away.exists():
            raise UnavailableError("the line is cut", code="source-unreachable")
        return super().read_small(path, buffer)


class Staying(PosixReadableDirectory):
    """A tree that does not."""

    def __init__(self, root: bytes, _away: Path) -> None:
        super().__init__(root)


def test_a_source_that_leaves_its_workers_is_waited_for(migration: Migration) -> None:
    """R3: what stopped the workers of one attempt does not stop those of the next."""
    for number in range(300):
        write(migration.source("data1") / f"many/{number}", b"%d" % number)
    away = migration.place / "away"
    away.touch()
    # Only the one that is large enough for processes: the other is copied by then.
    migration.sources = lambda made: [
        (Leaving if index else Staying)(str(made.source(f"{kind}{index}")).encode(), away)
        for kind, index in made.names
    ]

    def come_back(_: Migration, times: int) -> None:
        if times == 2:
            away.unlink()

    migration.on_open = come_back
    task = migration.copy(replace(COPY, max_concurrency=2))

    assert [each["state"] for each in iterations(task)] == ["DOWNLOAD_COMPLETE", "SUCCESS"]
    assert_equal(migration)


def test_another_tree_in_the_sources_place_ends_the_copy(migration: Migration) -> None:
    """R3: between two passes or two attempts; nothing of it arrives, a new task may take it."""

    def swap(_: Migration, times: int) -> None:
        if times == 1:
            os.rename(migration.source(), migration.place / "was")
            write(migration.source() / "stranger", b"s")
            raise KeyboardInterrupt

    migration.on_open = swap
    with pytest.raises(KeyboardInterrupt):
        migration.copy()
    with pytest.raises(ConflictError) as caught:
        migration.copy()
    assert caught.value.code == "source-replaced"
    assert "data/0" in caught.value.message
    assert not (migration.target() / "stranger").exists()
    assert (migration.target() / "ks/t-0/f3").exists()

    migration.copy(replace(COPY, delete_limit=DeleteLimit(percent=100.0)))
    assert_equal(migration)


@pytest.mark.slow
def test_a_source_that_stays_away_is_given_up(migration: Migration) -> None:
    """R3."""

    def away(_: Migration, _times: int) -> None:
        raise UnavailableError("no way there", code="source-unreachable")

    migration.on_open = away
    with pytest.raises(StateError) as caught:
        migration.copy(replace(COPY, max_iterations=1))
    assert isinstance(migration.clock, QuickClock)
    assert "no way there" in caught.value.message
    assert isinstance(migration.clock, QuickClock)
    assert migration.clock.slept_s >= 600


def test_cancelled_between_passes(migration: Migration) -> None:
    def cancel(_: Migration, times: int) -> None:
        if times == 1:
            journal = TaskJournal(
                migration.state / "tasks.sqlite", migration.clock, SystemEntropy()
            )
            journal.request_cancel(migration.last_task().id)
            journal.close()
            migration.clock.sleep(2)

    migration.on_open = cancel
    with pytest.raises(CancelledError):
        migration.copy()
    task = migration.last_task()
    assert task.state is TaskState.CANCELLED
    assert [each["state"] for each in iterations(task)] == ["DOWNLOAD_COMPLETE", "CANCELLED"]


def test_interrupted_passes_are_gone_on_with_under_their_number(migration: Migration) -> None:
    def stop(_: Migration, times: int) -> None:
        if times == 1:
            raise KeyboardInterrupt

    migration.on_open = stop
    with pytest.raises(KeyboardInterrupt):
        migration.copy()
    assert migration.last_task().state is TaskState.INTERRUPTED

    task = migration.copy()
    assert task.attempt == 2
    assert [each["iteration"] for each in iterations(task)] == [0, 1]
    assert [each["state"] for each in iterations(task)] == ["DOWNLOAD_COMPLETE", "SUCCESS"]


def test_a_copy_can_verify_itself_and_leaves_chained_proofs(migration: Migration) -> None:
    proofs = []
    for _ in range(2):
        task = migration.copy(replace(COPY, verify=VerificationMode.FULL))
        assert task.result is not None
        verification = task.result["verification"]
        assert isinstance(verification, dict)
        assert verification["state"] == "COMPLETED"
        told = verification["directories"]
        proofs.append([each["proof"] for each in told if "proof" in each])
        write(migration.source() / "ks/t-0/more", b"more")
    assert [len(each) for each in proofs] == [2, 2]
    for proof in (*proofs[0], *proofs[1]):
        assert Path(proof["path"]).exists()
    assert '"previous":"' in Path(proofs[1][0]["path"]).read_text().replace(" ", "")
    assert set(task.detail) >= {"iterations", "trend", "progress", "state", "filesMatched"}


def test_results_are_paged_and_bound_to_their_task(migration: Migration) -> None:
    task = migration.copy()
    seen = []
    cursor = None
    while True:
        page = results_page(
            migration.state, migration.instance, task, outcome=None, cursor=cursor, limit=3
        )
        assert len(page.entries) <= 3
        seen += [(entry["directory"], entry["path"]) for entry in page.entries]
        cursor = page.cursor_next
        if cursor is None:
            break
    # Every file whose content was taken; the second name of one was linked.
    assert len(seen) == len(set(seen)) == 13
    assert seen == sorted(seen, key=lambda entry: (entry[0] != "data/0", entry))

    migration.copy()
    with pytest.raises(StateError) as caught:
        results_page(migration.state, migration.instance, task, outcome=None, cursor=None, limit=3)
    assert caught.value.code == "results-replaced"


class SteppingClock(QuickClock):
    """A wall clock that somebody sets, hours back and days ahead, between any two looks at it."""

    steps = itertools.cycle([0, -7200, 86_400, -86_400 * 30, 3600])

    def now_ns(self) -> int:
        """See Clock."""
        return super().now_ns() + next(self.steps) * 10**9


def test_steps_of_the_clock_lose_nothing(migration: Migration) -> None:
    """Passes are measured by the monotonic clock; times of files are not taken from this one."""
    migration.clock = SteppingClock()

    def change(_: Migration, times: int) -> None:
        if times in (1, 2):
            write(migration.source() / "ks/t-0/f3", b"written again %d" % times)

    migration.on_open = change
    task = migration.copy(replace(COPY, verify=VerificationMode.FULL))

    assert task.result is not None
    verification = task.result["verification"]
    assert isinstance(verification, dict)
    assert verification["state"] == "COMPLETED"
    assert_equal(migration)
    for each in iterations(task):
        for name in ("planningS", "copyingS"):
            seconds = each[name]
            assert isinstance(seconds, float)
            assert 0 <= seconds < 60
