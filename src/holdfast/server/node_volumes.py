"""The volumes of a node: served from its start to its end, with routes to them.

Invariants:

1. A volume that cannot be served at the start is tried again until the node stops, and holds up
   nothing but readiness: a data process of a node that was killed may hold it for a moment.
2. When `close` returns, no data process of ours is left.
"""

import asyncio
from typing import Final

from holdfast.errors import HoldfastError, StateError, UnavailableError
from holdfast.files.http.mounting import Mounted, MountedRoute
from holdfast.files.http.problems import problem_response
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.model.ids import VolumeName, parse_volume_name
from holdfast.server.node_logs import node_log
from holdfast.server.node_settings import ALL_VOLUMES, NodeSettings
from holdfast.server.node_tasks import backoff_s
from holdfast.server.volume_process import TlsFiles
from holdfast.server.volumes import open_volumes
from holdfast.volumes.http import volume_routes
from holdfast.volumes.openapi import volumes_description
from holdfast.volumes.supervision import ServeRequest

_VERIFYING: Final = frozenset({Permission.VERIFY})
_CHANGING: Final = frozenset({Permission.COPY})

_log = node_log("volumes")


class NodeVolumes:
    """The volumes of a running node; used in its event loop."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings.volumes
        self._volumes = open_volumes(
            settings.volumes_state, _tls_files(settings), settings.limits.stop_timeout_s
        )
        self._starting: dict[VolumeName, asyncio.Task[None]] = {}
        self._why: dict[VolumeName, str] = {}

    async def serve(self) -> None:
        """Begin to serve what the settings name; returns before it is served."""
        wanted = [parse_volume_name(name) for name in self._settings.serve]
        if self._settings.serve == (ALL_VOLUMES,):
            wanted = [view.name for view in await self._volumes.views()]
        for name in wanted:
            self._why[name] = "it is being started"
            self._starting[name] = asyncio.create_task(self._serve(name))

    async def check(self) -> None:
        """Raise UnavailableError (`volume-down`) if one that is to be served is not."""
        down = dict(self._why)
        for view in await self._volumes.views():
            if view.is_kept and view.status is None:
                down.setdefault(view.name, view.health.reason)
        for name, why in sorted(down.items()):
            raise UnavailableError(
                f"the volume {name} is down: {why}",
                code="volume-down",
                advice="it is started again; see the log of the node",
                volume=name,
            )

    def reload(self) -> None:
        """Have certificates read anew, for connections to come."""
        self._volumes.reload_certificates()

    async def render(self) -> bytes:
        """Return the metrics."""
        return await self._volumes.exposition()

    def mounted(self) -> Mounted:
        """Return the routes, with who may call them."""
        return Mounted(
            routes=tuple(
                MountedRoute(
                    route=route, permissions=_permissions(route.methods or set(), route.path)
                )
                for route in volume_routes(self._volumes, problem_response, self._request_of)
            ),
            descriptions=(volumes_description(),),
        )

    async def close(self) -> None:
        """Stop serving, each volume in order, all at once."""
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        await self._volumes.stop_all()

    async def _serve(self, name: VolumeName) -> None:
        failures = 0
        while True:
            try:
                process = await self._volumes.serve(self._request_of(name))
            except StateError:
                break  # Somebody asked for it over HTTP meanwhile.
            except HoldfastError as error:
                failures += 1
                self._why[name] = error.message
                _log.error("volume not served", volume=name, error=error.message)
                await asyncio.sleep(backoff_s(failures))
            else:
                _log.info("volume served", volume=name, listening=process.listening)
                break
        del self._why[name]

    def _request_of(self, name: VolumeName) -> ServeRequest:
        place = self._settings.listen.get(name)
        return ServeRequest(name=name, listen=() if place is None else (place,))


def _tls_files(settings: NodeSettings) -> TlsFiles | None:
    tls = settings.tls
    if not settings.is_tls or not tls.client_ca:
        return None
    return TlsFiles(certificate=tls.certificate, key=tls.key, client_authority=tls.client_ca)


def _permissions(methods: set[str], path: str) -> frozenset[Permission]:
    if "GET" in methods:
        return ALL_PERMISSIONS
    return _VERIFYING if path.endswith("/scrub") else _CHANGING
