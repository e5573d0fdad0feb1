"""Pages over what became of each entry: read from the ledgers, while a task runs and afterwards.

Of a copy: first what its newest pass could not settle or has not yet, then every file settled and
not verified since. Of a verification or a repair: every entry it has judged. Nothing is written,
and what a task is writing at this moment is seen as of its last transaction.
"""

import json
import sqlite3
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.errors import InvalidRequestError, StateError
from holdfast.files.ledger import told_as_ours
from holdfast.files.migration.model import Instance, InstanceDirectory, MigrationKind
from holdfast.files.migration.opening import migration_ledger_path
from holdfast.files.model import CopyOutcome, VerifyOutcome
from holdfast.model.tree import display_path
from holdfast.tasks.history import PAGE_MAX
from holdfast.tasks.model import Task

PENDING: Final = "pending"
"""Planned and not yet done, or left because a copy was good enough without."""
OUTCOMES: Final = frozenset(
    {PENDING, *(each.value for each in CopyOutcome), *(each.value for each in VerifyOutcome)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsPage:
    """Some entries, directory by directory and in path order, and where the next page begins."""

    entries: tuple[Mapping[str, object], ...]
    """Each: directory, path, outcome, reason; pathBase64 for a name outside UTF-8."""
    cursor_next: str | None


_Row = tuple[int | bytes, bytes, str, str]


class _Section(NamedTuple):
    """A part of the results of one directory: one table."""

    directory: InstanceDirectory
    name: str
    owner: str
    """The name the ledger has the task under that wrote it."""
    query: str
    """Yields key, path, outcome, reason after a key: a number of the plan, or a path."""


class _Cursor(NamedTuple):
    section: int
    after: bytes


def results_page(
    state: Path,
    instance: Instance,
    task: Task,
    *,
    outcome: str | None,
    cursor: str | None,
    limit: int,
) -> ResultsPage:
    """Return up to `limit` (1 to PAGE_MAX) entries of a task, of one outcome or of all.

    Raises:
        InvalidRequestError: `bad-cursor`, `bad-limit`, `bad-outcome`.
        StateError: `results-replaced`: a later task has written over them.
    """
    _check(outcome, limit)
    sections = list(_sections(instance, task, outcome))
    at = _parse_cursor(cursor, len(sections)) if cursor else _Cursor(0, b"")
    found: list[Mapping[str, object]] = []
    number, after = at
    while number < len(sections):
        section = sections[number]
        rows = _rows(state, task, section, after, limit + 1 - len(found))
        found += [_entry(section, row) for row in rows]
        if len(found) > limit:
            # One too many was read, to know that there is more.
            before = _spell_key(rows[-2][0]) if len(rows) > 1 else after
            return ResultsPage(
                entries=tuple(found[:limit]), cursor_next=_spell_cursor(_Cursor(number, before))
            )
        number, after = number + 1, b""
    return ResultsPage(entries=tuple(found), cursor_next=None)


def _sections(instance: Instance, task: Task, outcome: str | None) -> Iterator[_Section]:
    is_copy = task.kind == MigrationKind.COPY
    for directory in instance.directories:
        if is_copy and outcome != CopyOutcome.SETTLED:
            chosen = f"= '{outcome}'" if outcome not in (None, PENDING) else "!= 'settled'"
            chosen = f"outcome {chosen}" if outcome != PENDING else "outcome IS NULL"
            if outcome is None:
                chosen = "(outcome IS NULL OR outcome != 'settled')"
            yield _Section(
                directory,
                "plan",
                "planned by",
                "SELECT number, path, coalesce(outcome, 'pending'),"
                " CASE WHEN detail = '' THEN reason ELSE detail END"
                f" FROM plan WHERE number > ? AND {chosen} ORDER BY number LIMIT ?",
            )
        if not is_copy or outcome in (None, CopyOutcome.SETTLED):
            wanted = CopyOutcome.SETTLED.value if is_copy else outcome
            chosen = f"AND outcome = '{wanted}'" if wanted else ""
            if wanted not in (None, VerifyOutcome.MATCHED, CopyOutcome.SETTLED):
                # What the index of the rest is made for.
                chosen += " AND outcome NOT IN ('matched', 'settled')"
            if not is_copy:
                chosen += " AND run = (SELECT value FROM meta WHERE name = 'run')"
            yield _Section(
                directory,
                "entries",
                "planned by" if is_copy else "verified by",
                f"SELECT path, path, outcome, detail FROM entries WHERE path > ? {chosen}"
                " ORDER BY path LIMIT ?",
            )


def _rows(state: Path, task: Task, section: _Section, after: bytes, limit: int) -> list[_Row]:
    source = str(task.request.get("source"))
    path = migration_ledger_path(state, source, section.directory)
    if not path.exists():
        return []
    with (
        told_as_ours(path),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection,
    ):
        owner = connection.execute(
            "SELECT value FROM meta WHERE name = ?", (section.owner,)
        ).fetchone()
        if owner is None:
            return []
        if owner[0] != _owner_of(task):
            raise StateError(
                f"the results of {task.id} for {section.directory.name} were replaced by those "
                f"of {owner[0]}",
                code="results-replaced",
                advice="ask for the results of that task",
            )
        if section.name == "plan":
            return connection.execute(section.query, (int(after or b"-1"), limit)).fetchall()
        return connection.execute(section.query, (after, limit)).fetchall()


def _owner_of(task: Task) -> str:
    """Return the task whose name stands in the ledger: a repair adds to what it repairs."""
    asked = task.request.get("request")
    if task.kind == MigrationKind.REPAIR and isinstance(asked, Mapping):
        return str(asked.get("verificationId"))
    return task.id


def _spell_key(key: int | bytes) -> bytes:
    return b"%d" % key if isinstance(key, int) else key


def _entry(section: _Section, row: _Row) -> Mapping[str, object]:
    _, path, outcome, reason = row
    entry: dict[str, object] = {
        "directory": section.directory.name,
        "path": display_path(path),
        "outcome": outcome,
        "reason": reason,
    }
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        entry["pathBase64"] = b64encode(path).decode("ascii")
    return entry


def _check(outcome: str | None, limit: int) -> None:
    if outcome is not None and outcome not in OUTCOMES:
        raise InvalidRequestError(
            f"{outcome[:40]!r} is no outcome of an entry",
            code="bad-outcome",
            advice=f"choose one of {', '.join(sorted(OUTCOMES))}",
        )
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidRequestError(
            f"a page of {limit} cannot be had", code="bad-limit", advice=f"ask for 1 to {PAGE_MAX}"
        )


def _spell_cursor(cursor: _Cursor) -> str:
    text = json.dumps([cursor.section, b64encode(cursor.after).decode("ascii")])
    return urlsafe_b64encode(text.encode("ascii")).decode("ascii")


def _parse_cursor(text: str, sections: int) -> _Cursor:
    try:
        section, after = json.loads(urlsafe_b64decode(text.encode("ascii")))
        if isinstance(section, int) and isinstance(after, str) and 0 <= section < sections:
            return _Cursor(section, urlsafe_b64decode(after.replace("+", "-").replace("/", "_")))
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidRequestError(
        f"{text[:40]!r} is not a cursor of these results",
        code="bad-cursor",
        advice="take the cursor of the page before, or none for the first page",
    )
