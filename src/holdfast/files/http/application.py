"""The ASGI application of a node: finds the operation, lets through or refuses, answers, counts.

Everything about a request that is the same for all routes stands here; what a route answers stands
in the *_answers modules.

Invariants:

1. Every operation of the table has exactly one answer, and no path has one that is not there.
2. Caller, then guards in order, then the answer; the body is read by the answer alone.
3. A path is decoded once; a name in it may hold every byte but NUL and a slash.
4. Whatever fails has an answer in the shape its client reads; a defect of ours is a 500 and is
   logged without what the caller sent.
5. The log has method, path, status and time of a request, never a header, a query or a body.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from holdfast.errors import HoldfastError, InvalidRequestError, NotFoundError
from holdfast.files.http.call import Call
from holdfast.files.http.file_answers import FileAnswers
from holdfast.files.http.guards import check_caller, check_guards, parse_host
from holdfast.files.http.migration_answers import MigrationAnswers
from holdfast.files.http.mounting import MountedRoute
from holdfast.files.http.names import FILES, LIVE_MIGRATION
from holdfast.files.http.node_answers import NodeAnswers
from holdfast.files.http.operations import OPERATIONS, Face, Operation
from holdfast.files.http.problems import (
    PROBLEM_MEDIA_TYPE,
    defect_response,
    guard_response,
    problem_response,
    sidecar_response,
)
from holdfast.files.http.services import NodeServices
from holdfast.files.http.status_answers import StatusAnswers
from holdfast.files.http.task_answers import TaskAnswers

Answer = Callable[[Call], Awaitable[Response]]

NO_ROUTE: Final = "(none)"
"""What requests for a path that is not there count as."""
_SHOWN_MAX: Final = 200
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_log: Final = logging.getLogger("holdfast.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One path with the operations on it."""

    template: str
    segments: tuple[bytes, ...]
    operations: Mapping[str, Operation]
    """By method."""

    def match(self, segments: list[bytes]) -> dict[str, str] | None:
        """Return the parameters if the undecoded segments of a path are of this route."""
        has_tail = self.template.startswith(FILES + "/")
        if len(segments) < len(self.segments) or (
            len(segments) > len(self.segments) and not has_tail
        ):
            return None
        parameters = {}
        for wanted, found in zip(self.segments, segments, strict=False):
            if wanted.startswith(b"{"):
                name = wanted.strip(b"{}").decode()
                parameters[name] = unquote_to_bytes(found).decode("utf-8", "replace")
            elif wanted != found:
                return None
        return parameters


class NodeApplication:
    """The ASGI application of one node."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._routes = node_routes()
        files = FileAnswers(services)
        self.file_permits = files.permits
        """Of file and digest requests."""
        self._answers = _answers_of(services, files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        clock = self._services.clock
        began_ns = clock.monotonic_ns()
        template, response = await self._respond(request)
        took_s = (clock.monotonic_ns() - began_ns) / 1e9
        method = request.method if request.method in _METHODS else "other"
        self._services.observe(method, template, response.status_code, took_s)
        shown = ascii(scope["path"][:_SHOWN_MAX])
        _log.info("%s %s %d %.1f ms", method, shown, response.status_code, took_s * 1e3)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> tuple[str, Response]:
        segments = request.scope["raw_path"].split(b"/")
        for route in self._routes:
            parameters = route.match(segments)
            if parameters is None:
                continue
            operation = route.operations.get(request.method)
            if operation is None:
                refusal = _no_method(request.method, sorted(route.operations))
                face = next(iter(route.operations.values())).face
                return route.template, _refuse(request, face, refusal, is_guard=True)
            return route.template, await self._operate(request, operation, parameters)
        mounted, methods = self._services.mounted.find(request)
        if mounted is not None:
            return mounted.route.path, await self._call(request, mounted)
        if methods:
            refusal = _no_method(request.method, methods)
            return NO_ROUTE, _refuse(request, Face.OURS, refusal, is_guard=True)
        is_sidecar = request.scope["path"].startswith(LIVE_MIGRATION)
        face = Face.SIDECAR if is_sidecar else Face.OURS
        return NO_ROUTE, _refuse(request, face, _no_route(), is_guard=True)

    async def _operate(
        self, request: Request, operation: Operation, parameters: Mapping[str, str]
    ) -> Response:
        is_guard = True
        try:
            permissions = check_caller(operation.permissions, self._services, request)
            host = parse_host(request.headers.get("host", ""))
            await check_guards(operation, self._services, host)
            is_guard = False
            call = Call(
                request=request,
                operation=operation,
                host=host,
                permissions=permissions,
                parameters=parameters,
                body_timeout_s=self._services.client_timeout_s,
            )
            return await self._answers[operation.id](call)
        except HoldfastError as error:
            return _refuse(request, operation.face, error, is_guard=is_guard)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 the outermost loop of a request
            return _defect(error)

    async def _call(self, request: Request, mounted: MountedRoute) -> Response:
        try:
            check_caller(mounted.permissions, self._services, request)
            response: Response = await mounted.route.endpoint(request)
        except HoldfastError as error:
            return problem_response(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 the outermost loop of a request
            return _defect(error)
        return response


def node_routes() -> tuple[Route, ...]:
    """Return all paths of a node, each with its operations."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return tuple(
        Route(template=path, segments=tuple(path.encode().split(b"/")), operations=operations)
        for path, operations in by_path.items()
    )


def _answers_of(services: NodeServices, files: FileAnswers) -> dict[str, Answer]:
    parts = (
        MigrationAnswers(services),
        files,
        StatusAnswers(services),
        TaskAnswers(services),
        NodeAnswers(services),
    )
    answers: dict[str, Answer] = {}
    for operation in OPERATIONS:
        (answer,) = [getattr(part, operation.id) for part in parts if hasattr(part, operation.id)]
        answers[operation.id] = answer
    return answers


def _refuse(request: Request, face: Face, error: HoldfastError, *, is_guard: bool) -> Response:
    wants_problem = PROBLEM_MEDIA_TYPE in request.headers.get("accept", "")
    if face is Face.OURS or wants_problem:
        return problem_response(error)
    return guard_response(error) if is_guard else sidecar_response(error)


def _defect(error: Exception) -> Response:
    # Type and place only: a message may quote what the caller sent.
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("defect: %s\n%s", type(error).__name__, place)
    return defect_response()


def _no_method(method: str, methods: Sequence[str]) -> InvalidRequestError:
    allow = ", ".join(methods)
    return InvalidRequestError(
        f"this path has no method {method[:20]}",
        code="method-not-allowed",
        advice=f"use {allow}",
        allow=allow,
    )


def _no_route() -> NotFoundError:
    return NotFoundError(
        "there is nothing at this path", code="no-route", advice="see /openapi.json"
    )
