"""The ickpt HTTP API on a path that is a transaction id, and the admin routes; thin.

Turns headers and bodies into calls of service.py and back; decides nothing.

Invariants:

1. No body over the limit is read to its end, whatever its Content-Length says.
2. The log has method, transaction id, status and time of a request, never a header or a body.
3. HEAD only says that the process answers; whether it can commit is asked at /readyz.
"""

import asyncio
import base64
import logging
import re
import traceback
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from holdfast.errors import HoldfastError, InvalidRequestError
from holdfast.heads.metrics import Metrics
from holdfast.heads.model import TRANSACTION_ID_BYTES_MAX, Operation
from holdfast.heads.problems import problem_response
from holdfast.heads.service import Caller, Heads
from holdfast.model.head import HeadState, Revision
from holdfast.model.limits import HEAD_HISTORY_MAX
from holdfast.ports import Clock

BODY_TIMEOUT_S: Final = 30.0
METHODS: Final = ("DELETE", "GET", "HEAD", "POST", "PUT")

_log = logging.getLogger("holdfast.heads")
_ETAG = re.compile(r'"(\d{1,18})"')


class IckptRoutes:
    """The ASGI application of the service's port; every path is a transaction id."""

    def __init__(self, heads: Heads, metrics: Metrics, clock: Clock, body_bytes_max: int) -> None:
        self._heads = heads
        self._metrics = metrics
        self._clock = clock
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        began_ns = self._clock.monotonic_ns()
        response = await self._answer(request)
        took_s = (self._clock.monotonic_ns() - began_ns) / 1e9
        method = request.method if request.method in METHODS else "other"
        self._metrics.count(method, response.status_code, took_s)
        _log.info(
            "%s %s %d %.1f ms",
            method,
            ascii(scope["path"][:100]),
            response.status_code,
            took_s * 1e3,
        )
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in METHODS:
            return PlainTextResponse("", 405, {"Allow": ", ".join(METHODS)})
        if request.method == "HEAD":
            return Response(status_code=204)
        try:
            return await self._dispatch(request)
        except HoldfastError as error:
            return problem_response(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 the outermost loop of a request
            # Type and place only: a message may quote what the caller sent.
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("defect: %s\n%s", type(error).__name__, place)
            return Response(status_code=500)

    async def _dispatch(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _read_body(request, self._body_bytes_max)
        except TimeoutError:
            return Response(status_code=408)
        caller = Caller(
            storage_url=request.headers.get("x-storage-url"),
            token=request.headers.get("x-auth-token", ""),
        )
        if request.method == "GET":
            return await self._get(request, caller)
        name = _transaction_id(request.scope["path"])
        if request.method == "POST":
            done = await self._heads.commit(caller, name)
            return Response(status_code=200, headers=_revision_headers(done.revision))
        operation = Operation(request.method.lower())
        prepared = await self._heads.prepare(
            caller,
            name,
            operation,
            body if operation is Operation.PUT else None,
            _if_revision(request.headers.get("if-match")),
        )
        return Response(status_code=204, headers=_revision_headers(prepared.revision))

    async def _get(self, request: Request, caller: Caller) -> Response:
        asked = request.headers.get("x-transaction-id")
        if asked is not None:
            told = await self._heads.fate(caller, _transaction_id(asked))
            return JSONResponse(
                {"status": told.fate, "revision": told.revision, "reason": told.reason},
                headers={"X-Transaction-Status": told.fate},
            )
        limit = request.headers.get("x-head-history")
        if limit is not None:
            states = await self._heads.history(caller, _history_limit(limit))
            return JSONResponse([_plain_state(state) for state in states])
        head = await self._heads.read(caller)
        return Response(
            head.value,
            headers=_revision_headers(head.revision)
            | {"X-Head-Source": "store" if head.is_from_store else "head"},
            media_type="application/octet-stream",
        )


def admin_application(heads: Heads, metrics: Metrics) -> Starlette:
    """Return the application of the admin port: /metrics and /readyz."""

    async def show_metrics(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def ready(_request: Request) -> Response:
        try:
            await heads.check()
        except HoldfastError as error:
            return problem_response(error)
        return PlainTextResponse("ready\n")

    return Starlette(routes=[Route("/metrics", show_metrics), Route("/readyz", ready)])


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise InvalidRequestError(
                f"the body has more than {limit_bytes} bytes",
                code="body-too-large",
                advice="a head names a checkpoint; it does not hold one",
            )
    return bytes(body)


def _transaction_id(path: str) -> str:
    name = path if path.startswith("/") else "/" + path
    if len(name.encode("utf-8", "surrogateescape")) > TRANSACTION_ID_BYTES_MAX:
        raise InvalidRequestError(
            f"the transaction id has more than {TRANSACTION_ID_BYTES_MAX} bytes",
            code="bad-transaction-id",
        )
    return name


def _if_revision(header: str | None) -> Revision | None:
    if header is None:
        return None
    match = _ETAG.fullmatch(header.strip())
    if match is None:
        raise InvalidRequestError(
            "If-Match is not one revision in quotes",
            code="bad-if-match",
            advice="send the ETag of an answer as it was",
        )
    return Revision(int(match[1]))


def _history_limit(text: str) -> int:
    if re.fullmatch(r"\d{1,4}", text) and 0 < int(text) <= HEAD_HISTORY_MAX:
        return int(text)
    raise InvalidRequestError(
        f"X-Head-History is not a number from 1 to {HEAD_HISTORY_MAX}", code="bad-history-limit"
    )


def _revision_headers(revision: Revision) -> dict[str, str]:
    return {"ETag": f'"{revision}"', "X-Head-Revision": str(revision)}


def _plain_state(state: HeadState) -> dict[str, object]:
    value = None if state.value is None else base64.b64encode(state.value).decode()
    return {
        "revision": state.revision,
        "epoch": state.epoch,
        "is_tombstone": state.is_tombstone,
        "value_base64": value,
    }
