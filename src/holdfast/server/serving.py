"""What every HTTP process of ours is served with: bound sockets, bounded requests, TLS, signals.

Invariants:

1. A port is bound before anything is served or said to be; a port in use is an error.
2. SIGTERM and SIGINT: no new connection is taken, requests under way are answered.
3. SIGHUP loads the certificates anew for connections to come; if they do not load, nothing changes.
4. Request line and headers have a size and a time to arrive in; the parser has neither.
5. A client that takes nothing of what was sent to it, or is gone without a word, holds its socket
   for no longer than UNANSWERED_MS, whatever still waits to be sent: the kernel ends it.
"""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdfast.errors import ConflictError, InvalidRequestError
from holdfast.model.limits import KIB
from holdfast.stores.nodes.channel import prepare_socket

CONNECTIONS_MAX: Final = 4096
HEAD_BYTES_MAX: Final = 64 * KIB
"""Request line and headers of one request."""
HEAD_S: Final = 30.0
"""Time a connection has to send the head of a request it began."""
FINISH_S: Final = 30
PEER_NAMES: Final = "peer_names"
"""In `scope["state"]`: the names in the client's certificate, checked; empty without one."""

_log = logging.getLogger("holdfast.serving")


class Certificates:
    """The TLS context of a port; reloading changes it in place."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        ca: Path | None = None,
        is_client_asked: bool = False,
        advice: str,
    ) -> None:
        """Load the files.

        Args:
            ca: Authorities, only checked unless `is_client_asked`.
            is_client_asked: Take certificates of clients signed by `ca`; who shows none is let in,
                nameless.
            advice: Names the settings to look at if the files do not load.

        Raises:
            InvalidRequestError: `bad-certificate`.
        """
        self._certificate = certificate
        self._key = key
        self._ca = ca
        self._is_client_asked = is_client_asked
        self._advice = advice
        self.context = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def reload(self) -> None:
        """Take the files as they are now; keep the old certificate if they do not load."""
        try:
            # First into a context of no use: a key that does not match must not half-replace.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
            _log.warning("certificates reloaded")
        except InvalidRequestError as error:
            _log.error("certificates not reloaded: %s", error.message)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        try:
            if self._ca is not None:
                ssl.create_default_context(cafile=self._ca)
            if self._ca is not None and self._is_client_asked:
                context.load_verify_locations(self._ca)
                context.verify_mode = ssl.CERT_OPTIONAL
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequestError(
                f"the certificate files do not load: {error.strerror or error}",
                code="bad-certificate",
                advice=self._advice,
            ) from error
        return context


def names_of(certificate: Mapping[str, object] | None) -> tuple[str, ...]:
    """Return the DNS names of a checked certificate as `getpeercert` has it; else its common name.

    Args:
        certificate: None or empty where the client showed none.
    """
    if not certificate:
        return ()
    alternatives = certificate.get("subjectAltName", ())
    assert isinstance(alternatives, tuple)
    names = tuple(name for kind, name in alternatives if kind == "DNS")
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    common = (value for part in subject for kind, value in part if kind == "commonName")
    return names or tuple(common)


class BoundedRequests(HttpToolsProtocol):
    """The protocol with limits on the head of a request, and the names of the client."""

    head_s = HEAD_S
    _head_bytes = 0
    _is_in_body = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """See HttpToolsProtocol."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        names = names_of(tls.getpeercert()) if tls is not None else ()
        self.app_state = {**self.app_state, PEER_NAMES: names}
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """See HttpToolsProtocol."""
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the head of a request has grown too long; then close."""
        while data and not self.transport.is_closing():
            # What comes at once may be a head and a long body: only what may be head is counted.
            part = data if self._is_in_body else data[: HEAD_BYTES_MAX + 1 - self._head_bytes]
            data = data[len(part) :]
            if not self._is_in_body:
                if not self._head_bytes and self._deadline is None:
                    self._start_deadline()
                self._head_bytes += len(part)
            super().data_received(part)
            if not self._is_in_body and self._head_bytes > HEAD_BYTES_MAX:
                self.transport.close()

    def on_headers_complete(self) -> None:
        """See HttpToolsProtocol."""
        self._is_in_body = True
        self._stop_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See HttpToolsProtocol."""
        self._is_in_body, self._head_bytes = False, 0
        super().on_message_complete()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.head_s, self.transport.close)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """A server that leaves signals to its composition root."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(
    application: ASGIApp, certificates: Certificates | None, *, finish_s: float = FINISH_S
) -> Server:
    """Return a server for a bound socket; run by its `serve([socket])`."""
    config = uvicorn.Config(
        application,
        http=BoundedRequests,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(finish_s),
    )
    config.load()
    if certificates is not None:
        config.ssl = certificates.context
    return Server(config)


def stop_servers(servers: Sequence[Server]) -> None:
    """Have servers take no more connections and end when what is under way is answered."""
    for server in servers:
        server.should_exit = True


@contextlib.contextmanager
def signals(stop: Callable[[], None], hang_up: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `stop` and SIGHUP `hang_up` in the running loop."""
    loop = asyncio.get_running_loop()
    actions = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hang_up}
    for number, action in actions.items():
        loop.add_signal_handler(number, functools.partial(action))
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        InvalidRequestError: `bad-setting`: not an address of this machine.
        ConflictError: `port-taken`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except socket.gaierror as error:
        raise InvalidRequestError(
            f"{host!r} is not an address of this machine: {error.strerror}", code="bad-setting"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        prepare_socket(bound)  # What is accepted from it inherits all of that.
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise ConflictError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            code="port-taken",
            advice="stop what uses it, or set another",
        ) from error
    return bound


def url_of(scheme: str, bound: socket.socket) -> str:
    """Return where a listening socket is reached."""
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
