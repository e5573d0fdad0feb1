"""The plan in hand, in the ledger of its pair: rows in path order, and what became of each."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from holdfast.files.model import (
    Action,
    CopyOutcome,
    Decision,
    Finding,
    PlanItem,
    Reason,
    SettleResult,
)
from holdfast.model.tree import FileKind

_PAGE_ROWS = 4096
# Several times faster than to call the enumeration.
_ACTIONS = {action.value: action for action in Action}
_REASONS = {reason.value: reason for reason in Reason}
_KINDS = {kind.value: kind for kind in FileKind}


class LinkTable:
    """Hard link groups met while planning. Kept in SQLite: there may be millions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(
            "CREATE TEMP TABLE links (device INTEGER, inode INTEGER, path BLOB NOT NULL,"
            " action TEXT NOT NULL, target_inode INTEGER, PRIMARY KEY (device, inode))"
            " WITHOUT ROWID"
        )
        connection.execute("CREATE INDEX temp.links_target ON links (target_inode)")

    def first(self, device: int, inode: int) -> tuple[bytes, Action, int | None] | None:
        """Return the first name of a group, its action and its inode at the target."""
        row = self._connection.execute(
            "SELECT path, action, target_inode FROM links WHERE device = ? AND inode = ?",
            (device, inode),
        ).fetchone()
        return None if row is None else (row[0], Action(row[1]), row[2])

    def has_kept(self, target_inode: int) -> bool:
        """Say whether another group keeps this inode of the target."""
        row = self._connection.execute(
            "SELECT 1 FROM links WHERE target_inode = ? AND action IN (?, ?)",
            (target_inode, Action.KEEP, Action.SET_METADATA),
        ).fetchone()
        return row is not None

    def add(
        self, device: int, inode: int, path: bytes, action: Action, target_inode: int | None
    ) -> None:
        """Note the first name of a group."""
        self._connection.execute(
            "INSERT INTO links VALUES (?, ?, ?, ?, ?)", (device, inode, path, action, target_inode)
        )


class TouchedTable:
    """Directories whose own metadata must be set again after their contents moved."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(
            "CREATE TEMP TABLE touched (path BLOB PRIMARY KEY,"
            " made INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID"
        )

    def add(self, paths: Iterable[bytes]) -> None:
        """Note directories."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO touched (path) VALUES (?)", [(path,) for path in paths]
        )

    def mark_made(self, path: bytes) -> None:
        """Note that this run made a directory."""
        self._connection.execute(
            "INSERT INTO touched VALUES (?, 1) ON CONFLICT (path) DO UPDATE SET made = 1", (path,)
        )

    def is_made(self, path: bytes) -> bool:
        """Say whether this run made a directory."""
        row = self._connection.execute(
            "SELECT 1 FROM touched WHERE path = ? AND made", (path,)
        ).fetchone()
        return row is not None

    def __iter__(self) -> Iterator[bytes]:
        """Yield noted directories, deepest first."""
        for (path,) in self._connection.execute("SELECT path FROM touched ORDER BY path DESC"):
            yield path


class PlanTable:
    """The plan in hand, in path order, and what became of each item."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_indexed = False
        self.links = LinkTable(connection)
        self.touched = TouchedTable(connection)

    def clear(self) -> None:
        """Forget the plan before this one."""
        self._connection.execute("DROP INDEX IF EXISTS plan_path")
        self._is_indexed = False
        for table in ("plan", "touched", "links"):
            self._connection.execute(f"DELETE FROM {table}")

    def add(self, items: Iterable[PlanItem]) -> None:
        """Store rows."""
        self._connection.executemany(
            "INSERT INTO plan (number, path, action, reason, kind, size, leader, displaces)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            # Plain text: sqlite3 is slow to take a subclass of it.
            [(*i[:2], str(i[2]), str(i[3]), str(i[4]), *i[5:7], i[7] and str(i[7])) for i in items],
        )

    def add_files(
        self, number: int, paths: list[bytes], sizes_bytes: Sequence[int], decision: Decision
    ) -> None:
        """Store rows of files that nothing is displaced for, numbered from `number`."""
        self._connection.executemany(
            "INSERT INTO plan (number, path, action, reason, kind, size)"
            f" VALUES (?, ?, '{decision.action.value}', '{decision.reason.value}', 'file', ?)",
            zip(count(number), paths, sizes_bytes, strict=False),
        )

    def refuse(self, number: int) -> None:
        """Turn a row into one that destroys too much to be carried out."""
        self._connection.execute(
            "UPDATE plan SET action = ?, reason = ? WHERE number = ?",
            (Action.REFUSE, Reason.WOULD_DELETE_TREE, number),
        )

    def open_items(
        self, *actions: Action, large_from: int | None = None, small_below: int | None = None
    ) -> Iterator[PlanItem]:
        """Yield items of these actions that have no outcome yet, in path order.

        Read in pages, so that outcomes may be recorded meanwhile.
        """
        marks = ", ".join("?" * len(actions))
        query = (
            "SELECT number, path, action, reason, kind, size, leader, displaces FROM plan"
            f" WHERE number > ? AND action IN ({marks}) AND outcome IS NULL"
            f" AND size >= ? AND size < ? ORDER BY number LIMIT {_PAGE_ROWS}"
        )
        after = -1
        bounds = (large_from or 0, small_below or 1 << 62)
        while rows := self._connection.execute(query, (after, *actions, *bounds)).fetchall():
            for row in rows:
                yield _plan_item(row)
            after = rows[-1][0]

    def paths(self) -> Iterator[bytes]:
        """Yield every planned path in order."""
        after = -1
        query = f"SELECT number, path FROM plan WHERE number > ? ORDER BY number LIMIT {_PAGE_ROWS}"
        while rows := self._connection.execute(query, (after,)).fetchall():
            for _, path in rows:
                yield path
            after = rows[-1][0]

    def newest_first(self, action: Action) -> Iterator[PlanItem]:
        """Yield all open items of one action in reverse path order: children before parents."""
        query = (
            "SELECT number, path, action, reason, kind, size, leader, displaces FROM plan"
            " WHERE number < ? AND action = ? AND outcome IS NULL"
            f" ORDER BY number DESC LIMIT {_PAGE_ROWS}"
        )
        before = 1 << 62
        while rows := self._connection.execute(query, (before, action)).fetchall():
            for row in rows:
                yield _plan_item(row)
            before = rows[-1][0]

    def record(self, results: Iterable[SettleResult]) -> None:
        """Write the outcomes of items."""
        self._connection.executemany(
            "UPDATE plan SET outcome = ?, detail = ?, error_kind = ? WHERE number = ?",
            [(str(r.outcome), r.detail, r.error_kind, r.number) for r in results],
        )

    def fail_directory(self, path: bytes, detail: str, error_kind: str) -> CopyOutcome | None:
        """Record that a directory could not get its metadata; return the outcome it had before.

        One that was right until something in it was changed has no row; it gets one.
        """
        before = self._outcome_of(path)
        done = self._connection.execute(
            "UPDATE plan SET outcome = 'failed', detail = ?, error_kind = ?"
            " WHERE path = ? AND action IN ('make-directory', 'set-metadata')",
            (detail, error_kind, path),
        )
        if not done.rowcount:
            self._connection.execute(
                "INSERT INTO plan SELECT coalesce(max(number), -1) + 1, ?, 'set-metadata',"
                " 'metadata-differs', 'directory', 0, NULL, NULL, 'failed', ?, ? FROM plan",
                (path, detail, error_kind),
            )
        return before

    def row_of(self, path: bytes) -> tuple[Action, CopyOutcome | None, str] | None:
        """Return action, outcome and detail of a planned path; None if it was kept."""
        self._index_paths()
        row = self._connection.execute(
            "SELECT action, outcome, detail FROM plan WHERE path = ?", (path,)
        ).fetchone()
        if row is None:
            return None
        return Action(row[0]), CopyOutcome(row[1]) if row[1] else None, row[2]

    def _outcome_of(self, path: bytes) -> CopyOutcome | None:
        row = self.row_of(path)
        return None if row is None else row[1]

    def _index_paths(self) -> None:
        """Index paths at the first look by path: most plans never need one."""
        if not self._is_indexed:
            self._connection.execute("CREATE INDEX IF NOT EXISTS plan_path ON plan (path)")
            self._is_indexed = True

    def repaired(self, limit: int) -> list[Finding]:
        """Return settled entries of which there is something to tell, in path order."""
        return [
            Finding(*row)
            for row in self._connection.execute(
                "SELECT path, 'repaired', CASE detail WHEN '' THEN action ELSE detail END FROM plan"
                " WHERE outcome = 'settled' ORDER BY number LIMIT ?",
                (limit,),
            )
        ]

    def findings(self, limit: int, outcome: CopyOutcome | None = None) -> list[Finding]:
        """Return what did not go well, or what ended in one way, in path order."""
        wanted = "outcome NOT IN ('settled')" if outcome is None else "outcome = ?"
        return [
            Finding(*row)
            for row in self._connection.execute(
                f"SELECT path, outcome, detail FROM plan WHERE {wanted} ORDER BY number LIMIT ?",
                (limit,) if outcome is None else (outcome.value, limit),
            )
        ]


def _plan_item(row: tuple[int, bytes, str, str, str, int, bytes | None, str | None]) -> PlanItem:
    number, path, action, reason, kind, size, leader, displaces = row
    return PlanItem(
        number,
        path,
        _ACTIONS[action],
        _REASONS[reason],
        _KINDS[kind],
        size,
        leader,
        _KINDS[displaces] if displaces else None,
    )
