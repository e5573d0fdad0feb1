"""Answers about data copies, verifications and repairs of the instance a request is made to.

Sidecar's routes and, beside them, results and repair. Thin: what is decided is decided by the
guards before, and by the journal and the runner behind `services.start`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import msgspec
from starlette.responses import JSONResponse, Response

from holdfast.errors import ConflictError, InvalidRequestError, NotFoundError, StateError
from holdfast.files.http.call import Call
from holdfast.files.http.guards import instance_of
from holdfast.files.http.names import parse_task_name, task_uuid
from holdfast.files.http.operations import COPIES, NDJSON, TASKS, VERIFICATIONS
from holdfast.files.http.permits import Permits
from holdfast.files.http.queries import page_limit
from holdfast.files.http.services import NodeServices
from holdfast.files.http.shapes import (
    CopyBody,
    RepairBody,
    TaskCreated,
    VerificationBody,
    decode_body,
)
from holdfast.files.http.streaming import PiecewiseResponse
from holdfast.files.http.views import copy_view, verification_view
from holdfast.files.migration.model import Instance, MigrationKind
from holdfast.files.migration.requests import (
    copy_request_as_json,
    parse_copy_request,
    parse_repair_request,
    parse_verification_request,
    repair_request_as_json,
    verification_request_as_json,
)
from holdfast.files.migration.results import results_page
from holdfast.files.migration.service import subject_of
from holdfast.tasks.history import PAGE_MAX
from holdfast.tasks.model import Task

RESULT_STREAMS_MAX: Final = 8
STARTS_MAX: Final = 256
_START_THREADS: Final = 4
_BAD_COPY: Final = "Error while decoding values, please check your request body."
_BAD_VERIFICATION: Final = "Failed to parse request body, please ensure that the request is valid."
_BUSY: Final = {
    MigrationKind.COPY: "Another task is already under progress. Cannot accept new task.",
    MigrationKind.VERIFICATION: "Another files digest verification is in progress for instance={}",
}
_NOUN: Final = {
    MigrationKind.COPY: "data copy",
    MigrationKind.VERIFICATION: "files verification",
}
_VIEW: Final[dict[MigrationKind, Callable[[Task], dict[str, object]]]] = {
    MigrationKind.COPY: copy_view,
    MigrationKind.VERIFICATION: verification_view,
}


class MigrationAnswers:
    """Answers of one node about migrations to its instances."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._starts = Permits(STARTS_MAX, "too many tasks are being started at once")
        # Of its own: a start may wait for another of the same key, and holds up only starts.
        self._start_pool = ThreadPoolExecutor(_START_THREADS, thread_name_prefix="holdfast-start")
        self._streams = Permits(RESULT_STREAMS_MAX, "too many results are being read at once")

    async def start_copy(self, call: Call) -> Response:
        """Start a data copy."""
        body = decode_body(await call.read_body(), CopyBody, _BAD_COPY)
        self._check_concurrency(body.max_concurrency)
        request = copy_request_as_json(parse_copy_request(msgspec.to_builtins(body)))
        task = await self._start(call, MigrationKind.COPY, request)
        return _created(COPIES, task_uuid(task.id))

    async def start_verification(self, call: Call) -> Response:
        """Start a verification."""
        body = decode_body(await call.read_body(), VerificationBody, _BAD_VERIFICATION)
        self._check_concurrency(body.max_concurrency)
        parsed = parse_verification_request(msgspec.to_builtins(body))
        request = verification_request_as_json(parsed)
        task = await self._start(call, MigrationKind.VERIFICATION, request)
        return _created(VERIFICATIONS, task_uuid(task.id))

    async def start_repair(self, call: Call) -> Response:
        """Start the repair of what a verification found."""
        verification = await self._find(call, MigrationKind.VERIFICATION)
        body = decode_body(await call.read_body() or b"{}", RepairBody, "The body is no request.")
        if body.max_concurrency is not None:
            self._check_concurrency(body.max_concurrency)
        asked = msgspec.to_builtins(body) | {"verificationId": verification.id}
        request = repair_request_as_json(parse_repair_request(asked))
        task = await self._start(call, MigrationKind.REPAIR, request)
        return _created(TASKS, task.id)

    async def list_copies(self, call: Call) -> Response:
        """List the last task of the instance if it is a data copy."""
        return await self._list(call, MigrationKind.COPY)

    async def list_verifications(self, call: Call) -> Response:
        """List the last task of the instance if it is a verification."""
        return await self._list(call, MigrationKind.VERIFICATION)

    async def show_copy(self, call: Call) -> Response:
        """Show a data copy."""
        return JSONResponse(copy_view(await self._find(call, MigrationKind.COPY)))

    async def show_verification(self, call: Call) -> Response:
        """Show a verification."""
        return JSONResponse(verification_view(await self._find(call, MigrationKind.VERIFICATION)))

    async def cancel_copy(self, call: Call) -> Response:
        """Cancel a data copy."""
        return await self._cancel(call, MigrationKind.COPY)

    async def cancel_verification(self, call: Call) -> Response:
        """Cancel a verification."""
        return await self._cancel(call, MigrationKind.VERIFICATION)

    async def copy_results(self, call: Call) -> Response:
        """Page through the entries of a data copy."""
        return await self._results(call, MigrationKind.COPY)

    async def verification_results(self, call: Call) -> Response:
        """Page through the entries of a verification."""
        return await self._results(call, MigrationKind.VERIFICATION)

    def _check_concurrency(self, asked: int) -> None:
        most = self._services.file_requests_max
        if asked > most:
            raise InvalidRequestError(
                f"max concurrency can not be more than {most}",
                code="too-much-concurrency",
                advice="ask for less, or raise the limit in the settings",
            )

    async def _start(self, call: Call, kind: MigrationKind, request: Mapping[str, object]) -> Task:
        start = partial(
            self._services.start,
            kind.value,
            call.host,
            request,
            idempotency_key=call.idempotency_key,
        )
        try:
            with self._starts.take():
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._start_pool, start)
        except ConflictError as error:
            if error.code == "busy" and kind in _BUSY:
                instance = instance_of(self._services, call.host)
                raise ConflictError(
                    _BUSY[kind].format(instance.name),
                    code="busy",
                    advice=error.advice,
                    **error.context,
                ) from error
            raise

    async def _list(self, call: Call, kind: MigrationKind) -> Response:
        subject = subject_of(instance_of(self._services, call.host))
        page = await asyncio.to_thread(self._services.journal.list_tasks, subject=subject, limit=1)
        return JSONResponse([_VIEW[kind](task) for task in page.tasks if task.kind == kind])

    async def _find(self, call: Call, kind: MigrationKind) -> Task:
        name = call.parameters["taskId"]
        task_id = parse_task_name(name)
        subject = subject_of(instance_of(self._services, call.host))
        try:
            if task_id is None:
                raise _no_task(name)
            task = await asyncio.to_thread(self._services.journal.get, task_id)
        except NotFoundError as error:
            raise _no_task(name) from error
        if task.subject != subject:
            raise _no_task(name)
        if task.kind != kind:
            raise NotFoundError(
                f"Task {name} is not a {_NOUN[kind]} task",
                code="other-kind",
                advice=f"see {TASKS}/{task.id}",
            )
        return task

    async def _cancel(self, call: Call, kind: MigrationKind) -> Response:
        task = await self._find(call, kind)
        try:
            task = await asyncio.to_thread(self._services.cancel, task.id)
        except StateError:
            # It has ended meanwhile, or before: Sidecar answers with how.
            task = await self._find(call, kind)
        return JSONResponse(_VIEW[kind](task))

    async def _results(self, call: Call, kind: MigrationKind) -> Response:
        task = await self._find(call, kind)
        instance = instance_of(self._services, call.host)
        outcome, cursor = call.query.get("outcome"), call.query.get("cursor")
        if call.accepts(NDJSON):
            permit = self._streams.take(call.address)
            limit = page_limit(call.query) if "limit" in call.query else None
            lines = _result_lines(
                self._services, instance, task, outcome=outcome, cursor=cursor, limit=limit
            )
            permit.answering = answer = PiecewiseResponse(
                lines,
                None,
                headers={"content-type": NDJSON},
                on_end=permit.release,
                send_timeout_s=self._services.client_timeout_s,
            )
            return await answer.begin()
        page = await asyncio.to_thread(
            results_page,
            self._services.state,
            instance,
            task,
            outcome=outcome,
            cursor=cursor,
            limit=page_limit(call.query),
        )
        return JSONResponse({"entries": list(page.entries), "cursorNext": page.cursor_next})


def _result_lines(
    services: NodeServices,
    instance: Instance,
    task: Task,
    *,
    outcome: str | None,
    cursor: str | None,
    limit: int | None,
) -> Generator[bytes, None, None]:
    """Yield results from a cursor on as JSON lines, a page at a time; last, the sum of them.

    Args:
        limit: Of entries; None for all.
    """
    counts: Counter[str] = Counter()
    left = limit
    while True:
        most = PAGE_MAX if left is None else min(left, PAGE_MAX)
        page = results_page(
            services.state, instance, task, outcome=outcome, cursor=cursor, limit=most
        )
        counts.update(str(entry["outcome"]) for entry in page.entries)
        yield b"".join(msgspec.json.encode(entry) + b"\n" for entry in page.entries)
        cursor = page.cursor_next
        left = None if left is None else left - len(page.entries)
        if cursor is None or left == 0:
            break
    shown = _VIEW[MigrationKind(task.kind)](task)
    summary = {
        "entries": counts.total(),
        "outcomes": counts,
        "cursorNext": cursor,
        "progress": shown["progress"],
        "trend": shown.get("trend"),
    }
    # A stream that broke off has no such line, so nobody takes it for whole.
    yield msgspec.json.encode({"summary": summary}) + b"\n"


def _created(route: str, name: str) -> Response:
    created = TaskCreated(task_id=name, status_url=f"{route}/{name}")
    return Response(msgspec.json.encode(created), 202, media_type="application/json")


def _no_task(name: str) -> NotFoundError:
    return NotFoundError(
        f"No task found with given id {name[:100]}",
        code="no-task",
        advice=f"list the tasks of the node at {TASKS}",
    )
