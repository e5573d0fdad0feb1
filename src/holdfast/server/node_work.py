"""What a task process of a node does: finds its instance and source in the settings, and runs it.

The request of a task of checkpoints is its facet's matter (checkpoints/resuming.py). That of any
other, as the journal keeps it, is `{"instance", "source", "port", "request"}`; the last is what was
asked over HTTP. Secrets and paths are not in it: they come from the settings.
"""

from collections.abc import Mapping
from typing import assert_never

from holdfast.errors import InvalidRequestError
from holdfast.files.migration.model import Instance, MigrationKind
from holdfast.files.migration.opening import MigrationSurroundings
from holdfast.files.migration.requests import (
    parse_copy_request,
    parse_repair_request,
    parse_verification_request,
)
from holdfast.files.migration.service import (
    run_copy,
    run_repair,
    run_verification,
)
from holdfast.server.local import load_key, make_workers, open_target
from holdfast.server.node_access import source_peer
from holdfast.server.node_settings import NodeSettings
from holdfast.server.node_sources import Sources
from holdfast.stores.pace import SharedPace
from holdfast.stores.processes import run_beside
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.model import Task
from holdfast.tasks.runner import TaskContext


def run_task(settings: NodeSettings, context: TaskContext) -> Mapping[str, object]:
    """Do the work of a task of a node; raises what the work raises."""
    task = context.task
    why_not = why_not_run(settings, task)
    if why_not:
        raise InvalidRequestError(
            f"{task.id} cannot be run with these settings: {why_not}",
            code="bad-setting",
            advice="put back what the settings had, or ask for the work again",
        )
    if is_of_checkpoints(task):
        # Here: a migration does not load what checkpoints need.
        from holdfast.server.node_checkpoints import run_checkpoint_task

        return run_checkpoint_task(settings, context)
    request = task.request
    instance = find_instance(settings, str(request["instance"]))
    assert instance is not None
    host = str(request["source"])
    peer = source_peer(host, settings.peers[host])
    asked = request["request"]
    assert isinstance(asked, Mapping)
    around = _surroundings(settings)
    match MigrationKind(task.kind):
        case MigrationKind.COPY:
            return run_copy(around, instance, peer, parse_copy_request(asked), context)
        case MigrationKind.VERIFICATION:
            wanted = parse_verification_request(asked)
            return run_verification(around, instance, peer, wanted, context)
        case MigrationKind.REPAIR:
            return run_repair(around, instance, peer, parse_repair_request(asked), context)
        case kind:
            assert_never(kind)


def why_not_run(settings: NodeSettings, task: Task) -> str:
    """Say why a task cannot be run with these settings; empty if it can."""
    if is_of_checkpoints(task):
        return ""
    request = task.request
    name, source = request.get("instance"), request.get("source")
    if not isinstance(name, str) or find_instance(settings, name) is None:
        return f"there is no instance {name!r} any more"
    target = settings.migration_map.get(str(source))
    instance = settings.instances.get(target) if target is not None else None
    if instance is None or instance.name != name or source not in settings.peers:
        return f"{source} is not its source any more"
    return "" if isinstance(request.get("request"), Mapping) else "it holds no request"


def is_of_checkpoints(task: Task) -> bool:
    """Say whether a task is one of checkpoints that was asked for at a node, by its request."""
    return task.kind.startswith("checkpoints.") and task.request.get("askedOf") == "node"


def is_of_node(settings: NodeSettings, task: Task) -> bool:
    """Say whether a task is a node's to go on with, rather than a command's or the scheduler's."""
    if is_of_checkpoints(task):
        return settings.checkpoints.enabled
    return task.kind in {kind.value for kind in MigrationKind}


def find_instance(settings: NodeSettings, name: str) -> Instance | None:
    """Return an instance by its name."""
    return next((each for each in settings.instances.values() if each.name == name), None)


def _surroundings(settings: NodeSettings) -> MigrationSurroundings:
    clock, entropy = SystemClock(), SystemEntropy()
    return MigrationSurroundings(
        state=settings.state,
        clock=clock,
        entropy=entropy,
        open_sources=Sources(settings.state / "scratch", clock, entropy).open,
        open_target=open_target,
        make_pace=lambda rate: SharedPace(clock, rate),
        make_workers=make_workers,
        run_beside=run_beside,
        load_key=lambda: load_key(settings.state / "keys" / "ed25519.pem", entropy),
    )
