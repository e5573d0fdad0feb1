"""The checkpoints of a node: its routes to them, and what a task process of theirs does.

What HTTP asks for is admitted here and done in a process of its own, like the migrations; what is
only looked at is read in threads.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from holdfast.checkpoints.http import checkpoint_routes
from holdfast.checkpoints.metrics import exposition
from holdfast.checkpoints.openapi import checkpoints_description
from holdfast.checkpoints.resuming import AdoptedRunner, perform_adopted
from holdfast.checkpoints.running import Manner
from holdfast.files.http.mounting import Mounted, MountedRoute
from holdfast.files.http.problems import problem_response
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.model.limits import JOBS_MAX
from holdfast.server.checkpoints import make_bank_directory, open_checkpoints
from holdfast.server.local import LocalServices
from holdfast.server.node_settings import NodeSettings
from holdfast.server.node_tasks import TaskProcesses
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Listener, TaskContext, Work

_VERIFYING: Final = frozenset({Permission.VERIFY})
_CHANGING: Final = frozenset({Permission.COPY})


class NodeCheckpoints:
    """The checkpoints of a running node."""

    def __init__(self, settings: NodeSettings, tasks: TaskProcesses) -> None:
        self._services = LocalServices(settings.state)
        runner = _HandingRunner(tasks, self._services.runner.settle)
        self._facet = open_checkpoints(self._services, may_fork=False, runner=runner)

    def mounted(self) -> Mounted:
        """Return the routes, with who may call them."""
        return Mounted(
            routes=tuple(
                MountedRoute(
                    route=route, permissions=_permissions(route.methods or set(), route.path)
                )
                for route in checkpoint_routes(self._facet, problem_response, make_bank_directory)
            ),
            descriptions=(checkpoints_description(),),
        )

    def render(self) -> bytes:
        """Return the metrics; blocks."""
        return exposition(self._facet)

    def close(self) -> None:
        """Release files."""
        self._facet.catalogue.close()
        self._services.journal.close()


def run_checkpoint_task(settings: NodeSettings, context: TaskContext) -> Mapping[str, object]:
    """Do the work of a task of checkpoints; raises what the work raises."""
    services = LocalServices(settings.state)
    runner = AdoptedRunner(services.runner, context)
    facet = open_checkpoints(services, runner=runner)
    return perform_adopted(facet, runner, context.task, node_manner())


def node_manner() -> Manner:
    """Return how a node goes about its work."""
    return Manner(jobs=min(JOBS_MAX, os.cpu_count() or 1))


class _HandingRunner:
    """Has work done by a task process, which finds it again from the request; see TaskRunner."""

    def __init__(self, tasks: TaskProcesses, settle: Callable[[], object]) -> None:
        self._tasks = tasks
        self.settle = settle

    def run(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        work: Work,  # noqa: ARG002
        *,
        idempotency_key: str | None = None,
        listener: Listener,
    ) -> Task:
        """See TaskRunner; returns once the process is there. Not in the loop's thread."""
        marked = {**request, "askedOf": "node"}
        task = self._tasks.start(kind, subject, marked, idempotency_key=idempotency_key)
        listener(task)
        # What follows on its result is done by its process, also where a key names an ended task.
        return replace(task, result=None)


def _permissions(methods: set[str], path: str) -> frozenset[Permission]:
    if "GET" in methods:
        return ALL_PERMISSIONS
    return _VERIFYING if path.endswith("/verify") else _CHANGING
