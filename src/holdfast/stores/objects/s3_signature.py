"""AWS signature version 4 for S3, in headers; decides from values alone.

The secret key signs and is part of nothing that is returned.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Keys:
    """Who signs; without an access key nothing is signed."""

    access_key: str = ""
    secret_key: str = ""
    region: str = "us-east-1"

    def __repr__(self) -> str:
        return f"S3Keys(access_key={self.access_key!r})"


def signature(keys: S3Keys, method: str, url: str, body: bytes, now_ns: int) -> dict[str, str]:
    """Return the headers that sign a request; `url` has no query and is encoded as S3 wants it."""
    if not keys.access_key:
        return {}
    at = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    parts, body_hash = urlsplit(url), hashlib.sha256(body).hexdigest()
    signed = {"host": parts.netloc, "x-amz-content-sha256": body_hash, "x-amz-date": stamp}
    names = ";".join(signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
    canonical = f"{method}\n{parts.path}\n\n{lines}\n{names}\n{body_hash}"
    scope = f"{day}/{keys.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{keys.secret_key}".encode()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    for part in (*scope.split("/"), to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    return {
        "x-amz-content-sha256": body_hash,
        "x-amz-date": stamp,
        "Authorization": (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={key.hex()}"
        ),
    }
