"""Goal: a Swift proxy that fails for a moment fails no backup; a listing is whole or an error.

Method: a small HTTP server in a thread answers as Swift would where it has nothing else to say, and
as the test told it otherwise. What real Swift does is in tests/interop.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from holdfast.errors import CapacityError, UnavailableError
from holdfast.ports import PutOutcome
from holdfast.stores.objects.container import ContainerObjects, SwiftLogin


@dataclass(slots=True)
class Proxy:
    """What is asked, and what is answered in place of what is right, in order."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses; 0 does what is asked and then breaks the connection, -1 breaks it at once."""
    objects: dict[str, bytes] = field(default_factory=dict)
    row_bytes: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/auth":
            headers = {"X-Storage-Url": f"{self.url}/v1/a", "X-Auth-Token": "t"}
            return web.Response(headers=headers)
        self.asked.append(request.method)
        told = self.answers.pop(0) if self.answers else 200
        if told > 0 and told != 200:
            return web.Response(status=told)
        answer = web.Response(status=500)
        if told != -1:
            answer = await self._do(request)
        if told != 200:
            assert request.transport is not None
            request.transport.close()
        return answer

    async def _do(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/v1/a/c")
        if not name and request.method == "GET":
            rows = [
                {"name": each[1:], "bytes": 1, "last_modified": "2026-01-01T00:00:00.0"}
                for each in sorted(self.objects)
                if each[1:] > request.query.get("marker", "")
            ]
            return web.Response(text=json.dumps(rows) + " " * self.row_bytes)
        if request.method == "PUT":
            if request.headers.get("If-None-Match") == "*" and name in self.objects:
                return web.Response(status=412)
            self.objects[name] = await request.read()
            return web.Response(status=201)
        if name not in self.objects:
            return web.Response(status=404)
        if request.method == "DELETE":
            del self.objects[name]
            return web.Response(status=204)
        return web.Response(body=self.objects[name])


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy, loop, up = Proxy(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", proxy.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        up.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(10)
    yield proxy
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def store(proxy: Proxy) -> Iterator[ContainerObjects]:
    login = SwiftLogin(auth_url=f"{proxy.url}/auth", user="u", password="p")
    opened = ContainerObjects(login, "c", "", timeout_s=10.0)
    yield opened
    opened.close()


@pytest.mark.parametrize("fault", [503, 500, 502, 504, 429, -1])
def test_what_fails_for_a_moment_is_asked_again(
    store: ContainerObjects, proxy: Proxy, fault: int
) -> None:
    proxy.answers = [fault, fault]
    store.put("a", b"one")
    proxy.answers = [fault]
    assert store.get("a", 100) == b"one"
    proxy.answers = [fault]
    assert [each.name for each in store.list("")] == ["a"]
    proxy.answers = [fault]
    store.delete("a")
    assert store.head("a") is None


def test_create_whose_answer_was_lost_says_that_it_is_there(
    store: ContainerObjects, proxy: Proxy
) -> None:
    """As the port has it: whoever creates compares what is there."""
    proxy.answers = [0]

    assert store.create("a", b"one") is PutOutcome.EXISTS

    assert store.get("a", 100) == b"one"


def test_what_fails_on_and_on_is_an_error(store: ContainerObjects, proxy: Proxy) -> None:
    proxy.answers = [503] * 20
    with pytest.raises(UnavailableError):
        store.put("a", b"one")
    assert 2 <= len(proxy.asked) <= 5


def test_listing_that_is_too_long_is_an_error_and_not_shorter(
    store: ContainerObjects, proxy: Proxy
) -> None:
    """A sweep that saw too few manifests would delete what the others need."""
    store.put("manifests/a", b"one")
    proxy.row_bytes = 5 << 20

    with pytest.raises(CapacityError):
        list(store.list("manifests/"))


def test_listing_that_is_no_listing_is_an_error(store: ContainerObjects, proxy: Proxy) -> None:
    store.put("manifests/a", b"one")
    proxy.answers = [206]

    with pytest.raises(UnavailableError):
        list(store.list(""))
