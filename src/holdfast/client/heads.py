"""A client of one heads service, or of anything that speaks ickpt's API.

Turns answers into values and into the kinds of error; retries nothing.

Invariants:

1. A commit whose answer did not come is OutcomeUnknownError, never a plain failure.
2. No call lasts longer than its timeout.
3. A token is in no message.
"""

import base64
import json
import ssl
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import aiohttp
from yarl import URL

from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    UnavailableError,
)
from holdfast.model.head import NEVER_WRITTEN, Epoch, HeadState, Revision

_ANSWER_BYTES_MAX: Final = 1 << 20
_KINDS: Final[dict[int, type[HoldfastError]]] = {
    400: InvalidRequestError,
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: StateError,
    412: ConflictError,
    413: InvalidRequestError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadName:
    """The object whose head it is, and the right to it."""

    storage_url: str
    token: str = ""

    def __repr__(self) -> str:
        return f"HeadName({self.storage_url!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedHead:
    """What a service answered to GET."""

    value: bytes
    revision: Revision
    is_from_store: bool
    """There is no head: a copy of the object store, which may be stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFate:
    """What a service knows of a transaction."""

    status: str
    """done, refused, pending or unknown."""
    revision: int | None
    reason: str


class HeadsInstance(Protocol):
    """One service, as the quorum client uses it."""

    async def get(self, name: HeadName) -> ServedHead:
        """Return the head, or the store's copy; NotFoundError after a delete."""
        ...

    async def prepare(
        self,
        name: HeadName,
        transaction_id: str,
        value: bytes | None,
        if_revision: Revision | None = None,
    ) -> Revision:
        """PUT a value, or DELETE for None; return the revision it will follow."""
        ...

    async def commit(self, name: HeadName, transaction_id: str) -> Revision:
        """POST; return the revision made."""
        ...


class HeadsClient:
    """HeadsInstance over HTTP; used in one event loop, and closed there."""

    def __init__(self, url: str, *, timeout_s: float = 30.0, ca_file: str = "") -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=ssl.create_default_context(cafile=ca_file) if ca_file else True
            ),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def get(self, name: HeadName) -> ServedHead:
        """See HeadsInstance.get."""
        body, headers = await self._ask("GET", "/", name)
        return ServedHead(
            value=body,
            revision=_revision(headers),
            # An ickpt that does not say so may have answered from the store.
            is_from_store=headers.get("x-head-source") != "head",
        )

    async def prepare(
        self,
        name: HeadName,
        transaction_id: str,
        value: bytes | None,
        if_revision: Revision | None = None,
    ) -> Revision:
        """See HeadsInstance.prepare."""
        headers = {} if if_revision is None else {"If-Match": f'"{if_revision}"'}
        method = "DELETE" if value is None else "PUT"
        _, answered = await self._ask(method, transaction_id, name, headers, value)
        return _revision(answered)

    async def commit(self, name: HeadName, transaction_id: str) -> Revision:
        """See HeadsInstance.commit."""
        _, answered = await self._ask("POST", transaction_id, name)
        return _revision(answered)

    async def fate(self, name: HeadName, transaction_id: str) -> ServedFate:
        """Ask what became of a transaction."""
        body, _ = await self._ask("GET", "/", name, {"X-Transaction-Id": transaction_id})
        told = _json(body)
        if not isinstance(told, dict):
            raise _odd()
        revision = told.get("revision")
        return ServedFate(
            status=str(told.get("status")),
            revision=revision if isinstance(revision, int) else None,
            reason=str(told.get("reason", "")),
        )

    async def history(self, name: HeadName, limit: int) -> list[HeadState]:
        """Return up to `limit` states, newest first."""
        body, _ = await self._ask("GET", "/", name, {"X-Head-History": str(limit)})
        told = _json(body)
        if not isinstance(told, list):
            raise _odd()
        return [_state(entry) for entry in told]

    async def close(self) -> None:
        """Release all connections."""
        await self._session.close()

    async def _ask(
        self,
        method: str,
        path: str,
        name: HeadName,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        """Return body and headers, these in lower case."""
        sent = {"X-Storage-Url": name.storage_url} | (headers or {})
        if name.token:
            sent["X-Auth-Token"] = name.token
        try:
            async with self._session.request(
                method, URL(self._url + path), headers=sent, data=body, allow_redirects=False
            ) as answer:
                content = await answer.content.read(_ANSWER_BYTES_MAX)
                while len(content) < _ANSWER_BYTES_MAX and not answer.content.at_eof():
                    content += await answer.content.read(_ANSWER_BYTES_MAX - len(content))
                if not 200 <= answer.status < 300:
                    _raise(answer.status, content, is_commit=method == "POST")
                return content, {name.lower(): held for name, held in answer.headers.items()}
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(
                f"the heads service at {self._url} cannot be reached",
                code="heads-unreachable",
                advice="start it with 'holdfast heads serve', or check the URL",
            ) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            kind = OutcomeUnknownError if method == "POST" else UnavailableError
            raise kind(
                f"the heads service at {self._url} did not answer ({type(error).__name__})",
                code="heads-silent",
                advice="ask for the transaction's status" if method == "POST" else "try again",
            ) from None


def _raise(status: int, content: bytes, *, is_commit: bool) -> NoReturn:
    problem = _problem(content)
    is_unknown = status in (500, 502, 504) and is_commit and problem.get("kind") != "unavailable"
    kind = _KINDS.get(status, OutcomeUnknownError if is_unknown else UnavailableError)
    context = problem.get("context")
    plain = {str(k): v for k, v in context.items()} if isinstance(context, dict) else {}
    for taken in ("message", "code", "advice"):
        plain.pop(taken, None)
    plain["http_status"] = status
    raise kind(
        str(problem.get("message") or f"the heads service answered {status}"),
        code=str(problem.get("code") or f"http-{status}"),
        advice=str(problem.get("advice") or ""),
        **plain,
    )


def _problem(content: bytes) -> dict[str, object]:
    try:
        problem = json.loads(content)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        raise _odd() from None


def _state(entry: object) -> HeadState:
    if not isinstance(entry, dict):
        raise _odd()
    try:
        value = entry["value_base64"]
        return HeadState(
            value=None if value is None else base64.b64decode(value),
            revision=Revision(int(entry["revision"])),
            epoch=Epoch(int(entry["epoch"])),
            is_tombstone=bool(entry["is_tombstone"]),
            write_id="",
        )
    except (KeyError, ValueError, TypeError):
        raise _odd() from None


def _revision(headers: dict[str, str]) -> Revision:
    text = headers.get("x-head-revision", "")
    return Revision(int(text)) if text.isdecimal() else NEVER_WRITTEN


def _odd() -> UnavailableError:
    return UnavailableError(
        "the answer is not one of a heads service", code="heads-odd", advice="check the URL"
    )
