"""What a caller may do at an object store, found out by trying it with the caller's own token.

At Swift the token is Swift's. At S3, which knows no tokens, it is `ACCESS-KEY:SECRET-KEY`, used to
sign and never sent on.
"""

from holdfast.ports import Clock, StoreAnswer
from holdfast.stores.objects.connection import StoreConnection
from holdfast.stores.objects.s3_signature import S3Keys, signature

PROBE_SUFFIX = ".head-probe"


class SwiftAccess:
    """ObjectAccess at OpenStack Swift."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection

    async def read(self, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        """See ObjectAccess.read."""
        headers = _token_header(token) | {"X-Newest": "true"}
        answer = await self._connection.ask("GET", url, headers, limit_bytes=limit_bytes)
        return StoreAnswer(answer.status, answer.body)

    async def prove_write(self, url: str, token: str) -> StoreAnswer:
        """See ObjectAccess.prove_write."""
        answer = await self._connection.ask("PUT", url + PROBE_SUFFIX, _token_header(token))
        return StoreAnswer(answer.status, answer.body)


class S3Access:
    """ObjectAccess at an S3 store."""

    def __init__(self, connection: StoreConnection, clock: Clock, region: str) -> None:
        self._connection = connection
        self._clock = clock
        self._region = region

    async def read(self, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        """See ObjectAccess.read."""
        return await self._ask("GET", url, token, limit_bytes)

    async def prove_write(self, url: str, token: str) -> StoreAnswer:
        """See ObjectAccess.prove_write."""
        return await self._ask("PUT", url + PROBE_SUFFIX, token, 0)

    async def _ask(self, method: str, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        access_key, colon, secret_key = token.rpartition(":")
        if token and not colon:
            return StoreAnswer(401, b"")
        keys = S3Keys(access_key=access_key, secret_key=secret_key, region=self._region)
        signed = signature(keys, method, url, b"", self._clock.now_ns())
        answer = await self._connection.ask(method, url, signed, limit_bytes=limit_bytes)
        return StoreAnswer(answer.status, answer.body)


def _token_header(token: str) -> dict[str, str]:
    return {"X-Auth-Token": token} if token else {}
