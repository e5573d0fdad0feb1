"""Concurrent clients of heads services that record what they saw, for the checker of histories."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import aiohttp

from holdfast.testing.linearizability import Operation

Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers in lower case and body; None if none came."""


@dataclass(slots=True, kw_only=True)
class Clients:
    """Clients that read heads and move each from what they read, with unique values."""

    services: list[str]
    storage_urls: list[str]
    chance: random.Random
    operations: list[Operation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_over: bool = False
    numbers: int = 0

    async def run(self, clients_count: int) -> None:
        """Run until `is_over`."""
        timeout = aiohttp.ClientTimeout(total=8)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._client(session) for _ in range(clients_count)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self.is_over:
            storage_url = self.chance.choice(self.storage_urls)
            seen = await self._read(session, storage_url)
            if seen is None:
                await asyncio.sleep(0.05)
            elif self.chance.randrange(3):
                await self._move(session, storage_url, *seen)

    async def _read(
        self, session: aiohttp.ClientSession, storage_url: str
    ) -> tuple[str, str] | None:
        called_ns = time.monotonic_ns()
        answer = await self._ask(session, "GET", "/", storage_url)
        if answer is None or answer[0] != 200:
            self._count("reads not answered")
            return None
        _, headers, body = answer
        state = body.decode() if headers["x-head-source"] == "head" else ""
        self._note(storage_url, called_ns, state, state)
        self._count("reads")
        return state, headers["etag"]

    async def _move(
        self, session: aiohttp.ClientSession, storage_url: str, before: str, etag: str
    ) -> None:
        self.numbers += 1
        after, path = f"value {self.numbers}", f"/{self.numbers:016X}"
        service = self.chance.choice(self.services)
        put = await self._ask(
            session, "PUT", path, storage_url, service, after.encode(), {"If-Match": etag}
        )
        if put is None or put[0] != 204:
            self._count("not prepared")
            return
        called_ns = time.monotonic_ns()
        post = await self._ask(session, "POST", path, storage_url, service)
        if post is not None and post[0] == 200:
            self._note(storage_url, called_ns, before, after)
            self._count("commits")
        elif post is not None and post[0] in (409, 410, 412):
            self._count("refused")
        elif await self._is_done(session, path, storage_url, service):
            self._note(storage_url, called_ns, before, after)
            self._count("commits found done")
        else:
            self._note(storage_url, called_ns, before, after, is_known=False)
            self._count("unknown")

    async def _is_done(
        self, session: aiohttp.ClientSession, path: str, storage_url: str, service: str
    ) -> bool:
        for _ in range(20):
            told = await self._ask(
                session, "GET", "/", storage_url, service, None, {"X-Transaction-Id": path}
            )
            if told is not None and told[0] == 200:
                return told[1]["x-transaction-status"] == "done"
            await asyncio.sleep(0.1)
        return False

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        storage_url: str,
        *rest: object,
    ) -> Answer:
        service, body, extra = (*rest, None, None, None)[:3]
        headers = {"X-Storage-Url": storage_url, "X-Auth-Token": "owner"}
        assert extra is None or isinstance(extra, dict)
        assert body is None or isinstance(body, bytes)
        url = f"{service or self.chance.choice(self.services)}{path}"
        try:
            async with session.request(
                method, url, data=body, headers=headers | (extra or {})
            ) as answer:
                held = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status, held, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    def _note(
        self, key: str, called_ns: int, before: str, after: str, *, is_known: bool = True
    ) -> None:
        self.operations.append(
            Operation(
                key=key,
                called_ns=called_ns,
                returned_ns=time.monotonic_ns() if is_known else None,
                before=before,
                after=after,
            )
        )

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
