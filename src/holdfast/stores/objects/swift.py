"""What a caller may do at an OpenStack Swift, found out by trying it with the caller's token.

Invariants:

1. A token goes to the URL that was passed in and nowhere else: no redirect is followed, no proxy of
   the environment used, no cookie kept.
2. A token is in no message, error or log.
3. Answers are read up to a limit and not unpacked.
"""

import asyncio
import ssl

import aiohttp
from yarl import URL

from holdfast.errors import UnavailableError
from holdfast.ports import StoreAnswer

PROBE_SUFFIX = ".head-probe"


class SwiftAccess:
    """ObjectAccess over HTTP, with a pool of connections; made inside a running loop."""

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

    async def read(self, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        """See ObjectAccess.read."""
        return await self._ask("GET", url, token, {"X-Newest": "true"}, limit_bytes)

    async def prove_write(self, url: str, token: str) -> StoreAnswer:
        """See ObjectAccess.prove_write."""
        return await self._ask("PUT", url + PROBE_SUFFIX, token, {"Content-Length": "0"}, 0)

    async def close(self) -> None:
        """See ObjectAccess.close."""
        await self._session.close()

    async def _ask(
        self, method: str, url: str, token: str, headers: dict[str, str], limit_bytes: int
    ) -> StoreAnswer:
        headers = headers | {"Accept-Encoding": "identity"}
        if token:
            headers["X-Auth-Token"] = token
        try:
            async with self._session.request(
                method, URL(url, encoded=True), headers=headers, allow_redirects=False
            ) as answer:
                body = await _read_up_to(answer.content, limit_bytes)
                return StoreAnswer(answer.status, body)
        except TimeoutError as error:
            raise UnavailableError(
                "the object store did not answer in time",
                code="store-slow",
                advice="try again, or raise SwiftTimeout",
            ) from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            # The kind only: a message of the client library may quote what was sent.
            raise UnavailableError(
                f"the object store cannot be reached ({type(error).__name__})",
                code="store-unreachable",
                advice="check that it runs and that its certificate is trusted",
            ) from None


async def _read_up_to(content: aiohttp.StreamReader, limit_bytes: int) -> bytes | None:
    body = bytearray()
    while chunk := await content.read(limit_bytes + 1 - len(body)):
        body += chunk
        if len(body) > limit_bytes:
            return None
    return bytes(body)
