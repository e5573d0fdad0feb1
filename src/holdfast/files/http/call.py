"""One request as answers see it: let through, with its parameters and a bounded body."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from holdfast.errors import InvalidRequestError
from holdfast.files.http.operations import Operation
from holdfast.model.access import Permission
from holdfast.model.limits import MIB, TASK_REQUEST_BYTES_MAX

BODY_BYTES_MAX: Final = TASK_REQUEST_BYTES_MAX
BODY_DROPPED_MAX: Final = 16 * MIB
"""Of a longer body so much is read and dropped: a client reads no answer before it has sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that its caller and its host may make."""

    request: Request
    operation: Operation
    host: str
    """Of the Host header, without port, in lower case."""
    permissions: frozenset[Permission]
    parameters: Mapping[str, str]
    """Of the path."""
    body_timeout_s: float

    @property
    def raw_path(self) -> bytes:
        """The path as it came, undecoded."""
        raw_path: bytes = self.request.scope["raw_path"]
        return raw_path

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the query; of those given twice, the last."""
        return self.request.query_params

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header."""
        return self.request.headers.get("idempotency-key")

    @property
    def address(self) -> str:
        """Of the host that asks; empty where the server does not know it."""
        return self.request.client.host if self.request.client is not None else ""

    def accepts(self, media_type: str) -> bool:
        """Say whether the caller names this media type in Accept."""
        named = self.request.headers.get("accept", "").split(",")
        return any(part.partition(";")[0].strip().lower() == media_type for part in named)

    async def read_body(self) -> bytes:
        """Return the body.

        Raises:
            InvalidRequestError: `body-too-large`, `body-slow`.
        """
        body = bytearray()
        size_bytes = 0
        try:
            async with asyncio.timeout(self.body_timeout_s):
                async for chunk in self.request.stream():
                    size_bytes += len(chunk)
                    body += chunk[: BODY_BYTES_MAX + 1 - len(body)]
                    if size_bytes > BODY_DROPPED_MAX:
                        break
        except TimeoutError:
            raise InvalidRequestError(
                f"the body did not come within {self.body_timeout_s:g} s",
                code="body-slow",
                advice="send it at once",
            ) from None
        if size_bytes > BODY_BYTES_MAX:
            raise InvalidRequestError(
                f"the body has more than {BODY_BYTES_MAX} bytes",
                code="body-too-large",
                advice="send a JSON object as it is described at /openapi.json",
            )
        return bytes(body)
