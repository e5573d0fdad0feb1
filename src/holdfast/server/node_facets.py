"""What a node has beside migrations, as its settings enable it: volumes, checkpoints, schedules.

Invariants:

1. What is not enabled has no routes and starts no process.
2. When `close` has returned, no process of theirs is left.
"""

import asyncio
from collections.abc import Coroutine
from typing import Final, TypeVar

from holdfast.errors import UnavailableError
from holdfast.files.http.mounting import Mounted
from holdfast.server.node_checkpoints import NodeCheckpoints
from holdfast.server.node_metrics import NodeMetrics
from holdfast.server.node_processes import KeptProcess
from holdfast.server.node_settings import NodeSettings
from holdfast.server.node_tasks import TaskProcesses
from holdfast.server.node_volumes import NodeVolumes

AnswerT = TypeVar("AnswerT")

ASK_S: Final = 10.0
"""How long volumes may take to say how they are."""


class NodeFacets:
    """The other facets of one node; made in its event loop."""

    def __init__(
        self, settings: NodeSettings, text: str, tasks: TaskProcesses, metrics: NodeMetrics
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._volumes = NodeVolumes(settings) if settings.volumes.enabled else None
        self._checkpoints: NodeCheckpoints | None = None
        self._scheduler: KeptProcess | None = None
        if settings.checkpoints.enabled:
            self._checkpoints = NodeCheckpoints(settings, tasks)
            self._scheduler = KeptProcess(
                "scheduler",
                "holdfast.server.node_scheduler",
                text,
                metrics,
                stop_s=settings.limits.stop_timeout_s,
            )

    def mounted(self) -> Mounted:
        """Return the routes of all of them."""
        parts = [each.mounted() for each in (self._volumes, self._checkpoints) if each is not None]
        return Mounted(
            routes=tuple(route for part in parts for route in part.routes),
            descriptions=tuple(each for part in parts for each in part.descriptions),
        )

    async def start(self, stopping: asyncio.Event) -> "asyncio.Task[None]":
        """Start their processes; return what keeps them alive, which ends after `stopping`.

        Raises:
            UnavailableError: `scheduler-not-started`.
        """
        if self._volumes is not None:
            await self._volumes.serve()
        if self._scheduler is not None:
            await self._scheduler.start()
        return asyncio.create_task(self._keep(stopping))

    def check(self) -> None:
        """Raise UnavailableError if one of them does not work; blocks, not in the loop's thread."""
        if self._volumes is not None:
            self._ask(self._volumes.check())
        if self._scheduler is not None and not self._scheduler.is_alive:
            raise UnavailableError(
                "the process that runs schedules has to start again",
                code="scheduler-down",
                advice="ask again in a moment; see the log of the node",
            )

    def reload(self) -> None:
        """Have certificates read anew."""
        if self._volumes is not None:
            self._volumes.reload()

    def render(self) -> bytes:
        """Return their metrics; blocks, not in the loop's thread."""
        told = b"" if self._checkpoints is None else self._checkpoints.render()
        if self._volumes is not None:
            told += self._ask(self._volumes.render())
        return told

    async def close(self) -> None:
        """End their processes in order. Idempotent."""
        if self._scheduler is not None:
            await self._scheduler.close()
        if self._volumes is not None:
            await self._volumes.close()
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _ask(self, question: Coroutine[object, object, AnswerT]) -> AnswerT:
        asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        try:
            return asked.result(ASK_S)
        except TimeoutError as error:
            asked.cancel()
            raise UnavailableError(
                f"the volumes do not say within {ASK_S:g} s how they are",
                code="volume-silent",
                advice="look at the load of the machine and at its medium, then ask again",
            ) from error

    async def _keep(self, stopping: asyncio.Event) -> None:
        if self._scheduler is not None:
            await self._scheduler.watch(stopping)
