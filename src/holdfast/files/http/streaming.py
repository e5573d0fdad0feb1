"""Answers whose bodies are made piece by piece in a thread, and work for a client that may go.

Invariants:

1. At most two pieces of an answer are in memory, however long it is and however slow its client.
2. Whatever an answer holds (descriptor, permit) is given back when it ends: sent, broken off by
   the client, stalled for `send_timeout_s`, failed or cancelled; and not before its thread is done.
3. An answer that could not be made to its end is broken off, never ended as if it were whole.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from holdfast.errors import HoldfastError

ValueT = TypeVar("ValueT")
Pieces = Generator[bytes, None, None]

_log: Final = logging.getLogger("holdfast.node")


class PiecewiseResponse(Response):
    """An answer made by a generator that runs in a thread."""

    def __init__(
        self,
        pieces: Pieces,
        pool: ThreadPoolExecutor | None,
        *,
        status_code: int = 200,
        headers: Mapping[str, str],
        on_end: Callable[[], None],
        send_timeout_s: float,
        first: bytes | None = None,
    ) -> None:
        """Prepare it; nothing runs yet.

        Args:
            pieces: Runs in `pool` (None: that of the event loop), one piece at a time.
            on_end: Called once in the event loop when nothing runs any more.
            first: A piece before those of `pieces`; without it, `begin` makes the first.
        """
        super().__init__(status_code=status_code, headers=dict(headers))
        # Without a known length the server sends it in chunks.
        if "content-length" not in headers:
            del self.headers["content-length"]
        self._pieces = pieces
        self._pool = pool
        self._on_end = on_end
        self._send_timeout_s = send_timeout_s
        self._first = first
        self._running: asyncio.Future[bytes | None] | None = None
        self._sending: asyncio.Timeout | None = None
        """While a piece waits for its client."""
        self._sending_since = 0.0

    def still_s(self) -> float:
        """See Answering."""
        if self._sending is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._sending_since

    def break_off(self) -> None:
        """See Answering."""
        if self._sending is not None and not self._sending.expired():
            self._sending.reschedule(asyncio.get_running_loop().time())

    async def begin(self) -> "PiecewiseResponse":
        """Make the first piece, so that an early failure still has an answer of its own."""
        try:
            self._first = await asyncio.shield(self._start())
        except BaseException:
            self.abandon()
            raise
        return self

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        gone = asyncio.create_task(until_gone(receive))
        start = {"type": "http.response.start", "status": self.status_code}
        try:
            await send(start | {"headers": self.raw_headers})
            await self._send_pieces(send, gone)
        except TimeoutError:
            _log.info("a client stood still; its answer is broken off")
        except HoldfastError as error:
            _log.warning("an answer is broken off: %s", error.message)
        finally:
            gone.cancel()
            self.abandon()

    async def _send_pieces(self, send: Send, gone: "asyncio.Task[None]") -> None:
        length = self.headers.get("content-length")
        left = None if length is None else int(length)
        piece = self._first
        while not gone.done():
            left = None if left is None else left - len(piece or b"")
            is_last = piece is None or left == 0
            # The next is made while this one is sent.
            following = None if is_last else self._start()
            body = {"type": "http.response.body", "body": piece or b"", "more_body": not is_last}
            await self._send_piece(send, body)
            if following is None:
                return
            piece = await asyncio.shield(following)

    async def _send_piece(self, send: Send, body: dict[str, object]) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._send_timeout_s) as self._sending:
                await send(body)
        finally:
            self._sending = None

    def abandon(self) -> None:
        """Give back what it holds, now or as soon as its thread is done."""
        running, self._running = self._running, None
        if running is None or running.done():
            self._end()
        else:
            running.add_done_callback(self._end_after)

    def _end_after(self, future: "asyncio.Future[bytes | None]") -> None:
        future.exception()  # Seen; nobody waits for it any more.
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            self._pieces.close()
        on_end, self._on_end = self._on_end, lambda: None
        on_end()

    def _start(self) -> "asyncio.Future[bytes | None]":
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(self._pool, next, self._pieces, None)
        return self._running


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone; what it still sends of a body is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_while_wanted(
    receive: Receive, pool: ThreadPoolExecutor, work: Callable[[threading.Event], ValueT]
) -> ValueT:
    """Run `work` in a thread, and have it stop if the client goes.

    Args:
        work: Given an event that is set when its result is not wanted any more; it looks often.

    Raises:
        ClientDisconnect: The client went; `work` has ended all the same.
    """
    unwanted = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(pool, work, unwanted)
    gone = asyncio.create_task(until_gone(receive))
    try:
        waiting: set[asyncio.Future[ValueT] | asyncio.Future[None]] = {running, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise ClientDisconnect
    finally:
        unwanted.set()
        gone.cancel()
        if not running.done():
            await asyncio.wait({running})
            running.exception()
