"""A thin client of etcd over its JSON gateway: endpoints in turn, deadlines, TLS, users.

Owns the connections; knows nothing of heads. Each call has one deadline, within it each request one
of its own, and a request that fails moves on to the next endpoint.

1. A request that reads, or may be repeated without harm, is sent again until the deadline.
2. A transaction is sent again only where it is certain that nothing happened; otherwise
   OutcomeUnknownError: whoever asked must read back what it wrote.
3. Passwords and tokens are in no message.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from holdfast.errors import (
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.limits import ETCD_MESSAGE_BYTES_MAX
from holdfast.stores.registers.etcd_wire import (
    STALE_CREDENTIALS,
    LeaseId,
    Message,
    Pairs,
    TransactionReply,
    error_of,
    parse_number,
    parse_pairs,
    parse_transaction,
    unreadable,
)

_PAUSE_S: Final = 0.02
_PAUSE_S_MAX: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSettings:
    """Where etcd is and how to be let in."""

    endpoints: tuple[str, ...]
    """Client URLs without a path, `http://host:2379`; asked in turn."""
    deadline_s: float = 10.0
    """For one call, with all its requests."""
    request_timeout_s: float = 2.0
    """For one request to one endpoint."""
    user: str = ""
    password: str = ""
    ca_path: Path | None = None
    """Trusted instead of the system's authorities."""
    certificate_path: Path | None = None
    key_path: Path | None = None

    def __repr__(self) -> str:
        return f"EtcdSettings(endpoints={self.endpoints}, user={self.user!r})"


class EtcdClient:
    """Owned by one event loop."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Read the certificates; connect to nobody yet."""
        assert settings.endpoints
        self.settings = settings
        self._endpoints = [endpoint.rstrip("/") for endpoint in settings.endpoints]
        self._preferred = 0
        self._token = ""
        self._tls = _tls(settings)
        self._session: aiohttp.ClientSession | None = None

    def deadline(self) -> float:
        """Return when a call begun now is to end, in the loop's time."""
        return asyncio.get_running_loop().time() + self.settings.deadline_s

    async def range(self, request: Message, until: float | None = None) -> Pairs:
        """Read; see range_request. UnavailableError if nobody answers within the deadline."""
        return parse_pairs(await self.repeat("/v3/kv/range", request, until))

    async def transact(self, request: Message, until: float | None = None) -> TransactionReply:
        """Run a transaction; see transaction_request.

        Raises:
            UnavailableError: No endpoint accepted it: nothing happened.
            OutcomeUnknownError: It was sent to one and may have happened, or may still.
        """
        reply = await self._send_until_accepted("/v3/kv/txn", request, until)
        try:
            return parse_transaction(reply)
        except UnsupportedError as error:
            raise _open_outcome(self.next_endpoint(), error.message) from error

    async def put(self, request: Message) -> None:
        """Put, again and again until it succeeds; only for what may be put twice."""
        await self.repeat("/v3/kv/put", request)

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`."""
        await self.repeat("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    async def grant_lease(self, ttl_s: int) -> LeaseId:
        """Make a lease that ends when it was not kept alive for `ttl_s` seconds.

        One made by a request whose answer was lost ends by itself.
        """
        reply = await self.repeat("/v3/lease/grant", {"TTL": str(ttl_s)})
        return LeaseId(parse_number(reply.get("ID", 0)))

    async def keep_lease(self, lease: LeaseId) -> int:
        """Renew a lease; return its remaining seconds, 0 if it has ended."""
        reply = await self.repeat("/v3/lease/keepalive", {"ID": str(lease)})
        return max(0, parse_number(reply.get("result", {}).get("TTL", 0)))

    async def revoke_lease(self, lease: LeaseId) -> None:
        """End a lease and delete its keys; it may have ended already."""
        try:
            await self.repeat("/v3/lease/revoke", {"ID": str(lease)})
        except HoldfastError as error:
            if error.code != "etcd-not-found":
                raise

    async def repeat(self, path: str, request: Message, until: float | None = None) -> Message:
        """Send a request that may happen more than once, until one endpoint answers."""
        last: HoldfastError | None = None
        try:
            async with asyncio.timeout_at(until or self.deadline()):
                async for _ in _attempts():
                    try:
                        return await self._send(path, request)
                    except (OutcomeUnknownError, UnavailableError) as error:
                        last = error
        except TimeoutError:
            pass
        raise self._unavailable(last)

    async def _send_until_accepted(
        self, path: str, request: Message, until: float | None
    ) -> Message:
        last: HoldfastError | None = None
        is_under_way = False
        try:
            async with asyncio.timeout_at(until or self.deadline()):
                async for _ in _attempts():
                    is_under_way = True
                    try:
                        return await self._send(path, request)
                    except UnavailableError as error:
                        last, is_under_way = error, False
        except TimeoutError:
            if is_under_way:
                raise _open_outcome(self.next_endpoint(), "the deadline has passed") from None
        raise self._unavailable(last)

    async def _send(self, path: str, request: Message) -> Message:
        """Send once; again only when credentials had become stale, for then nothing happened."""
        if self.settings.user and not self._token:
            await self._authenticate()
        try:
            return await self._post(path, request)
        except DeniedError as error:
            if error.code != STALE_CREDENTIALS or not self.settings.user:
                raise
        await self._authenticate()
        return await self._post(path, request)

    async def _authenticate(self) -> None:
        self._token = ""
        try:
            reply = await self._post(
                "/v3/auth/authenticate",
                {"name": self.settings.user, "password": self.settings.password},
            )
        except OutcomeUnknownError as error:
            raise UnavailableError(error.message, code="etcd-unavailable") from error
        self._token = str(reply.get("token", ""))

    async def _post(self, path: str, request: Message) -> Message:
        endpoint = self._endpoints[self._preferred]
        try:
            async with self.open_stream(endpoint, path, request) as response:
                message = decode_message(await _read_limited(response))
                status = response.status
        except (UnavailableError, OutcomeUnknownError):
            self.turn_from(endpoint)
            raise
        except UnsupportedError as unread:
            self.turn_from(endpoint)
            raise _open_outcome(endpoint, unread.message) from unread
        if status == 200 and "error" not in message:
            return message
        error = error_of(status, message, endpoint)
        if isinstance(error, UnavailableError | OutcomeUnknownError):
            self.turn_from(endpoint)
        raise error

    @asynccontextmanager
    async def open_stream(
        self, endpoint: str, path: str, request: Message, *, timeout_s: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Post once to one endpoint and hold the answer open.

        Args:
            timeout_s: How long the answer may be silent; by default, the whole request's timeout.

        Raises:
            UnavailableError: It was not sent.
            OutcomeUnknownError: It may have been.
        """
        limit_s = self.settings.request_timeout_s
        if timeout_s is None:
            timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=limit_s)
        else:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=limit_s, sock_read=timeout_s)
        headers = {"Grpc-Metadata-hasleader": "true"}
        if self._token:
            headers["Authorization"] = self._token
        try:
            async with self._connections().post(
                endpoint + path,
                data=json.dumps(request, separators=(",", ":")),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnavailableError(
                f"etcd at {endpoint} cannot be reached: {error}", code="etcd-unreachable"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _open_outcome(endpoint, str(error) or "no answer in time") from error

    def next_endpoint(self) -> str:
        """Return the endpoint whose turn it is."""
        return self._endpoints[self._preferred]

    def turn_from(self, endpoint: str) -> None:
        """Ask another endpoint from now on, unless that happened already."""
        if self._endpoints[self._preferred] == endpoint:
            self._preferred = (self._preferred + 1) % len(self._endpoints)

    async def close(self) -> None:
        """Release the connections."""
        if self._session:
            await self._session.close()

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=256, ssl=self._tls)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session

    def _unavailable(self, last: HoldfastError | None) -> UnavailableError:
        why = f": {last.message}" if last else ""
        return UnavailableError(
            f"etcd does not answer within {self.settings.deadline_s:g} s{why}",
            code="etcd-unavailable",
            advice="look at the health of the etcd cluster, then try again",
        )


def _tls(settings: EtcdSettings) -> ssl.SSLContext | bool:
    if not any(endpoint.startswith("https:") for endpoint in settings.endpoints):
        return True
    try:
        context = ssl.create_default_context(cafile=settings.ca_path)
        if settings.certificate_path:
            context.load_cert_chain(settings.certificate_path, settings.key_path)
    except OSError as error:
        raise InvalidRequestError(
            f"the certificates for etcd cannot be used: {error}",
            code="bad-certificate",
            advice="check the paths and that certificate and key belong together",
        ) from error
    return context


async def _attempts() -> AsyncIterator[int]:
    """Count attempts, with growing pauses between them; for ever: the deadline ends it."""
    pause_s, number = _PAUSE_S, 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)


async def _read_limited(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > ETCD_MESSAGE_BYTES_MAX:
            raise unreadable(f"it has more than {ETCD_MESSAGE_BYTES_MAX} bytes")
    return bytes(raw)


def decode_message(raw: bytes) -> Message:
    """Decode one JSON object."""
    try:
        message: Any = json.loads(raw)
    except ValueError:
        raise unreadable("it is not JSON") from None
    if not isinstance(message, dict):
        raise unreadable("it is not a JSON object")
    return message


def _open_outcome(endpoint: str, why: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"the request to etcd at {endpoint} was sent but not answered as etcd does: {why}",
        code="etcd-outcome-unknown",
        advice="read back what it wrote",
    )
