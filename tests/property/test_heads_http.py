"""Goal: whatever is sent, the service answers with one of its statuses and never falls over.

Method: hypothesis sends requests of odd headers, paths and bodies to the ASGI application, over a
simulated register and a store that says yes.
"""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Scope
from tests.unit.heads.test_service import World

from holdfast.heads.http import IckptRoutes
from holdfast.heads.metrics import Metrics

Sent = tuple[str, str, list[tuple[bytes, bytes]], bytes]
"""Method, path, headers, body."""

STATUSES = {200, 204, 400, 403, 404, 405, 409, 410, 412, 413, 502, 503}
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"x-storage-url", b"x-auth-token", b"if-match", b"x-transaction-id", b"x-head-history"]
        ),
        st.sampled_from([b"http://store/v1/a/c/o", b'"0"', b'"1"', b"/a", b"3"])
        | st.binary(max_size=20),
    ),
    max_size=4,
)
REQUESTS = st.tuples(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", ""]),
    st.sampled_from(["/a", "/b", "/", "/" + "x" * 2000]) | st.text(max_size=10),
    HEADERS.map(lambda headers: [(b"x-storage-url", b"http://store/v1/a/c/o"), *headers]) | HEADERS,
    st.binary(max_size=100) | st.just(b"x" * 5000),
)


async def _send(
    routes: IckptRoutes, request: tuple[str, str, list[tuple[bytes, bytes]], bytes]
) -> int:
    method, path, headers, body = request
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": headers,
        "query_string": b"",
    }
    sent: list[Message] = []
    incoming = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    await routes(scope, receive, send)
    return int(sent[0]["status"])


@settings(deadline=None, max_examples=200)
@given(requests=st.lists(REQUESTS, max_size=8))
def test_every_request_is_answered_with_a_status_of_the_table(
    requests: list[Sent],
) -> None:
    async def scenario() -> None:
        world = World()
        routes = IckptRoutes(world.heads, Metrics(lambda: 0), world.clock, 4096)
        for request in requests:
            assert await _send(routes, request) in STATUSES

    asyncio.run(scenario())
