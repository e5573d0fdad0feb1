"""Answers about the node itself: what it is, whether it lives and works, figures, description."""

import asyncio
from collections.abc import Mapping

from starlette.responses import JSONResponse, PlainTextResponse, Response

from holdfast.files.http.call import Call
from holdfast.files.http.openapi import describe
from holdfast.files.http.services import NodeServices
from holdfast.files.http.shapes import DIGEST_ALGORITHMS
from holdfast.files.migration.model import Instance


class NodeAnswers:
    """Answers of one node about itself."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._description = services.mounted.describe(describe(services.node.version))

    async def show_node(self, call: Call) -> Response:
        """Say what it is, serves, and lets the caller do."""
        services = self._services
        return JSONResponse(
            {
                "name": services.node.name,
                "product": "holdfast",
                "version": services.node.version,
                "streamPort": services.node.stream_port,
                "streamTls": services.node.is_stream_tls,
                "permissions": sorted(call.permissions),
                "instances": [
                    _plain_instance(host, instance, services.migration_map)
                    for host, instance in services.instances.items()
                ],
                "digestAlgorithms": list(DIGEST_ALGORITHMS),
            }
        )

    async def show_health(self, _call: Call) -> Response:
        """Say that the process answers."""
        return PlainTextResponse("ok\n")

    async def show_readiness(self, _call: Call) -> Response:
        """Say whether tasks can be started."""
        await asyncio.to_thread(self._services.check_ready)
        return PlainTextResponse("ready\n")

    async def show_metrics(self, _call: Call) -> Response:
        """Return the metrics."""
        body, content_type = await asyncio.to_thread(self._services.render_metrics)
        return Response(body, headers={"content-type": content_type})

    async def show_openapi(self, _call: Call) -> Response:
        """Return the description of all routes."""
        return JSONResponse(self._description)


def _plain_instance(
    host: str, instance: Instance, migration_map: Mapping[str, str]
) -> dict[str, object]:
    is_source = host in migration_map
    is_target = host in migration_map.values()
    return {
        "host": host,
        "name": instance.name,
        "isSource": is_source,
        "isDestination": is_target,
        "directories": [directory.name for directory in instance.directories],
    }
