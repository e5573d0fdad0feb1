"""An object store in a container of OpenStack Swift, over HTTP.

Logs in by tempauth (v1) or Keystone (v3), and again when a token has expired. Every put carries the
MD5 of its bytes, which Swift compares before it answers. Swift's conditional put is checked at the
proxy and written later, so two may win; its listings lag. Both show in the measured promises.

A create-only put whose reply was lost is asked again and then answered EXISTS although it was ours:
whoever creates compares what is there.
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from holdfast.errors import CapacityError, DeniedError, NotFoundError, UnavailableError
from holdfast.model.limits import MIB
from holdfast.model.objects import check_object_name
from holdfast.ports import Buffer, ObjectInfo, PutOutcome
from holdfast.stores.objects.connection import RawAnswer, StoreConnection

ResultT = TypeVar("ResultT")

_PAGE: Final = 1000
_PAGE_BYTES_MAX: Final = 4 * MIB
_CONNECTIONS_MAX: Final = 16
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_WAITS_S: Final = (0.1, 0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwiftLogin:
    """Who logs in, and where; with a project it is Keystone's, else tempauth's."""

    auth_url: str
    user: str
    password: str = field(repr=False)
    project: str = ""
    domain: str = "Default"
    region: str = ""


class ContainerObjects:
    """ObjectStore in one container, below a prefix; its HTTP runs in a thread of its own."""

    is_forkable = False

    def __init__(self, login: SwiftLogin, container: str, prefix: str, *, timeout_s: float) -> None:
        self._login = login
        self._container = container
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._token: tuple[str, str] | None = None
        """Storage URL and token."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection = self._wait(self._connect(timeout_s))

    def describe(self) -> str:
        """See ObjectStore."""
        return f"swift:{self._container}/{self._prefix}"

    def put(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        self._put(name, data, {})

    def create(self, name: str, data: Buffer) -> PutOutcome:
        """See ObjectStore."""
        answer = self._put(name, data, {"If-None-Match": "*"})
        return PutOutcome.EXISTS if answer.status == 412 else PutOutcome.CREATED

    def stage(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        self.put(name, data)

    def settle(self) -> None:
        """See ObjectStore."""

    def get(self, name: str, limit_bytes: int) -> bytes:
        """See ObjectStore."""
        answer = self._ask("GET", self._path(name), {"X-Newest": "true"}, limit_bytes=limit_bytes)
        if answer.status == 404:
            raise _missing(name)
        _check(answer, name)
        if answer.body is None:
            raise CapacityError(
                f"the object {name} is longer than {limit_bytes} bytes",
                code="object-too-long",
                advice="something else wrote it; look at the store",
            )
        return answer.body

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """See ObjectStore."""
        if end <= start:
            return b""
        headers = {"Range": f"bytes={start}-{end - 1}"}
        answer = self._ask("GET", self._path(name), headers, limit_bytes=end - start)
        if answer.status == 404:
            raise _missing(name)
        if answer.status == 416:
            return b""
        _check(answer, name)
        return answer.body or b""

    def head(self, name: str) -> ObjectInfo | None:
        """See ObjectStore."""
        answer = self._ask("HEAD", self._path(name), {"X-Newest": "true"})
        if answer.status == 404:
            return None
        _check(answer, name)
        modified_ns = int(float(answer.headers.get("X-Timestamp", "0")) * 1e9)
        return ObjectInfo(name, int(answer.headers.get("Content-Length", "0")), modified_ns)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        marker = self._prefix + after if after else ""
        while True:
            query = {"format": "json", "limit": _PAGE, "prefix": self._prefix + prefix}
            path = "?" + urlencode(query | {"marker": marker})
            answer = self._ask("GET", path, {}, limit_bytes=_PAGE_BYTES_MAX)
            if answer.status in (204, 404):
                return
            _check(answer, prefix)
            rows = _rows(answer, prefix)
            for row in rows:
                marker = row["name"]
                at = datetime.fromisoformat(row["last_modified"]).replace(tzinfo=UTC)
                yield ObjectInfo(
                    marker[len(self._prefix) :], row["bytes"], int(at.timestamp() * 1e9)
                )
            if not rows:
                return

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        answer = self._ask("DELETE", self._path(name), {})
        if answer.status != 404:
            _check(answer, name)

    def tidy(self, before_ns: int) -> int:  # noqa: ARG002 nothing is left half put
        """See ObjectStore."""
        return 0

    def close(self) -> None:
        """See ObjectStore."""
        if self._loop.is_closed():
            return
        self._wait(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _path(self, name: str) -> str:
        return "/" + quote(self._prefix + check_object_name(name))

    def _put(self, name: str, data: Buffer, headers: dict[str, str]) -> RawAnswer:
        body = bytes(data)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        answer = self._ask("PUT", self._path(name), headers | {"ETag": etag}, body=body)
        if answer.status == 404:
            # Only the container can be missing: it is made once, then the object is put again.
            _check(self._ask("PUT", "", {}), self._container)
            answer = self._ask("PUT", self._path(name), headers | {"ETag": etag}, body=body)
        if answer.status != 412:
            _check(answer, name)
        return answer

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        *,
        body: bytes = b"",
        limit_bytes: int = 0,
    ) -> RawAnswer:
        """Ask; a few times where the proxy fails for a moment: all that is asked may come twice."""
        for wait_s in _WAITS_S:
            try:
                answer = self._ask_once(method, path, headers, body=body, limit_bytes=limit_bytes)
                if answer.status not in _PASSING:
                    return answer
            except UnavailableError as error:
                if error.code != "store-unreachable":
                    raise
            self._wait(asyncio.sleep(wait_s))
        return self._ask_once(method, path, headers, body=body, limit_bytes=limit_bytes)

    def _ask_once(
        self, method: str, path: str, headers: dict[str, str], *, body: bytes, limit_bytes: int
    ) -> RawAnswer:
        for is_last in (False, True):
            storage_url, token = self._token or self._wait(self._log_in())
            self._token = (storage_url, token)
            url = f"{storage_url}/{quote(self._container)}{path}"
            sent = headers | {"X-Auth-Token": token}
            answer = self._wait(
                self._connection.ask(method, url, sent, body=body, limit_bytes=limit_bytes)
            )
            if answer.status != 401 or is_last:
                break
            self._token = None
        return answer

    async def _connect(self, timeout_s: float) -> StoreConnection:
        return StoreConnection(timeout_s=timeout_s, connections_max=_CONNECTIONS_MAX)

    async def _log_in(self) -> tuple[str, str]:
        login = self._login
        if login.project:
            return await self._log_in_at_keystone()
        headers = {"X-Auth-User": login.user, "X-Auth-Key": login.password}
        answer = await self._connection.ask("GET", login.auth_url, headers, limit_bytes=MIB)
        if answer.status not in (200, 204):
            raise _denied(login)
        return answer.headers["X-Storage-Url"].rstrip("/"), answer.headers["X-Auth-Token"]

    async def _log_in_at_keystone(self) -> tuple[str, str]:
        login = self._login
        domain = {"name": login.domain}
        user = {"name": login.user, "domain": domain, "password": login.password}
        request = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": login.project, "domain": domain}},
            }
        }
        answer = await self._connection.ask(
            "POST",
            login.auth_url.rstrip("/") + "/auth/tokens",
            {"Content-Type": "application/json"},
            body=json.dumps(request).encode(),
            limit_bytes=MIB,
        )
        if answer.status != 201:
            raise _denied(login)
        for service in json.loads(answer.body or b"{}")["token"].get("catalog", []):
            for endpoint in service["endpoints"] if service["type"] == "object-store" else []:
                is_region = login.region in ("", endpoint.get("region"))
                if endpoint["interface"] == "public" and is_region:
                    return endpoint["url"].rstrip("/"), answer.headers["X-Subject-Token"]
        raise _denied(login)

    def _wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _rows(answer: RawAnswer, prefix: str) -> list[Any]:
    """Return a page of a listing: whole, or not at all, for who reads less deletes more."""
    if answer.body is None:
        raise CapacityError(
            f"a page of Swift's listing of {prefix!r} is longer than {_PAGE_BYTES_MAX} bytes",
            code="object-too-long",
            advice="something else wrote there; look at the container",
        )
    try:
        rows = json.loads(answer.body)
    except ValueError:
        rows = None
    if not isinstance(rows, list):
        raise UnavailableError(
            f"Swift answered no listing of {prefix!r}",
            code="store-busy",
            advice="look at its proxy's log, then run it again",
        )
    return rows


def _check(answer: RawAnswer, name: str) -> None:
    """Return if the request was done; else raise what a caller can act on."""
    if 200 <= answer.status < 300:
        return
    if answer.status in (401, 403):
        raise DeniedError(
            f"Swift does not let this user touch {name}",
            code="store-denied",
            advice="check the user's roles on the container",
        )
    if answer.status in (413, 507):
        raise CapacityError(
            f"Swift has no room for {name}", code="disk-full", advice="raise the quota"
        )
    raise UnavailableError(
        f"Swift answered {answer.status} about {name}",
        code="store-busy",
        advice="look at its proxy's log, then run it again",
    )


def _missing(name: str) -> NotFoundError:
    return NotFoundError(
        f"there is no object {name}",
        code="no-object",
        advice="see 'holdfast checkpoints doctor'",
    )


def _denied(login: SwiftLogin) -> DeniedError:
    return DeniedError(
        f"{login.auth_url} does not let {login.user} in, or has no object store for it",
        code="store-denied",
        advice="check OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME",
    )
