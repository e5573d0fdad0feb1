"""The options of a node's settings, table by table, and how a table of TOML is read into them.

Each option stands once, as a field with its meaning, unit and range: docs/reference is generated
from them. What the tables mean together is checked in node_settings.py.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, get_type_hints

from holdfast.errors import InvalidRequestError
from holdfast.files.migration.model import SourceKind
from holdfast.model.access import Permission

_TEXT_MAX: Final = 4096
_LIST_MAX: Final = 256

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is said of one key beside its type and default."""

    meaning: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()


def _option(
    default: object,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    said = Option(meaning=meaning, low=low, high=high, unit=unit, choices=choices)
    return field(default=default, metadata={"option": said})


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """[node]: what it is called and where it keeps its own."""

    names: tuple[str, ...] = _option(
        (), "Host names and addresses by which others reach this node; the first is its name."
    )
    state: str = _option(
        "", "Directory of journal, locks, ledgers, proofs and keys, made if missing (mode 0700)."
    )
    log_level: str = _option(
        "info",
        "What is logged, as lines of JSON on stderr; info has every request.",
        choices=("debug", "info", "warning", "error"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """[listen]: where others reach it."""

    address: str = _option("127.0.0.1", "Address or host name to listen on, for both ports.")
    port: int = _option(9043, "Port of HTTP; 0 takes a free one and prints it.", low=0, high=65535)
    stream_port: int = _option(
        9044,
        "Port of the stream that other holdfast nodes read from; 0 takes a free one.",
        low=0,
        high=65535,
    )
    allow_plain: bool = _option(
        False, "Listen beyond loopback without TLS: tokens then cross the network in the clear."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """[tls]: of both ports. SIGHUP reads the files anew."""

    certificate: str = _option("", "Certificate chain, PEM. TLS if this and `key` are set.")
    key: str = _option("", "Private key, PEM.")
    client_ca: str = _option(
        "", "Authorities of client certificates, PEM; without it none is asked for."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """[access]: who may do what. With neither of the two, everyone on this machine may do all."""

    token_file: str = _option(
        "",
        "File of tokens, a line each: a name, permissions joined by commas, `sha256:` and the"
        " digest of the token in hexadecimal.",
    )
    certificates: Mapping[str, frozenset[Permission]] = field(
        default_factory=dict,
        metadata={
            "option": Option(
                meaning="Table of names in client certificates (DNS names, else the common name),"
                " each with a list of permissions: copy, verify, read."
            )
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """[limits]: how much at once, how fast, how long."""

    file_requests_max: int = _option(
        20,
        "File and digest requests over HTTP served at once; more are answered 503. Also the most"
        " `maxConcurrency` of a task.",
        low=1,
        high=1000,
    )
    stream_connections_max: int = _option(
        64, "Connections to the stream at once, a process each.", low=1, high=1024
    )
    idle_timeout_s: float = _option(
        30.0,
        "A connection to the stream that is silent so long is closed.",
        low=1,
        high=3600,
        unit="s",
    )
    rate_bytes_per_s: int = _option(
        0,
        "What all connections to the stream together may send; 0: no limit.",
        low=0,
        high=1 << 40,
        unit="bytes/s",
    )
    stop_timeout_s: float = _option(
        30.0,
        "What tasks and requests get to end in order when the node stops.",
        low=1,
        high=600,
        unit="s",
    )
    task_crashes_max: int = _option(
        5,
        "After so many crashes in a row, each within a minute of its start, a task ends as failed.",
        low=1,
        high=100,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """[peers.HOST]: a host that instances are pulled from, a key of the migration map."""

    port: int = _option(9043, "Its HTTP port.", low=1, high=65535)
    kind: str = _option(
        "auto", "What runs there; auto asks it.", choices=tuple(kind.value for kind in SourceKind)
    )
    tls: bool = _option(False, "Whether to speak TLS to it.")
    ca: str = _option("", "Authorities to trust, PEM; the system's if empty.")
    certificate: str = _option("", "Certificate shown to it, PEM.")
    key: str = _option("", "Key of that certificate, PEM.")
    token_file: str = _option(
        "", "File with the token shown to it on its first line; readable by its owner alone."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings:
    """[instances.NAME]: the directories of one database on this host."""

    hosts: tuple[str, ...] = _option(
        (), "Those of `node.names` that mean this instance; all of them if it is the only one."
    )
    cassandra_root: str = _option(
        "",
        "Cassandra's directory: adds its data, commitlog, hints and saved_caches, unless named"
        " in `directories`, and leaves snapshots out.",
    )
    directories: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={
            "option": Option(
                meaning="Table of types, such as data, each with a list of absolute paths, which"
                " are numbered from 0. Cassandra's types are cdc_raw, commitlog, data, hints,"
                " local_system_data and saved_caches."
            )
        },
    )
    files_to_exclude: tuple[str, ...] = _option(
        (), "Patterns `glob:...` or `regex:...` of files to leave out; as Sidecar's."
    )
    dirs_to_exclude: tuple[str, ...] = _option(
        (), "The same for directories, with all that is below."
    )
    staging: str = _option(
        "", "Where its completion mark is kept; a directory below `node.state` if empty."
    )
    database_addresses: tuple[str, ...] = _option(
        (),
        "HOST:PORT where the database answers while it runs; a copy onto it is refused if one"
        " does.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesSettings:
    """[volumes]: volumes of this host, served over NBD by a process each, which restarts."""

    enabled: bool = _option(False, "Whether this node has volumes, and routes to them.")
    state: str = _option(
        "",
        "State directory in whose `volumes` they lie, as HOLDFAST_STATE of the commands;"
        " `node.state` if empty.",
    )
    serve: tuple[str, ...] = _option(
        (), "Names of those to serve from the start, each on its unix socket; `all`: all there are."
    )
    listen: Mapping[str, tuple[str, int]] = field(
        default_factory=dict,
        metadata={
            "option": Option(
                meaning="Table of names, each with ADDRESS:PORT of its own, where it is served over"
                " TCP as well: beyond loopback with `tls.client_ca` alone, for clients that show a"
                " certificate. Port 0 takes a free one."
            )
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsSettings:
    """[checkpoints]: plans of this host, kept in `node.state` as by the commands."""

    enabled: bool = _option(
        False, "Whether this node has routes to its checkpoints, and runs what schedules make due."
    )


TABLES: Final[Mapping[str, type]] = {
    "node": IdentitySettings,
    "listen": ListenSettings,
    "tls": TlsSettings,
    "access": AccessSettings,
    "limits": LimitSettings,
    "volumes": VolumesSettings,
    "checkpoints": CheckpointsSettings,
    "peers": PeerSettings,
    "instances": InstanceSettings,
}
"""By table of TOML; of the last two there is one for each host and instance."""
MAP_TABLE: Final = "migration_map"


def read_table(value: object, where: str) -> Mapping[str, object]:
    """Return a value as a table of up to 256 members; `bad-setting` for any other."""
    if not isinstance(value, dict):
        raise bad_setting(where, "is not a table")
    if len(value) > _LIST_MAX:
        raise bad_setting(where, f"has more than {_LIST_MAX} members")
    return value


def fields_of(settings: type) -> tuple[dataclasses.Field[Any], ...]:
    """Return the options of a table as they are written down above."""
    assert dataclasses.is_dataclass(settings)
    return dataclasses.fields(settings)


def parse_table(settings: type[SettingsT], value: object, where: str) -> SettingsT:
    """Return a table as one of the classes above; every key checked against its option."""
    kinds = get_type_hints(settings)
    options = {said.name: said.metadata["option"] for said in fields_of(settings)}
    values: dict[str, object] = {}
    for name, given in read_table(value, where).items():
        if name not in options:
            known = ", ".join(options)
            raise bad_setting(f"{where}.{name}", f"there is no such key; there are {known}")
        values[name] = parse_value(kinds[name], given, options[name], f"{where}.{name}")
    return settings(**values)


def parse_value(kind: object, value: object, option: Option, where: str) -> object:
    """Return one value, which must be of this kind and within the option's range."""
    if isinstance(value, bool) or kind is bool:
        if not (isinstance(value, bool) and kind is bool):
            raise bad_setting(where, f"{value!r} is not {_spell(kind)}")
        return value
    if kind is float and isinstance(value, int | float):
        return _ranged(float(value), option, where)
    if kind is int and isinstance(value, int):
        return _ranged(value, option, where)
    if kind is str and isinstance(value, str):
        return _text(value, option, where)
    if kind == tuple[str, ...] and isinstance(value, list) and len(value) <= _LIST_MAX:
        texts = [item for item in value if isinstance(item, str)]
        if len(texts) == len(value):
            return tuple(_text(text, option, where) for text in texts)
    raise bad_setting(where, f"{value!r:.80} is not {_spell(kind)}")


def _ranged(value: float, option: Option, where: str) -> float:
    assert option.low is not None
    assert option.high is not None
    if not option.low <= value <= option.high:
        raise bad_setting(where, f"{value} is not within {option.low:g} and {option.high:g}")
    return value


def _text(value: str, option: Option, where: str) -> str:
    if not value.isprintable() or len(value) > _TEXT_MAX:
        raise bad_setting(where, f"is longer than {_TEXT_MAX} characters or not printable")
    if option.choices and value not in option.choices:
        raise bad_setting(where, f"{value!r} is none of {', '.join(option.choices)}")
    return value


def _spell(kind: object) -> str:
    names: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    return names.get(kind, f"a list of up to {_LIST_MAX} texts")


def bad_setting(name: str, why: str) -> InvalidRequestError:
    """Return the error for a setting, by its full name."""
    return InvalidRequestError(
        f"setting {name}: {why}" if name else why,
        code="bad-setting",
        advice="see docs/reference/node-settings.md",
        setting=name,
    )
