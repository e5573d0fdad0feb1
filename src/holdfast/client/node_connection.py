"""Requests to one node: repeated where that is safe, with errors as the kinds they are.

Knows HTTP and what an answer of a node looks like; what is asked stands in node.py.

Invariants:

1. A request that is answered 503 is repeated as the node says, at most ATTEMPTS_MAX times in all;
   nothing happened there.
2. A request whose answer was lost is repeated where that cannot do anything twice: all but a POST
   without an Idempotency-Key, which is OutcomeUnknownError.
3. No wait is longer than its timeout; an answer longer than ANSWER_BYTES_MAX is refused.
4. A token is in no message.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from holdfast.errors import (
    CapacityError,
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.limits import MIB

ATTEMPTS_MAX: Final = 5
FOLLOW_ATTEMPTS_MAX: Final = 10
"""Of who follows a task that was heard of: the node may be starting again, and go on with it."""
RETRY_AFTER_S_MAX: Final = 30.0
ANSWER_BYTES_MAX: Final = 32 * MIB
TIMEOUT_S: Final = 60.0
BACKOFF_S: Final = 0.1
"""Doubled before each repetition."""
SILENCE_S: Final = 45.0
"""A stream of events that says nothing for so long is taken for dead; the node speaks earlier."""
LINE_BYTES_MAX: Final = 1 * MIB

Json = dict[str, object]

TASKS: Final = "/api/v1/tasks"
_KIND_OF_STATUS: Final[dict[int, type[HoldfastError]]] = {
    400: InvalidRequestError,
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    405: UnsupportedError,
    409: ConflictError,
    413: InvalidRequestError,
    501: UnsupportedError,
    504: OutcomeUnknownError,
    507: CapacityError,
}
_KIND_OF_NAME: Final = {kind.kind: kind for kind in HoldfastError.__subclasses__()}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEndpoint:
    """Where a node is, what it is to be called, and the right to use it."""

    url: str
    host: str = ""
    """Host name of the instance, for the Host header; empty for that of the URL."""
    token: str = field(default="", repr=False)
    ca_file: Path | None = None
    """Authorities to trust; None for the system's."""
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """One message of a stream of events."""

    name: str
    """That of the journal's event, or `progress`, or at last `ended`."""
    sequence: int | None
    """None for what is not kept in the journal."""
    data: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class NodeConnection:
    """Requests to one node; used in one event loop, and closed there."""

    def __init__(self, endpoint: NodeEndpoint, *, timeout_s: float, backoff_s: float) -> None:
        """Connect to nothing yet.

        Raises:
            InvalidRequestError: `bad-certificate`, `bad-url`.
        """
        self._endpoint = endpoint
        self._backoff_s = backoff_s
        self._url = _parse_url(endpoint.url)
        headers = {"Accept": "application/json, application/problem+json"}
        if endpoint.host:
            headers["Host"] = endpoint.host
        if endpoint.token:
            headers["Authorization"] = f"Bearer {endpoint.token}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_tls(endpoint)),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=LINE_BYTES_MAX,
        )

    async def close(self) -> None:
        """Release all connections."""
        await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        idempotency_key: str = "",
    ) -> Json:
        """Send a request as often as needed and return the JSON object answered.

        Raises:
            UnavailableError: The node cannot be reached (`node-unreachable`), is silent
                (`node-silent`), or is busy after ATTEMPTS_MAX tries.
            OutcomeUnknownError: `node-silent`, for what must not be repeated.
            Whatever the node answers, as the kind it names.
        """
        answer = await self._ask(method, path, query or {}, body, idempotency_key)
        return _object(answer.body)

    async def ask_list(self, path: str) -> list[Json]:
        """Return the JSON array of objects at a path."""
        told = _decode((await self._ask("GET", path, {}, None, "")).body)
        if isinstance(told, list) and all(isinstance(one, dict) for one in told):
            return told
        raise odd_answer()

    async def follow(self, task_id: str, after: int) -> AsyncIterator[NodeEvent]:
        """Yield the events of a task, going on after a broken connection, until it has ended."""
        failures = 0
        failures_max = ATTEMPTS_MAX
        while True:
            try:
                async for event in self._read_events(f"{TASKS}/{task_id}/events", after):
                    failures, failures_max = 0, FOLLOW_ATTEMPTS_MAX
                    if event is None:
                        data = await self.ask("GET", f"{TASKS}/{task_id}")
                        event = NodeEvent(name="ended", sequence=None, data=data)
                    after = event.sequence or after
                    yield event
                    if event.name == "ended":
                        return
                raise self._silent(ConnectionResetError())
            except UnavailableError:
                failures += 1
                if failures >= failures_max:
                    raise
                await asyncio.sleep(self._wait_s(failures))

    async def _read_events(self, path: str, after: int) -> AsyncIterator[NodeEvent | None]:
        """Yield one stream's messages; None if the node says that there is no more."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=SILENCE_S)
        try:
            async with self._session.get(
                self._url.join(URL(path)), headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status == 204:
                    yield None
                    return
                if answer.status != 200:
                    raise _error_of(answer.status, await _read(answer))
                message: dict[str, str] = {}
                async for line in answer.content:
                    text = line.decode("utf-8", "replace").rstrip("\r\n")
                    if text:
                        name, _, value = text.partition(":")
                        message[name] = value.removeprefix(" ")
                    elif "data" in message:
                        yield _event(message)
                        message = {}
                    else:
                        message = {}
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise self._silent(error) from error

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, object] | None,
        idempotency_key: str,
    ) -> _Answer:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        may_repeat = method != "POST" or bool(idempotency_key)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            wait_s = self._wait_s(attempt)
            try:
                answer = await self._once(method, path, query, body, headers)
            except UnavailableError:
                if attempt == ATTEMPTS_MAX:
                    raise
            except OutcomeUnknownError as error:
                if not may_repeat:
                    raise
                if attempt == ATTEMPTS_MAX:
                    raise UnavailableError(
                        error.message, code=error.code, advice="try again"
                    ) from error
            else:
                if 200 <= answer.status < 300:
                    return answer
                if answer.status != 503 or attempt == ATTEMPTS_MAX:
                    raise _error_of(answer.status, answer.body)
                wait_s = _retry_after_s(answer, wait_s)
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> _Answer:
        try:
            async with self._session.request(
                method,
                self._url.join(URL(path)),
                params=dict(query),
                json=body,
                headers=dict(headers),
                allow_redirects=False,
            ) as answer:
                content = await _read(answer)
                held = {name.lower(): value for name, value in answer.headers.items()}
                return _Answer(status=answer.status, headers=held, body=content)
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(
                f"the node at {self._endpoint.url} cannot be reached: {error.os_error}",
                code="node-unreachable",
                advice="start it with 'holdfast node', or check the URL",
            ) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._silent(error, OutcomeUnknownError) from error

    def _wait_s(self, failures: int) -> float:
        return min(self._backoff_s * 2.0**failures, RETRY_AFTER_S_MAX)

    def _silent(
        self, error: Exception, kind: type[HoldfastError] = UnavailableError
    ) -> HoldfastError:
        return kind(
            f"the node at {self._endpoint.url} did not answer ({type(error).__name__})",
            code="node-silent",
            advice="look at what it did before asking again",
        )


def _parse_url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme in ("http", "https") and url.host:
        return url.origin()
    raise InvalidRequestError(
        f"{text!r} is not the URL of a node",
        code="bad-url",
        advice="it looks like http://HOST:9043",
    )


def _tls(endpoint: NodeEndpoint) -> ssl.SSLContext | bool:
    if endpoint.ca_file is None and endpoint.certificate is None:
        return True
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
        if endpoint.certificate is not None:
            context.load_cert_chain(endpoint.certificate, endpoint.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequestError(
            f"the certificate files do not load: {error.strerror or error}",
            code="bad-certificate",
            advice="check the files named for authority, certificate and key",
        ) from error
    return context


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise odd_answer()
    return bytes(content)


def _retry_after_s(answer: _Answer, default_s: float) -> float:
    text = answer.headers.get("retry-after", "")
    if text.isascii() and text.isdecimal() and len(text) <= 9:
        return min(float(text), RETRY_AFTER_S_MAX)
    return default_s


def _error_of(status: int, content: bytes) -> HoldfastError:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = {}
    problem = told if isinstance(told, dict) else {}
    named = _KIND_OF_NAME.get(str(problem.get("kind")))
    kind = named or _KIND_OF_STATUS.get(status, UnavailableError)
    context = problem.get("context")
    plain = {str(k): v for k, v in context.items()} if isinstance(context, dict) else {}
    for taken in ("message", "code", "advice"):
        plain.pop(taken, None)
    plain["http_status"] = status
    # A Sidecar has no code of ours: its own is the status.
    code = problem.get("code")
    return kind(
        str(problem.get("message") or f"the node answered {status}"),
        code=code if isinstance(code, str) else f"http-{status}",
        advice=str(problem.get("advice") or ""),
        **plain,
    )


def _decode(content: bytes) -> object:
    try:
        told: object = json.loads(content)
    except (ValueError, RecursionError):
        raise odd_answer() from None
    return told


def _object(content: bytes) -> Json:
    told = _decode(content)
    if isinstance(told, dict):
        return told
    raise odd_answer()


def _event(message: Mapping[str, str]) -> NodeEvent:
    sequence = message.get("id", "")
    return NodeEvent(
        name=message.get("event", "message"),
        sequence=int(sequence) if sequence.isascii() and sequence.isdecimal() else None,
        data=_object(message["data"].encode()),
    )


def odd_answer() -> UnsupportedError:
    """Return the error for an answer that no node gives."""
    return UnsupportedError(
        "the answer is not one of a holdfast node", code="node-odd", advice="check the URL"
    )
