"""Goal: the journal keeps what it is given, refuses what it must, and says how to go on.

Method: a real file in tmp_path, simulated time and chance; damage is written into the file by hand.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    StateError,
    StorageFailedError,
    UnsupportedError,
)
from holdfast.model.ids import TaskId
from holdfast.model.limits import (
    TASK_DETAIL_BYTES_MAX,
    TASK_EVENTS_MAX,
    TASK_REQUEST_BYTES_MAX,
    TASK_RESULT_BYTES_MAX,
)
from holdfast.tasks import database
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Progress, TaskState, Told
from holdfast.testing.clock import SimClock, SimEntropy

KIND = "files.copy"
GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def open_journal(path: Path, seed: int = 1) -> TaskJournal:
    return TaskJournal(path, SimClock(), SimEntropy(seed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tasks.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[TaskJournal]:
    journal = open_journal(path)
    yield journal
    journal.close()


def test_a_task_comes_back_as_it_was_recorded(journal: TaskJournal, path: Path) -> None:
    request = {"source": "/ä", "nested": {"list": [1, None, True, 2.5]}}
    task = journal.admit(KIND, "/t", request)
    progress = Progress(entries_done=3, bytes_done=7, bytes_total=9, eta_s=0.5)
    journal.enter_stage(task.id, "copying")
    journal.record_progress(task.id, Told(progress=progress))
    done = journal.complete(task.id, {"files": 3})
    journal.close()

    again = open_journal(path)
    found = again.get(task.id)
    again.close()

    assert found == done
    assert (found.request, found.progress, found.result) == (request, progress, {"files": 3})
    assert (found.state, found.stage, found.attempt) == (TaskState.COMPLETED, "copying", 1)
    assert found.started_ns is not None
    assert found.ended_ns is not None


def test_commits_are_flushed(journal: TaskJournal, path: Path) -> None:
    """Power loss is SQLite's promise for WAL with synchronous=FULL; both must be in force."""
    connection = journal._database._connection
    pragmas = ("synchronous", "journal_mode", "foreign_keys", "busy_timeout", "user_version")
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    assert found == {
        "synchronous": 2,
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": database.BUSY_TIMEOUT_MS,
        "user_version": database.SCHEMA_VERSION,
    }


def test_a_subject_has_one_unfinished_task(journal: TaskJournal, path: Path) -> None:
    """Invariant 1 of journal.py."""
    first = journal.create(KIND, "/t", {})
    with pytest.raises(ConflictError) as caught:
        journal.create("files.verify", "/t", {})
    assert caught.value.code == "busy"
    assert caught.value.context["task_id"] == first.id
    assert journal.find_unfinished("/t") == first
    journal.create(KIND, "/other", {})
    with closing(sqlite3.connect(path)) as by_hand, pytest.raises(sqlite3.IntegrityError):
        by_hand.execute("UPDATE tasks SET subject = '/t'")
    journal.request_cancel(first.id)
    assert journal.find_unfinished("/t") is None
    journal.create(KIND, "/t", {})


def test_an_ended_task_never_changes_and_an_unfinished_one_stays(
    journal: TaskJournal, path: Path
) -> None:
    """Invariant 2 of journal.py."""
    task = journal.admit(KIND, "/t", {})
    done = journal.complete(task.id, {})
    for change in (
        lambda: journal.complete(task.id, {}, Told(progress=Progress(bytes_done=1))),
        lambda: journal.fail(task.id, {}),
        lambda: journal.stop(task.id),
        lambda: journal.enter_stage(task.id, "x"),
        lambda: journal.record_progress(task.id, Told(progress=Progress())),
        lambda: journal.append_event(task.id, "x", {}),
        lambda: journal.request_cancel(task.id),
        lambda: journal.begin(task.id),
        lambda: journal.abandon(task.id, {}),
    ):
        with pytest.raises(StateError) as caught:
            change()
        assert caught.value.code == "task-finished"
    unfinished = journal.create(KIND, "/unfinished", {})
    connection = sqlite3.connect(path)
    for statement, task_id in (
        ("UPDATE tasks SET state = 'running' WHERE id = ?", task.id),
        ("DELETE FROM tasks WHERE id = ?", unfinished.id),
    ):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement, (task_id,))
    connection.close()
    assert journal.get(task.id) == done
    names = [event.name for event in journal.list_events(task.id)]
    assert names == ["created", "started", "completed"]


def test_a_dead_owner_leads_to_a_second_attempt_of_the_same_request(journal: TaskJournal) -> None:
    first = journal.admit(KIND, "/t", {"a": 1, "b": 2})
    second = journal.admit(KIND, "/t", {"b": 2, "a": 1})
    assert (second.id, second.attempt, second.state) == (first.id, 2, TaskState.RUNNING)
    assert second.started_ns == first.started_ns
    names = [event.name for event in journal.list_events(first.id)]
    assert names == ["created", "started", "interrupted", "resumed"]


@pytest.mark.parametrize(("kind", "request_"), [(KIND, {"a": 2}), ("files.verify", {"a": 1})])
def test_other_work_supersedes_a_dead_task(
    journal: TaskJournal, kind: str, request_: dict[str, object]
) -> None:
    first = journal.admit(KIND, "/t", {"a": 1})
    second = journal.admit(kind, "/t", request_)
    old = journal.get(first.id)
    assert (second.id != first.id, second.attempt) == (True, 1)
    assert old.state is TaskState.FAILED
    assert old.error is not None
    assert old.error["code"] == "superseded"
    assert old.ended_ns is not None


def test_a_dead_task_that_was_to_be_cancelled_is_cancelled_not_resumed(
    journal: TaskJournal,
) -> None:
    first = journal.admit(KIND, "/t", {}, idempotency_key="k")
    journal.request_cancel(first.id)
    second = journal.admit(KIND, "/t", {})
    assert second.id != first.id
    assert journal.get(first.id).state is TaskState.CANCELLED


def test_a_key_of_a_cancelled_dead_task_brings_back_that_task(journal: TaskJournal) -> None:
    first = journal.admit(KIND, "/t", {}, idempotency_key="k")
    journal.request_cancel(first.id)
    again = journal.admit(KIND, "/t", {}, idempotency_key="k")
    assert (again.id, again.state) == (first.id, TaskState.CANCELLED)
    assert len(journal.list_tasks().tasks) == 1


def test_a_pending_task_is_begun_with_its_first_attempt(journal: TaskJournal) -> None:
    created = journal.create(KIND, "/t", {"a": 1})
    begun = journal.admit(KIND, "/t", {"a": 1})
    assert (begun.id, begun.attempt, begun.state) == (created.id, 1, TaskState.RUNNING)


def test_the_same_key_gives_the_same_task_and_never_another_request(journal: TaskJournal) -> None:
    """Invariant 4 of journal.py."""
    first = journal.admit(KIND, "/t", {"a": 1}, idempotency_key="k1")
    resumed = journal.admit(KIND, "/t", {"a": 1}, idempotency_key="k2")
    assert resumed.id == first.id
    done = journal.complete(first.id, {})
    for key in ("k1", "k2"):
        assert journal.admit(KIND, "/t", {"a": 1}, idempotency_key=key) == done
        assert journal.create(KIND, "/t", {"a": 1}, idempotency_key=key) == done
        assert journal.find_by_key(KIND, "/t", {"a": 1}, key) == done
        for subject, request in (("/t", {"a": 2}), ("/u", {"a": 1})):
            with pytest.raises(ConflictError) as caught:
                journal.admit(KIND, subject, request, idempotency_key=key)
            assert caught.value.code == "idempotency-key-reused"
    other_kind = journal.admit("files.verify", "/t", {"a": 1}, idempotency_key="k1")
    assert other_kind.id != first.id


def test_cancelling_is_at_once_where_nothing_runs_and_idempotent(journal: TaskJournal) -> None:
    pending = journal.create(KIND, "/p", {})
    assert journal.request_cancel(pending.id).state is TaskState.CANCELLED
    assert journal.request_cancel(pending.id).state is TaskState.CANCELLED
    running = journal.admit(KIND, "/r", {})
    assert not running.cancel_requested
    for _ in range(2):
        asked = journal.request_cancel(running.id)
        assert (asked.state, asked.cancel_requested) == (TaskState.RUNNING, True)
    names = [event.name for event in journal.list_events(running.id)]
    assert names == ["created", "started", "cancel-requested"]
    assert journal.record_progress(running.id, Told(progress=Progress())).cancel_requested
    assert journal.stop(running.id).state is TaskState.CANCELLED


def test_pages_hold_every_task_once_newest_first(journal: TaskJournal) -> None:
    made = [journal.create(KIND, f"/{n}", {}).id for n in range(7)]
    seen: list[TaskId] = []
    cursor = None
    while True:
        page = journal.list_tasks(limit=3, cursor=cursor)
        seen += [task.id for task in page.tasks]
        cursor = page.cursor_next
        if cursor is None:
            break
        journal.create(KIND, f"/later-{cursor}", {})
    assert seen == made[::-1]


def test_tasks_are_found_by_kind_state_and_subject(journal: TaskJournal) -> None:
    copy = journal.admit(KIND, "/a", {})
    verify = journal.create("files.verify", "/b", {})
    assert [t.id for t in journal.list_tasks(kind=KIND).tasks] == [copy.id]
    assert [t.id for t in journal.list_tasks(state=TaskState.PENDING).tasks] == [verify.id]
    assert [t.id for t in journal.list_tasks(subject="/b").tasks] == [verify.id]
    assert journal.list_tasks(kind=KIND, subject="/b").tasks == ()


def test_events_are_bounded_and_their_sequence_goes_on(journal: TaskJournal, path: Path) -> None:
    task = journal.admit(KIND, "/t", {})
    with journal._database.transaction() as sql:  # One transaction: ten thousand would be slow.
        for number in range(TASK_EVENTS_MAX):
            journal._append(sql, task.id, "file-copied", {"n": number})
    last = journal.append_event(task.id, "file-copied", {"n": -1})
    assert last.sequence == TASK_EVENTS_MAX + 3
    first_page = journal.list_events(task.id, limit=2)
    assert [event.sequence for event in first_page] == [4, 5]
    assert journal.list_events(task.id, after_sequence=last.sequence - 1) == (last,)
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM task_events").fetchone()
    assert count == TASK_EVENTS_MAX


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"a": "x" * TASK_REQUEST_BYTES_MAX}, "too-large"),
        ({"a": float("nan")}, "not-json"),
        ({"a": {1, 2}}, "not-json"),
        ({"a": b"bytes"}, "not-json"),
        ({1: 1, "a": 2}, "not-json"),
    ],
)
def test_a_request_that_cannot_be_kept_is_refused(
    journal: TaskJournal, request_: dict[str, object], code: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        journal.create(KIND, "/t", request_)
    assert caught.value.code == code
    assert journal.list_tasks().tasks == ()


def test_a_request_of_exactly_the_limit_is_kept(journal: TaskJournal) -> None:
    request = {"a": "x" * (TASK_REQUEST_BYTES_MAX - len('{"a":""}'))}
    assert journal.get(journal.create(KIND, "/t", request).id).request == request


@pytest.mark.parametrize("text", ["", "x" * 4097, "a\nb", "a\0b", "\udc80"])
def test_names_from_outside_are_checked(journal: TaskJournal, text: str) -> None:
    for kind, subject, key in ((text, "/t", "k"), (KIND, text, "k"), (KIND, "/t", text)):
        with pytest.raises(InvalidRequestError) as caught:
            journal.create(kind, subject, {}, idempotency_key=key)
        assert caught.value.code == "bad-field"


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1 OR 1=1", "9" * 30, "²"])
def test_a_cursor_from_outside_is_checked(journal: TaskJournal, cursor: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        journal.list_tasks(cursor=cursor)
    assert caught.value.code == "bad-cursor"


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_size_from_outside_is_checked(journal: TaskJournal, limit: int) -> None:
    task = journal.create(KIND, "/t", {})
    with pytest.raises(InvalidRequestError):
        journal.list_tasks(limit=limit)
    with pytest.raises(InvalidRequestError):
        journal.list_events(task.id, limit=limit)


def test_a_missing_task_is_named(journal: TaskJournal) -> None:
    missing = TaskId("task-" + "f" * 32)
    for ask in (journal.get, journal.request_cancel, journal.list_events, journal.stop):
        with pytest.raises(NotFoundError) as caught:
            ask(missing)
        assert caught.value.code == "no-task"
        assert missing in caught.value.message


def test_a_failed_write_leaves_nothing_of_itself(journal: TaskJournal) -> None:
    """Invariant 3 of journal.py: state and event together, or neither."""
    task = journal.admit(KIND, "/t", {})
    with pytest.raises(InvalidRequestError):
        journal.append_event(task.id, "x", {"a": object()})
    with pytest.raises(InvalidRequestError):
        journal.complete(task.id, {"a": "x" * TASK_RESULT_BYTES_MAX})
    assert journal.get(task.id) == task
    assert [event.name for event in journal.list_events(task.id)] == ["created", "started"]


def test_a_newer_format_is_refused_and_not_touched(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {database.SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UnsupportedError) as caught:
        open_journal(path)
    assert caught.value.code == "format-newer"
    assert caught.value.advice
    assert path.read_bytes() == before


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 500)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def damage_row(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE tasks SET request = '{\"a\":'")
    connection.close()


def fill_with_other_tables(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()


@pytest.mark.parametrize(
    "damage", [damage_header, damage_pages, damage_row, fill_with_other_tables]
)
def test_a_damaged_journal_is_told_with_advice(path: Path, damage: object) -> None:
    journal = open_journal(path)
    journal.create(KIND, "/t", {"a": 1})
    journal.close()
    assert callable(damage)
    damage(path)
    with pytest.raises(IntegrityError) as caught, closing(open_journal(path)) as again:
        again.list_tasks()
    assert caught.value.code == "journal-damaged"
    assert str(path) in caught.value.message
    assert "move it away" in caught.value.advice


def test_a_place_that_cannot_hold_a_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "tasks.sqlite").mkdir()
    found: list[type[HoldfastError]] = []
    for path in (tmp_path / "file" / "tasks.sqlite", tmp_path / "tasks.sqlite"):
        with pytest.raises(HoldfastError) as caught:
            open_journal(path)
        assert caught.value.advice
        found.append(type(caught.value))
    assert found == [StorageFailedError, DeniedError]


def test_detail_is_kept_through_stages_and_with_the_end(journal: TaskJournal) -> None:
    task = journal.admit(KIND, "/t", {})
    assert task.detail == {}
    journal.enter_stage(task.id, "copying", Told(detail={"pass": 1}))
    assert journal.record_progress(task.id, Told(progress=Progress())).detail == {"pass": 1}
    assert journal.record_progress(task.id, Told(detail={"pass": 2})).detail == {"pass": 2}
    done = journal.complete(task.id, {}, Told(detail={"pass": 3}))
    assert (done.detail, journal.get(task.id).detail) == ({"pass": 3}, {"pass": 3})


@pytest.mark.parametrize("size_bytes", [TASK_REQUEST_BYTES_MAX + 1, TASK_DETAIL_BYTES_MAX - 8])
def test_detail_may_be_larger_than_a_request(journal: TaskJournal, size_bytes: int) -> None:
    task = journal.admit(KIND, "/t", {})
    detail = {"a": "x" * size_bytes}
    assert journal.record_progress(task.id, Told(detail=detail)).detail == detail


def test_detail_beyond_its_limit_is_refused(journal: TaskJournal) -> None:
    task = journal.admit(KIND, "/t", {})
    with pytest.raises(InvalidRequestError) as caught:
        journal.record_progress(task.id, Told(detail={"a": "x" * TASK_DETAIL_BYTES_MAX}))
    assert caught.value.code == "too-large"
    assert journal.get(task.id).detail == {}


def test_tasks_are_begun_again_or_abandoned_by_whoever_holds_the_lock(journal: TaskJournal) -> None:
    first = journal.create(KIND, "/t", {})
    assert (journal.begin(first.id).state, journal.get(first.id).attempt) == ("running", 1)
    assert (journal.begin(first.id).state, journal.get(first.id).attempt) == ("running", 2)
    journal.request_cancel(first.id)
    assert journal.begin(first.id).state is TaskState.CANCELLED

    second = journal.admit(KIND, "/t", {})
    problem = {"code": "interrupted"}
    ended = journal.abandon(second.id, problem)
    assert (ended.state, ended.error) == (TaskState.FAILED, problem)
    names = [event.name for event in journal.list_events(second.id)]
    assert names == ["created", "started", "interrupted", "abandoned"]


def test_the_oldest_ended_tasks_make_room_with_events_and_keys(path: Path) -> None:
    """Invariants 2 and 4 of journal.py."""
    with closing(TaskJournal(path, SimClock(), SimEntropy(1), ended_max=2)) as journal:
        waiting = journal.create(KIND, "/waiting", {})
        ended = []
        for number in range(4):
            task = journal.admit(KIND, "/t", {"n": number}, idempotency_key=f"k{number}")
            ended.append(journal.complete(task.id, {}).id)
        running = journal.admit(KIND, "/t", {})
        kept = [task.id for task in journal.list_tasks().tasks]
        assert kept == [running.id, ended[3], ended[2], waiting.id]
        with closing(sqlite3.connect(path)) as by_hand:
            known = {task_id for (task_id,) in by_hand.execute("SELECT task_id FROM task_events")}
            keys = by_hand.execute("SELECT idempotency_key FROM task_keys").fetchall()
        assert known == set(kept)
        assert sorted(keys) == [("k2",), ("k3",)]


def make_from_golden(path: Path, version: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((GOLDEN / f"task-journal-v{version}.sql").read_text())


def schema_of(path: Path) -> dict[str, object]:
    with closing(sqlite3.connect(path)) as connection:
        objects = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
        columns = {
            name: connection.execute(f"PRAGMA table_info({name})").fetchall()
            for kind, name in objects
            if kind == "table"
        }
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    return {"version": version, "objects": sorted(objects), "columns": columns}


@pytest.mark.parametrize("version", range(1, database.SCHEMA_VERSION + 1))
def test_a_journal_of_every_version_is_read_and_brought_up_to_date(
    path: Path, tmp_path: Path, version: int
) -> None:
    """The golden files hold a completed, a failed and an interrupted task each, with events."""
    make_from_golden(path, version)
    open_journal(tmp_path / "fresh.sqlite").close()
    with closing(open_journal(path)) as journal:
        tasks = {task.state: task for task in journal.list_tasks().tasks}
        assert set(tasks) == {TaskState.COMPLETED, TaskState.FAILED, TaskState.INTERRUPTED}
        assert tasks[TaskState.COMPLETED].result == {"files": 3}
        assert tasks[TaskState.COMPLETED].detail == ({} if version == 1 else {"pass": 2})
        assert len(journal.list_events(tasks[TaskState.COMPLETED].id)) == 3
        resumed = journal.begin(tasks[TaskState.INTERRUPTED].id)
        assert (resumed.attempt, resumed.request) == (2, {"source": "/ä"})
        journal.record_progress(resumed.id, Told(detail={"pass": 1}))
    assert schema_of(path) == schema_of(tmp_path / "fresh.sqlite")


def test_two_journals_on_one_file_see_each_other(journal: TaskJournal, path: Path) -> None:
    other = open_journal(path, seed=2)
    task = journal.admit(KIND, "/t", {})
    other.request_cancel(task.id)
    assert journal.get(task.id).cancel_requested
    other.close()
