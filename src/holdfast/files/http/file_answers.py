"""Answers about files of a source: list, bytes, digest; thin over source_side.py.

Invariant: at most `file_requests_max` files are served or digested at once; the next is told when
to come again.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Final, NamedTuple

import msgspec
from starlette.responses import Response

from holdfast.errors import DeniedError, InvalidRequestError
from holdfast.files.http.byte_ranges import ByteRange, content_range, parse_range
from holdfast.files.http.call import Call
from holdfast.files.http.guards import instance_of
from holdfast.files.http.names import parse_file_address
from holdfast.files.http.permits import Permit, Permits
from holdfast.files.http.services import NodeServices
from holdfast.files.http.shapes import DigestAnswer
from holdfast.files.http.source_side import (
    OpenedFile,
    etag_of,
    list_files,
    open_addressed,
    spell_digest,
)
from holdfast.files.http.streaming import PiecewiseResponse, run_while_wanted
from holdfast.files.migration.exclusions import exclusions_of
from holdfast.files.migration.requests import parse_digest_algorithm
from holdfast.model.access import Permission

LISTS_MAX: Final = 4
"""Lists made at once; each may hold the names of a huge directory."""
BUSY: Final = "Server is busy processing live migration file requests, please try again later"


class _Opened(NamedTuple):
    """A file that is open, and what was read of it in the same turn."""

    file: OpenedFile
    part: ByteRange = ByteRange(0, 0)
    first: bytes = b""


class FileAnswers:
    """Answers of one node about files of its instances."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        # Patterns are compiled once for each directory.
        self._exclusions_of = cache(exclusions_of)
        self.permits = Permits(services.file_requests_max, BUSY)
        """For files and digests."""
        self._lists = Permits(LISTS_MAX, BUSY)
        # A thread for each: a long digest must not keep short requests waiting.
        self._pool = ThreadPoolExecutor(
            services.file_requests_max + LISTS_MAX, thread_name_prefix="holdfast-files"
        )

    async def list_files(self, call: Call) -> Response:
        """Answer all files of the instance."""
        services = self._services
        instance = instance_of(services, call.host)
        permit = self._lists.take(call.address)
        permit.answering = answer = PiecewiseResponse(
            list_files(instance, services.open_directory, self._exclusions_of),
            self._pool,
            headers={"content-type": "application/json"},
            on_end=permit.release,
            send_timeout_s=services.client_timeout_s,
        )
        return await answer.begin()

    async def get_file(self, call: Call) -> Response:
        """Answer a file, a part of it, or its digest."""
        wants_digest = "digestAlgorithm" in call.query
        if not wants_digest and Permission.COPY not in call.permissions:
            raise DeniedError(
                "the caller may ask for digests, not for the bytes of files",
                code="no-permission",
                advice="ask the operator of the node for the permission copy",
            )
        permit = self.permits.take(call.address)
        try:
            if wants_digest:
                with permit:
                    return await self._digest(call)
            return await self._bytes(call, permit)
        except BaseException:
            permit.release()
            raise

    async def _bytes(self, call: Call, permit: Permit) -> Response:
        opened = await self._open(call, partial(_begin, call))
        file, part, first = opened.file, opened.part, opened.first
        size_bytes = file.stat.size_bytes

        def finish() -> None:
            file.close()
            permit.release()

        headers = {
            "content-type": "application/octet-stream",
            "accept-ranges": "bytes",
            "content-length": str(part.end - part.start),
            "etag": etag_of(file.stat),
            "cache-control": "no-transform",
        }
        is_whole = part == (0, size_bytes)
        if not is_whole:
            headers["content-range"] = content_range(part, size_bytes)
        permit.answering = answer = PiecewiseResponse(
            file.read(part.start + len(first), part.end),
            self._pool,
            status_code=200 if is_whole else 206,
            headers=headers,
            on_end=finish,
            send_timeout_s=self._services.client_timeout_s,
            first=first,
        )
        return answer

    async def _digest(self, call: Call) -> Response:
        asked = call.query["digestAlgorithm"]
        algorithm = parse_digest_algorithm(asked)
        seed = _parse_seed(call.query.get("seed"))
        file = (await self._open(call, _Opened)).file

        def digest(unwanted: threading.Event) -> bytes:
            return file.digest(algorithm, seed, unwanted)

        try:
            digested = await run_while_wanted(call.request.receive, self._pool, digest)
        finally:
            file.close()
        answer = DigestAnswer(digest=spell_digest(algorithm, digested), digest_algorithm=asked)
        return Response(
            msgspec.json.encode(answer),
            headers={"etag": etag_of(file.stat)},
            media_type="application/json",
        )

    async def _open(self, call: Call, begin: Callable[[OpenedFile], _Opened]) -> _Opened:
        """Open the file of a call and begin with it, all in one turn of a thread."""
        address = parse_file_address(call.raw_path)
        instance = instance_of(self._services, call.host)
        open_directory = self._services.open_directory

        def opening() -> _Opened:
            file = open_addressed(instance, address, open_directory, self._exclusions_of)
            try:
                return begin(file)
            except BaseException:
                file.close()
                raise

        running = asyncio.get_running_loop().run_in_executor(self._pool, opening)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(_close_opened)
            raise


def _close_opened(opening: "asyncio.Future[_Opened]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().file.close()


def _begin(call: Call, file: OpenedFile) -> _Opened:
    """Read the first piece of the part that is asked for."""
    header = call.request.headers.get("range")
    if_range = call.request.headers.get("if-range")
    if if_range is not None and if_range.strip() != etag_of(file.stat):
        header = None
    part = parse_range(header, file.stat.size_bytes)
    first = next(file.read(*part), b"")
    return _Opened(file, part, first)


def _parse_seed(text: str | None) -> int:
    if text is None:
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 1 << 32:
        return int(text)
    raise InvalidRequestError(
        "the seed is not a whole number of 32 bits", code="bad-seed", advice="give 0 to 4294967295"
    )
