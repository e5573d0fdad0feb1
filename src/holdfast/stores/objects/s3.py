"""Conditional writes at an S3 store, with AWS signature 4; no more than a probe needs.

Invariants:

1. The secret key signs and is never sent, logged or put into a message.
2. Redirects are not followed.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from holdfast.errors import DeniedError, NotFoundError, UnavailableError
from holdfast.ports import Clock, ConditionalOutcome

_OBJECT_BYTES_MAX = 1 << 20
_LOST = (404, 409, 412)
"""409: another conditional write was under way; 404: nothing there to match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Keys:
    """Who signs; no access key: nothing is signed."""

    access_key: str = ""
    secret_key: str = ""
    region: str = "us-east-1"

    def __repr__(self) -> str:
        return f"S3Keys(access_key={self.access_key!r})"


class S3Conditions:
    """ConditionalObjects below a URL of the form SCHEME://HOST/BUCKET/PREFIX, path style."""

    def __init__(self, url: str, keys: S3Keys, clock: Clock, *, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._keys = keys
        self._clock = clock
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def create(self, name: str, data: bytes) -> ConditionalOutcome:
        """See ConditionalObjects.create."""
        return await self._write(name, data, {"If-None-Match": "*"})

    async def replace(self, name: str, data: bytes, etag: str) -> ConditionalOutcome:
        """See ConditionalObjects.replace."""
        return await self._write(name, data, {"If-Match": etag})

    async def read(self, name: str) -> tuple[bytes, str]:
        """See ConditionalObjects.read."""
        status, body, etag = await self._ask("GET", name, b"", {})
        if status != 200:
            raise NotFoundError(f"the store answered {status}", code="no-object")
        return body, etag

    async def delete(self, name: str) -> None:
        """See ConditionalObjects.delete."""
        await self._ask("DELETE", name, b"", {})

    async def close(self) -> None:
        """See ConditionalObjects.close."""
        await self._session.close()

    async def _write(self, name: str, data: bytes, condition: dict[str, str]) -> ConditionalOutcome:
        status, _, _ = await self._ask("PUT", name, data, condition)
        if 200 <= status < 300:
            return ConditionalOutcome.WON
        return ConditionalOutcome.LOST if status in _LOST else ConditionalOutcome.UNSUPPORTED

    async def _ask(
        self, method: str, name: str, data: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        url = URL(f"{self._url}/{name}")
        headers = headers | self._signed(method, url, data)
        try:
            async with self._session.request(
                method, url, data=data or None, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.content.read(_OBJECT_BYTES_MAX)
                status, etag = answer.status, answer.headers.get("ETag", "")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(
                f"the store cannot be reached ({type(error).__name__})", code="store-unreachable"
            ) from None
        if status in (401, 403):
            raise DeniedError(
                f"the store answered {status}",
                code="store-said-no",
                advice="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        if status == 503:
            raise UnavailableError("the store answered 503", code="store-busy")
        return status, body, etag

    def _signed(self, method: str, url: URL, data: bytes) -> dict[str, str]:
        """Return the headers of the signature; see 'Signature Version 4' of AWS."""
        if not self._keys.access_key:
            return {}
        at = datetime.fromtimestamp(self._clock.now_ns() // 1_000_000_000, UTC)
        stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
        body_hash = hashlib.sha256(data).hexdigest()
        signed = {
            "host": url.authority,
            "x-amz-content-sha256": body_hash,
            "x-amz-date": stamp,
        }
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"{method}\n{url.raw_path}\n\n{lines}\n{names}\n{body_hash}"
        scope = f"{day}/{self._keys.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key = f"AWS4{self._keys.secret_key}".encode()
        for part in (day, self._keys.region, "s3", "aws4_request", to_sign):
            key = hmac.digest(key, part.encode(), "sha256")
        credential = f"Credential={self._keys.access_key}/{scope}"
        return {
            "x-amz-content-sha256": body_hash,
            "x-amz-date": stamp,
            "Authorization": (
                f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
            ),
        }
