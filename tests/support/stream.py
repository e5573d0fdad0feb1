"""A stream server in a process of its own, on a free port of loopback, for tests."""

import os
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.server.stream import Export, StreamSettings, serve_stream
from holdfast.stores.directories.linux import die_with_parent
from holdfast.stores.nodes.connection import NodeAddress
from holdfast.stores.nodes.directory import NodeDirectory, open_node_directory

EXPORT = "db/data/0"

Authorize = Callable[[bytes | None, tuple[str, ...]], frozenset[Permission]]


def everyone(_token: bytes | None, _names: tuple[str, ...]) -> frozenset[Permission]:
    """Permit everything."""
    return ALL_PERMISSIONS


@dataclass(slots=True)
class StreamServer:
    """Serves one tree until it is ended; can be started again on its port."""

    root: bytes
    export: str = EXPORT
    is_excluded: Callable[[bytes, bool], bool] = lambda _path, _is_directory: False
    authorize: Authorize = everyone
    tls: ssl.SSLContext | None = None
    connections_max: int = 16
    idle_timeout_s: float = 60.0
    rate_bytes_per_s: float | None = None
    port: int = 0
    process: int = 0

    def start(self) -> "StreamServer":
        """Fork the server and wait until it listens."""
        settings = StreamSettings(
            listen_address="127.0.0.1",
            port=self.port,
            tls=self.tls,
            authorize=self.authorize,
            exports={self.export: Export(path=self.root, is_excluded=self.is_excluded)},
            connections_max=self.connections_max,
            idle_timeout_s=self.idle_timeout_s,
            rate_bytes_per_s=self.rate_bytes_per_s,
        )
        readable, writable = os.pipe()
        self.process = os.fork()
        if not self.process:
            _serve(settings, writable)
        os.close(writable)
        with os.fdopen(readable, "rb") as announced:
            self.port = int(announced.read() or b"0")
        assert self.port, "the stream server did not start"
        return self

    def stop(self) -> None:
        """Kill it, and with it every connection."""
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = 0

    def address(self, port: int = 0) -> NodeAddress:
        """Return where it is, or where a proxy before it is."""
        return NodeAddress(host="127.0.0.1", port=port or self.port, export=EXPORT)

    def open(self, *, port: int = 0, patience_s: float = 10.0) -> NodeDirectory:
        """Return its tree as a client sees it."""
        return open_node_directory(self.address(port), patience_s=patience_s)


def _serve(settings: StreamSettings, writable: int) -> None:
    def announce(port: int) -> None:
        os.write(writable, b"%d" % port)
        os.close(writable)

    status = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        serve_stream(settings, announce)
    finally:
        os._exit(status)
