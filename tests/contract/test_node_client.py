"""Goal: the client of a node says everything the API has, turns every refusal into its kind, waits
where it is told to, and repeats nothing that could be done twice (see node_connection.py).

Method: the application on a real server; scripted servers on loopback for what a sound one never
does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from holdfast.client import node_connection
from holdfast.client.node import NodeClient
from holdfast.client.node_connection import NodeEndpoint
from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.access import Permission
from tests.contract.test_node_migrations import COPY, VERIFICATION
from tests.support.node import TARGET, ServedNode, running_node

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServedNode]:
    with running_node(tmp_path) as served:
        yield served


def run(node: ServedNode, scenario: Callable[[NodeClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with NodeClient(NodeEndpoint(url=node.url, host=TARGET)) as client:
            await scenario(client)

    asyncio.run(main())


def test_a_migration_is_driven(node: ServedNode) -> None:
    async def scenario(client: NodeClient) -> None:
        assert (await client.node())["product"] == "holdfast"
        assert await client.status() == {"state": "NOT_COMPLETED", "endTime": None}
        started = await client.copies.start(COPY, "key-1")
        assert await client.copies.start(COPY, "key-1") == started
        assert (await client.copies.last())[0]["taskId"] == started.task_id
        with pytest.raises(ConflictError) as busy:
            await client.verifications.start(VERIFICATION, "key-2")
        assert busy.value.code == "busy"
        assert busy.value.advice
        assert (await client.tasks.limit_rate(started.task_id, 5))["rateRequested"] == 5
        node.finish_tasks({"iterations": []})
        names = [event.name async for event in client.tasks.follow(started.task_id)]
        kept = [name for name in names if name not in ("progress", "rate-requested")]
        assert kept == ["created", "started", "stage-entered", "completed", "ended"]
        (last,) = [event async for event in client.tasks.follow(started.task_id, after=100)]
        assert (last.name, last.data["state"]) == ("ended", "completed")
        verification = await client.verifications.start(VERIFICATION, "key-3")
        assert (await client.verifications.cancel(verification.task_id))["state"] == "CANCELLED"
        results = await client.verifications.results(verification.task_id)
        assert (results.items, results.cursor_next) == ((), None)
        listed = await client.tasks.page(limit=1)
        assert (len(listed.items), listed.cursor_next is None) == (1, False)
        assert (await client.mark_complete("done"))["state"] == "COMPLETED"
        assert (await client.mark_complete("done"))["state"] == "COMPLETED"
        with pytest.raises(StateError):
            await client.mark_complete("twice")

    run(node, scenario)


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda c: c.copies.show("x"), NotFoundError, "no-task"),
        (lambda c: c.tasks.show("x"), NotFoundError, "no-task"),
        (lambda c: c.copies.start({}, "k"), InvalidRequestError, "bad-request-body"),
        (lambda c: c.clear_status(), DeniedError, "still-in-map"),
        (lambda c: c.tasks.page(limit=0), InvalidRequestError, "bad-parameter"),
    ],
)
def test_refusals_come_as_their_kind(
    node: ServedNode,
    call: Callable[[NodeClient], Awaitable[object]],
    kind: type[HoldfastError],
    code: str,
) -> None:
    async def scenario(client: NodeClient) -> None:
        with pytest.raises(kind) as caught:
            await call(client)
        assert caught.value.code == code
        assert caught.value.advice

    run(node, scenario)


def test_a_token_is_sent_and_never_told(tmp_path: Path) -> None:
    """Invariant 4."""

    async def main(url: str) -> None:
        good = NodeEndpoint(url=url, host=TARGET, token="sesame")
        assert "sesame" not in repr(good)
        async with NodeClient(good) as client:
            assert (await client.node())["permissions"] == ["read"]
        async with NodeClient(NodeEndpoint(url=url, token="other-secret")) as client:
            with pytest.raises(DeniedError) as caught:
                await client.node()
        assert caught.value.code == "no-credentials"
        assert "other-secret" not in repr(caught.value.as_problem())

    with running_node(tmp_path, grants={"sesame": frozenset({Permission.READ})}) as node:
        asyncio.run(main(node.url))


@contextlib.asynccontextmanager
async def scripted(answers: list[bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve these answers, one a connection; an empty one only closes it. Yields URL and heads."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        writer.write(answers[min(len(heads), len(answers)) - 1])
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}", heads
    finally:
        server.close()
        await server.wait_closed()


def against(
    answers: list[bytes], scenario: Callable[[NodeClient], Awaitable[object]]
) -> tuple[object, list[bytes]]:
    """Run a call against a scripted server; return its result or error, and the heads seen."""

    async def main() -> tuple[object, list[bytes]]:
        async with (
            scripted(answers) as (url, heads),
            NodeClient(NodeEndpoint(url=url), timeout_s=2.0, backoff_s=0.01) as client,
        ):
            try:
                return await scenario(client), heads
            except HoldfastError as error:
                return error, heads

    return asyncio.run(main())


def test_a_busy_node_is_asked_again() -> None:
    """Invariant 1."""
    result, heads = against([BUSY, BUSY, OK], lambda client: client.node())
    assert (result, len(heads)) == ({}, 3)
    result, heads = against([BUSY], lambda client: client.node())
    assert isinstance(result, UnavailableError)
    assert len(heads) == node_connection.ATTEMPTS_MAX


def test_a_lost_answer_is_asked_for_again_where_nothing_is_done_twice() -> None:
    """Invariant 2."""
    for call in (
        lambda client: client.node(),
        lambda client: client.clear_status(),
        lambda client: client.tasks.cancel("x"),
        lambda client: client.mark_complete("key"),
    ):
        result, heads = against([b"", OK], call)
        assert (result, len(heads)) == ({}, 2)
    result, heads = against([b"", OK], lambda client: client._connection.ask("POST", "/x"))
    assert isinstance(result, OutcomeUnknownError)
    assert len(heads) == 1


def test_keys_are_repeated_with_the_request() -> None:
    started = b'{"taskId": "t", "statusUrl": "/t"}'
    accepted = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%s" % (len(started), started)
    _, heads = against([b"", accepted], lambda client: client.copies.start({}, "one-key"))
    assert [b"idempotency-key: one-key" in head.lower() for head in heads] == [True, True]


@pytest.mark.parametrize(
    "body",
    [b"nonsense", b"[]", b'"x"', b"[" * 100_000, b"\xff", b""],
)
def test_an_answer_of_something_else_is_told_so(body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    result, _ = against([answer], lambda client: client.node())
    assert isinstance(result, UnsupportedError)
    assert result.code == "node-odd"


def test_an_endless_answer_is_refused() -> None:
    """Invariant 3."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
    answer = head + b" " * (node_connection.ANSWER_BYTES_MAX + 1)
    result, heads = against([answer], lambda client: client.node())
    assert isinstance(result, UnsupportedError)
    assert len(heads) == 1


def test_the_errors_of_a_sidecar_have_their_kind() -> None:
    def answer(status: int, body: Mapping[str, object] | bytes) -> bytes:
        text = body if isinstance(body, bytes) else repr(body).replace("'", '"').encode()
        return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text)

    told = {"status": "Conflict", "code": 409, "message": "Another task"}
    result, _ = against([answer(409, told)], lambda client: client.status())
    assert isinstance(result, ConflictError)
    assert (result.message, result.code) == ("Another task", "http-409")
    result, _ = against([answer(404, {"status": "Not Found"})], lambda client: client.status())
    assert isinstance(result, NotFoundError)
    result, _ = against([answer(418, b"<html>")], lambda client: client.status())
    assert isinstance(result, UnavailableError)


def test_nobody_there_is_told_with_what_to_do() -> None:
    async def main() -> UnavailableError:
        endpoint = NodeEndpoint(url="http://127.0.0.1:1")
        async with NodeClient(endpoint, timeout_s=1.0, backoff_s=0.01) as client:
            with pytest.raises(UnavailableError) as caught:
                await client.node()
        return caught.value

    error = asyncio.run(main())
    assert error.code == "node-unreachable"
    assert "holdfast node" in error.advice


@pytest.mark.parametrize("url", ["", "node", "ftp://node", "http://", "http://a:b:c"])
def test_what_is_no_url_is_told_so(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        NodeClient(NodeEndpoint(url=url))


def test_a_broken_stream_of_events_goes_on_where_it_was() -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    def chunk(text: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(text), text)

    first = chunk(b"id: 1\nevent: created\ndata: {}\n\n: silence\n\nid: 2\nevent: st")
    second = chunk(b'id: 2\nevent: started\ndata: {}\n\nevent: ended\ndata: {"state": "x"}\n\n')

    async def collect(client: NodeClient) -> list[tuple[str, int | None]]:
        return [(e.name, e.sequence) async for e in client.tasks.follow("task")]

    result, heads = against([head + first, head + second + b"0\r\n\r\n"], collect)
    assert result == [("created", 1), ("started", 2), ("ended", None)]
    assert [b"last-event-id: %d" % after in h.lower() for after, h in enumerate(heads)] == [
        True
    ] * 2


def test_a_node_that_starts_again_is_waited_for_by_who_follows() -> None:
    """Longer than by who asks something: the task goes on meanwhile."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    first = b"id: 1\nevent: created\ndata: {}\n\n"
    last = b'event: ended\ndata: {"state": "x"}\n\n'

    async def collect(client: NodeClient) -> list[str]:
        return [event.name async for event in client.tasks.follow("task")]

    answers = [
        head % len(first) + first,
        *[b""] * 14,
        head % len(last) + last,
    ]
    result, _ = against(answers, collect)
    assert result == ["created", "ended"]
    result, _ = against([b""] * node_connection.ATTEMPTS_MAX, collect)
    assert isinstance(result, UnavailableError), "who was never heard is not waited for"
