"""Use cases of a live migration, each the work of a task: copy, verify, repair; and completion.

Every function resumes: called again with the same request in the same task, it goes on where the
last attempt was cut off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.files.migration.model import (
    CopyRequest,
    Instance,
    RepairRequest,
    SourcePeer,
    VerificationRequest,
)
from holdfast.ports import (
    Clock,
    Directory,
    Entropy,
    PaceControl,
    ReadableDirectory,
    StartWorkers,
)
from holdfast.proof.signature import SigningKey
from holdfast.tasks.runner import TaskContext

OpenSources = Callable[[SourcePeer, Instance], Sequence[ReadableDirectory]]
"""Opens the source's side of every directory of an instance, in their order, for one pass.

Raises StateError (`source-completed`) if the source says that its migration is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSurroundings:
    """What the composition root provides."""

    state: Path
    """Directory of journal, locks, ledgers, keys and proofs."""
    clock: Clock
    entropy: Entropy
    open_sources: OpenSources
    open_target: Callable[[bytes, bool], Directory]
    """Given the root and whether to make it if it is missing."""
    make_pace: Callable[[float | None], PaceControl]
    make_workers: Callable[[PaceControl, int], StartWorkers]
    load_key: Callable[[], SigningKey]


def subject_of(instance: Instance) -> str:
    """Return what no two tasks may work on at once."""
    return f"instance {instance.name}"


def run_copy(
    surroundings: MigrationSurroundings,
    instance: Instance,
    source: SourcePeer,
    request: CopyRequest,
    context: TaskContext,
) -> Mapping[str, object]:
    """Copy every directory of an instance in passes until one has succeeded.

    What is told while it runs, and is left in Task.detail: {"iterations": [...], "progress": {...},
    "trend": {...}}; the iterations in Sidecar's shape with more members.

    Raises:
        StateError: `passes-failed`: the last pass did not succeed. And what no further pass can
            cure, such as `too-many-deletions`, `source-completed`, `migration-completed`.
    """
    raise NotImplementedError


def run_verification(
    surroundings: MigrationSurroundings,
    instance: Instance,
    source: SourcePeer,
    request: VerificationRequest,
    context: TaskContext,
) -> Mapping[str, object]:
    """Verify every directory of an instance against the source.

    What is told while it runs, and is left in Task.detail: {"state", Sidecar's seven counters,
    "progress": {...}}. A verification that found something is a completed task whose state is
    FAILED.
    """
    raise NotImplementedError


def run_repair(
    surroundings: MigrationSurroundings,
    instance: Instance,
    source: SourcePeer,
    request: RepairRequest,
    context: TaskContext,
) -> Mapping[str, object]:
    """Fetch again what the last verification found differing, and verify just that."""
    raise NotImplementedError
