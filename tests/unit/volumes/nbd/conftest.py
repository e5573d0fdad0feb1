"""A session on a plain volume, driven by bytes."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.support.nbd_client import Chunk, split_replies
from tests.support.plain_volume import PlainVolume

from holdfast.stores.system import SystemClock
from holdfast.volumes.counters import Counters
from holdfast.volumes.nbd.contexts import Context
from holdfast.volumes.nbd.inbox import Inbox
from holdfast.volumes.nbd.negotiation import Agreement
from holdfast.volumes.nbd.outbox import Outbox
from holdfast.volumes.nbd.session import Session, Wait
from holdfast.volumes.running import RunningVolume

VOLUME_BYTES = 1 << 20


class SessionBench:
    """One session, its volume and an event loop that runs only inside the calls."""

    def __init__(self, *contexts: Context, is_structured: bool = False) -> None:
        self._runner = asyncio.Runner()
        self.volume = PlainVolume(VOLUME_BYTES)
        self.counters = Counters()
        self.running = self._runner.run(self._begin())
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.late_replies_count = 0
        agreement = Agreement(export_name="disk", is_structured=is_structured, contexts=contexts)
        self.session = Session(agreement, self.running, self.inbox, self.outbox, self._on_reply)
        self.wait = Wait.INPUT

    async def _begin(self) -> RunningVolume:
        return RunningVolume(self.volume, clock=SystemClock(), counters=self.counters)

    def _on_reply(self) -> None:
        self.late_replies_count += 1

    def receive(self, data: bytes) -> None:
        """Have bytes arrive, in as many pieces as the buffer has room for, and go on."""
        left = memoryview(data)
        while left:
            if self.inbox.needs_growth:
                self.inbox.grow()
            room = self.inbox.room()
            size = min(len(room), len(left))
            room[:size] = left[:size]
            self.inbox.received(size)
            left = left[size:]
            self.advance()

    def advance(self) -> Wait:
        """Go on as far as possible."""
        self.wait = self.session.advance(0)
        while self.wait is Wait.TURN:
            self.wait = self.session.advance(0)
        return self.wait

    def settle(self) -> None:
        """Run the loop until the helper threads have nothing to do."""

        async def wait() -> None:
            while self.session.waiting_count:
                await asyncio.sleep(0.001)

        self._runner.run(wait())

    def sent(self) -> bytes:
        """Return what would have been sent, once."""
        data = bytes(self.outbox.unsent())
        self.outbox.sent(len(data))
        return data

    def replies(self, read_bytes: dict[int, int] | None = None) -> list[Chunk]:
        """Return the replies there are, once."""
        return split_replies(self.sent(), read_bytes)

    def close(self) -> None:
        """End the threads."""
        self._runner.run(self.running.close())
        self._runner.close()


@pytest.fixture
def bench() -> Iterator[SessionBench]:
    """A session with simple replies."""
    bench = SessionBench()
    yield bench
    bench.close()


@pytest.fixture
def structured() -> Iterator[SessionBench]:
    """A session with structured replies and both kinds of contexts."""
    bench = SessionBench(
        Context(number=1, name="base:allocation", since_lsn=None),
        Context(number=2, name="holdfast:changed-since:1", since_lsn=1),
        is_structured=True,
    )
    yield bench
    bench.close()
