"""What is remembered of one pair of trees: the plan in hand, and each entry's digest and outcome.

One SQLite file for each (source, target), beside the task journal. It is a memory and not the
truth: what a target holds is always learned by listing it, so losing a ledger loses speed (digests
are taken again) and history, never data. Rows about entries are written after the entries are
durable, so a ledger never claims more than the medium holds. They are flushed now and then, and on
closing: a loss of power before that takes the newest rows, and never part of a transaction.

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
from holdfast.files.model import CopyOutcome, Finding, Pass, SettleResult
from holdfast.files.plan_table import PlanTable
from holdfast.model.tree import FileKind, Signature, Stat
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
CREATE TABLE passes (
    number INTEGER PRIMARY KEY, began_ns INTEGER NOT NULL, planning_s REAL NOT NULL,
    copying_s REAL NOT NULL, files INTEGER NOT NULL, size_bytes INTEGER NOT NULL);
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


class Agreed(NamedTuple):
    """What two entries looked like when they were equal; see invariant 1."""

    path: bytes
    size_bytes: int
    source_mtime_ns: int
    source_ctime_ns: int
    source_inode: int
    """Not 0: a tree that cannot tell inodes is never trusted."""
    target_mtime_ns: int | None
    target_ctime_ns: int | None
    target_inode: int | None
    """None where the target was not looked at, or might have changed without a trace."""


AgreedRow = tuple[bytes, int, int, int, int, int | None, int | None, int | None]
"""The fields of Agreed: made by the million."""


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

    def __init__(
        self, path: Path | None, algorithm: Algorithm, *, seed: int = 0, keep: bool = False
    ) -> None:
        """Open or make it. Digests of another algorithm or seed than these are forgotten.

        Args:
            path: Without one it lasts as long as this object, on disk but without a name.
            algorithm: What digests are to be of.
            seed: What they are to be seeded with.
            keep: Stay with the algorithm and seed it has, if it has any.

        Raises:
            UnsupportedError: `format-newer`. And as told_as_ours.
        """
        self.path = path
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with told_as_ours(path):
            self.connection = sqlite3.connect(path or "", isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.execute("PRAGMA cache_size = -16384")
            self._migrate()
            if not (keep and self.get("algorithm")):
                self._use_algorithm(algorithm, seed)
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

    def _use_algorithm(self, algorithm: Algorithm, seed: int) -> None:
        if (self.get("algorithm"), int(self.get("seed") or 0)) != (algorithm, seed):
            with self.transaction():
                self.connection.execute("DELETE FROM entries")
                self.set("algorithm", algorithm.value)
                self.set("seed", str(seed))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is written inside appear together, or none of it."""
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

    def last_pass(self) -> Pass | None:
        """Return the newest finished pass of this pair."""
        row = self.connection.execute(
            "SELECT number, began_ns, planning_s, copying_s, files, size_bytes FROM passes"
            " ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return None if row is None else Pass(*row)

    def add_pass(self, finished: Pass) -> None:
        """Remember a finished pass."""
        self.connection.execute("INSERT INTO passes VALUES (?, ?, ?, ?, ?, ?)", finished)

    def close(self) -> None:
        """Flush what was written, and close the file."""
        with contextlib.suppress(sqlite3.Error):  # What cannot be flushed costs speed later.
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self.connection.close()


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

    def agreed(self) -> Iterator[list[AgreedRow]]:
        """Yield what was found equal or made so, with what it looked like, in path order."""
        query = (
            "SELECT path, size, source_mtime, source_ctime, source_inode,"
            " target_mtime, target_ctime, target_inode FROM entries WHERE path > ?"
            " AND outcome IN ('matched', 'settled') AND source_inode != 0"
            f" ORDER BY path LIMIT {_PAGE_ROWS}"
        )
        after = b""
        while rows := self._connection.execute(query, (after,)).fetchall():
            yield rows
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

    def each_finding(self) -> Iterator[Finding]:
        """Yield every entry that did not match, in path order, in pages."""
        query = (
            "SELECT path, outcome, detail FROM entries WHERE path > ?"
            f" AND outcome NOT IN ('matched', 'settled') ORDER BY path LIMIT {_PAGE_ROWS}"
        )
        after = b""
        while rows := self._connection.execute(query, (after,)).fetchall():
            yield from (Finding(*row) for row in rows)
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


def _known(row: Any) -> Known:
    path, kind, size, mode, link, digest, xattrs, sm, sc, si, tm, tc, ti, outcome, detail = row
    source = Signature(size, sm, sc, si) if sc is not None else None
    target = Signature(size, tm, tc, ti) if tc is not None else None
    return Known(
        path, FileKind(kind), size, mode, link, digest, xattrs, source, target, outcome, detail
    )


def with_known(
    pairs: Iterator[tuple[bytes, Stat | None, Stat | None]], known: Iterator[Known]
) -> Iterator[tuple[bytes, Stat | None, Stat | None, Known | None]]:
    """Add to each joined pair what the ledger remembers of it; all three are in path order."""
    row = next(known, None)
    for path, source, target in pairs:
        while row is not None and row.path < path:
            row = next(known, None)
        yield path, source, target, row if row is not None and row.path == path else None
