"""Goal: a client cannot hold a connection by sending the head of a request slowly, or a huge one.

Method: a real server on loopback with a short deadline, and plain sockets.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from holdfast.server.serving import (
    HEAD_BYTES_MAX,
    BoundedRequests,
    bind,
    make_server,
    names_of,
    stop_servers,
)
from holdfast.stores.nodes.channel import UNANSWERED_MS

HEAD_S = 0.5


class Hasty(BoundedRequests):
    """The protocol with less patience."""

    head_s = HEAD_S


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listening = bind("127.0.0.1", 0)
    server = make_server(PlainTextResponse("here"), None)
    server.config.http_protocol_class = Hasty
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    yield listening.getsockname()
    stop_servers([server])
    thread.join()


def seconds_until_closed(client: socket.socket) -> float:
    began = time.monotonic()
    client.settimeout(20)
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


def test_what_is_accepted_has_a_time_to_acknowledge_in() -> None:
    """Invariant 5 of serving.py."""
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            option = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert option == UNANSWERED_MS
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.slow
def test_the_socket_of_a_client_that_takes_nothing_is_freed() -> None:
    """Invariant 5 of serving.py: though it lives, acknowledges, and megabytes wait for it."""
    listening = bind("127.0.0.1", 0)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
    server = make_server(PlainTextResponse(bytes(16 << 20)), None)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listening.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        pair = (listening.getsockname(), client.getsockname())
        assert is_established(*pair)
        began = time.monotonic()
        while is_established(*pair):
            assert time.monotonic() - began < 20, "the server still holds the socket"
            time.sleep(0.1)
    stop_servers([server])
    thread.join()


def is_established(own: tuple[str, int], other: tuple[str, int]) -> bool:
    """Say whether there is a socket of this machine at one address connected to another."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        ports = [int(address.rpartition(":")[2], 16) for address in (local, remote)]
        if ports == [own[1], other[1]] and state == "01":
            return True
    return False


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_closes_the_connection(
    address: tuple[str, int], sent: bytes
) -> None:
    """Invariant 4 of serving.py."""
    with socket.create_connection(address) as client:
        client.sendall(sent)
        assert HEAD_S / 2 < seconds_until_closed(client) < 10


def test_each_head_on_a_connection_has_the_time_anew(address: tuple[str, int]) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection(address) as client:
        for _ in range(3):
            client.sendall(request[:10])
            time.sleep(HEAD_S * 0.6)
            client.sendall(request[10:])
            answer = b""
            while not answer.endswith(b"here"):
                received = client.recv(4096)
                assert received, "the connection was closed"
                answer += received
            time.sleep(HEAD_S * 0.6)


def test_a_head_that_is_too_long_closes_the_connection(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        try:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 2 * HEAD_BYTES_MAX)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert seconds_until_closed(client) < HEAD_S


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, ()),
        ({}, ()),
        ({"subject": ((("commonName", "db1"),),)}, ("db1",)),
        (
            {
                "subject": ((("commonName", "db1"),),),
                "subjectAltName": (("DNS", "a"), ("IP Address", "127.0.0.1"), ("DNS", "b")),
            },
            ("a", "b"),
        ),
    ],
)
def test_names_are_those_of_dns_else_the_common_name(
    certificate: dict[str, object] | None, names: tuple[str, ...]
) -> None:
    assert names_of(certificate) == names
