"""The list of files of a Sidecar: one JSON document for a whole instance, kept for one pass.

It is parsed as it arrives and kept in a scratch file in SQLite, so memory does not grow with it.
Processes that are forked later read the file through connections of their own.

An entry that no tree can hold (a name that leads out of its directory, one that stands there twice,
one in no listed directory) costs the directory it is in, or as much of the way to it as is listed:
that is refused, naming the entry, and the rest is served. A list that names no place at all, or is
none, is refused as a whole.

Invariants:
1. Every path given out passed model.tree.check_path and lies in directories that are listed too.
2. No two entries have the same path.
3. A directory of which anything was left out is refused, never told as shorter than it was listed.
"""

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import ijson

from holdfast.errors import (
    CapacityError,
    HoldfastError,
    IntegrityError,
    StateError,
    StorageFailedError,
)
from holdfast.model.limits import (
    KIB,
    LISTING_ENTRIES_MAX,
    LISTING_ENTRY_BYTES_MAX,
)
from holdfast.model.tree import ROOT_PATH, check_path, display_path, join_path, parent_of
from holdfast.stores.sidecar.client import ROUTE

_READ_BYTES: Final = 64 * KIB
_PAGE_ROWS: Final = 4096
_URL: Final = re.compile(re.escape(ROUTE) + "/([A-Za-z0-9_-]{1,64})/([0-9]{1,9})/(.*)", re.DOTALL)
_TIME_MS_MAX: Final = (1 << 63) // 1_000_000 - 1
_SIZE_BYTES_MAX: Final = 1 << 62
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;
CREATE TABLE entries (
    tree INTEGER NOT NULL, parent BLOB NOT NULL, name BLOB NOT NULL, directory INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ms INTEGER NOT NULL, PRIMARY KEY (tree, parent, name)
) WITHOUT ROWID;
CREATE TABLE refused (
    tree INTEGER NOT NULL, directory BLOB NOT NULL, entry TEXT NOT NULL,
    PRIMARY KEY (tree, directory)
) WITHOUT ROWID;
"""

_Row = tuple[int, bytes, bytes, bool, int, int]


class Readable(Protocol):
    """The body of an answer."""

    def read(self, amount: int | None = None, /) -> bytes:
        """Return up to so many bytes; none at the end."""
        ...


class ListedEntry(NamedTuple):
    """What a Sidecar tells of an entry."""

    name: bytes
    is_directory: bool
    size_bytes: int
    mtime_ms: int


class SidecarListing:
    """One list, in a scratch file that is removed when everyone who holds it has let go."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Make the file anew; whatever an earlier run left under this name goes.

        Args:
            path: Of the scratch file.
            names: The directories, as `kind/index`, that are expected.
        """
        self._path = path
        self._trees = {name: number for number, name in enumerate(names)}
        self._owner = os.getpid()
        self._reader: tuple[int, sqlite3.Connection] | None = None
        self._holders = 0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)

    def fill(self, body: Readable) -> None:
        """Take in the document.

        Raises:
            IntegrityError: `hostile-listing`, `bad-listing`.
            CapacityError: `listing-too-large`, `disk-full`.
            StateError: `directory-not-mapped`: it lists a directory that nobody expects.
        """
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN")
            self._fill(connection, _Bounded(body))
            self._check_parents(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _failed(self._path, error) from error
        finally:
            connection.close()

    def _fill(self, connection: sqlite3.Connection, body: "_Bounded") -> None:
        page: list[_Row] = []
        for count, item in enumerate(_items(body), 1):
            if count > LISTING_ENTRIES_MAX:
                raise _too_large(f"it has more than {LISTING_ENTRIES_MAX} entries")
            row = self._row(connection, item)
            if row is not None:
                page.append(row)
            if len(page) >= _PAGE_ROWS:
                _insert(connection, page)
        _insert(connection, page)

    def _row(self, connection: sqlite3.Connection, item: Any) -> _Row | None:
        """Return an entry; None if its directory is refused because of it."""
        if not isinstance(item, dict):
            raise _bad_listing("an entry is no object")
        url, kind = item.get("fileUrl"), item.get("fileType")
        mtime_ms = _whole(item.get("lastModifiedTime"), -_TIME_MS_MAX, _TIME_MS_MAX)
        is_directory = bool(kind == "DIRECTORY")
        size_bytes = 0 if is_directory else _whole(item.get("size"), 0, _SIZE_BYTES_MAX)
        if not isinstance(url, str) or kind not in ("FILE", "DIRECTORY"):
            raise _bad_listing(f"an entry has the URL {url!r:.200} and the type {kind!r:.40}")
        if mtime_ms is None or size_bytes is None:
            raise _bad_listing(f"{url:.200} has no size or time that a file can have")
        tree, text = self._place(url, is_directory=is_directory)
        try:
            path = check_path(text.encode("utf-8"))
        except (HoldfastError, UnicodeEncodeError):
            _refuse(connection, tree, _sound_part(text.encode("utf-8", "surrogatepass")), url)
            return None
        parent = parent_of(path)
        name = path[len(parent) + 1 :] if parent else path
        return tree, parent, name, is_directory, size_bytes, mtime_ms

    def _place(self, url: str, *, is_directory: bool) -> tuple[int, str]:
        """Return the tree an entry is in and what should be its path there."""
        found = _URL.fullmatch(url)
        if found is None:
            raise _hostile(url)
        kind, index, rest = found.groups()
        tree = self._trees.get(f"{kind}/{int(index)}")
        if tree is None:
            raise StateError(
                f"the source has files in {kind}/{int(index)}, which this instance has not",
                code="directory-not-mapped",
                advice="name a directory for it in the settings of the instance, or exclude it "
                "at the source",
            )
        return tree, rest.removesuffix("/" if is_directory else "")

    def _check_parents(self, connection: sqlite3.Connection) -> None:
        query = (
            "SELECT tree, parent FROM entries WHERE parent != x''"
            " UNION SELECT tree, directory FROM refused WHERE directory != x''"
        )
        for tree, path in connection.execute(query):
            way = path
            while way and not _is_directory(connection, tree, way):
                way = parent_of(way)
            if way != path:
                what = f"entries in {display_path(path)}, which is no listed directory"
                _refuse(connection, tree, way, what)

    def hold(self) -> None:
        """Count another holder."""
        self._holders += 1

    def release(self) -> None:
        """Let go; the last one removes the file."""
        self._holders -= 1
        if self._reader is not None and self._reader[0] == os.getpid():
            self._reader[1].close()
        self._reader = None
        if not self._holders and self._owner == os.getpid():
            self._path.unlink(missing_ok=True)

    def tree_number(self, name: str) -> int:
        """Return what a directory is known by here."""
        return self._trees[name]

    def entries(self, tree: int, parent: bytes) -> list[ListedEntry]:
        """Return what is in a directory, in order of names."""
        rows = self._read(
            "SELECT name, directory, size, mtime_ms FROM entries WHERE tree = ? AND parent = ?"
            " ORDER BY name",
            (tree, parent),
        )
        return [ListedEntry(name, bool(is_dir), size, mtime) for name, is_dir, size, mtime in rows]

    def check(self, tree: int, directory: bytes) -> None:
        """Raise IntegrityError (`hostile-listing`) if a directory is refused."""
        query = "SELECT entry FROM refused WHERE tree = ? AND directory = ?"
        for row in self._read(query, (tree, directory)):
            raise _hostile(row[0])

    def entry(self, tree: int, path: bytes) -> ListedEntry | None:
        """Return one entry; None if it is not listed."""
        parent = parent_of(path)
        name = path[len(parent) + 1 :] if parent else path
        rows = self._read(
            "SELECT name, directory, size, mtime_ms FROM entries"
            " WHERE tree = ? AND parent = ? AND name = ?",
            (tree, parent, name),
        )
        return ListedEntry(rows[0][0], bool(rows[0][1]), *rows[0][2:]) if rows else None

    def _read(self, query: str, values: tuple[object, ...]) -> list[Any]:
        if self._reader is None or self._reader[0] != os.getpid():
            # A connection must not be used across a fork; read-only and immutable, it holds no lock
            # that its end here could release.
            uri = f"{self._path.absolute().as_uri()}?mode=ro&immutable=1"
            self._reader = (os.getpid(), sqlite3.connect(uri, uri=True))
        try:
            return self._reader[1].execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _failed(self._path, error) from error


class _Bounded:
    """A body of which no single entry may take more than LISTING_ENTRY_BYTES_MAX."""

    def __init__(self, body: Readable) -> None:
        self._body = body
        self._since = 0
        self.head = b""
        """The first bytes of the document."""

    def read(self, amount: int = -1) -> bytes:
        if not amount:
            return b""  # Asked only to see whether it is bytes.
        data = self._body.read(_READ_BYTES)
        self._since += len(data)
        if self._since > LISTING_ENTRY_BYTES_MAX + _READ_BYTES:
            raise _too_large(f"one of its entries takes over {LISTING_ENTRY_BYTES_MAX} bytes")
        if len(self.head) < _READ_BYTES:
            self.head += data[: _READ_BYTES - len(self.head)]
        return data

    def entry_ended(self) -> None:
        self._since = 0


def _items(body: _Bounded) -> Iterator[Any]:
    count = 0
    try:
        for item in ijson.items(body, "files.item", use_float=True, buf_size=_READ_BYTES):
            count += 1
            body.entry_ended()
            yield item
    except ijson.JSONError as error:
        raise _bad_listing(f"it is no whole JSON document: {error}"[:300]) from error
    if not count and not _says_empty(body.head):
        raise _bad_listing("it has no list of files")


def _says_empty(head: bytes) -> bool:
    try:
        document = json.loads(head)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("files") == []


def _insert(connection: sqlite3.Connection, page: list[_Row]) -> None:
    while page:
        before = connection.total_changes
        try:
            connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", page)
            page.clear()
        except sqlite3.IntegrityError:
            # Those before it are in; the one that is there already is not.
            done = connection.total_changes - before
            tree, parent, name, *_ = page[done]
            _refuse(connection, tree, parent, f"{display_path(name)} twice")
            del page[: done + 1]


def _refuse(connection: sqlite3.Connection, tree: int, directory: bytes, entry: str) -> None:
    told = entry[:300].encode("utf-8", "backslashreplace").decode("utf-8")
    connection.execute("INSERT OR IGNORE INTO refused VALUES (?, ?, ?)", (tree, directory, told))


def _is_directory(connection: sqlite3.Connection, tree: int, path: bytes) -> bool:
    parent = parent_of(path)
    name = path[len(parent) + 1 :] if parent else path
    row = connection.execute(
        "SELECT directory FROM entries WHERE tree = ? AND parent = ? AND name = ?",
        (tree, parent, name),
    ).fetchone()
    return row is not None and bool(row[0])


def _sound_part(path: bytes) -> bytes:
    """Return as much of the way to a path as is the path of a directory; the root's if none is."""
    way = ROOT_PATH
    for name in path.split(b"/")[:-1]:
        longer = join_path(way, name)
        try:
            check_path(longer)
        except HoldfastError:
            break
        way = longer
    return way


def _whole(value: object, least: int, most: int) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    return None


def _hostile(what: str) -> IntegrityError:
    return IntegrityError(
        f"the source lists {what[:300]!r}, which no tree can hold; nothing is written there",
        code="hostile-listing",
        advice="whoever made this list is broken or hostile: look at the source",
    )


def _bad_listing(why: str) -> IntegrityError:
    return IntegrityError(
        f"the list of files of the source cannot be used: {why}",
        code="bad-listing",
        advice="check that a Sidecar with live migration answers there",
    )


def _too_large(why: str) -> CapacityError:
    return CapacityError(
        f"the list of files of the source is refused: {why}",
        code="listing-too-large",
        advice="look at the source: no Cassandra has such a list",
    )


def _failed(path: Path, error: sqlite3.Error) -> HoldfastError:
    if getattr(error, "sqlite_errorcode", -1) & 0xFF == sqlite3.SQLITE_FULL:
        return CapacityError(
            f"there is no room for the list of files of the source in {path.parent}",
            code="disk-full",
            advice="free some room in the state directory",
        )
    return StorageFailedError(
        f"the scratch file {path} cannot be used: {error}",
        code="scratch-failed",
        advice="check the state directory",
    )
