"""Metadata contexts: what BLOCK_STATUS can tell of an export, and how clients name it. Pure.

`base:allocation` tells holes and zeros. `holdfast:changed-since:LSN` tells (bit 0) what was written
after that LSN; the client chooses the number, so any of them is a context of its own.
"""

from dataclasses import dataclass
from typing import Final

ALLOCATION: Final = "base:allocation"
CHANGED_SINCE: Final = "holdfast:changed-since:"
CHANGED: Final = 1
"""State of an extent that was written since."""
_LSN_DIGITS_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A context a client has chosen."""

    number: int
    """What the replies call it."""
    name: str
    since_lsn: int | None
    """None for base:allocation."""


def list_contexts(queries: list[str]) -> list[str]:
    """Return the names to answer LIST_META_CONTEXT with; no query asks for all there are."""
    known = [ALLOCATION, CHANGED_SINCE]
    if not queries:
        return known
    found = [name for name in known if any(_lists(query, name) for query in queries)]
    return found + [query for query in queries if _since_lsn(query) is not None]


def choose_contexts(queries: list[str]) -> list[Context]:
    """Return the contexts that SET_META_CONTEXT chooses; what is unknown is passed over."""
    chosen: dict[str, Context] = {}
    for query in queries:
        since_lsn = _since_lsn(query)
        if query == ALLOCATION or since_lsn is not None:
            chosen.setdefault(
                query, Context(number=len(chosen) + 1, name=query, since_lsn=since_lsn)
            )
    return list(chosen.values())


def _lists(query: str, name: str) -> bool:
    namespace = name[: name.index(":") + 1]
    return query in (name, namespace)


def _since_lsn(query: str) -> int | None:
    digits = query.removeprefix(CHANGED_SINCE)
    if digits == query or not digits.isascii() or not digits.isdigit():
        return None
    return int(digits) if len(digits) <= _LSN_DIGITS_MAX else None
