"""Composition root of the heads service: register, store, HTTP ports, TLS and signals.

Invariants:

1. Both ports are bound before anything is served or said to be; a port in use is an error.
2. SIGTERM and SIGINT: no new connection is taken, requests under way are answered, every commit
   that began is ended, then the register is closed.
3. A register that failed ends the service with its error: what was under way is answered, and only
   opening it anew recovers.
4. SIGHUP loads the certificates anew for connections to come; if they do not load, nothing changes.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdfast.errors import (
    ConflictError,
    DeniedError,
    InvalidRequestError,
    NotFoundError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.heads.address import Dialect
from holdfast.heads.advance import checkpoint_components
from holdfast.heads.conf import HeadsSettings, parse_settings
from holdfast.heads.gate import Gate
from holdfast.heads.http import IckptRoutes, admin_application
from holdfast.heads.lanes import Lanes
from holdfast.heads.metrics import Metrics
from holdfast.heads.probing import ProbeReport, probe_conditional_writes
from holdfast.heads.rules import Transactions
from holdfast.heads.service import Heads, Surroundings
from holdfast.model.limits import KIB
from holdfast.ports import ObjectAccess, Register
from holdfast.stores.objects.access import S3Access, SwiftAccess
from holdfast.stores.objects.connection import StoreConnection
from holdfast.stores.objects.s3 import S3Conditions
from holdfast.stores.objects.s3_signature import S3Keys
from holdfast.stores.registers.etcd import EtcdRegister
from holdfast.stores.registers.etcd_client import EtcdClient, EtcdSettings
from holdfast.stores.registers.sqlite import SqliteRegister
from holdfast.stores.system import SystemClock, SystemEntropy

REGISTER_FILE: Final = "heads.sqlite"
PENDING_MAX: Final = 65536
OUTCOMES_MAX: Final = 65536
WAITING_MAX: Final = 256
"""Requests that wait for one head; more are refused at once."""
CONNECTIONS_MAX: Final = 4096
HEAD_BYTES_MAX: Final = 64 * KIB
"""Request line and headers of one request."""
FINISH_S: Final = 30
PROBE_TIMEOUT_S: Final = 30.0

_log = logging.getLogger("holdfast.heads")


def load_settings(path: Path, overrides: list[str]) -> HeadsSettings:
    """Read a conf file, TOML if its name ends so; errors as parse_settings, or NotFoundError."""
    try:
        text = path.read_text()
    except OSError as error:
        raise NotFoundError(
            f"the conf file {path} cannot be read: {error.strerror}",
            code="no-conf",
            advice="name it with --conf",
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is not text", code="bad-setting") from error
    return parse_settings(text, is_toml=path.suffix == ".toml", overrides=overrides)


async def serve_heads(settings: HeadsSettings, announce: Callable[[str], None]) -> None:
    """Serve until told to stop by a signal.

    Args:
        announce: Told once, when both ports take connections: the URLs.
    """
    service_socket = _bind(settings.listen_address, settings.port)
    admin_socket = _bind(settings.admin_listen_address, settings.admin_port)
    tls = _Certificates(settings) if settings.is_tls else None
    connection = StoreConnection(
        timeout_s=settings.swift_timeout_s,
        connections_max=settings.swift_connection_pool_size,
        ca_context=_store_context(settings.store_ca_cert_file),
    )
    register = open_register(settings)
    servers: list[_Server] = []
    failures: list[StorageFailedError] = []

    def fail(error: StorageFailedError) -> None:
        failures.append(error)
        _stop(servers)

    around = _surroundings(settings, register, connection, fail)
    heads = Heads(around)
    metrics = Metrics(lambda: around.transactions.pending_count)
    routes = IckptRoutes(heads, metrics, around.clock, settings.body_limit_bytes)
    servers += [
        _Server(_config(routes, tls)),
        _Server(_config(admin_application(heads, metrics), None)),
    ]
    if not settings.realms:
        _log.warning("no StoreEndpoints are set: every request will be answered 403")
    scheme = "https" if tls else "http"
    try:
        with _signals(servers, tls):
            announce(f"{_url(scheme, service_socket)} admin {_url('http', admin_socket)}")
            await asyncio.gather(
                servers[0].serve([service_socket]), servers[1].serve([admin_socket])
            )
    finally:
        await heads.finish()
        await register.close()
        await connection.close()
    if failures:
        raise failures[0]


def _surroundings(
    settings: HeadsSettings,
    register: Register,
    connection: StoreConnection,
    on_failure: Callable[[StorageFailedError], None],
) -> Surroundings:
    clock = SystemClock()
    access: dict[Dialect, ObjectAccess] = {
        Dialect.SWIFT: SwiftAccess(connection),
        Dialect.S3: S3Access(connection, clock, settings.store_region),
    }
    return Surroundings(
        register=register,
        gate=Gate(access, clock, cache_ns=int(settings.token_cache_time_s * 1e9)),
        realms=settings.realms,
        transactions=Transactions(
            timeout_ns=int(settings.transaction_timeout_s * 1e9),
            pending_max=PENDING_MAX,
            outcomes_max=OUTCOMES_MAX,
        ),
        store_lanes=Lanes(
            width=settings.swift_connection_pool_size // 8,
            waiting_max=WAITING_MAX,
            timeout_s=settings.swift_timeout_s,
        ),
        commit_lanes=Lanes(width=1, waiting_max=WAITING_MAX, timeout_s=settings.commit_timeout_s),
        clock=clock,
        entropy=SystemEntropy(),
        commit_timeout_s=settings.commit_timeout_s,
        on_failure=on_failure,
        components_of=checkpoint_components if settings.monotonic else None,
    )


def open_register(settings: HeadsSettings) -> Register:
    """Open the home of heads that the settings name; made inside a running loop."""
    if settings.etcd_endpoints:
        return EtcdRegister(EtcdClient(_etcd_settings(settings)), settings.etcd_prefix)
    directory = Path(settings.database_path)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DeniedError(
            f"DataBasePath {directory} cannot be made: {error.strerror}",
            code="database-denied",
            advice="make it, writable for the user that runs this",
        ) from error
    return SqliteRegister(directory / REGISTER_FILE)


def open_register_file(path: Path) -> Register:
    """Open an existing register file; NotFoundError if there is none."""
    if not path.is_file():
        raise NotFoundError(
            f"there is no register at {path}",
            code="no-register",
            advice="name the file heads.sqlite below DataBasePath",
        )
    return SqliteRegister(path)


def make_write_id() -> str:
    """Return a fresh write id for an advance from the command line."""
    return "cli-" + SystemEntropy().random_bytes(16).hex()


def make_transaction_id() -> str:
    """Return a fresh transaction id, spelt as ProxyFS does."""
    return "/" + SystemEntropy().random_bytes(8).hex().upper()


async def probe_store(url: str, keys: S3Keys) -> ProbeReport:
    """Race conditional writes below `url` and report whether heads could live there."""
    connection = StoreConnection(timeout_s=PROBE_TIMEOUT_S, connections_max=WAITING_MAX)
    try:
        objects = S3Conditions(url, keys, SystemClock(), connection)
        return await probe_conditional_writes(objects, SystemEntropy())
    finally:
        await connection.close()


def keys_from_environment() -> S3Keys:
    """Return the keys that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY hold."""
    return S3Keys(
        access_key=os.environ.get("AWS_ACCESS_KEY_ID", ""),
        secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        region=os.environ.get("AWS_REGION", "us-east-1"),
    )


def _etcd_settings(settings: HeadsSettings) -> EtcdSettings:
    password = ""
    if settings.etcd_password_file:
        try:
            password = Path(settings.etcd_password_file).read_text().partition("\n")[0]
        except OSError as error:
            raise InvalidRequestError(
                f"EtcdPasswordFilePath cannot be read: {error.strerror}", code="bad-setting"
            ) from error
    return EtcdSettings(
        endpoints=settings.etcd_endpoints,
        user=settings.etcd_user,
        password=password,
        ca_path=_path(settings.etcd_ca_cert_file),
        certificate_path=_path(settings.etcd_cert_file),
        key_path=_path(settings.etcd_key_file),
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


class _Certificates:
    """The TLS context of the service's port; reloading changes it in place."""

    def __init__(self, settings: HeadsSettings) -> None:
        self._settings = settings
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
        settings = self._settings
        try:
            ssl.create_default_context(cafile=settings.ca_cert_file)
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequestError(
                f"the certificate files do not load: {error.strerror or error}",
                code="bad-certificate",
                advice="check CertFilePath, KeyFilePath and CACertFilePath",
            ) from error
        return context


class _BoundedRequests(HttpToolsProtocol):
    """The protocol with a limit on request line and headers, which its parser has not."""

    _head_bytes = 0
    _is_in_body = False

    def data_received(self, data: bytes) -> None:
        """Parse, unless the head of a request has grown too long; then close."""
        if not self._is_in_body:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.close()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """See HttpToolsProtocol."""
        self._is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See HttpToolsProtocol."""
        self._is_in_body, self._head_bytes = False, 0
        super().on_message_complete()


class _Server(uvicorn.Server):
    """A server that leaves signals to its composition root."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _stop(servers: list[_Server]) -> None:
    for server in servers:
        server.should_exit = True


@contextlib.contextmanager
def _signals(servers: list[_Server], tls: _Certificates | None) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def hang_up() -> None:
        if tls is not None:
            tls.reload()

    actions: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: functools.partial(_stop, servers),
        signal.SIGINT: functools.partial(_stop, servers),
        signal.SIGHUP: hang_up,
    }
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


def _config(application: ASGIApp, tls: _Certificates | None) -> uvicorn.Config:
    config = uvicorn.Config(
        application,
        http=_BoundedRequests,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=FINISH_S,
    )
    config.load()
    if tls is not None:
        config.ssl = tls.context
    return config


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except socket.gaierror as error:
        raise InvalidRequestError(
            f"{host!r} is not an address of this machine: {error.strerror}", code="bad-setting"
        ) from error
    except OSError as error:
        raise ConflictError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            code="port-taken",
            advice="stop what uses it, or set another",
        ) from error
    return bound


def _store_context(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(
            f"StoreCACertFilePath {ca_file} does not load: {error}", code="bad-certificate"
        ) from error


def _url(scheme: str, bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
