"""Walks a tree in a process of its own, somewhat ahead of whoever takes its entries.

Not another order or another tree: what comes is what Walk yields and tells, in the order in which
it does, failures and exclusions in their places between the pages. What is ahead is bounded by
what fits into a pipe and a message.
"""

import pickle
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from holdfast.errors import HoldfastError
from holdfast.files.listing import Exclusions, Page, Walk
from holdfast.model.tree import StatColumns
from holdfast.ports import ReadableDirectory

RunBeside = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Yields the pages that are left of an iterator, which goes on in a process forked here, ahead as
far as a pipe holds. It changes nothing in this process, and ends with the iteration. What it raises
is raised here, in its place."""

_HERE_ENTRIES: Final = 2048
"""So many are walked here first: a small tree is listed before a process would have started."""
_MESSAGE_ENTRIES: Final = 512


class _Told(NamedTuple):
    """What a walk tells between two pages."""

    path: bytes
    failure: HoldfastError | None
    """None for an entry that is excluded."""


_Event = Page | _Told


class WalkAhead:
    """One walk over a tree: take its pages once, then read what it met on the way."""

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

    def pages(self) -> Iterator[Page]:
        """Yield the entries below the root, which itself is none of them."""
        events = self._events()
        count = 0
        for event in events:
            yield from self._replay(event)
            count += _entries_in(event)
            if count >= _HERE_ENTRIES:
                break
        else:
            return
        for message in self._run_beside(_encoded(events)):
            for event in _decoded(message):
                yield from self._replay(event)

    def _events(self) -> Iterator[_Event]:
        told: list[_Event] = []
        walk = Walk(
            directory=self._directory,
            exclusions=self._exclusions,
            on_failure=lambda path, error: told.append(_Told(path, error)),
            on_excluded=lambda path: told.append(_Told(path, None)),
        )
        for page in walk.pages():
            if told:
                yield from told
                told.clear()
            yield page
        yield from told

    def _replay(self, event: _Event) -> Iterator[Page]:
        if isinstance(event, Page):
            yield event
        elif event.failure is None:
            self._on_excluded(event.path)
        else:
            self.failures += 1
            self._on_failure(event.path, event.failure)


def _entries_in(event: _Event) -> int:
    return len(event.paths) if isinstance(event, Page) else 1


def _encoded(events: Iterator[_Event]) -> Iterator[bytes]:
    message: list[object] = []
    count = 0
    for event in events:
        # As plain tuples: several times cheaper.
        message.append((event.paths, tuple(event.stats)) if isinstance(event, Page) else event)
        count += _entries_in(event)
        if count >= _MESSAGE_ENTRIES:
            yield pickle.dumps(message, 5)
            message, count = [], 0
    if message:
        yield pickle.dumps(message, 5)


def _decoded(message: bytes) -> Iterator[_Event]:
    for each in pickle.loads(message):
        if isinstance(each, _Told):
            yield each
        else:
            paths, columns = each
            yield Page(paths, StatColumns._make(columns))
