"""Goal: a volume is served where was said and nowhere else; a socket is taken from nobody alive.

Method: the parser of places, the rule on addresses, and real unix sockets, one of them of a server
that is gone; volumes/local_socket.py.
"""

import os
from pathlib import Path

import pytest

from holdfast.cli.volumes import parse_serve_requests
from holdfast.errors import ConflictError, DeniedError, InvalidRequestError, UnavailableError
from holdfast.server.volume_process import TlsFiles
from holdfast.server.volumes import refuse_open_address
from holdfast.volumes.local_socket import bind_local, connect_local

TLS = TlsFiles(certificate="c", key="k", client_authority="a")


def test_place_without_a_name_is_the_only_volumes() -> None:
    (request,) = parse_serve_requests(["db"], ["127.0.0.1:10809", "[::1]:0"], ["/run/db"])

    assert request.listen == (("127.0.0.1", 10809), ("::1", 0))
    assert request.socket_path == "/run/db"


def test_places_with_names_are_theirs() -> None:
    db, log = parse_serve_requests(["db", "log"], ["log=localhost:1"], ["db=/run/a=b"])

    assert (db.listen, db.socket_path) == ((), "/run/a=b")
    assert (log.listen, log.socket_path) == ((("localhost", 1),), None)


@pytest.mark.parametrize(
    ("names", "listen", "sockets"),
    [
        ([], [], []),
        (["db", "log"], ["127.0.0.1:1"], []),
        (["db", "log"], [], ["/run/db"]),
        (["db"], ["other=127.0.0.1:1"], []),
        (["db"], ["127.0.0.1"], []),
        (["db"], ["127.0.0.1:65536"], []),
        (["db"], ["::1:5"], []),
        (["../db"], [], []),
    ],
)
def test_no_place(names: list[str], listen: list[str], sockets: list[str]) -> None:
    with pytest.raises(InvalidRequestError):
        parse_serve_requests(names, listen, sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_certificates(host: str) -> None:
    refuse_open_address(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.evil"])
def test_other_addresses_need_certificates(host: str) -> None:
    with pytest.raises(DeniedError):
        refuse_open_address(host, None)
    refuse_open_address(host, TLS)


def test_socket_at_a_path_longer_than_addresses_are(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    path = directory / "control.sock"

    with bind_local(path, for_others=False) as listening, connect_local(path, 5.0):
        listening.accept()[0].close()
    with pytest.raises(InvalidRequestError):
        bind_local(path, for_others=True)

    assert os.stat(path).st_mode & 0o777 == 0o600


def test_socket_of_the_dead_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_local(path, for_others=True).close()
    with pytest.raises(UnavailableError):
        connect_local(path, 5.0)

    with bind_local(path, for_others=True), connect_local(path, 5.0):
        pass


def test_socket_of_the_living_is_not(tmp_path: Path) -> None:
    with bind_local(tmp_path / "s", for_others=True), pytest.raises(ConflictError):
        bind_local(tmp_path / "s", for_others=True)


def test_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")

    with pytest.raises(ConflictError):
        bind_local(path, for_others=True)

    assert path.read_text() == "mine"
