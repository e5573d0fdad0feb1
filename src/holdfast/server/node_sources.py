"""Opens the source's side of an instance: the trees of a holdfast node, or of a Sidecar."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import NotFoundError
from holdfast.files.migration.model import Instance, PeerTls, SourceKind, SourcePeer
from holdfast.ports import Clock, Entropy, ReadableDirectory
from holdfast.server.peer_http import (
    FoundPeer,
    check_not_completed,
    find_peer,
    find_stream_port,
    tls_context,
)
from holdfast.stores.nodes.connection import NodeAddress
from holdfast.stores.nodes.directory import open_node_directory
from holdfast.stores.sidecar.client import SidecarAddress
from holdfast.stores.sidecar.directory import open_sidecar_directories


class Sources:
    """Opens sources, asking each every time what it is: it may be back on another port."""

    def __init__(self, scratch: Path, clock: Clock, entropy: Entropy) -> None:
        """Say where lists of a Sidecar are kept meanwhile: a directory, made where missing."""
        self._scratch = scratch
        self._clock = clock
        self._entropy = entropy

    def open(self, peer: SourcePeer, instance: Instance) -> Sequence[ReadableDirectory]:
        """See OpenSources; what was opened is closed again if a later one cannot be."""
        found = find_peer(peer, self._clock)
        check_not_completed(peer, self._clock)
        if found.kind is SourceKind.SIDECAR:
            return self._open_sidecar(peer, instance)
        opened: list[ReadableDirectory] = []
        with contextlib.ExitStack() as until_all_are_open:
            for directory in instance.directories:
                tree = _open_node(peer, found, directory.name)
                until_all_are_open.callback(tree.close)
                opened.append(tree)
            until_all_are_open.pop_all()
        return opened

    def _open_sidecar(self, peer: SourcePeer, instance: Instance) -> Sequence[ReadableDirectory]:
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Of one instance there is one task at a time, so nobody else uses its list.
        return open_sidecar_directories(
            SidecarAddress(host=peer.host, port=peer.port),
            [directory.name for directory in instance.directories],
            [directory.path for directory in instance.directories],
            scratch=self._scratch / f"{instance.name}.sqlite",
            token=peer.token,
            tls=tls_context(peer.tls),
            clock=self._clock,
            entropy=self._entropy,
        )


def _open_node(peer: SourcePeer, found: FoundPeer, name: str) -> ReadableDirectory:
    if found.stream_port is None or found.instance is None:
        raise NotFoundError(
            f"{peer.host}:{peer.port} serves no instance under that name",
            code="no-instance",
            advice="name the source as its own settings do, in node.names and its migration map",
        )
    return open_node_directory(
        NodeAddress(host=peer.host, port=found.stream_port, export=f"{found.instance}/{name}"),
        token=None if peer.token is None else peer.token.encode(),
        tls=tls_context(peer.tls) if found.is_stream_tls else None,
    )


def open_on_node(address: str, token: str | None, tls: PeerTls | None) -> ReadableDirectory:
    """Open `HOST:PORT/INSTANCE/TYPE/INDEX`; the port is that of the stream or of HTTP.

    Raises as open_node_directory.
    """
    place, _, export = address.partition("/")
    host, _, port = place.rpartition(":")
    peer = SourcePeer(host=host.strip("[]"), port=int(port), tls=tls, token=token)
    return open_node_directory(
        NodeAddress(host=peer.host, port=find_stream_port(peer), export=export),
        token=None if token is None else token.encode(),
        tls=tls_context(tls),
    )
