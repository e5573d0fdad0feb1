"""Lanes: how many may be busy with one key at once, so that no key holds up another.

Invariants:

1. Nobody waits in a lane longer than its timeout.
2. A lane takes a bounded number of waiting; more are refused at once.
3. A lane that nobody uses takes no memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from holdfast.errors import UnavailableError


@dataclass(slots=True)
class _Lane:
    seats: asyncio.Semaphore
    users_count: int = 0


class Lanes:
    """One lane for each key in use, each `width` wide."""

    def __init__(self, *, width: int, waiting_max: int, timeout_s: float) -> None:
        self._width = width
        self._users_max = width + waiting_max
        self._timeout_s = timeout_s
        self._lanes: dict[str, _Lane] = {}

    @property
    def keys_count(self) -> int:
        """How many keys are in use."""
        return len(self._lanes)

    @asynccontextmanager
    async def enter(self, key: str) -> AsyncIterator[None]:
        """Hold a place in the lane of `key`; UnavailableError (`head-busy`) if none gets free."""
        lane = self._lanes.setdefault(key, _Lane(asyncio.Semaphore(self._width)))
        if lane.users_count >= self._users_max:
            raise _busy()
        lane.users_count += 1
        try:
            await self._take(lane)
            try:
                yield
            finally:
                lane.seats.release()
        finally:
            lane.users_count -= 1
            if lane.users_count == 0:
                del self._lanes[key]

    async def _take(self, lane: _Lane) -> None:
        if not lane.seats.locked():
            await lane.seats.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await lane.seats.acquire()
        except TimeoutError:
            raise _busy() from None


def _busy() -> UnavailableError:
    return UnavailableError(
        "too many requests for this head are under way",
        code="head-busy",
        advice="try again later, with fewer at once",
    )
