"""A TCP proxy before an HTTP server that loses requests and replies when told to.

It looks for a path in what a client sends; the next fault of its list strikes that request.
"""

import asyncio
from contextlib import suppress
from enum import StrEnum
from urllib.parse import urlsplit


class Loss(StrEnum):
    """What happens to one request."""

    REQUEST = "request"
    """Cut off before it reaches the server."""
    REPLY = "reply"
    """It reaches the server; the reply is cut off."""
    SILENCE = "silence"
    """It reaches nobody and nothing comes back; the connection stays."""
    HELD = "held"
    """As SILENCE, but it reaches the server once `release` is called."""


class LossyProxy:
    """Listens on loopback, between one client and one server."""

    def __init__(self, target_url: str, path: bytes) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname, target.port)
        self._path = path
        self._server: asyncio.Server | None = None
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.losses: list[Loss] = []
        self.struck_count = 0
        self.forwarded = asyncio.Event()
        """Set once a request whose reply is lost has been forwarded and answered."""

    async def start(self) -> str:
        """Listen; return the URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def release(self) -> None:
        """Let held requests go on."""
        self._released.set()

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        link = _Link(server_reader, writer, self.forwarded)
        back = asyncio.create_task(link.pump())
        with suppress(OSError, asyncio.CancelledError):
            await self._forward(reader, server_writer, link)
        back.cancel()
        for each in (writer, server_writer):
            with suppress(OSError):
                each.close()

    async def _forward(
        self, reader: asyncio.StreamReader, server_writer: asyncio.StreamWriter, link: "_Link"
    ) -> None:
        while data := await reader.read(65536):
            loss = self.losses.pop(0) if self._path in data and self.losses else None
            self.struck_count += loss is not None
            match loss:
                case Loss.REQUEST:
                    return
                case Loss.SILENCE:
                    await asyncio.sleep(60)
                case Loss.REPLY:
                    link.is_cut = True
                case Loss.HELD:
                    link.is_cut = link.is_silent = True
                    await self._released.wait()
                case None:
                    pass
            server_writer.write(data)
        if link.is_cut:
            # The server gives up a request whose client hangs up.
            await link.answered.wait()


class _Link:
    """The way back of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: asyncio.Event
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.is_cut = False
        self.is_silent = False
        """Cut by silence, not by hanging up."""
        self.answered = answered

    async def pump(self) -> None:
        """Pass replies on; the first one after the cut ends the connection instead."""
        with suppress(OSError):
            while data := await self._reader.read(65536):
                if self.is_cut:
                    self.answered.set()
                    if self.is_silent:
                        return
                    break
                self._writer.write(data)
            self._writer.close()
