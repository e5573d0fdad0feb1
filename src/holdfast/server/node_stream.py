"""The stream server of a node: `python -m holdfast.server.node_stream PORT PARENT`.

Started by node.py with its settings on standard input; prints its port once it listens. It dies
with the node. SIGHUP reads certificates and tokens anew, for connections to come.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from holdfast.errors import HoldfastError
from holdfast.files.migration.exclusions import exclusions_of
from holdfast.files.migration.model import Instance, InstanceDirectory
from holdfast.server.node_access import Access
from holdfast.server.node_logs import configure_logs, node_log
from holdfast.server.node_settings import NodeSettings, parse_node_settings
from holdfast.server.serving import Certificates
from holdfast.server.stream import Export, StreamSettings, serve_stream
from holdfast.stores.directories.linux import die_with_parent

_log = node_log("stream")


def main(arguments: list[str]) -> int:
    """Serve until killed; return 1 if that is not possible."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    if os.getppid() != int(arguments[1]):
        return 1
    settings = parse_node_settings(sys.stdin.read())
    configure_logs(settings.identity.log_level, process="stream")
    try:
        certificates = node_certificates(settings)
        access = Access(settings)
        signal.signal(signal.SIGHUP, _reloading(certificates, access))
        serve_stream(
            StreamSettings(
                listen_address=settings.listen.address,
                port=int(arguments[0]),
                tls=None if certificates is None else certificates.context,
                authorize=access.authorize,
                exports=exports_of(settings),
                connections_max=settings.limits.stream_connections_max,
                idle_timeout_s=settings.limits.idle_timeout_s,
                rate_bytes_per_s=settings.limits.rate_bytes_per_s or None,
            ),
            lambda port: print(port, flush=True),
        )
    except HoldfastError as error:
        _log.error("stream not served", **error.as_problem())
    return 1


def node_certificates(settings: NodeSettings) -> Certificates | None:
    """Return the certificates of both ports; None without TLS."""
    tls = settings.tls
    if not settings.is_tls:
        return None
    return Certificates(
        Path(tls.certificate),
        Path(tls.key),
        ca=Path(tls.client_ca) if tls.client_ca else None,
        is_client_asked=bool(tls.client_ca),
        advice="check tls.certificate, tls.key and tls.client_ca",
    )


def exports_of(settings: NodeSettings) -> dict[str, Export]:
    """Return every directory of every instance that is a source, by `instance/kind/index`."""
    return {
        f"{instance.name}/{directory.name}": Export(
            path=directory.path, is_excluded=_excluder(instance, directory)
        )
        for host, instance in settings.instances.items()
        if host in settings.migration_map
        for directory in instance.directories
    }


def reload_all(certificates: Certificates | None, access: Access) -> None:
    """Read certificates and tokens anew; what cannot be used stays as it was."""
    if certificates is not None:
        certificates.reload()
    try:
        access.reload()
    except HoldfastError as error:
        _log.error("tokens not reloaded", error=error.message)


def _excluder(instance: Instance, directory: InstanceDirectory) -> Callable[[bytes, bool], bool]:
    exclusions = exclusions_of(instance, directory)
    return lambda path, is_directory: exclusions.match(path, is_directory=is_directory)


def _reloading(
    certificates: Certificates | None, access: Access
) -> Callable[[int, FrameType | None], None]:
    def hang_up(_number: int, _frame: FrameType | None) -> None:
        reload_all(certificates, access)

    return hang_up


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
