"""Who may do what at a node: tokens from a file, names in client certificates; secrets of peers.

Invariants:

1. A token is compared by its SHA-256 digest, in constant time, with every known one; what is kept
   and what can be read from the file never tells a token.
2. With neither tokens nor certificates configured everyone may do everything; the settings allow
   that on loopback alone. With either, whoever is not known is refused.
3. A file that others may change (tokens) or read (secrets) is refused at the start.
"""

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import HTTPConnection

from holdfast.errors import DeniedError, InvalidRequestError
from holdfast.files.migration.model import PeerTls, SourceKind, SourcePeer
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.server.node_options import PeerSettings
from holdfast.server.node_settings import NodeSettings, parse_permissions
from holdfast.server.serving import PEER_NAMES

TOKEN_BYTES_MAX: Final = 1024
TOKENS_MAX: Final = 1000
_FILE_BYTES_MAX: Final = 1 << 20
_LINE: Final = re.compile(r"(\S{1,128})\s+([a-z,]{1,64})\s+sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """One line of the token file."""

    name: str
    permissions: frozenset[Permission]
    digest: bytes


class Access:
    """Says what a caller may do. Its tokens can be read anew while it is in use."""

    def __init__(self, settings: NodeSettings) -> None:
        self._token_file = Path(settings.access.token_file) if settings.access.token_file else None
        self._certificates: Mapping[str, frozenset[Permission]] = settings.access.certificates
        self._is_open = settings.is_open
        self._tokens: tuple[KnownToken, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Read the token file as it is now; if it cannot be used, nothing changes.

        Raises:
            InvalidRequestError: `bad-token-file`.
        """
        if self._token_file is not None:
            self._tokens = read_tokens(self._token_file)

    def authorize(
        self, token: bytes | None, certificate_names: tuple[str, ...]
    ) -> frozenset[Permission]:
        """Return what the bearer of a token and a certificate may do, both taken together.

        Raises:
            DeniedError: `no-credentials`, or `bad-credentials` if what was shown is not known.
        """
        if self._is_open:
            return ALL_PERMISSIONS
        granted: frozenset[Permission] = frozenset()
        for name in certificate_names:
            granted |= self._certificates.get(name, frozenset())
        if token is not None:
            granted |= self._of_token(token)
        if not granted:
            is_nobody = token is None and not certificate_names
            raise DeniedError(
                "the node does not know this caller",
                code="no-credentials" if is_nobody else "bad-credentials",
                advice="send 'Authorization: Bearer TOKEN' with a token of the node's token file, "
                "or show a client certificate whose name it knows",
            )
        return granted

    def of_request(self, connection: HTTPConnection) -> frozenset[Permission]:
        """Return what the sender of an HTTP request may do; raises as `authorize`."""
        names = connection.scope.get("state", {}).get(PEER_NAMES, ())
        return self.authorize(_bearer(connection), names)

    def _of_token(self, token: bytes) -> frozenset[Permission]:
        digest = hashlib.sha256(token).digest()
        granted: frozenset[Permission] = frozenset()
        for known in self._tokens:
            # No early end: how long it takes tells nothing of which one it was.
            if hmac.compare_digest(known.digest, digest):
                granted |= known.permissions
        return granted


def read_tokens(path: Path) -> tuple[KnownToken, ...]:
    """Return the tokens of a file.

    Raises:
        InvalidRequestError: `bad-token-file`, with the line, but nothing of what it holds.
    """
    text = _read(path, others_may_not=stat.S_IWGRP | stat.S_IWOTH)
    tokens: list[KnownToken] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None or len(tokens) == TOKENS_MAX:
            raise _bad_file(
                path,
                f"line {number} is not 'NAME PERMISSION,... sha256:DIGEST' with 64 digits, or is"
                f" beyond {TOKENS_MAX} tokens",
            )
        try:
            permissions = parse_permissions(match[2].split(","), f"line {number}")
        except InvalidRequestError as error:
            raise _bad_file(path, error.message) from error
        tokens.append(
            KnownToken(name=match[1], permissions=permissions, digest=bytes.fromhex(match[3]))
        )
    if not tokens:
        raise _bad_file(path, "there is no token in it")
    return tuple(tokens)


def source_peer(host: str, peer: PeerSettings) -> SourcePeer:
    """Return a peer with its secrets read; raises as `read_secret`."""
    tls = PeerTls(
        ca=Path(peer.ca) if peer.ca else None,
        certificate=Path(peer.certificate) if peer.certificate else None,
        key=Path(peer.key) if peer.key else None,
    )
    return SourcePeer(
        host=host,
        port=peer.port,
        kind=SourceKind(peer.kind),
        tls=tls if peer.tls else None,
        token=read_secret(Path(peer.token_file)) if peer.token_file else None,
    )


def read_secret(path: Path) -> str:
    """Return the token on the first line of a file that its owner alone may read.

    Raises:
        InvalidRequestError: `bad-token-file`.
    """
    text = _read(path, others_may_not=0o077)
    token = text.partition("\n")[0].strip()
    if not token or len(token) > TOKEN_BYTES_MAX or not token.isascii() or not token.isprintable():
        raise _bad_file(path, f"its first line is not a token of up to {TOKEN_BYTES_MAX} letters")
    return token


def _read(path: Path, *, others_may_not: int) -> str:
    try:
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            raw = stream.read(_FILE_BYTES_MAX + 1)
        text = raw.decode()
    except OSError as error:
        raise _bad_file(path, error.strerror or "cannot be read") from error
    except UnicodeDecodeError as error:
        raise _bad_file(path, "is not text") from error
    if len(raw) > _FILE_BYTES_MAX:
        raise _bad_file(path, f"has more than {_FILE_BYTES_MAX} bytes")
    if stat.S_ISREG(mode) and mode & others_may_not:
        raise _bad_file(path, f"its mode {stat.S_IMODE(mode):04o} lets others at it")
    return text


def _bearer(connection: HTTPConnection) -> bytes | None:
    header = connection.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > TOKEN_BYTES_MAX:
        return None
    return token.strip().encode("latin-1", "replace")


def _bad_file(path: Path, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the token file {path}: {why}",
        code="bad-token-file",
        advice="see 'Tokens' in docs/guide/migrate.md; chmod 600 keeps others away",
    )
