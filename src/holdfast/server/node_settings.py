"""The settings of a node: one TOML text into a frozen tree, every value checked.

Reads texts, no files, and asks nobody; what lies in files is loaded by node_access.py. Each option
stands once, as a field with its meaning, unit and range; the reference is generated from them.

Invariants:

1. An unknown table or key, a value of another type or out of range is refused by its full name.
2. No listening beyond loopback without tokens or client certificates; and not without TLS, unless
   `allow_plain` says so, for tokens would cross the network in the clear.
3. Every host of the migration map that is this node has an instance, and every source that one of
   ours is pulled from has a peer: found at the start, not in the middle of a migration.
"""

import dataclasses
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from holdfast.errors import InvalidRequestError
from holdfast.files.migration.model import Instance, InstanceDirectory, check_instance
from holdfast.model.access import Permission
from holdfast.model.ids import parse_volume_name
from holdfast.server.node_options import (
    MAP_TABLE,
    TABLES,
    AccessSettings,
    CheckpointsSettings,
    IdentitySettings,
    InstanceSettings,
    LimitSettings,
    ListenSettings,
    Option,
    PeerSettings,
    TlsSettings,
    VolumesSettings,
    bad_setting,
    parse_table,
    parse_value,
    read_table,
)

SETTINGS_BYTES_MAX: Final = 1 << 20
ALL_VOLUMES: Final = "all"
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.:-]{0,251}[a-z0-9_])?|::1?")
_INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_CASSANDRA: Final = ("commitlog", "data", "hints", "saved_caches")
_CASSANDRA_EXCLUDED: Final = "glob:${DATA_FILE_DIR}/*/*/snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Everything a node is told."""

    identity: IdentitySettings
    listen: ListenSettings
    tls: TlsSettings
    access: AccessSettings
    limits: LimitSettings
    volumes: VolumesSettings
    checkpoints: CheckpointsSettings
    migration_map: Mapping[str, str]
    """Source host -> target host."""
    peers: Mapping[str, PeerSettings]
    """By source host."""
    instances: Mapping[str, Instance]
    """By each of our names that means one."""
    database_addresses: Mapping[str, tuple[tuple[str, int], ...]]
    """By name of the instance."""

    @property
    def state(self) -> Path:
        """Where the node keeps its own."""
        return Path(self.identity.state)

    @property
    def is_tls(self) -> bool:
        """Whether both ports speak TLS."""
        return bool(self.tls.certificate)

    @property
    def volumes_state(self) -> Path:
        """State directory of the volumes."""
        return Path(self.volumes.state or self.identity.state)

    @property
    def is_open(self) -> bool:
        """Whether everyone who reaches it may do everything."""
        return not self.access.token_file and not self.access.certificates


def parse_node_settings(text: str) -> NodeSettings:
    """Return the settings of a TOML text.

    Raises:
        InvalidRequestError: `bad-setting`, with the full name of the key in the message.
    """
    if len(text) > SETTINGS_BYTES_MAX:
        raise bad_setting("", f"the settings have more than {SETTINGS_BYTES_MAX} characters")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise bad_setting("", f"not TOML: {error}") from error
    unknown = sorted(set(document) - set(TABLES) - {MAP_TABLE})
    if unknown:
        known = ", ".join((*TABLES, MAP_TABLE))
        raise bad_setting(unknown[0], f"there is no such table; there are {known}")
    identity = parse_table(IdentitySettings, document.get("node", {}), "node")
    settings = NodeSettings(
        identity=_checked_identity(identity),
        listen=parse_table(ListenSettings, document.get("listen", {}), "listen"),
        tls=parse_table(TlsSettings, document.get("tls", {}), "tls"),
        access=_parse_access(document.get("access", {})),
        limits=parse_table(LimitSettings, document.get("limits", {}), "limits"),
        volumes=_parse_volumes(document.get("volumes", {})),
        checkpoints=parse_table(
            CheckpointsSettings, document.get("checkpoints", {}), "checkpoints"
        ),
        migration_map=_parse_map(document.get(MAP_TABLE, {})),
        peers={
            _host(name, "peers"): parse_table(PeerSettings, table, f"peers.{name}")
            for name, table in read_table(document.get("peers", {}), "peers").items()
        },
        **_parse_instances(document.get("instances", {}), identity),
    )
    _check_whole(settings)
    return settings


def is_loopback(host: str) -> bool:
    """Whether `host` is an address or name that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_whole(settings: NodeSettings) -> None:
    tls, listen = settings.tls, settings.listen
    if bool(tls.certificate) != bool(tls.key):
        raise bad_setting("tls.key", "`certificate` and `key` go together")
    if tls.client_ca and not tls.certificate:
        raise bad_setting(
            "tls.client_ca", "client certificates need TLS: set `certificate` and `key`"
        )
    if settings.access.certificates and not tls.client_ca:
        raise bad_setting(
            "access.certificates", "needs `tls.client_ca` to know the certificates by"
        )
    if not is_loopback(listen.address):
        if settings.is_open:
            raise bad_setting(
                "listen.address",
                f"{listen.address!r} is not loopback, and nobody would be asked who they are: set"
                " access.token_file or access.certificates",
            )
        if not settings.is_tls and not listen.allow_plain:
            raise bad_setting(
                "listen.address",
                f"{listen.address!r} is not loopback, and without TLS tokens would be sent in the"
                " clear: set the table tls, or listen.allow_plain",
            )
    for name, (host, _) in settings.volumes.listen.items():
        if not is_loopback(host) and not (settings.is_tls and tls.client_ca):
            raise bad_setting(
                f"volumes.listen.{name}",
                f"{host!r} is not loopback, and without certificates NBD lets everyone in: set"
                " tls.certificate, tls.key and tls.client_ca",
            )
    _check_map(settings)


def _check_map(settings: NodeSettings) -> None:
    names = settings.identity.names
    for source, target in settings.migration_map.items():
        for host in (source, target):
            if host in names and host not in settings.instances:
                raise bad_setting(
                    f"{MAP_TABLE}.{source}", f"{host} is this node, without an instance"
                )
        if target in names and source not in settings.peers:
            raise bad_setting(
                f"{MAP_TABLE}.{source}", f"add a table peers.{source!r} for the source"
            )
    for host, peer in settings.peers.items():
        if host not in settings.migration_map:
            raise bad_setting(f"peers.{host}", f"is no source in {MAP_TABLE}")
        if bool(peer.certificate) != bool(peer.key):
            raise bad_setting(f"peers.{host}.key", "`certificate` and `key` go together")
        if not peer.tls and (peer.ca or peer.certificate):
            raise bad_setting(
                f"peers.{host}.tls", "`ca` and `certificate` are of use with TLS alone"
            )


def _checked_identity(identity: IdentitySettings) -> IdentitySettings:
    if not identity.names:
        raise bad_setting("node.names", "a node needs at least one name")
    _check_absolute(identity.state, "node.state")
    return dataclasses.replace(
        identity, names=tuple(_host(name, "node.names") for name in identity.names)
    )


def _check_absolute(path: str, where: str) -> None:
    if not path.startswith("/"):
        raise bad_setting(where, f"{path!r} is not an absolute path")


def _parse_access(value: object) -> AccessSettings:
    table = dict(read_table(value, "access"))
    certificates = {
        name: _permissions(granted, f"access.certificates.{name}")
        for name, granted in read_table(
            table.pop("certificates", {}), "access.certificates"
        ).items()
    }
    return dataclasses.replace(
        parse_table(AccessSettings, table, "access"), certificates=certificates
    )


def _parse_volumes(value: object) -> VolumesSettings:
    table = dict(read_table(value, "volumes"))
    listen = {
        _volume(name, f"volumes.listen.{name[:80]}"): _address(str(place), f"volumes.listen.{name}")
        for name, place in read_table(table.pop("listen", {}), "volumes.listen").items()
    }
    settings = parse_table(VolumesSettings, table, "volumes")
    if settings.state:
        _check_absolute(settings.state, "volumes.state")
    for name in settings.serve:
        _volume(name, "volumes.serve")
    if ALL_VOLUMES in settings.serve and len(settings.serve) > 1:
        raise bad_setting("volumes.serve", f"{ALL_VOLUMES!r} has all of them, and stands alone")
    return dataclasses.replace(settings, listen=listen)


def _volume(name: str, where: str) -> str:
    try:
        return parse_volume_name(name)
    except InvalidRequestError as error:
        raise bad_setting(where, error.message) from error


def _permissions(value: object, where: str) -> frozenset[Permission]:
    if not isinstance(value, list) or not value:
        raise bad_setting(where, "is not a list of permissions")
    return parse_permissions([str(name) for name in value], where)


def parse_permissions(names: list[str], where: str) -> frozenset[Permission]:
    """Return permissions by their names; InvalidRequestError (`bad-setting`) for an unknown one."""
    try:
        return frozenset(Permission(name) for name in names)
    except ValueError as error:
        known = ", ".join(Permission)
        raise bad_setting(where, f"{error}; there are {known}") from error


def _parse_map(value: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for source, target in read_table(value, MAP_TABLE).items():
        if not isinstance(target, str):
            raise bad_setting(f"{MAP_TABLE}.{source}", "is not the name of a target host")
        found[_host(source, MAP_TABLE)] = _host(target, f"{MAP_TABLE}.{source}")
    both = sorted(set(found) & set(found.values()))
    if both:
        raise bad_setting(MAP_TABLE, f"{both[0]} is both a source and a target")
    targets = list(found.values())
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice:
        raise bad_setting(MAP_TABLE, f"{twice[0]} is the target of two sources")
    return found


def _parse_instances(value: object, identity: IdentitySettings) -> dict[str, Any]:
    tables = read_table(value, "instances")
    by_host: dict[str, Instance] = {}
    addresses: dict[str, tuple[tuple[str, int], ...]] = {}
    for name, table in tables.items():
        where = f"instances.{name}"
        if not _INSTANCE_NAME.fullmatch(name):
            raise bad_setting(where, "a name is up to 64 letters, digits, and any of _.-")
        told = _parse_instance(table, where)
        addresses[name] = tuple(
            _address(text, f"{where}.database_addresses") for text in told.database_addresses
        )
        instance = _instance_of(name, told, Path(identity.state))
        hosts = told.hosts or (identity.names if len(tables) == 1 else ())
        if not hosts:
            raise bad_setting(f"{where}.hosts", "say which of node.names mean this instance")
        for host in (_host(host, f"{where}.hosts") for host in hosts):
            if host not in [known.lower() for known in identity.names]:
                raise bad_setting(f"{where}.hosts", f"{host} is not among node.names")
            if host in by_host:
                raise bad_setting(f"{where}.hosts", f"{host} means {by_host[host].name} already")
            by_host[host] = instance
    return {"instances": by_host, "database_addresses": addresses}


def _parse_instance(value: object, where: str) -> InstanceSettings:
    table = dict(read_table(value, where))
    directories: dict[str, tuple[str, ...]] = {}
    for kind, paths in read_table(table.pop("directories", {}), f"{where}.directories").items():
        listed = [paths] if isinstance(paths, str) else paths
        found = parse_value(
            tuple[str, ...], listed, Option(meaning=""), f"{where}.directories.{kind}"
        )
        assert isinstance(found, tuple)
        directories[kind] = found
    if table.get("staging"):
        _check_absolute(str(table["staging"]), f"{where}.staging")
    return dataclasses.replace(parse_table(InstanceSettings, table, where), directories=directories)


def _instance_of(name: str, told: InstanceSettings, state: Path) -> Instance:
    where = f"instances.{name}"
    directories = dict(told.directories)
    excluded = told.dirs_to_exclude
    if told.cassandra_root:
        for kind in _CASSANDRA:
            directories.setdefault(kind, (f"{told.cassandra_root.rstrip('/')}/{kind}",))
        excluded = (*excluded, _CASSANDRA_EXCLUDED)
    try:
        return check_instance(
            Instance(
                name=name,
                directories=tuple(
                    InstanceDirectory(kind=kind, index=index, path=path.encode())
                    for kind, paths in sorted(directories.items())
                    for index, path in enumerate(paths)
                ),
                exclude_files=told.files_to_exclude,
                exclude_directories=excluded,
                staging=Path(told.staging) if told.staging else state / "staging" / name,
            )
        )
    except InvalidRequestError as error:
        raise bad_setting(f"{where}.directories", error.message) from error


def _address(text: str, where: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise bad_setting(where, f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _host(name: str, where: str) -> str:
    lowered = name.lower()
    if _HOST.fullmatch(lowered):
        return lowered
    raise bad_setting(where, f"{name[:80]!r} is not a host name or address")
