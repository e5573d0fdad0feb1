"""Answers about the completion latch of the instance a request is made to."""

import asyncio
from typing import Final

from starlette.responses import JSONResponse, Response

from holdfast.errors import ConflictError, InvalidRequestError, StateError
from holdfast.files.http.call import Call
from holdfast.files.http.guards import instance_of, latch_of, latch_to_close
from holdfast.files.http.services import NodeServices
from holdfast.files.migration.latch import Latch
from holdfast.files.migration.model import LatchState, MigrationKind
from holdfast.files.migration.service import subject_of

_KEY_MAX: Final = 1024


class StatusAnswers:
    """Answers of one node about the latches of its instances."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._purges: set[asyncio.Task[None]] = set()

    async def show_status(self, call: Call) -> Response:
        """Say whether the migration is marked complete."""
        status = await asyncio.to_thread(latch_of(self._services, call.host).read)
        return JSONResponse(status.as_json())

    async def mark_complete(self, call: Call) -> Response:
        """Mark it complete."""
        latch = latch_to_close(self._services, call.host)
        now_ns, key = self._services.clock.now_ns(), call.idempotency_key
        _check_key(key)
        await asyncio.to_thread(self._check_nothing_is_copied, call.host, latch)
        try:
            status = await asyncio.to_thread(latch.complete, now_ns, key)
        except ConflictError as error:
            raise StateError(
                "Live Migration marked as COMPLETED earlier.",
                code="already-complete",
                advice="read the status; clear it once the host has left the migration map",
            ) from error
        if call.host in self._services.migration_map.values():
            # Nobody waits for it: what is left of it is gone on with when the node starts again.
            instance = instance_of(self._services, call.host)
            purge = asyncio.create_task(asyncio.to_thread(self._services.let_go, instance))
            self._purges.add(purge)
            purge.add_done_callback(self._purges.discard)
        return JSONResponse(status.as_json())

    def _check_nothing_is_copied(self, host: str, latch: Latch) -> None:
        """Return if no copy is under way that would go on; else raise ConflictError (`busy`)."""
        if latch.read().state is LatchState.COMPLETED:
            return
        subject = subject_of(instance_of(self._services, host))
        task = self._services.journal.find_unfinished(subject)
        if task is not None and task.kind in (MigrationKind.COPY, MigrationKind.REPAIR):
            raise ConflictError(
                f"{task.id} still copies to this instance",
                code="busy",
                advice="cancel it, or wait for its end, before the database is started",
            )

    async def clear_status(self, call: Call) -> Response:
        """Forget the mark."""
        await asyncio.to_thread(latch_of(self._services, call.host).clear)
        return JSONResponse({"status": "OK"})


def _check_key(key: str | None) -> None:
    if key is not None and not (0 < len(key) <= _KEY_MAX and key.isprintable()):
        raise InvalidRequestError(
            f"the Idempotency-Key is empty, longer than {_KEY_MAX} or not printable",
            code="bad-field",
            advice="take some 32 random letters and digits",
        )
