"""One way to ask an object store over HTTP, for every dialect.

Invariants:

1. What a request carries goes to the URL that was passed in and nowhere else: no redirect is
   followed, no proxy of the environment used, no cookie kept.
2. Headers are in no message, error or log.
3. Answers are read up to a limit and not unpacked.
"""

import io
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import aiohttp
from yarl import URL

from holdfast.errors import UnavailableError


class RawAnswer(NamedTuple):
    """What a store answered."""

    status: int
    body: bytes | None
    """None if it was longer than asked for."""
    etag: str
    headers: Mapping[str, str] = MappingProxyType({})
    """By their names in any case."""


class StoreConnection:
    """A pool of connections; made inside a running loop."""

    def __init__(
        self, *, timeout_s: float, connections_max: int, ca_context: ssl.SSLContext | None = None
    ) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections_max, ssl=True if ca_context is None else ca_context
            ),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def ask(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        *,
        body: bytes = b"",
        limit_bytes: int = 0,
    ) -> RawAnswer:
        """Send one request; `url` is taken as it is encoded.

        Raises:
            UnavailableError: `store-slow` or `store-unreachable`.
        """
        sent = headers | {"Accept-Encoding": "identity"}
        if method == "PUT":
            sent["Content-Length"] = str(len(body))
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=sent,
                data=io.BytesIO(body) if body else None,
                allow_redirects=False,
            ) as answer:
                content = await _read_up_to(answer.content, limit_bytes)
                etag = answer.headers.get("ETag", "")
                return RawAnswer(answer.status, content, etag, answer.headers)
        except TimeoutError:
            raise UnavailableError(
                "the object store did not answer in time",
                code="store-slow",
                advice="try again, or allow it more time",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            # The kind only: a message of the client library may quote what was sent.
            raise UnavailableError(
                f"the object store cannot be reached ({type(error).__name__})",
                code="store-unreachable",
                advice="check that it runs and that its certificate is trusted",
            ) from None

    async def close(self) -> None:
        """Release all connections."""
        await self._session.close()


async def _read_up_to(content: aiohttp.StreamReader, limit_bytes: int) -> bytes | None:
    body = bytearray()
    while chunk := await content.read(limit_bytes + 1 - len(body)):
        body += chunk
        if len(body) > limit_bytes:
            return None
    return bytes(body)
