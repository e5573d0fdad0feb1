"""Tells what a task on all directories of an instance is at, while it runs.

Each directory has a share of the task; what a share tells is added to what is behind and ahead of
it, so that progress is of the whole.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.errors import CancelledError
from holdfast.files.migration.model import Iteration, IterationState
from holdfast.files.results import camel_case
from holdfast.ports import Clock
from holdfast.tasks.model import Progress, Task
from holdfast.tasks.runner import TaskContext

_SPACING_NS: Final = 500_000_000
"""A detail is put together at most once in this time, but at the changes of a state."""


@dataclass(slots=True, kw_only=True)
class _Share:
    entries_ahead: int = 0
    bytes_ahead: int = 0
    entries_done: int = 0
    bytes_done: int = 0


class Telling:
    """Owned by the thread of the task."""

    def __init__(
        self,
        context: TaskContext,
        clock: Clock,
        names: Sequence[str],
        compose: Callable[[], Mapping[str, object]],
    ) -> None:
        """Name the directories, and what gives the detail beside its progress."""
        self.context = context
        self._clock = clock
        self._compose = compose
        self._shares = [_Share() for _ in names]
        self._told_ns = clock.monotonic_ns() - _SPACING_NS
        self.of_directories = [
            DirectoryWatch(self, at, name, context) for at, name in enumerate(names)
        ]

    def enter(self, stage: str, ahead: Sequence[tuple[int, int]] = ()) -> None:
        """Begin a stage; `ahead` are entries and bytes each directory is taken to need."""
        self.context.enter(stage)
        self._shares = [_Share() for _ in self._shares]
        for share, (entries, size_bytes) in zip(self._shares, ahead, strict=False):
            share.entries_ahead, share.bytes_ahead = entries, size_bytes
        self.now()

    def now(self) -> None:
        """Tell at once; raises CancelledError as TaskContext.tell."""
        self._told_ns = self._clock.monotonic_ns()
        progress = progress_as_json(self.context.task.stage, self.context.task.progress)
        self.context.tell({**self._compose(), "progress": progress})

    def soon(self) -> None:
        """Tell if it was not told a moment ago."""
        if self._clock.monotonic_ns() - self._told_ns >= _SPACING_NS:
            self.now()

    def last(self) -> None:
        """Tell how it ended, whoever asked for it to stop."""
        with contextlib.suppress(CancelledError):
            self.now()

    def progress(
        self, at: int, done: tuple[int, int], entries_total: int | None, bytes_total: int | None
    ) -> None:
        """Take the progress of one directory and pass on that of all."""
        self._shares[at].entries_done, self._shares[at].bytes_done = done
        # Those before it are through with what they needed, whatever was expected of them.
        entries_before = sum(share.entries_done for share in self._shares[:at])
        bytes_before = sum(share.bytes_done for share in self._shares[:at])
        entries_after = sum(share.entries_ahead for share in self._shares[at + 1 :])
        bytes_after = sum(share.bytes_ahead for share in self._shares[at + 1 :])
        self.context.progress(
            entries_done=entries_before + done[0],
            entries_total=_total(entries_before, entries_total, entries_after),
            bytes_done=bytes_before + done[1],
            bytes_total=_total(bytes_before, bytes_total, bytes_after),
        )
        self.soon()


class DirectoryWatch:
    """TaskWatch for one directory's share of a task."""

    def __init__(self, telling: Telling, at: int, name: str, context: TaskContext) -> None:
        self._telling = telling
        self._at = at
        self._name = name
        self._context = context

    @property
    def task(self) -> Task:
        """See TaskWatch."""
        return self._context.task

    def enter(self, stage: str) -> None:
        """See TaskWatch. A stage of one directory is none of the task, whose progress goes on."""
        self._context.event("directory-stage-entered", directory=self._name, stage=stage)

    def event(self, name: str, /, **data: object) -> None:
        """See TaskWatch."""
        self._context.event(name, directory=self._name, **data)

    def progress(
        self,
        *,
        entries_done: int,
        bytes_done: int,
        entries_total: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        """See TaskWatch."""
        self._telling.progress(self._at, (entries_done, bytes_done), entries_total, bytes_total)


def _total(before: int, own: int | None, after: int) -> int | None:
    return None if own is None else before + own + after


def progress_as_json(stage: str, progress: Progress) -> dict[str, object]:
    """Return progress as it is told; null is unknown."""
    return {
        "stage": stage,
        "filesDone": progress.entries_done,
        "filesTotal": progress.entries_total,
        "bytesDone": progress.bytes_done,
        "bytesTotal": progress.bytes_total,
        "rateBytesPerSecond": progress.rate_bytes_per_s,
        "etaSeconds": progress.eta_s,
    }


def told_iterations(detail: Mapping[str, object]) -> list[Iteration]:
    """Return the passes an earlier attempt of a task told of, as far as they can be read."""
    told = detail.get("iterations")
    names = {name: camel_case(name) for name in Iteration.__dataclass_fields__}
    iterations: list[Iteration] = []
    for each in told if isinstance(told, list) else []:
        try:
            figures = {name: each[camel] for name, camel in names.items()}
            state = IterationState(figures.pop("state"))
            iterations.append(Iteration(state=state, **figures))
        except (KeyError, ValueError, TypeError):
            break  # Told by another version: what follows is counted anew.
    return iterations
