"""The control socket of a data process: takes connections, feeds the protocol, answers in order.

It runs on the event thread of the data path, so it does nothing but frames; what a request asks
for is done by what it was given, and what takes long is begun there and asked for again.

Invariants:

1. At most CONTROL_CONNECTIONS_MAX connections are open; one more is closed at once.
2. One request of a connection is worked on at a time; the next is not read before.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from holdfast.errors import HoldfastError, InvalidRequestError, StateError
from holdfast.model.limits import (
    CONTROL_CONNECTIONS_MAX,
    CONTROL_REQUEST_BYTES_MAX,
)
from holdfast.volumes.control import (
    Frames,
    Request,
    decode_request,
    encode_problem,
    encode_result,
)

_READ_BYTES = 4096
_log = logging.getLogger("holdfast.volumes")


class ControlServer:
    """Answers control requests on one listening socket, which it owns.

    Args:
        answer: Does what a request asks for and returns the result, or raises HoldfastError.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[object]]) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, listening: socket.socket) -> None:
        """Begin to take connections."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listening)

    async def close(self) -> None:
        """Take no more connections and end those that are open."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= CONTROL_CONNECTIONS_MAX:
                await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            # Cancelled by close(), which waits for the end of this task and wants nothing from it.
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames(CONTROL_REQUEST_BYTES_MAX)
        while data := await reader.read(_READ_BYTES):
            try:
                for body in frames.feed(data):
                    writer.write(await self._reply(body))
                    await writer.drain()
            except InvalidRequestError as error:
                writer.write(encode_problem(error))
                return

    async def _reply(self, body: bytes) -> bytes:
        try:
            return encode_result(await self._answer(decode_request(body)))
        except HoldfastError as error:
            return encode_problem(error)
        except Exception as error:  # noqa: BLE001 the outermost loop of a request
            _log.exception("defect in a control request")
            return encode_problem(
                StateError(
                    f"a defect in the data process: {type(error).__name__}",
                    code="internal",
                    advice="see the log of 'holdfast volumes serve', and report it",
                )
            )
