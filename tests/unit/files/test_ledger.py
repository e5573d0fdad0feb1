"""The memory of a pair: pages read while they are written, files of other versions and broken ones.

Method: real SQLite files; more rows than a page holds.
"""

import sqlite3
from pathlib import Path

import pytest

from holdfast.errors import IntegrityError, UnsupportedError
from holdfast.files.ledger import Known, Ledger
from holdfast.files.model import (
    Action,
    CopyOutcome,
    PlanItem,
    Reason,
    SettleResult,
    VerifyOutcome,
)
from holdfast.model.tree import FileKind, Signature
from holdfast.proof.digests import Algorithm

ROWS = 10_000
"""More than two pages."""
SIGNATURE = Signature(5, 1, 2, 3)


def item(number: int, action: Action = Action.FETCH, size_bytes: int = 1) -> PlanItem:
    path = b"%06d" % number
    return PlanItem(number, path, action, Reason.MISSING, FileKind.FILE, size_bytes, None, None)


def settled(row: PlanItem, outcome: CopyOutcome = CopyOutcome.SETTLED) -> SettleResult:
    return SettleResult(
        row.number, row.path, outcome, "why", "", 5, 5, SIGNATURE, b"digest", b"", ()
    )


def known(number: int, outcome: VerifyOutcome = VerifyOutcome.MATCHED) -> Known:
    return Known(
        b"%06d" % number,
        FileKind.FILE,
        5,
        0o644,
        None,
        b"digest",
        b"",
        SIGNATURE,
        SIGNATURE,
        outcome,
        "",
    )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(None, Algorithm.BLAKE3)


def test_open_items_are_read_in_pages_while_outcomes_are_written(ledger: Ledger) -> None:
    """Each item once, in path order, although every one is recorded as soon as it is seen."""
    ledger.plan.add(item(number) for number in range(ROWS))
    seen = []
    for row in ledger.plan.open_items(Action.FETCH):
        seen.append(row.path)
        ledger.plan.record([settled(row)])
    assert seen == [b"%06d" % number for number in range(ROWS)]
    assert list(ledger.plan.open_items(Action.FETCH)) == []


def test_newest_first_gives_children_before_parents(ledger: Ledger) -> None:
    ledger.plan.add(item(number, Action.DELETE) for number in range(ROWS))
    paths = [row.path for row in ledger.plan.newest_first(Action.DELETE)]
    assert paths == sorted(paths, reverse=True)
    assert len(paths) == ROWS


def test_open_items_by_size_and_action(ledger: Ledger) -> None:
    ledger.plan.add([item(0, size_bytes=1), item(1, size_bytes=9), item(2, Action.RELINK)])
    plan = ledger.plan
    assert [row.number for row in plan.open_items(Action.FETCH, large_from=9)] == [1]
    assert [row.number for row in plan.open_items(Action.FETCH, small_below=9)] == [0]
    assert [row.number for row in plan.open_items(Action.FETCH, Action.RELINK)] == [0, 1, 2]


def test_entries_are_read_in_pages_while_they_are_written(ledger: Ledger) -> None:
    """Invariant 2: in path order, whatever the order they were put in."""
    ledger.entries.put((known(number) for number in reversed(range(ROWS))), run=1)
    seen = []
    for row in ledger.entries.all():
        seen.append(row.path)
        ledger.entries.put([row._replace(detail="again")], run=2)
    assert seen == [b"%06d" % number for number in range(ROWS)]
    ledger.entries.drop_stale(2)
    assert len(list(ledger.entries.all())) == ROWS


def test_row_comes_back_as_it_was_put(ledger: Ledger) -> None:
    """Invariant 1: a signature that was not taken stays not taken."""
    rows = [
        known(1),
        known(2)._replace(source=None),
        known(3)._replace(target=None, digest=None),
        known(4)._replace(kind=FileKind.SYMLINK, link_target=b"\xff", path=b"\xff/\x01"),
    ]
    ledger.entries.put(rows, run=1)
    assert list(ledger.entries.all()) == rows


def test_only_what_is_settled_and_was_read_is_remembered(ledger: Ledger) -> None:
    rows = [item(number) for number in range(4)]
    ledger.entries.settle(
        [
            settled(rows[0]),
            settled(rows[1], CopyOutcome.CHANGED),
            settled(rows[2])._replace(digest=None),
            settled(rows[3])._replace(signature=None),
        ]
    )
    found = {row.path: row for row in ledger.entries.all()}
    assert list(found) == [rows[0].path, rows[3].path]
    assert found[rows[0].path].source == SIGNATURE
    assert found[rows[0].path].target is None
    assert found[rows[3].path].source is None


def test_findings_are_in_path_order_with_what_is_allowed_last(ledger: Ledger) -> None:
    outcomes = (
        VerifyOutcome.EXTRA,
        VerifyOutcome.DIGEST_DIFFERS,
        VerifyOutcome.MATCHED,
        VerifyOutcome.SKIPPED,
        VerifyOutcome.FAILED,
        VerifyOutcome.NOT_SAMPLED,
    )
    ledger.entries.put((known(at, outcome) for at, outcome in enumerate(outcomes)), run=1)
    assert [finding.path for finding in ledger.entries.findings(10)] == [
        b"000001", b"000004", b"000000", b"000003",
    ]  # fmt: skip
    assert [finding.path for finding in ledger.entries.findings(1)] == [b"000001"]
    only = ledger.entries.findings(10, (VerifyOutcome.SKIPPED,))
    assert [finding.outcome for finding in only] == ["skipped"]


def test_paths_with_an_outcome_are_read_in_pages(ledger: Ledger) -> None:
    ledger.entries.put((known(n, VerifyOutcome.FAILED) for n in range(ROWS)), run=1)
    assert len(list(ledger.entries.with_outcomes((VerifyOutcome.FAILED,)))) == ROWS
    assert list(ledger.entries.with_outcomes((VerifyOutcome.MATCHED,))) == []


def test_row_of_a_planned_path(ledger: Ledger) -> None:
    ledger.plan.add([item(0), item(1)])
    ledger.plan.record([settled(item(0), CopyOutcome.FAILED)])
    rows = [ledger.plan.row_of(path) for path in (b"000000", b"000001")]
    assert [row[1] for row in rows if row] == [CopyOutcome.FAILED, None]
    assert ledger.plan.row_of(b"none") is None
    assert ledger.plan.row_of(b"000000") == (Action.FETCH, CopyOutcome.FAILED, "why")
    assert ledger.plan.row_of(b"none") is None
    ledger.plan.clear()
    assert ledger.plan.row_of(b"000000") is None


def test_transaction_is_all_or_nothing(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.transaction():
        _set_and_fail(ledger)
    assert ledger.get("name") is None


def _set_and_fail(ledger: Ledger) -> None:
    ledger.set("name", "value")
    raise KeyError


def test_memory_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    first = Ledger(path, Algorithm.BLAKE3)
    first.entries.put([known(1)], run=first.next_run())
    first.close()
    again = Ledger(path, Algorithm.BLAKE3)
    assert (again.run(), len(list(again.entries.all()))) == (1, 1)
    again.close()


def test_what_was_written_survives_loss_of_power_after_closing(tmp_path: Path) -> None:
    """Also while a reader has it open: then SQLite does not flush it by itself."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path, Algorithm.BLAKE3)
    reader = Ledger(path, Algorithm.BLAKE3)
    with ledger.transaction():
        ledger.entries.put([known(number) for number in range(10)], run=1)
    assert len(list(reader.entries.all())) == 10
    ledger.close()
    # What is in the file itself was flushed; what is in its log alone may not have been.
    left = tmp_path / "left.sqlite"
    left.write_bytes(path.read_bytes())
    reader.close()

    assert len(list(Ledger(left, Algorithm.BLAKE3).entries.all())) == 10


def test_only_what_agreed_is_compared_with(ledger: Ledger) -> None:
    """Without an inode at the source, or with another outcome, an entry is looked at anew."""
    blind = known(2)._replace(source=Signature(5, 1, 2, 0))
    racy = known(3)._replace(source=None)
    away = known(4)._replace(target=None)
    rows = [known(0), known(1, VerifyOutcome.DIGEST_DIFFERS), blind, racy, away]
    ledger.entries.put(rows, run=1)

    (agreed,) = ledger.entries.agreed()
    assert agreed == [(b"000000", 5, 1, 2, 3, 1, 2, 3), (b"000004", 5, 1, 2, 3, None, None, None)]


def test_digests_of_another_algorithm_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    first = Ledger(path, Algorithm.BLAKE3)
    first.entries.put([known(1)], run=1)
    first.close()
    other = Ledger(path, Algorithm.SHA256)
    assert list(other.entries.all()) == []
    assert other.get("algorithm") == Algorithm.SHA256
    other.close()


def test_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path, Algorithm.BLAKE3).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UnsupportedError) as caught:
        Ledger(path, Algorithm.BLAKE3)
    assert caught.value.code == "format-newer"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    connection.close()


def test_damaged_ledger_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(IntegrityError) as caught:
        Ledger(path, Algorithm.BLAKE3)
    assert caught.value.code == "ledger-damaged"
    assert "delete it" in caught.value.advice
