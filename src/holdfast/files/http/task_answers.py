"""Answers about any task of the node: history, detail, changes, and events as they happen.

Invariants:

1. Events are sent in order, each once; a client that comes back with the id of the last it got
   misses none that the journal still keeps.
2. A stream ends after its task has ended; who asks for it again is told that there is no more.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Final

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from holdfast.errors import DeniedError, InvalidRequestError, NotFoundError
from holdfast.files.http.call import Call
from holdfast.files.http.names import parse_task_name
from holdfast.files.http.operations import EVENT_STREAM
from holdfast.files.http.permits import Permit, Permits
from holdfast.files.http.queries import page_limit, whole
from holdfast.files.http.services import NodeServices
from holdfast.files.http.shapes import TaskChangeBody, decode_body
from holdfast.files.http.streaming import until_gone
from holdfast.files.results import plain_object
from holdfast.model.access import Permission
from holdfast.model.ids import TaskId
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task, TaskEvent, TaskState

EVENT_STREAMS_MAX: Final = 64
POLL_S: Final = 0.5
HEARTBEAT_S: Final = 15.0
"""A stream is never silent for longer, so that whoever is between does not take it for dead."""
_EVENTS_AT_ONCE: Final = 100
_SEQUENCE_MAX: Final = 10**18 - 1


class TaskAnswers:
    """Answers of one node about its tasks."""

    def __init__(self, services: NodeServices) -> None:
        self._journal = services.journal
        self._cancel = services.cancel
        self._client_timeout_s = services.client_timeout_s
        self._verification_kinds = services.verification_kinds
        self._streams = Permits(EVENT_STREAMS_MAX, "too many clients follow tasks at once")

    async def list_tasks(self, call: Call) -> Response:
        """Page through all tasks."""
        query = call.query
        page = await asyncio.to_thread(
            self._journal.list_tasks,
            kind=query.get("kind"),
            state=_parse_state(query.get("state")),
            limit=page_limit(query),
            cursor=query.get("cursor"),
        )
        tasks = [plain_object(task) for task in page.tasks]
        return JSONResponse({"tasks": tasks, "cursorNext": page.cursor_next})

    async def show_task(self, call: Call) -> Response:
        """Show one."""
        return JSONResponse(plain_object(await self._find(call)))

    async def change_task(self, call: Call) -> Response:
        """Change its rate limit, or cancel it."""
        task = await self._find(call)
        is_verification = task.kind in self._verification_kinds
        needed = Permission.VERIFY if is_verification else Permission.COPY
        if needed not in call.permissions:
            raise DeniedError(
                f"changing a task of kind {task.kind} needs the permission {needed}",
                code="no-permission",
                advice="ask the operator of the node for it",
            )
        change = decode_body(await call.read_body(), TaskChangeBody, "This changes no task.")
        if change.rate_bytes_per_second is None and not change.cancel:
            raise InvalidRequestError(
                "nothing is to be changed",
                code="bad-request-body",
                advice='send {"rateBytesPerSecond": NUMBER} or {"cancel": true}',
            )
        if change.rate_bytes_per_second is not None:
            rate = change.rate_bytes_per_second
            task = await asyncio.to_thread(self._journal.request_rate, task.id, rate)
        if change.cancel:
            task = await asyncio.to_thread(self._cancel, task.id)
        return JSONResponse(plain_object(task))

    async def follow_task(self, call: Call) -> Response:
        """Page through its events, or follow them."""
        task = await self._find(call)
        after = _sequence(call.query.get("after"), "after", default=0)
        # Of a client that comes back, its address still says where it once began.
        after = _sequence(call.request.headers.get("last-event-id"), "Last-Event-ID", default=after)
        if not call.accepts(EVENT_STREAM):
            limit = page_limit(call.query)
            events = await self._events(task.id, after, limit)
            return JSONResponse({"events": [_plain_event(event) for event in events]})
        if task.is_ended and not await self._events(task.id, after, 1):
            return Response(status_code=204)
        return EventStream(
            self._journal,
            task.id,
            after,
            self._streams.take(),
            client_timeout_s=self._client_timeout_s,
        )

    async def _find(self, call: Call) -> Task:
        name = call.parameters["taskId"]
        task_id = parse_task_name(name)
        if task_id is None:
            raise NotFoundError(
                f"no task is called {name[:100]!r}",
                code="no-task",
                advice="list the tasks of the node",
            )
        return await asyncio.to_thread(self._journal.get, task_id)

    async def _events(self, task_id: TaskId, after: int, limit: int) -> tuple[TaskEvent, ...]:
        return await asyncio.to_thread(
            self._journal.list_events, task_id, after_sequence=after, limit=limit
        )


class EventStream(Response):
    """The events of a task as server-sent events, with its progress between them."""

    def __init__(
        self,
        journal: TaskJournal,
        task_id: TaskId,
        after: int,
        permit: Permit,
        *,
        client_timeout_s: float,
    ) -> None:
        headers = {"content-type": EVENT_STREAM, "cache-control": "no-store"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._journal = journal
        self._task_id = task_id
        self._after = after
        self._permit = permit
        self._client_timeout_s = client_timeout_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the task has ended or the client has gone or stands still."""
        gone = asyncio.create_task(until_gone(receive))
        with self._permit:
            try:
                await send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                async for text in self._texts(gone):
                    async with asyncio.timeout(self._client_timeout_s):
                        body = text.encode()
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                pass  # Broken off by returning; the client comes back if it still lives.
            finally:
                gone.cancel()

    async def _texts(self, gone: "asyncio.Task[None]") -> AsyncGenerator[str, None]:
        loop = asyncio.get_running_loop()
        shown_ns, spoken_at = 0, loop.time()
        while not gone.done():
            # First the task, then its events: so an ended task's last events are among them.
            task = await asyncio.to_thread(self._journal.get, self._task_id)
            events = await asyncio.to_thread(
                self._journal.list_events,
                self._task_id,
                after_sequence=self._after,
                limit=_EVENTS_AT_ONCE,
            )
            texts = [_message(event.name, _plain_event(event), event.sequence) for event in events]
            is_over = task.is_ended and len(events) < _EVENTS_AT_ONCE
            if is_over:
                texts.append(_message("ended", plain_object(task)))
            elif task.updated_ns != shown_ns:
                shown_ns = task.updated_ns
                texts.append(_message("progress", _plain_progress(task)))
            elif loop.time() - spoken_at >= HEARTBEAT_S:
                texts.append(": the task goes on\n\n")
            if texts:
                spoken_at = loop.time()
                yield "".join(texts)
            if is_over:
                return
            self._after = events[-1].sequence if events else self._after
            await asyncio.wait({gone}, timeout=0 if events else POLL_S)


def _sequence(text: str | None, name: str, *, default: int) -> int:
    return whole(text or None, name, default=default, least=0, most=_SEQUENCE_MAX)


def _message(name: str, data: object, sequence: int | None = None) -> str:
    head = "" if sequence is None else f"id: {sequence}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n"


def _plain_event(event: TaskEvent) -> dict[str, object]:
    return {
        "sequence": event.sequence,
        "atNs": event.at_ns,
        "name": event.name,
        "data": dict(event.data),
    }


def _plain_progress(task: Task) -> dict[str, object]:
    shown = plain_object(task)
    members = ("state", "stage", "attempt", "progress", "detail", "updatedNs")
    return {name: shown[name] for name in members}


def _parse_state(text: str | None) -> TaskState | None:
    if text is None:
        return None
    try:
        return TaskState(text)
    except ValueError:
        raise InvalidRequestError(
            f"{text[:40]!r} is no state of a task",
            code="bad-parameter",
            advice=f"one of {', '.join(TaskState)}",
        ) from None
