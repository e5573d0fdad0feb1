"""What the pieces of a run see of the task they belong to."""

from typing import Protocol

from holdfast.tasks.model import Task


class TaskWatch(Protocol):
    """A task, or one directory's share of it; TaskContext is the first kind."""

    @property
    def task(self) -> Task:
        """The task as last known here."""
        ...

    def enter(self, stage: str) -> None:
        """Record that a stage begins."""
        ...

    def event(self, name: str, /, **data: object) -> None:
        """Record something that happened; `name` is in the past tense."""
        ...

    def progress(
        self,
        *,
        entries_done: int,
        bytes_done: int,
        entries_total: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        """Tell how far this stage is; raises CancelledError once somebody asked to stop."""
        ...
