"""A client of one node's HTTP API, in the words of that API; used by the command line.

How requests travel and what their errors are stands in node_connection.py. Objects are answered as
the API has them (docs/reference/openapi-node.json); what starts work takes an idempotency key, so
that it is never done twice.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from holdfast.client.node_connection import (
    BACKOFF_S,
    TASKS,
    TIMEOUT_S,
    Json,
    NodeConnection,
    NodeEndpoint,
    NodeEvent,
    odd_answer,
)

_CHECKPOINTS: Final = "/api/v1/checkpoints"
_LIVE_MIGRATION: Final = "/api/v1/live-migration"
_PLANS: Final = "/api/v1/plans"
_SCHEDULES: Final = "/api/v1/schedules"
_COPIES: Final = f"{_LIVE_MIGRATION}/data-copy-tasks"
_VERIFICATIONS: Final = f"{_LIVE_MIGRATION}/files-verification-tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedTask:
    """A task that was admitted."""

    task_id: str
    status_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of a longer list."""

    items: tuple[Json, ...]
    cursor_next: str | None


class NodeClient:
    """One node; used in one event loop, in `async with`."""

    def __init__(
        self,
        endpoint: NodeEndpoint,
        *,
        timeout_s: float = TIMEOUT_S,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        """Connect to nothing yet; raises as NodeConnection."""
        self._connection = NodeConnection(endpoint, timeout_s=timeout_s, backoff_s=backoff_s)
        self.copies = NodeMigrations(self._connection, _COPIES)
        """Data copies."""
        self.verifications = NodeMigrations(self._connection, _VERIFICATIONS)
        self.checkpoints = NodeCheckpoints(self._connection)
        self.plans = NodePlans(self._connection)
        """With their schedules, and banks."""
        self.tasks = NodeTasks(self._connection)
        """All of these and repairs, also those of other instances of the node."""

    async def __aenter__(self) -> "NodeClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release all connections."""
        await self._connection.close()

    async def node(self) -> Json:
        """Return what the node tells of itself."""
        return await self._connection.ask("GET", "/api/v1/node")

    async def status(self) -> Json:
        """Return the completion latch: `state`, `endTime`."""
        return await self._connection.ask("GET", f"{_LIVE_MIGRATION}/status")

    async def mark_complete(self, idempotency_key: str) -> Json:
        """Mark the migration complete; StateError (`already-complete`) if it is."""
        return await self._connection.ask(
            "POST", f"{_LIVE_MIGRATION}/status", idempotency_key=idempotency_key
        )

    async def clear_status(self) -> Json:
        """Forget the mark."""
        return await self._connection.ask("DELETE", f"{_LIVE_MIGRATION}/status")

    async def repair(
        self, verification_id: str, request: Mapping[str, object], idempotency_key: str
    ) -> StartedTask:
        """Start the repair of what a verification found."""
        route = f"{_VERIFICATIONS}/{verification_id}/repair"
        return _started(
            await self._connection.ask("POST", route, body=request, idempotency_key=idempotency_key)
        )


class NodeMigrations:
    """Data copies, or verifications, at a node."""

    def __init__(self, connection: NodeConnection, route: str) -> None:
        self._connection = connection
        self._route = route

    async def start(self, request: Mapping[str, object], idempotency_key: str) -> StartedTask:
        """Start one; the members of `request` are those of the API."""
        return _started(
            await self._connection.ask(
                "POST", self._route, body=request, idempotency_key=idempotency_key
            )
        )

    async def last(self) -> list[Json]:
        """Return the instance's last task if it is one of these."""
        return await self._connection.ask_list(self._route)

    async def show(self, task_id: str) -> Json:
        """Return one."""
        return await self._connection.ask("GET", f"{self._route}/{task_id}")

    async def cancel(self, task_id: str) -> Json:
        """Cancel one. Idempotent."""
        return await self._connection.ask("PATCH", f"{self._route}/{task_id}")

    async def results(
        self, task_id: str, *, outcome: str = "", cursor: str = "", limit: int = 100
    ) -> Page:
        """Return a page of what became of its entries, or was found of them."""
        query = _page_query(outcome=outcome, cursor=cursor, limit=limit)
        told = await self._connection.ask("GET", f"{self._route}/{task_id}/results", query=query)
        return _page(told, "entries")


class NodeCheckpoints:
    """The checkpoints of a node."""

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection

    async def page(
        self, *, plan: str = "", verdict: str = "", cursor: str = "", limit: int = 100
    ) -> Page:
        """Return a page of them, newest first."""
        query = _page_query(plan=plan, verdict=verdict, cursor=cursor, limit=limit)
        return _page(await self._connection.ask("GET", _CHECKPOINTS, query=query), "checkpoints")

    async def show(self, checkpoint_id: str) -> Json:
        """Return one, with what its manifest says."""
        return await self._connection.ask("GET", f"{_CHECKPOINTS}/{quote(checkpoint_id, safe='')}")

    async def verify(
        self, checkpoint_id: str, request: Mapping[str, object], idempotency_key: str
    ) -> StartedTask:
        """Start to verify one."""
        route = f"{_CHECKPOINTS}/{quote(checkpoint_id, safe='')}/verify"
        return await _start(self._connection, route, request, idempotency_key)

    async def restore(
        self, checkpoint_id: str, request: Mapping[str, object], idempotency_key: str
    ) -> StartedTask:
        """Start to restore one, on the node's host."""
        route = f"{_CHECKPOINTS}/{quote(checkpoint_id, safe='')}/restore"
        return await _start(self._connection, route, request, idempotency_key)

    async def delete(self, checkpoint_id: str, idempotency_key: str) -> StartedTask:
        """Start to delete one."""
        route = f"{_CHECKPOINTS}/{quote(checkpoint_id, safe='')}"
        return _started(
            await self._connection.ask("DELETE", route, idempotency_key=idempotency_key)
        )

    async def hold(self, checkpoint_id: str, request: Mapping[str, object]) -> Json:
        """Hold, lock or release one; return it."""
        route = f"{_CHECKPOINTS}/{quote(checkpoint_id, safe='')}/protection"
        return await self._connection.ask("PUT", route, body=request)


class NodePlans:
    """The plans of a node, their schedules, and the banks that it can open."""

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection

    async def all(self) -> tuple[Json, ...]:
        """Return every plan."""
        return _page(await self._connection.ask("GET", _PLANS), "plans").items

    async def show(self, plan: str) -> Json:
        """Return one, by name or id."""
        return await self._connection.ask("GET", f"{_PLANS}/{quote(plan, safe='')}")

    async def make(self, request: Mapping[str, object]) -> Json:
        """Make one, or change it; return it."""
        return await self._connection.ask("POST", _PLANS, body=request)

    async def remove(self, plan: str) -> None:
        """Remove one that has no checkpoints."""
        await self._connection.ask("DELETE", f"{_PLANS}/{quote(plan, safe='')}")

    async def protect(self, plan: str, idempotency_key: str) -> StartedTask:
        """Start to protect one."""
        route = f"{_PLANS}/{quote(plan, safe='')}/protect"
        return await _start(self._connection, route, {}, idempotency_key)

    async def retain(self, plan: str, idempotency_key: str) -> StartedTask:
        """Start to delete what its rules do not keep."""
        route = f"{_PLANS}/{quote(plan, safe='')}/retain"
        return await _start(self._connection, route, {}, idempotency_key)

    async def fates(self, plan: str) -> tuple[Json, ...]:
        """Return what its rules would keep and delete, and why."""
        route = f"{_PLANS}/{quote(plan, safe='')}/retain"
        told = await self._connection.ask("POST", route, body={"dryRun": True})
        return _page(told, "fates").items

    async def schedules(self) -> tuple[Json, ...]:
        """Return every schedule."""
        return _page(await self._connection.ask("GET", _SCHEDULES), "schedules").items

    async def add_schedule(self, request: Mapping[str, object]) -> Json:
        """Add a schedule; return it."""
        return await self._connection.ask("POST", _SCHEDULES, body=request)

    async def remove_schedule(self, schedule_id: str) -> None:
        """Remove one."""
        await self._connection.ask("DELETE", f"{_SCHEDULES}/{quote(schedule_id, safe='')}")

    async def start_upkeep(
        self, work: str, request: Mapping[str, object], idempotency_key: str
    ) -> StartedTask:
        """Start to examine, sweep or heal a bank."""
        return await _start(self._connection, f"/api/v1/banks/{work}", request, idempotency_key)


class NodeTasks:
    """All tasks of a node."""

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection

    async def page(
        self, *, kind: str = "", state: str = "", cursor: str = "", limit: int = 100
    ) -> Page:
        """Return a page of them, newest first."""
        query = _page_query(kind=kind, state=state, cursor=cursor, limit=limit)
        return _page(await self._connection.ask("GET", TASKS, query=query), "tasks")

    async def show(self, task_id: str) -> Json:
        """Return one."""
        return await self._connection.ask("GET", f"{TASKS}/{task_id}")

    async def limit_rate(self, task_id: str, rate_bytes_per_s: int) -> Json:
        """Have it move at most so many bytes a second from now on; 0 lifts the limit."""
        body = {"rateBytesPerSecond": rate_bytes_per_s}
        return await self._connection.ask("PATCH", f"{TASKS}/{task_id}", body=body)

    async def cancel(self, task_id: str) -> Json:
        """Ask it to stop."""
        return await self._connection.ask("PATCH", f"{TASKS}/{task_id}", body={"cancel": True})

    def follow(self, task_id: str, after: int = 0) -> AsyncIterator[NodeEvent]:
        """Yield its events after a sequence, and its progress, until it has ended."""
        return self._connection.follow(task_id, after)


async def _start(
    connection: NodeConnection, route: str, request: Mapping[str, object], idempotency_key: str
) -> StartedTask:
    return _started(
        await connection.ask("POST", route, body=request, idempotency_key=idempotency_key)
    )


def _started(told: Json) -> StartedTask:
    task_id, status_url = told.get("taskId"), told.get("statusUrl")
    if isinstance(task_id, str) and isinstance(status_url, str):
        return StartedTask(task_id=task_id, status_url=status_url)
    raise odd_answer()


def _page_query(*, limit: int, **texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text} | {"limit": str(limit)}


def _page(told: Json, name: str) -> Page:
    items, cursor = told.get(name), told.get("cursorNext")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise odd_answer()
    return Page(items=tuple(items), cursor_next=cursor if isinstance(cursor, str) else None)
