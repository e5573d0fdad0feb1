"""The address of a head: X-Storage-Url made canonical and held against the allow-list.

Decides from text alone; it resolves no name and opens no connection.

Invariants:

1. Two spellings of one object have one key: case of scheme and host, default port and what is
   percent-encoded make no difference (Swift decodes all of it), nor does which proxy of a realm
   was named.
2. What could be read in two ways is refused: query, fragment, user, `.`, `..`, `//`, control and
   non-ASCII characters, encoded slashes.
3. Nothing outside an endpoint of the allow-list has an address.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from holdfast.errors import DeniedError, InvalidRequestError
from holdfast.model.limits import HEAD_KEY_BYTES_MAX

KEY_PREFIX: Final = "ickpt/"
"""Keeps the heads of the HTTP service apart from those of other facets in the same register."""

_S3_PREFIX = "s3+"
_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?(?P<path>/.*)",
    re.IGNORECASE,
)
_PATH = re.compile(r"(/([A-Za-z0-9._~-]|%[0-9A-F]{2})+)+/?")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_RESERVED = re.compile(r"[!$&'()*+,;=:@]")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Dialect(StrEnum):
    """What a store speaks."""

    SWIFT = "swift"
    S3 = "s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Realm:
    """One object store, with the URLs of all its proxies; the first one names it."""

    dialect: Dialect = Dialect.SWIFT
    endpoints: tuple[str, ...]
    """Canonical, each with a path that ends in a slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An object in an allowed store."""

    dialect: Dialect = Dialect.SWIFT
    url: str
    """Canonical; where the object is asked for."""
    key: str
    """Of its head in the register; the same for every proxy of the realm."""


def parse_realm(text: str) -> Realm:
    """Return the realm of `URL|URL|...`, with `s3+` in front if it speaks S3.

    Raises:
        InvalidRequestError: `bad-store-endpoint`.
    """
    dialect = Dialect.S3 if text.startswith(_S3_PREFIX) else Dialect.SWIFT
    urls = text.removeprefix(_S3_PREFIX).split("|")
    try:
        endpoints = tuple(_canonical(url.strip(), is_endpoint=True) for url in urls)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{text!r} does not name a store: {error.message}",
            code="bad-store-endpoint",
            advice="write SCHEME://HOST:PORT/PATH/, and several proxies of one store as A|B",
        ) from error
    return Realm(dialect=dialect, endpoints=endpoints)


def parse_address(storage_url: str | None, realms: tuple[Realm, ...]) -> Address:
    """Return the address of what X-Storage-Url names.

    Raises:
        InvalidRequestError: Missing, malformed or ambiguous (`bad-storage-url`).
        DeniedError: Not within an endpoint of the allow-list (`store-not-allowed`).
    """
    url = _canonical(storage_url or "", is_endpoint=False)
    for realm in realms:
        for endpoint in realm.endpoints:
            if url.startswith(endpoint):
                key = f"{KEY_PREFIX}{realm.endpoints[0]}{url.removeprefix(endpoint)}"
                if len(key) > HEAD_KEY_BYTES_MAX:
                    raise _bad_url(f"it is longer than {HEAD_KEY_BYTES_MAX} bytes")
                return Address(dialect=realm.dialect, url=url, key=key)
    raise DeniedError(
        "the store that X-Storage-Url names is not one this service may talk to",
        code="store-not-allowed",
        advice="add it to StoreEndpoints if it is yours",
    )


def _canonical(url: str, *, is_endpoint: bool) -> str:
    if not url:
        raise _bad_url("it is missing")
    if len(url) > 2 * HEAD_KEY_BYTES_MAX:
        raise _bad_url(f"it is longer than {HEAD_KEY_BYTES_MAX} bytes")
    parts = _URL.fullmatch(url + "/" if is_endpoint and url.count("/") == 2 else url)
    if parts is None:
        raise _bad_url("it is not http://HOST/PATH or https://HOST/PATH")
    scheme = parts["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        raise _bad_url("its scheme is neither http nor https")
    port = int(parts["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise _bad_url("its port is not one")
    path = _RESERVED.sub(_encode, _PERCENT.sub(_decode_unreserved, parts["path"]))
    if is_endpoint:
        path = path if path.endswith("/") else path + "/"
    if path != "/" or not is_endpoint:
        _check_path(path, is_endpoint=is_endpoint)
    suffix = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{parts['host'].lower().rstrip('.')}{suffix}{path}"


def _check_path(path: str, *, is_endpoint: bool) -> None:
    if not _PATH.fullmatch(path) or (path.endswith("/") and not is_endpoint):
        raise _bad_url("its path has a query, a fragment, an empty part or a raw special character")
    if any(part in (".", "..") for part in path.split("/")):
        raise _bad_url("its path has '.' or '..' in it")
    if re.search(r"%(2F|5C|00|[01][0-9A-F]|7F)", path):
        raise _bad_url("its path has an encoded slash, backslash or control character")


def _decode_unreserved(match: "re.Match[str]") -> str:
    code = int(match[1], 16)
    return chr(code) if code in _UNRESERVED else f"%{match[1].upper()}"


def _encode(match: "re.Match[str]") -> str:
    return f"%{ord(match[0]):02X}"


def _bad_url(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"X-Storage-Url does not name an object: {why}",
        code="bad-storage-url",
        advice="give the full URL of the object, without user, query or fragment",
    )
