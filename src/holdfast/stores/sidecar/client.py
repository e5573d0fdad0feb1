"""One blocking connection to a Cassandra Sidecar: all requests are reads, sent again on faults.

Made in the process that uses it: a fork begins with a connection of its own. Of a request that is
answered `busy` (503, and 429 of an old revision) the wait it names is kept, up to a cap; without
one, and after lost connections, waits double and have jitter. All waits together are bounded.

Invariants:
1. One answer is read at a time; a new request gives up an unread one, whose reader asks anew.
2. An answer's body is never taken whole unless its length was bounded first.
"""

import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from holdfast.errors import DeniedError, UnavailableError
from holdfast.ports import Clock, Entropy
from holdfast.stores.nodes.channel import prepare_socket

ROUTE: Final = "/api/v1/live-migration/files"
ANSWER_S: Final = 30.0
_PAUSE_S: Final = 0.5
_PAUSE_S_MAX: Final = 10.0
PATIENCE_S: Final = 60.0
"""How long a source may be away or busy before a call gives up."""
_BUSY: Final = (429, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarAddress:
    """Where a Sidecar listens."""

    host: str
    port: int


def file_url(name: str, path: bytes) -> str:
    """Return the route of a file; a Sidecar decodes what its own listing does not encode."""
    return f"{ROUTE}/{name}/{quote(path)}"


class SidecarClient:
    """Owned by one tree reader in each process; not for threads."""

    def __init__(
        self,
        address: SidecarAddress,
        *,
        token: str | None,
        tls: ssl.SSLContext | None,
        clock: Clock,
        entropy: Entropy,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Connect to nothing yet."""
        self.address = address
        self._headers = {"Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._tls = tls
        self._clock = clock
        self._entropy = entropy
        self._patience_s = patience_s
        self._connection: http.client.HTTPConnection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._owner = os.getpid()

    def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        answer_s: float = ANSWER_S,
    ) -> http.client.HTTPResponse:
        """Return the answer to a GET once there is one that is not `busy`; its body is unread.

        Args:
            url, headers: What to ask.
            answer_s: How long the source may work on it without a word; if it is gone meanwhile,
                that is noticed sooner.

        Raises:
            UnavailableError: `source-unreachable`, `busy`, `certificate-untrusted`.
            DeniedError: `source-refused`: it does not know this side.
        """
        failing_since_ns = None
        tries = 0
        while True:
            told_s = None
            try:
                answer = self._get_once(url, headers or {}, answer_s)
                if answer.status in (401, 403) and not url.startswith(ROUTE + "/"):
                    raise self._refused(answer.status)
                if answer.status == 401:
                    raise self._refused(answer.status)
                if answer.status not in _BUSY:
                    return answer
                code, why = "busy", f"it answered {answer.status}"
                told_s = _seconds(answer.headers.get("Retry-After"))
            except ssl.SSLCertVerificationError as error:
                raise UnavailableError(
                    f"{self._name()}: its certificate cannot be trusted: {error.verify_message}",
                    code="certificate-untrusted",
                    advice="name the authority that signed it",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                code, why = "source-unreachable", str(error) or type(error).__name__
            self.drop()
            pause_s = self._pause_s(tries, told_s)
            tries += 1
            now_ns = self._clock.monotonic_ns()
            failing_since_ns = failing_since_ns or now_ns
            if (now_ns - failing_since_ns) / 1e9 + pause_s > self._patience_s:
                raise UnavailableError(
                    f"{self._name()} does not serve: {why}",
                    code=code,
                    advice="check that it runs and is not overloaded, then run it again",
                )
            self._clock.sleep(pause_s)

    def _get_once(
        self, url: str, headers: Mapping[str, str], answer_s: float
    ) -> http.client.HTTPResponse:
        connection = self._connected()
        if connection.sock is None:
            connection.connect()
            prepare_socket(_socket_of(connection))
        _socket_of(connection).settimeout(answer_s)
        connection.request("GET", url, headers={**self._headers, **headers})
        self._answer = connection.getresponse()
        return self._answer

    def _connected(self) -> http.client.HTTPConnection:
        if self._owner != os.getpid():
            # The forker's socket: closing our copy of it says nothing to the other side.
            self._owner, self._connection, self._answer = os.getpid(), None, None
        if self._answer is not None and not self._answer.isclosed():
            self.drop()
        if self._connection is None:
            address = self.address
            if self._tls is None:
                self._connection = http.client.HTTPConnection(
                    address.host, address.port, timeout=ANSWER_S
                )
            else:
                self._connection = http.client.HTTPSConnection(
                    address.host, address.port, timeout=ANSWER_S, context=self._tls
                )
        return self._connection

    def _pause_s(self, tries: int, told_s: float | None) -> float:
        draw = self._entropy.random_bytes(1)[0] / 255
        if told_s is not None:
            return min(_PAUSE_S_MAX, told_s) + draw / 4
        return min(_PAUSE_S_MAX, _PAUSE_S * (1 << min(tries, 8))) * (0.5 + draw / 2)

    def drop(self) -> None:
        """Let go of the connection; the next request makes another."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = self._answer = None

    def _name(self) -> str:
        return f"{self.address.host}:{self.address.port}"

    def _refused(self, status: int) -> DeniedError:
        return DeniedError(
            f"{self._name()} does not let this host in: it answered {status}",
            code="source-refused",
            advice="give it a certificate or token that the Sidecar lets copy",
        )


def _socket_of(connection: http.client.HTTPConnection) -> socket.socket:
    assert connection.sock is not None
    return connection.sock


def _seconds(text: str | None) -> float | None:
    """Return the whole seconds of a Retry-After; None for a date or anything else."""
    text = (text or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
