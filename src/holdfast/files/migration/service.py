"""Use cases of a live migration, each the work of a task: copy, verify, repair; and completion.

Every function resumes: called again with the same request in the same task, it goes on where the
last attempt was cut off.
"""

from collections.abc import Callable, Mapping

from holdfast.errors import HoldfastError, NotFoundError
from holdfast.files.ledger import told_as_ours
from holdfast.files.migration.model import (
    CopyRequest,
    Instance,
    LatchState,
    LatchStatus,
    RepairRequest,
    SourcePeer,
    VerificationRequest,
)
from holdfast.files.migration.opening import MigrationSurroundings, latch_of
from holdfast.files.migration.passes import CopyPasses
from holdfast.files.migration.repairs import RepairRun
from holdfast.files.migration.verification import VerificationRun
from holdfast.files.side_directory import (
    QUARANTINE_DIRECTORY,
    remove_side_directory,
    remove_tree,
)
from holdfast.ports import Directory
from holdfast.tasks.runner import TaskContext


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
    with told_as_ours(surroundings.state):
        return CopyPasses(surroundings, instance, source, request, context).run()


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
    with told_as_ours(surroundings.state):
        return VerificationRun(surroundings, instance, source, request, context).run()


def run_repair(
    surroundings: MigrationSurroundings,
    instance: Instance,
    source: SourcePeer,
    request: RepairRequest,
    context: TaskContext,
) -> Mapping[str, object]:
    """Fetch again what the last verification found differing, and verify just that."""
    with told_as_ours(surroundings.state):
        return RepairRun(surroundings, instance, source, request, context).run()


def complete_migration(
    surroundings: MigrationSurroundings, instance: Instance, now_ns: int
) -> LatchStatus:
    """Mark a migration complete at its destination; what it replaced or deleted is let go.

    Raises:
        ConflictError: `migration-completed`: it already is.
    """
    status = latch_of(instance).complete(now_ns)
    purge_quarantine(surroundings.open_target, instance)
    return status


def purge_quarantine(open_target: Callable[[bytes, bool], Directory], instance: Instance) -> None:
    """Let go of what was replaced or deleted, if the migration is marked complete.

    Done again it goes on where it was cut off. What cannot be removed stays: it harms nobody.
    """
    if latch_of(instance).read().state is not LatchState.COMPLETED:
        return
    for directory in instance.directories:
        try:
            target = open_target(directory.path, False)
        except HoldfastError:
            continue
        try:
            remove_tree(target, QUARANTINE_DIRECTORY)
            remove_side_directory(target)
        except HoldfastError as error:
            if not isinstance(error, NotFoundError):
                continue
        finally:
            target.close()
