"""Finds the work of a task of checkpoints again from its kind and request, in another process.

For nodes: what is asked for in one process is done in another, and gone on with by a third.

Invariants:
1. What `perform` does is what the service was asked for when it recorded the request.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.checkpoints.model import Budget, Depth
from holdfast.checkpoints.running import Manner, TaskRunner
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError, UnsupportedError
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Listener, TaskContext, Work


class AdoptedRunner:
    """Runs the work of a task that this process was started for; all other work beside it."""

    def __init__(self, others: TaskRunner, context: TaskContext) -> None:
        self.result: Mapping[str, object] | None = None
        """Of that task, once it is done."""
        self._has_begun = False
        self._others = others
        self._context = context

    def run(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        work: Work,
        *,
        idempotency_key: str | None = None,
        listener: Listener,
    ) -> Task:
        """See TaskRunner."""
        task = self._context.task
        if not self._has_begun:
            self._has_begun = True
            assert (kind, subject) == (task.kind, task.subject)
            self.result = work(self._context)
            return replace(task, result=self.result)
        return self._others.run(
            kind, subject, request, work, idempotency_key=idempotency_key, listener=listener
        )

    def settle(self) -> object:
        """See TaskRunner."""
        return self._others.settle()


def perform(facet: Checkpoints, task: Task, manner: Manner) -> None:
    """Ask the service again for what a task was made for; raises as that does."""
    request: Mapping[str, Any] = task.request
    match task.kind:
        case "checkpoints.protect":
            facet.protect(request["plan"], manner, request["parameters"])
        case "checkpoints.verify":
            facet.verify(
                [facet.get(each) for each in request["checkpoints"]],
                manner,
                depth=Depth(request["depth"]),
                resource=request["resource"],
                budget=_budget(request["budget"]),
            )
        case "checkpoints.restore":
            facet.restore(
                request["checkpoint"],
                manner,
                parameters=request["parameters"],
                resource=request["resource"],
                force=request["force"],
            )
        case "checkpoints.delete":
            facet.delete(request["checkpoint"], manner)
        case "checkpoints.retain":
            facet.retain_durably(request["plan"], manner)
        case "checkpoints.examine":
            facet.examine(request["bank"], manner, request["signers"])
        case "checkpoints.sweep":
            facet.sweep(request["bank"], manner, grace_s=request["graceS"])
        case "checkpoints.heal":
            facet.heal(request["bank"], request["from"], manner)
        case kind:
            raise UnsupportedError(
                f"tasks of kind {kind} are not done by nodes",
                code="unknown-task-kind",
                advice="run it with 'holdfast checkpoints' on the host of the node",
            )


def perform_adopted(
    facet: Checkpoints, runner: AdoptedRunner, task: Task, manner: Manner
) -> Mapping[str, object]:
    """Do the work of the adopted task, which is what `facet` runs first; return its result."""
    try:
        perform(facet, task, manner)
    except HoldfastError:
        # What follows on a task (verifying again what it healed) has a task of its own.
        if runner.result is None:
            raise
    assert runner.result is not None
    return runner.result


def _budget(request: Mapping[str, Any]) -> Budget:
    given = dict(request)
    if "slice" in given:
        part, parts = given["slice"]
        given["slice"] = (part, parts)
    return Budget(**given)
