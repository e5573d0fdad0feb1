"""Conditional writes at an S3 store; no more than a probe needs."""

from urllib.parse import quote

from holdfast.errors import DeniedError, NotFoundError, UnavailableError
from holdfast.ports import Clock, ConditionalOutcome
from holdfast.stores.objects.connection import RawAnswer, StoreConnection
from holdfast.stores.objects.s3_signature import S3Keys, signature

_OBJECT_BYTES_MAX = 1 << 20
_LOST = (404, 409, 412)
"""409: another conditional write was under way; 404: nothing there to match."""


class S3Conditions:
    """ConditionalObjects below a URL of the form SCHEME://HOST/BUCKET/PREFIX, path style."""

    def __init__(self, url: str, keys: S3Keys, clock: Clock, connection: StoreConnection) -> None:
        self._url = url.rstrip("/")
        self._keys = keys
        self._clock = clock
        self._connection = connection

    async def create(self, name: str, data: bytes) -> ConditionalOutcome:
        """See ConditionalObjects.create."""
        return await self._write(name, data, {"If-None-Match": "*"})

    async def replace(self, name: str, data: bytes, etag: str) -> ConditionalOutcome:
        """See ConditionalObjects.replace."""
        return await self._write(name, data, {"If-Match": etag})

    async def read(self, name: str) -> tuple[bytes, str]:
        """See ConditionalObjects.read."""
        answer = await self._ask("GET", name, b"", {})
        if answer.status != 200 or answer.body is None:
            raise NotFoundError(f"the store answered {answer.status}", code="no-object")
        return answer.body, answer.etag

    async def delete(self, name: str) -> None:
        """See ConditionalObjects.delete."""
        await self._ask("DELETE", name, b"", {})

    async def _write(self, name: str, data: bytes, condition: dict[str, str]) -> ConditionalOutcome:
        status = (await self._ask("PUT", name, data, condition)).status
        if 200 <= status < 300:
            return ConditionalOutcome.WON
        return ConditionalOutcome.LOST if status in _LOST else ConditionalOutcome.UNSUPPORTED

    async def _ask(self, method: str, name: str, data: bytes, headers: dict[str, str]) -> RawAnswer:
        url = f"{self._url}/{quote(name)}"
        signed = signature(self._keys, method, url, data, self._clock.now_ns())
        answer = await self._connection.ask(
            method, url, headers | signed, body=data, limit_bytes=_OBJECT_BYTES_MAX
        )
        if answer.status in (401, 403):
            raise DeniedError(
                f"the store answered {answer.status}",
                code="store-said-no",
                advice="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        if answer.status == 503:
            raise UnavailableError("the store answered 503", code="store-busy")
        return answer
