"""What is remembered of one pair of trees: the plan in hand, and each entry's digest and outcome.

One SQLite file for each (source, target), beside the task journal. It is a memory and not the
truth: what a target holds is always learned by listing it, so losing a ledger loses speed (digests
are taken again) and history, never data. Rows about entries are written after the entries are
durable, so a ledger never claims more than the medium holds.

Invariants:
1. A signature stands beside a digest only if content with that digest was read from an entry with
   that signature; it is NULL when the entry may have changed since without a trace.
2. `entries` is keyed by raw path bytes and read in that order.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.errors import (
    CapacityError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    StorageFailedError,
    UnsupportedError,
)
from holdfast.files.model import Action, CopyOutcome, Finding, PlanItem, Reason, SettleResult
from holdfast.model.tree import FileKind, Signature
from holdfast.proof.digests import Algorithm

_VERSION = 1
_PAGE_ROWS = 4096

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plan (
    number INTEGER PRIMARY KEY, path BLOB NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL,
    kind TEXT NOT NULL, size INTEGER NOT NULL, leader BLOB, displaces TEXT,
    outcome TEXT, detail TEXT NOT NULL DEFAULT '', error_kind TEXT NOT NULL DEFAULT '');
CREATE TABLE entries (
    path BLOB PRIMARY KEY, kind TEXT NOT NULL, size INTEGER NOT NULL, mode INTEGER NOT NULL,
    link_target BLOB, digest BLOB, xattrs BLOB NOT NULL,
    source_mtime INTEGER, source_ctime INTEGER, source_inode INTEGER,
    target_mtime INTEGER, target_ctime INTEGER, target_inode INTEGER,
    outcome TEXT NOT NULL, detail TEXT NOT NULL DEFAULT '', run INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX entries_outcome ON entries (outcome) WHERE outcome NOT IN ('matched', 'settled');
"""


class Known(NamedTuple):
    """One row of `entries`."""

    path: bytes
    kind: FileKind
    size_bytes: int
    mode: int
    link_target: bytes | None
    digest: bytes | None
    xattrs: bytes
    """Digest of the extended attributes; empty for none."""
    source: Signature | None
    target: Signature | None
    outcome: str
    detail: str


@contextlib.contextmanager
def told_as_ours(place: Path | None) -> Iterator[None]:
    """Turn errors of SQLite into what a caller can act on.

    Args:
        place: The ledger, or where it is.

    Raises:
        IntegrityError: `ledger-damaged`. Deleting it loses only speed.
        CapacityError, DeniedError, StorageFailedError: The disk it is on is full, or refuses.
    """
    try:
        yield
    except sqlite3.Error as error:
        told = _TELL.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
        if told is None:
            raise  # A defect of ours, to be seen as one.
        kind, code, what, advice = told
        raise kind(f"the ledger {place} {what}: {error}", code=code, advice=advice) from error


_AGAIN = "delete it and run again: digests are taken anew, nothing else is lost"
_PLACE = "check owner, mode and room there, or name another place with HOLDFAST_STATE"
_DAMAGED = (IntegrityError, "ledger-damaged", "is damaged", _AGAIN)
_TELL: dict[int, tuple[type[HoldfastError], str, str, str]] = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_FULL: (CapacityError, "disk-full", "has no room", _PLACE),
    sqlite3.SQLITE_READONLY: (DeniedError, "ledger-denied", "cannot be written", _PLACE),
    sqlite3.SQLITE_CANTOPEN: (DeniedError, "ledger-denied", "cannot be opened", _PLACE),
    sqlite3.SQLITE_PERM: (DeniedError, "ledger-denied", "cannot be opened", _PLACE),
    sqlite3.SQLITE_IOERR: (StorageFailedError, "ledger-failed", "was refused by its disk", _PLACE),
}


class Ledger:
    """The memory of one pair, owned by the task that holds the pair's lock."""

    def __init__(self, path: Path | None, algorithm: Algorithm) -> None:
        """Open or make it. Digests of another algorithm than `algorithm` are forgotten.

        Without a path it lasts as long as this object, on disk but without a name.

        Raises:
            UnsupportedError: `format-newer`. And as told_as_ours.
        """
        self.path = path
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with told_as_ours(path):
            self.connection = sqlite3.connect(path or "", isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA cache_size = -16384")
            self._migrate()
            self._use_algorithm(algorithm)
        self.plan = PlanTable(self.connection)
        self.entries = EntryTable(self.connection)

    def _migrate(self) -> None:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise UnsupportedError(
                f"the ledger {self.path} was written by a newer holdfast",
                code="format-newer",
                advice="use that version, or delete the ledger: only speed is lost",
            )
        if version == 0:
            self.connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
            )

    def _use_algorithm(self, algorithm: Algorithm) -> None:
        if self.get("algorithm") != algorithm:
            with self.transaction():
                self.connection.execute("DELETE FROM entries")
                self.set("algorithm", algorithm.value)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is written inside durable together, or none of it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # SQLite may have ended it already.
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def get(self, name: str) -> str | None:
        """Return a remembered text."""
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set(self, name: str, value: str) -> None:
        """Remember a text."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def next_run(self) -> int:
        """Return the number of a new verification run: rows it does not touch will be stale."""
        self.set("run", str(self.run() + 1))
        return self.run()

    def run(self) -> int:
        """Return the number of the newest verification run; 0 before the first."""
        return int(self.get("run") or 0)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()


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


class PlanTable:
    """The plan in hand, in path order, and what became of each item."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_indexed = False
        self.links = LinkTable(connection)
        connection.execute("CREATE TEMP TABLE touched (path BLOB PRIMARY KEY) WITHOUT ROWID")

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

    def refuse(self, number: int) -> None:
        """Turn a row into one that destroys too much to be carried out."""
        self._connection.execute(
            "UPDATE plan SET action = ?, reason = ? WHERE number = ?",
            (Action.REFUSE, Reason.WOULD_DELETE_TREE, number),
        )

    def touch(self, paths: Iterable[bytes]) -> None:
        """Note directories whose own metadata must be set again after their contents moved."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO touched VALUES (?)", [(path,) for path in paths]
        )

    def touched(self) -> Iterator[bytes]:
        """Yield noted directories, deepest first."""
        for (path,) in self._connection.execute("SELECT path FROM touched ORDER BY path DESC"):
            yield path

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
        before = self.outcome_of(path)
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

    def outcome_of(self, path: bytes) -> CopyOutcome | None:
        """Return what became of a planned path; None if it was kept or is not yet done."""
        self._index_paths()
        row = self._connection.execute(
            "SELECT outcome FROM plan WHERE path = ? AND action != 'delete'", (path,)
        ).fetchone()
        return None if row is None or row[0] is None else CopyOutcome(row[0])

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

    def findings(self, limit: int) -> list[Finding]:
        """Return what did not go well, in path order."""
        return [
            Finding(*row)
            for row in self._connection.execute(
                "SELECT path, outcome, detail FROM plan"
                " WHERE outcome NOT IN ('settled') ORDER BY number LIMIT ?",
                (limit,),
            )
        ]


class EntryTable:
    """Each entry's digest, signatures and last outcome."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def settle(self, results: Iterable[SettleResult]) -> None:
        """Remember the digests of entries that were read and are durable at the target now."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO entries VALUES"
            " (?, 'file', ?, 0, NULL, ?, ?, ?, ?, ?, NULL, NULL, NULL, 'settled', '', 0)",
            [
                (
                    r.path,
                    r.size_bytes,
                    r.digest,
                    r.xattrs,
                    *(r.signature or (0, None, None, None))[1:],
                )
                for r in results
                if r.digest is not None and r.outcome is CopyOutcome.SETTLED
            ],
        )

    def put(self, rows: Iterable[Known], run: int) -> None:
        """Write what a verification run found."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO entries VALUES"
            " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    row.path,
                    str(row.kind),
                    *row[2:7],
                    *(row.source[1:] if row.source else (None, None, None)),
                    *(row.target[1:] if row.target else (None, None, None)),
                    str(row.outcome),
                    row.detail,
                    run,
                )
                for row in rows
            ],
        )

    def all(self) -> Iterator[Known]:
        """Yield every row in path order, in pages, so that rows may be written meanwhile."""
        query = (
            "SELECT path, kind, size, mode, link_target, digest, xattrs,"
            " source_mtime, source_ctime, source_inode, target_mtime, target_ctime, target_inode,"
            " outcome, detail"
            f" FROM entries WHERE path > ? ORDER BY path LIMIT {_PAGE_ROWS}"
        )
        after = b""
        while rows := self._connection.execute(query, (after,)).fetchall():
            yield from map(_known, rows)
            after = rows[-1][0]

    def drop_stale(self, run: int) -> None:
        """Forget entries that a complete run did not meet: they are on neither side any more."""
        self._connection.execute("DELETE FROM entries WHERE run != ?", (run,))

    def describe(self, path: bytes, detail: str) -> None:
        """Say more of one entry."""
        self._connection.execute("UPDATE entries SET detail = ? WHERE path = ?", (detail, path))

    def with_outcomes(self, outcomes: tuple[str, ...]) -> Iterator[bytes]:
        """Yield the paths that ended so, in order, in pages."""
        marks = ", ".join("?" * len(outcomes))
        query = (
            f"SELECT path FROM entries WHERE path > ? AND outcome IN ({marks})"
            f" ORDER BY path LIMIT {_PAGE_ROWS}"
        )
        after = b""
        while rows := self._connection.execute(query, (after, *outcomes)).fetchall():
            for (path,) in rows:
                yield path
            after = rows[-1][0]

    def findings(self, limit: int, outcomes: tuple[str, ...] = ()) -> list[Finding]:
        """Return entries of `outcomes`; without, all that are not as they should be.

        In path order, but what is allowed comes last, so that it does not crowd out the rest.
        """
        marks = ", ".join("?" * len(outcomes))
        chosen = f"outcome IN ({marks})"
        if not outcomes:
            chosen = "outcome NOT IN ('matched', 'settled') AND outcome != 'not-sampled'"
        return [
            Finding(*row)
            for row in self._connection.execute(
                f"SELECT path, outcome, detail FROM entries WHERE {chosen}"
                " ORDER BY outcome IN ('extra', 'skipped'), path LIMIT ?",
                (*outcomes, limit),
            )
        ]


def _plan_item(row: tuple[int, bytes, str, str, str, int, bytes | None, str | None]) -> PlanItem:
    number, path, action, reason, kind, size, leader, displaces = row
    return PlanItem(
        number,
        path,
        Action(action),
        Reason(reason),
        FileKind(kind),
        size,
        leader,
        FileKind(displaces) if displaces else None,
    )


def _known(row: Any) -> Known:
    path, kind, size, mode, link, digest, xattrs, sm, sc, si, tm, tc, ti, outcome, detail = row
    source = Signature(size, sm, sc, si) if sc is not None else None
    target = Signature(size, tm, tc, ti) if tc is not None else None
    return Known(
        path, FileKind(kind), size, mode, link, digest, xattrs, source, target, outcome, detail
    )
