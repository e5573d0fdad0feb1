"""Asks a data process over its control socket; one request at a time, each with a deadline."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final, Self, TypeVar

from holdfast.errors import OutcomeUnknownError
from holdfast.model.limits import CONTROL_REPLY_BYTES_MAX
from holdfast.volumes.control import (
    CancelExpand,
    CancelScrub,
    CommitExpand,
    Flush,
    Frames,
    GetMetrics,
    GetScrub,
    GetStatus,
    MetricsSnapshot,
    PrepareExpand,
    Request,
    ScrubProgress,
    SetFence,
    StartScrub,
    Stop,
    VolumeStatus,
    decode_answer,
    encode_request,
)
from holdfast.volumes.local_socket import connect_local

CONTROL_TIMEOUT_S: Final = 30.0
_READ_BYTES = 64 * 1024

ResultT = TypeVar("ResultT")


class ControlClient:
    """A connection to one data process; an async context manager."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = Frames(CONTROL_REPLY_BYTES_MAX)

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Connect to the socket at `path`, or raise UnavailableError (`not-listening`)."""
        connected = connect_local(path, CONTROL_TIMEOUT_S)
        connected.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=connected))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def status(self) -> VolumeStatus:
        """Return the state of the volume."""
        return await self._ask(GetStatus(), VolumeStatus)

    async def metrics(self) -> MetricsSnapshot:
        """Return what was counted."""
        return await self._ask(GetMetrics(), MetricsSnapshot)

    async def prepare_expand(self, size_bytes: int) -> VolumeStatus:
        """Make room for a greater size, durably, without showing it."""
        return await self._ask(PrepareExpand(size_bytes=size_bytes), VolumeStatus)

    async def commit_expand(self) -> VolumeStatus:
        """Show the prepared size, durably."""
        return await self._ask(CommitExpand(), VolumeStatus)

    async def cancel_expand(self) -> VolumeStatus:
        """Forget the prepared size."""
        return await self._ask(CancelExpand(), VolumeStatus)

    async def start_scrub(self) -> ScrubProgress:
        """Begin to read everything back; StateError (`scrub-running`) if one runs."""
        return await self._ask(StartScrub(), ScrubProgress)

    async def scrub(self) -> ScrubProgress:
        """Return how far the last scrub is."""
        return await self._ask(GetScrub(), ScrubProgress)

    async def cancel_scrub(self) -> ScrubProgress:
        """Stop the scrub at its next step."""
        return await self._ask(CancelScrub(), ScrubProgress)

    async def fence(self, epoch: int, role: str, lease_ms: int | None) -> VolumeStatus:
        """Take a role in an epoch; FencedError if the epoch is below the volume's."""
        return await self._ask(SetFence(epoch=epoch, role=role, lease_ms=lease_ms), VolumeStatus)

    async def flush(self) -> VolumeStatus:
        """Make everything acknowledged durable."""
        return await self._ask(Flush(), VolumeStatus)

    async def stop(self) -> VolumeStatus:
        """Ask it to end orderly; its end is to be waited for elsewhere."""
        return await self._ask(Stop(), VolumeStatus)

    async def _ask(self, request: Request, kind: type[ResultT]) -> ResultT:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                self._writer.write(encode_request(request))
                await self._writer.drain()
                return decode_answer(await self._read(), kind)
        except (OSError, TimeoutError) as error:
            # A timeout is an OSError too; either way the request may have been carried out.
            raise OutcomeUnknownError(
                f"the data process did not answer: {str(error) or 'too slow'}",
                code="control-lost",
                advice="look with 'holdfast volumes show' before anything else",
            ) from error

    async def _read(self) -> bytes:
        while data := await self._reader.read(_READ_BYTES):
            for body in self._frames.feed(data):
                return body
        raise ConnectionResetError("it ended while it was asked")
