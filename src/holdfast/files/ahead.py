"""Walks a tree in a process of its own, somewhat ahead of whoever takes its entries.

Not another order or another tree: what comes is what Walk yields and tells, in the order in which
it does, failures and exclusions in their places between the entries. What is ahead is bounded by
what fits into a pipe and a page.
"""

import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from holdfast.errors import HoldfastError
from holdfast.files.listing import Exclusions, Listed, Walk
from holdfast.model.tree import FileKind, Stat
from holdfast.ports import ReadableDirectory

RunBeside = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Yields the pages that are left of an iterator, which goes on in a process forked here, ahead as
far as a pipe holds. It changes nothing in this process, and ends with the iteration. What it raises
is raised here, in its place."""

_HERE_ENTRIES: Final = 2048
"""So many are walked here first: a small tree is listed before a process would have started."""
_PAGE_ENTRIES: Final = 512
_KINDS: Final = tuple(FileKind)
_CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}


class _Told(NamedTuple):
    """What a walk tells between two entries."""

    path: bytes
    failure: HoldfastError | None
    """None for an entry that is excluded."""


_Event = Listed | _Told


class WalkAhead:
    """One walk over a tree: iterate it once, then read what it met on the way."""

    def __init__(
        self,
        directory: ReadableDirectory,
        exclusions: Exclusions,
        run_beside: RunBeside,
        *,
        on_failure: Callable[[bytes, HoldfastError], None],
        on_excluded: Callable[[bytes], None],
    ) -> None:
        self.failures = 0
        self._directory = directory
        self._exclusions = exclusions
        self._run_beside = run_beside
        self._on_failure = on_failure
        self._on_excluded = on_excluded

    def __iter__(self) -> Iterator[Listed]:
        """Yield the entries below the root, which itself is none of them."""
        events = self._events()
        count = 0
        for event in islice(events, _HERE_ENTRIES):
            count += 1
            yield from self._replay([event])
        if count == _HERE_ENTRIES:
            for page in self._run_beside(_encoded(events)):
                yield from self._replay(_decode(page))

    def _events(self) -> Iterator[_Event]:
        told: list[_Event] = []
        walk = Walk(
            directory=self._directory,
            exclusions=self._exclusions,
            on_failure=lambda path, error: told.append(_Told(path, error)),
            on_excluded=lambda path: told.append(_Told(path, None)),
        )
        for listed in walk:
            if told:
                yield from told
                told.clear()
            yield listed
        yield from told

    def _replay(self, events: list[_Event]) -> Iterator[Listed]:
        for event in events:
            if isinstance(event, Listed):
                yield event
            elif event.failure is None:
                self._on_excluded(event.path)
            else:
                self.failures += 1
                self._on_failure(event.path, event.failure)


def _encoded(events: Iterator[_Event]) -> Iterator[bytes]:
    while page := list(islice(events, _PAGE_ENTRIES)):
        listed = [event for event in page if isinstance(event, Listed)]
        told = [(at, each) for at, each in enumerate(page) if isinstance(each, _Told)]
        # In columns of plain values: several times cheaper than entry by entry.
        columns = list(zip(*(stat for _, stat in listed), strict=True))
        if columns:
            columns[0] = tuple([_CODES[kind] for kind in columns[0]])
        yield pickle.dumps(([path for path, _ in listed], columns, told), 5)


def _decode(page: bytes) -> list[_Event]:
    paths, columns, told = pickle.loads(page)
    events: list[_Event] = []
    if columns:
        columns[0] = [_KINDS[code] for code in columns[0]]
        stats = map(Stat._make, zip(*columns, strict=True))
        events += map(Listed, paths, stats)
    for at, each in told:
        events.insert(at, each)
    return events
