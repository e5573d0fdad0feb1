"""What the URL of a bank may hold: where it is, and nothing that opens it.

A URL is kept in catalogue and journal, and shown; secrets come from the environment alone.
"""

from urllib.parse import urlsplit

from holdfast.errors import InvalidRequestError


def check_place(url: str, name: str = "bank") -> str:
    """Return the URL of a bank, or raise InvalidRequestError (`bank-with-secret`) without it."""
    if not url.startswith("s3+"):
        return url
    try:
        parts = urlsplit(url.removeprefix("s3+"))
        is_plain = not ("@" in parts.netloc or parts.query or parts.fragment)
    except ValueError:
        is_plain = False
    if is_plain:
        return url
    raise InvalidRequestError(
        f"{name} must be a plain URL without user, password, query or fragment",
        code="bank-with-secret",
        advice="keys of banks are taken from the environment only: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or OS_* or ST_*; of a node where it is started",
    )
