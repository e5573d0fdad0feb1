"""A small object store over real HTTP, run as a process: rights by token, slowness by name.

Token `owner` may do everything, `reader` may read, any other is answered 401. Objects live in
memory below /v1/; those below /v1/any/ are always there. A path with `/sleep-S/` in it is answered
after S seconds, `/status-N/` with status N, `/redirect/` with a redirect to --redirect-to. Below
/bucket/ anybody may write on conditions; with --race-s they are checked that long before the write.
"""

import argparse
import asyncio
import hashlib
import re
import ssl
import sys

from aiohttp import web


class Store:
    """The objects, and how requests are answered."""

    def __init__(self, redirect_to: str, race_s: float) -> None:
        self._redirect_to = redirect_to
        self._race_s = race_s
        self._objects: dict[str, bytes] = {}
        self._asked_count = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        path = request.path
        if path == "/count":
            return web.Response(text=str(self._asked_count))
        self._asked_count += 1
        if match := re.search(r"/sleep-([\d.]+)/", path):
            await asyncio.sleep(float(match[1]))
        if match := re.search(r"/status-(\d+)/", path):
            return web.Response(status=int(match[1]))
        if "/redirect/" in path:
            return web.Response(status=302, headers={"Location": self._redirect_to})
        if not path.startswith("/bucket/") and (status := _rights(request)):
            return web.Response(status=status)
        if request.method == "PUT":
            return await self._put(path, request)
        if path.startswith("/v1/any/"):
            return web.Response(body=b"copy")
        if path not in self._objects:
            return web.Response(status=404)
        if request.method == "DELETE":
            del self._objects[path]
            return web.Response(status=204)
        body = self._objects[path]
        return web.Response(body=body, headers={"ETag": _etag(body)})

    async def _put(self, path: str, request: web.Request) -> web.Response:
        body = await request.read()
        held = self._objects.get(path)
        wanted = request.headers.get("If-Match")
        if wanted is not None and (held is None or wanted != _etag(held)):
            return web.Response(status=412)
        if request.headers.get("If-None-Match") == "*" and held is not None:
            return web.Response(status=412)
        if self._race_s:
            await asyncio.sleep(self._race_s)
        self._objects[path] = body
        return web.Response(status=201, headers={"ETag": _etag(body)})


def _rights(request: web.Request) -> int:
    token = request.headers.get("X-Auth-Token")
    if token not in ("owner", "reader"):
        return 401
    return 403 if token == "reader" and request.method != "GET" else 0


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


async def serve(redirect_to: str, race_s: float, certificate: str, key: str) -> None:
    """Serve for ever; print the port first."""
    application = web.Application(client_max_size=1 << 20)
    application.router.add_route("*", "/{path:.*}", Store(redirect_to, race_s).answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--redirect-to", default="http://127.0.0.1:9/")
    parser.add_argument("--race-s", type=float, default=0.0)
    parser.add_argument("--certificate", default="", help="PEM; with --key, TLS.")
    parser.add_argument("--key", default="")
    options = parser.parse_args()
    try:
        asyncio.run(serve(options.redirect_to, options.race_s, options.certificate, options.key))
    except KeyboardInterrupt:
        sys.exit(0)
