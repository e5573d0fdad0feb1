"""The settings of the heads service: ickpt's conf file or TOML, and overrides, checked.

Reads texts, no files; every option stands once, in OPTIONS, with unit and range.

Invariants:

1. An unknown section or option, a value out of range or of another kind is refused.
2. TLS is all or nothing: of certificate, key and CA all are set or none.
3. No listening beyond loopback without TLS, unless AllowPlainHTTP says so.

Source: the [ICKPT] section of ProxyFS; `Section.Option=value` overrides as there.
"""

import ipaddress
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast.errors import InvalidRequestError
from holdfast.heads.address import Realm, parse_realm
from holdfast.model.limits import HEAD_VALUE_BYTES_MAX

Value = str | float | bool | tuple[str, ...]

SECTION: Final = "ICKPT"
TABLE: Final = "heads"
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LINE: Final = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9]*)\s*[:=]\s*(?P<value>.*)")
_OBSOLETE: Final = ("SwiftRetryDelay", "SwiftRetryExpBackoff", "SwiftRetryLimit")
"""Of an older ickpt: taken and left alone, as its successor did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting."""

    name: str
    """In [ICKPT]; the original's options have the original's names."""
    toml: str
    """In the table [heads] of TOML; durations there are numbers of seconds."""
    kind: type[str] | type[int] | type[float] | type[bool] | type[tuple[str, ...]]
    """float is a duration in seconds, written as 10m or 250ms in a conf file."""
    default: Value
    meaning: str
    low: float = 0
    high: float = 0


OPTIONS: Final = (
    Option(
        name="IPAddr",
        toml="listen_address",
        kind=str,
        default="127.0.0.1",
        meaning="Address or host name to listen on.",
    ),
    Option(
        name="Port",
        toml="port",
        kind=int,
        default=33123,
        low=0,
        high=65535,
        meaning="TCP port; 0 takes a free one and prints it.",
    ),
    Option(
        name="CertFilePath",
        toml="cert_file",
        kind=str,
        default="",
        meaning="Certificate chain, PEM. TLS if this and the next two are set, TCP if none is.",
    ),
    Option(name="KeyFilePath", toml="key_file", kind=str, default="", meaning="Private key, PEM."),
    Option(
        name="CACertFilePath",
        toml="ca_cert_file",
        kind=str,
        default="",
        meaning="Certificate authority that clients trust, PEM; checked at the start.",
    ),
    Option(
        name="DataBasePath",
        toml="database_path",
        kind=str,
        default="",
        meaning="Directory of the SQLite register, made if missing (mode 0700).",
    ),
    Option(
        name="SwiftTimeout",
        toml="swift_timeout_s",
        kind=float,
        default=600.0,
        low=0.01,
        high=3600,
        meaning="Longest wait for the object store, for each request to it.",
    ),
    Option(
        name="SwiftConnectionPoolSize",
        toml="swift_connection_pool_size",
        kind=int,
        default=128,
        low=8,
        high=4096,
        meaning="Connections to the object store at once; one head uses an eighth at most.",
    ),
    Option(
        name="TransactionTimeout",
        toml="transaction_timeout_s",
        kind=float,
        default=10.0,
        low=0.01,
        high=3600,
        meaning="Time from PUT or DELETE to its POST; after that it cannot commit.",
    ),
    Option(
        name="StoreEndpoints",
        toml="store_endpoints",
        kind=tuple[str, ...],
        default=(),
        meaning="Stores that X-Storage-Url may name, as SCHEME://HOST:PORT/PATH/; proxies of one "
        "store as A|B; a store that speaks S3 as s3+URL. Anything else is answered 403 and never "
        "connected to.",
    ),
    Option(
        name="StoreCACertFilePath",
        toml="store_ca_cert_file",
        kind=str,
        default="",
        meaning="Certificate authority of the store, PEM; the system's if empty.",
    ),
    Option(
        name="StoreRegion",
        toml="store_region",
        kind=str,
        default="us-east-1",
        meaning="Region in the signatures for stores that speak S3.",
    ),
    Option(
        name="EtcdEndpoints",
        toml="etcd_endpoints",
        kind=tuple[str, ...],
        default=(),
        meaning="Client URLs of an etcd cluster; if set, heads live there, not in DataBasePath.",
    ),
    Option(
        name="EtcdPrefix",
        toml="etcd_prefix",
        kind=str,
        default="/holdfast/",
        meaning="All keys of this register begin with it; nobody else writes there.",
    ),
    Option(name="EtcdUser", toml="etcd_user", kind=str, default="", meaning="Name at etcd."),
    Option(
        name="EtcdPasswordFilePath",
        toml="etcd_password_file",
        kind=str,
        default="",
        meaning="File with the password at etcd on its first line.",
    ),
    Option(
        name="EtcdCACertFilePath",
        toml="etcd_ca_cert_file",
        kind=str,
        default="",
        meaning="Certificate authority of etcd, PEM; the system's if empty.",
    ),
    Option(
        name="EtcdCertFilePath",
        toml="etcd_cert_file",
        kind=str,
        default="",
        meaning="Certificate shown to etcd, PEM.",
    ),
    Option(
        name="EtcdKeyFilePath",
        toml="etcd_key_file",
        kind=str,
        default="",
        meaning="Key of the certificate shown to etcd, PEM.",
    ),
    Option(
        name="AdminIPAddr",
        toml="admin_listen_address",
        kind=str,
        default="127.0.0.1",
        meaning="Address of the admin port.",
    ),
    Option(
        name="AdminPort",
        toml="admin_port",
        kind=int,
        default=33124,
        low=0,
        high=65535,
        meaning="Port of /metrics and /readyz, never with TLS; 0 takes a free one.",
    ),
    Option(
        name="AllowPlainHTTP",
        toml="allow_plain_http",
        kind=bool,
        default=False,
        meaning="Listen beyond loopback without TLS: tokens then cross the network in the clear.",
    ),
    Option(
        name="Monotonic",
        toml="monotonic",
        kind=bool,
        default=False,
        meaning="Values are ProxyFS checkpoints and only grow; forks are refused with evidence.",
    ),
    Option(
        name="CommitTimeout",
        toml="commit_timeout_s",
        kind=float,
        default=10.0,
        low=0.01,
        high=600,
        meaning="Longest wait for the register and for other requests for the same head.",
    ),
    Option(
        name="TokenCacheTime",
        toml="token_cache_time_s",
        kind=float,
        default=0.0,
        low=0,
        high=3600,
        meaning="How long a yes of the store is trusted for the same token; 0: never.",
    ),
    Option(
        name="BodyLimit",
        toml="body_limit_bytes",
        kind=int,
        default=HEAD_VALUE_BYTES_MAX,
        low=67,
        high=HEAD_VALUE_BYTES_MAX,
        meaning="Longest body, in bytes.",
    ),
)
_BY_NAME: Final = {option.name.lower(): option for option in OPTIONS}
_BY_TOML: Final = {option.toml: option for option in OPTIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsSettings:
    """All settings, each within its range; the names of OPTIONS' `toml`."""

    listen_address: str
    port: int
    cert_file: str
    key_file: str
    ca_cert_file: str
    database_path: str
    swift_timeout_s: float
    swift_connection_pool_size: int
    transaction_timeout_s: float
    realms: tuple[Realm, ...]
    store_ca_cert_file: str
    store_region: str
    etcd_endpoints: tuple[str, ...]
    etcd_prefix: str
    etcd_user: str
    etcd_password_file: str
    etcd_ca_cert_file: str
    etcd_cert_file: str
    etcd_key_file: str
    admin_listen_address: str
    admin_port: int
    allow_plain_http: bool
    monotonic: bool
    commit_timeout_s: float
    token_cache_time_s: float
    body_limit_bytes: int

    @property
    def is_tls(self) -> bool:
        """Whether the service's port speaks TLS."""
        return bool(self.cert_file)


def parse_settings(text: str, *, is_toml: bool, overrides: Iterable[str] = ()) -> HeadsSettings:
    """Return the settings of a file's text with `Section.Option=value` overrides laid over it.

    Raises:
        InvalidRequestError: `bad-setting`, with the option's name in the message.
    """
    values: dict[str, Value] = {option.toml: option.default for option in OPTIONS}
    values |= _parse_toml(text) if is_toml else _parse_conf(text)
    for override in overrides:
        values |= _parse_override(override)
    return _settings(values)


def _settings(values: dict[str, Value]) -> HeadsSettings:
    endpoints = values.pop("store_endpoints")
    assert isinstance(endpoints, tuple)
    realms = tuple(parse_realm(text) for text in endpoints)
    settings = HeadsSettings(realms=realms, **values)  # type: ignore[arg-type]
    files = (settings.cert_file, settings.key_file, settings.ca_cert_file)
    if any(files) and not all(files):
        raise _bad("CertFilePath", "CertFilePath, KeyFilePath and CACertFilePath go together")
    if not settings.database_path and not settings.etcd_endpoints:
        raise _bad("DataBasePath", "heads need a home: set DataBasePath or EtcdEndpoints")
    if not settings.is_tls and not settings.allow_plain_http:
        _check_loopback("IPAddr", settings.listen_address)
    if not settings.allow_plain_http:
        _check_loopback("AdminIPAddr", settings.admin_listen_address)
    return settings


def is_loopback(host: str) -> bool:
    """Whether `host` is an address or name that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_loopback(name: str, host: str) -> None:
    if not is_loopback(host):
        raise _bad(
            name, f"{host!r} is not loopback, and without TLS tokens would be sent in the clear"
        )


def _parse_conf(text: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    section = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)[#;].*", "", raw).strip()
        if not line:
            continue
        if line.startswith("["):
            section = line.strip("[] \t")
            if section != SECTION:
                raise _bad(section, f"line {number}: only [{SECTION}] is known here")
            continue
        match = _LINE.fullmatch(line)
        if match is None or not section:
            raise _bad("", f"line {number} is not 'Option: value' below [{SECTION}]")
        values |= _parse_option(match["name"], match["value"])
    return values


def _parse_override(text: str) -> dict[str, Value]:
    section, dot, rest = text.partition(".")
    match = _LINE.fullmatch(rest) if dot else None
    if match is None or section != SECTION:
        raise _bad("", f"{text!r} is not {SECTION}.Option=value")
    return _parse_option(match["name"], match["value"])


def _parse_option(name: str, text: str) -> dict[str, Value]:
    if name in _OBSOLETE:
        return {}
    option = _BY_NAME.get(name.lower())
    if option is None:
        raise _bad(name, "there is no such option")
    return {option.toml: _checked(option, _parse_value(option, text.strip().strip('"')))}


def _parse_value(option: Option, text: str) -> Value:
    if option.kind is str:
        return text
    if option.kind is bool:
        if text.lower() not in ("true", "false"):
            raise _bad(option.name, "is neither true nor false")
        return text.lower() == "true"
    if option.kind is float:
        return _parse_duration(option, text)
    if option.kind is int:
        if not re.fullmatch(r"\d{1,9}", text):
            raise _bad(option.name, f"{text!r} is not a whole number")
        return int(text)
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def _parse_duration(option: Option, text: str) -> float:
    parts = _DURATION_PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        if text == "0":
            return 0.0
        raise _bad(option.name, f"{text!r} is not a duration such as 10m, 30s or 250ms")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _parse_toml(text: str) -> dict[str, Value]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad("", f"not TOML: {error}") from error
    tables = set(document) - {TABLE}
    if tables or not isinstance(document.get(TABLE, {}), dict):
        raise _bad(", ".join(sorted(tables)), f"only the table [{TABLE}] is known here")
    values: dict[str, Value] = {}
    for name, value in document.get(TABLE, {}).items():
        option = _BY_TOML.get(name)
        if option is None:
            raise _bad(name, "there is no such option")
        values[name] = _checked(option, _toml_value(option, value))
    return values


def _toml_value(option: Option, value: object) -> Value:
    match value:
        case bool() if option.kind is bool:
            return value
        case str() if option.kind is str:
            return value
        case int() if option.kind is int and not isinstance(value, bool):
            return value
        case int() | float() if option.kind is float and not isinstance(value, bool):
            return float(value)
        case list() if all(isinstance(item, str) for item in value) and (
            option.kind not in (str, int, float, bool)
        ):
            return tuple(value)
    raise _bad(option.toml, f"{value!r} is of the wrong type")


def _checked(option: Option, value: Value) -> Value:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not option.low <= value <= option.high:
            raise _bad(option.name, f"{value} is not within {option.low:g} and {option.high:g}")
    elif isinstance(value, str) and ("\0" in value or len(value) > 4096):
        raise _bad(option.name, "is longer than 4096 characters or has a NUL in it")
    elif isinstance(value, tuple) and len(value) > 64:
        raise _bad(option.name, "has more than 64 members")
    return value


def _bad(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"setting {name}: {why}" if name else why,
        code="bad-setting",
        advice="see 'Settings' in the guide to heads",
    )
