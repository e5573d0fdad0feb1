"""Pages over what became of each entry: read from the ledgers, while a task runs and afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.files.migration.model import Instance
from holdfast.tasks.model import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsPage:
    """Some entries, directory by directory and in path order, and where the next page begins."""

    entries: tuple[Mapping[str, object], ...]
    """Each: directory, path, outcome, reason; pathBase64 for a name outside UTF-8."""
    cursor_next: str | None


def results_page(
    state: Path,
    instance: Instance,
    task: Task,
    *,
    outcome: str | None,
    cursor: str | None,
    limit: int,
) -> ResultsPage:
    """Return up to `limit` entries of a task, of one outcome or of all.

    Raises:
        InvalidRequestError: `bad-cursor`, `bad-limit`, `bad-outcome`.
        StateError: `results-replaced`: a later task has written over them.
    """
    raise NotImplementedError
