"""Answers about the completion latch of the instance a request is made to."""

import asyncio

from starlette.responses import JSONResponse, Response

from holdfast.errors import ConflictError, StateError
from holdfast.files.http.call import Call
from holdfast.files.http.guards import latch_of
from holdfast.files.http.services import NodeServices


class StatusAnswers:
    """Answers of one node about the latches of its instances."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services

    async def show_status(self, call: Call) -> Response:
        """Say whether the migration is marked complete."""
        status = await asyncio.to_thread(latch_of(self._services, call.host).read)
        return JSONResponse(status.as_json())

    async def mark_complete(self, call: Call) -> Response:
        """Mark it complete."""
        latch = latch_of(self._services, call.host)
        try:
            status = await asyncio.to_thread(latch.complete, self._services.clock.now_ns())
        except ConflictError as error:
            raise StateError(
                "Live Migration marked as COMPLETED earlier.",
                code="already-complete",
                advice="read the status; clear it once the host has left the migration map",
            ) from error
        return JSONResponse(status.as_json())

    async def clear_status(self, call: Call) -> Response:
        """Forget the mark."""
        await asyncio.to_thread(latch_of(self._services, call.host).clear)
        return JSONResponse({"status": "OK"})
