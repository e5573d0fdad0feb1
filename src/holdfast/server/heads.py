"""Composition root of the heads service: register, store, HTTP ports, TLS and signals.

Invariants, beside those of serving.py:

1. When the servers have ended, every commit that began is ended, then the register is closed.
2. A register that failed ends the service with its error: what was under way is answered, and only
   opening it anew recovers.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from holdfast.errors import (
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
from holdfast.ports import ObjectAccess, Register
from holdfast.server.serving import (
    Certificates,
    Server,
    bind,
    make_server,
    signals,
    stop_servers,
    url_of,
)
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
    service_socket = bind(settings.listen_address, settings.port)
    admin_socket = bind(settings.admin_listen_address, settings.admin_port)
    tls = _certificates(settings)
    connection = StoreConnection(
        timeout_s=settings.swift_timeout_s,
        connections_max=settings.swift_connection_pool_size,
        ca_context=_store_context(settings.store_ca_cert_file),
    )
    register = open_register(settings)
    servers: list[Server] = []
    failures: list[StorageFailedError] = []

    def fail(error: StorageFailedError) -> None:
        failures.append(error)
        stop_servers(servers)

    around = _surroundings(settings, register, connection, fail)
    heads = Heads(around)
    metrics = Metrics(lambda: around.transactions.pending_count)
    routes = IckptRoutes(heads, metrics, around.clock, settings.body_limit_bytes)
    servers += [make_server(routes, tls), make_server(admin_application(heads, metrics), None)]
    if not settings.realms:
        _log.warning("no StoreEndpoints are set: every request will be answered 403")
    scheme = "https" if tls else "http"
    try:
        with signals(lambda: stop_servers(servers), tls.reload if tls else lambda: None):
            announce(f"{url_of(scheme, service_socket)} admin {url_of('http', admin_socket)}")
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


def _certificates(settings: HeadsSettings) -> Certificates | None:
    if not settings.is_tls:
        return None
    return Certificates(
        Path(settings.cert_file),
        Path(settings.key_file),
        ca=Path(settings.ca_cert_file),
        advice="check CertFilePath, KeyFilePath and CACertFilePath",
    )


def _store_context(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(
            f"StoreCACertFilePath {ca_file} does not load: {error}", code="bad-certificate"
        ) from error
