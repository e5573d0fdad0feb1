"""Goal: a source serves lists, bytes and digests of files as Sidecar does, gives nothing it should
not, and no client can hold what it has (invariants of source_side.py, streaming.py, permits.py).

Method: the application on a real server over real directories; raw sockets where a client is to
misbehave.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import xxhash

from holdfast.files.http.file_answers import BUSY, LISTS_MAX
from holdfast.files.http.source_side import list_files
from holdfast.files.migration.exclusions import exclusions_of
from holdfast.model.access import Permission
from holdfast.stores.directories.posix import PosixReadableDirectory
from tests.support.node import (
    LIVE_MIGRATION,
    OTHER,
    SOURCE,
    TARGET,
    ServedNode,
    make_instance,
    running_node,
)
from tests.support.slow_clients import besieging, take_a_little

SIEGE_ROUNDS = int(os.environ.get("HOLDFAST_SIEGE_ROUNDS", "2"))
"""How often an honest client comes during an attack."""
FILES = f"{LIVE_MIGRATION}/files"
BIG = bytes(range(256)) * 8192
HOSTILE_NAMES = (
    b"a b",
    b"100%",
    b"a?b",
    b"a#b",
    b"%2e%2e",
    b"\xff\xfe",
    b"new\nline",
    b"\xc3\xa4",
    b"+;=",
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServedNode]:
    with running_node(tmp_path) as served:
        yield served


def write(node: ServedNode, name: bytes, data: bytes = b"data", *, index: int = 0) -> None:
    path = os.path.join(os.fsencode(node.root(SOURCE, "data", index)), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(data)


def list_of(node: ServedNode) -> list[dict[str, object]]:
    answer = node.ask("GET", FILES, host=SOURCE)
    assert answer.status == 200, answer
    listed: list[dict[str, object]] = answer.json["files"]
    return listed


def test_the_list_has_sidecars_shape(node: ServedNode) -> None:
    write(node, b"ks/t/nb-1-big-Data.db", b"12345")
    write(node, b"other", b"", index=1)
    os.utime(node.root(SOURCE) / "ks/t/nb-1-big-Data.db", ns=(0, 1_700_000_000_123_999_999))
    answer = node.ask("GET", FILES, host=SOURCE)
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["files", "totalSize"]
    assert answer.json["totalSize"] == 5
    by_url = {entry["fileUrl"]: entry for entry in answer.json["files"]}
    assert set(by_url) == {
        f"{FILES}/data/0/ks",
        f"{FILES}/data/0/ks/t",
        f"{FILES}/data/0/ks/t/nb-1-big-Data.db",
        f"{FILES}/data/1/other",
    }
    assert by_url[f"{FILES}/data/0/ks/t/nb-1-big-Data.db"] == {
        "fileUrl": f"{FILES}/data/0/ks/t/nb-1-big-Data.db",
        "size": 5,
        "fileType": "FILE",
        "lastModifiedTime": 1_700_000_000_123,
    }
    directory = by_url[f"{FILES}/data/0/ks"]
    assert (directory["size"], directory["fileType"]) == (-1, "DIRECTORY")


def test_an_empty_instance_lists_nothing(node: ServedNode) -> None:
    assert node.ask("GET", FILES, host=SOURCE).body == b'{"files":[],"totalSize":0}'


def test_every_name_can_be_requested_as_it_is_listed(node: ServedNode) -> None:
    for number, name in enumerate(HOSTILE_NAMES):
        write(node, b"ks/" + name, b"%d" % number)
    listed = [entry for entry in list_of(node) if entry["fileType"] == "FILE"]
    assert len(listed) == len(HOSTILE_NAMES)
    found = {node.ask("GET", str(e["fileUrl"]), host=SOURCE).body for e in listed}
    assert found == {b"%d" % number for number in range(len(HOSTILE_NAMES))}
    named = [entry["nameBase64"] for entry in listed if "nameBase64" in entry]
    assert [base64.b64decode(str(name)) for name in named] == [b"ks/\xff\xfe"]


def test_other_kinds_are_neither_listed_nor_opened(node: ServedNode) -> None:
    root = node.root(SOURCE)
    os.mkfifo(root / "pipe")
    (root / "link").symlink_to("/etc/hostname")
    (root / "up").symlink_to("/etc")
    assert list_of(node) == []
    for name, status in (("pipe", 403), ("link", 403), ("up/hostname", 403)):
        assert node.ask("GET", f"{FILES}/data/0/{name}", host=SOURCE).status == status, name
    (root / "file").write_bytes(b"x")
    assert node.ask("GET", f"{FILES}/data/0/file/below", host=SOURCE).status == 404
    (root / "directory").mkdir()
    answer = node.ask("GET", f"{FILES}/data/0/directory", host=SOURCE)
    assert (answer.status, answer.json["message"]) == (400, "Cannot transfer directory")
    assert answer.json == {
        "status": "Bad Request",
        "code": 400,
        "message": "Cannot transfer directory",
    }


def test_what_is_excluded_is_neither_listed_nor_given(tmp_path: Path) -> None:
    with running_node(
        tmp_path,
        exclude_files=("glob:**/*.tmp",),
        exclude_directories=("glob:${DATA_FILE_DIR}/*/*/snapshots",),
    ) as node:
        for raw in (b"ks/t/a", b"ks/t/b.tmp", b"ks/t/snapshots/s/c"):
            write(node, raw)
        urls = {entry["fileUrl"] for entry in list_of(node)}
        assert urls == {f"{FILES}/data/0/{name}" for name in ("ks", "ks/t", "ks/t/a")}
        for name in ("ks/t/b.tmp", "ks/t/snapshots/s/c"):
            answer = node.ask("GET", f"{FILES}/data/0/{name}", host=SOURCE)
            assert answer.status == 404
            assert answer.json["message"] == "Requested path is excluded from live migration"


def test_a_directory_that_cannot_be_listed_is_no_empty_one(node: ServedNode) -> None:
    """Invariant 2 of source_side: a destination would delete its copy."""
    write(node, b"listed-first")
    node.root(SOURCE, "data", 1).rmdir()
    answer = node.ask("GET", FILES, host=SOURCE)
    assert answer.status == 503
    assert "data/1" in answer.json["message"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nothing/0/a", 400, "Invalid directory type: nothing"),
        ("data/x/a", 400, "Invalid directoryIndex: x"),
        ("data/2/a", 400, "Invalid directoryIndex: 2"),
        ("data/0/a/../b", 400, "Tried to access file using relative path: a/../b"),
        ("data/0/%2e%2e/b", 400, "Tried to access file using relative path: ../b"),
        ("data/0/missing", 404, "File not found"),
    ],
)
def test_wrong_addresses_are_told_as_sidecar_does(
    node: ServedNode, path: str, status: int, message: str
) -> None:
    answer = node.ask("GET", f"{FILES}/{path}", host=SOURCE)
    assert answer.status == status
    assert (answer.json["code"], answer.json["message"]) == (status, message)


@pytest.mark.parametrize("index", [0, 1])
def test_each_data_directory_has_its_own_files(node: ServedNode, index: int) -> None:
    write(node, b"same", b"zero")
    write(node, b"same", b"one", index=1)
    answer = node.ask("GET", f"{FILES}/data/{index}/same", host=SOURCE)
    assert answer.body == (b"zero", b"one")[index]


def test_a_file_comes_whole_or_in_ranges(node: ServedNode) -> None:
    write(node, b"big", BIG)
    url = f"{FILES}/data/0/big"
    whole = node.ask("GET", url, host=SOURCE)
    assert (whole.status, whole.body) == (200, BIG)
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.headers["accept-ranges"] == "bytes"
    assert "content-range" not in whole.headers
    part = node.ask("GET", url, host=SOURCE, Range="bytes=1000-700000")
    assert (part.status, part.body) == (206, BIG[1000:700001])
    assert part.headers["content-range"] == f"bytes 1000-700000/{len(BIG)}"
    covering = node.ask("GET", url, host=SOURCE, Range=f"bytes=0-{len(BIG) * 2}")
    assert (covering.status, len(covering.body)) == (200, len(BIG))
    outside = node.ask("GET", url, host=SOURCE, Range=f"bytes={len(BIG)}-")
    assert outside.status == 416
    assert outside.headers["content-range"] == f"bytes */{len(BIG)}"
    assert outside.json["code"] == 416


def test_an_empty_file_comes_empty(node: ServedNode) -> None:
    write(node, b"empty", b"")
    answer = node.ask("GET", f"{FILES}/data/0/empty", host=SOURCE)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    ranged = node.ask("GET", f"{FILES}/data/0/empty", host=SOURCE, Range="bytes=0-")
    assert (ranged.status, ranged.headers["content-range"]) == (416, "bytes */0")


def test_a_part_goes_on_only_with_the_file_it_was_of(node: ServedNode) -> None:
    write(node, b"f", b"0123456789")
    url = f"{FILES}/data/0/f"
    etag = node.ask("GET", url, host=SOURCE).headers["etag"]
    same = node.ask("GET", url, host=SOURCE, Range="bytes=5-", If_Range=etag)
    assert (same.status, same.body, same.headers["etag"]) == (206, b"56789", etag)
    write(node, b"f", b"abcdefghij")
    changed = node.ask("GET", url, host=SOURCE, Range="bytes=5-", If_Range=etag)
    assert (changed.status, changed.body) == (200, b"abcdefghij")
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("data", "asked", "digest"),
    [
        (b"", "MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        (b"abc", "md5", "kAFQmDzST7DWlj99KOF/cg=="),
        (b"", "XXHash32", "2cc5d05"),
        (b"a", "xxhash32", "550d7456"),
        (b"abc", "XXHash32", "32d153ff"),
        (BIG, "SHA256", hashlib.sha256(BIG).hexdigest()),
        (BIG, "XXH3_128", xxhash.xxh3_128(BIG).hexdigest()),
    ],
)
def test_digests_are_spelt_as_sidecar_does(
    node: ServedNode, data: bytes, asked: str, digest: str
) -> None:
    write(node, b"f", data)
    answer = node.ask("GET", f"{FILES}/data/0/f?digestAlgorithm={asked}", host=SOURCE)
    assert answer.status == 200
    assert answer.json == {"digest": digest, "digestAlgorithm": asked}


def test_a_seed_is_used(node: ServedNode) -> None:
    write(node, b"f", b"abc")
    url = f"{FILES}/data/0/f?digestAlgorithm=XXHash32&seed=7"
    assert (
        node.ask("GET", url, host=SOURCE).json["digest"] == f"{xxhash.xxh32_intdigest(b'abc', 7):x}"
    )
    for seed in ("x", "-1", str(1 << 32)):
        url = f"{FILES}/data/0/f?digestAlgorithm=XXHash32&seed={seed}"
        assert node.ask("GET", url, host=SOURCE).status == 400, seed
    assert node.ask("GET", f"{FILES}/data/0/f?digestAlgorithm=CRC", host=SOURCE).status == 400


def test_roles_are_guarded_in_order(node: ServedNode) -> None:
    write(node, b"f")
    url = f"{FILES}/data/0/f"
    assert node.ask("GET", url, host=SOURCE).status == 200
    for host in (TARGET, OTHER, "nobody.test"):
        answer = node.ask("GET", url, host=host)
        assert (answer.status, answer.json) == (404, {"status": "Not Found"}), host
    assert node.ask("GET", FILES, host=TARGET).status == 200
    assert node.ask("GET", FILES, host=OTHER).status == 404
    assert node.ask("GET", url, host=f"{SOURCE.upper()}:9043").status == 200
    assert node.ask("POST", f"{LIVE_MIGRATION}/status", host=SOURCE).status == 200
    complete = node.ask("GET", url, host=SOURCE)
    assert (complete.status, complete.json) == (400, {"status": "Bad Request"})
    assert node.ask("GET", FILES, host=SOURCE).status == 200


def test_methods_and_paths_that_are_not_there(node: ServedNode) -> None:
    answer = node.ask("PUT", f"{LIVE_MIGRATION}/status", host=SOURCE)
    assert (answer.status, answer.json) == (405, {"status": "Method Not Allowed"})
    assert answer.headers["allow"] == "DELETE, GET, POST"
    nothing = node.ask("GET", f"{LIVE_MIGRATION}/nothing", host=SOURCE)
    assert (nothing.status, nothing.json) == (404, {"status": "Not Found"})
    ours = node.ask("GET", "/nothing", host=SOURCE)
    assert ours.headers["content-type"] == "application/problem+json"
    as_problem = node.ask(
        "GET", f"{FILES}/data/0/f", host=TARGET, Accept="application/problem+json"
    )
    assert (as_problem.json["kind"], as_problem.json["code"]) == ("not-found", "wrong-role")


def test_permissions_are_asked_before_roles(tmp_path: Path) -> None:
    grants = {
        "c": frozenset({Permission.COPY}),
        "v": frozenset({Permission.VERIFY}),
        "r": frozenset({Permission.READ}),
    }
    with running_node(tmp_path, grants=grants) as node:
        write(node, b"f")
        url = f"{FILES}/data/0/f"

        def status(token: str, path: str, host: str = SOURCE) -> int:
            return node.ask("GET", path, host=host, Authorization=f"Bearer {token}").status

        nobody = node.ask("GET", url, host=OTHER)
        assert (nobody.status, nobody.json) == (401, {"status": "Unauthorized"})
        assert nobody.headers["www-authenticate"] == "Bearer"
        assert [status(token, url) for token in "cvr"] == [200, 403, 403]
        assert [status(t, url + "?digestAlgorithm=MD5") for t in "cvr"] == [200, 200, 403]
        assert [status(token, FILES) for token in "cvr"] == [200, 200, 403]
        assert status("r", f"{LIVE_MIGRATION}/status") == 200
        assert node.ask("GET", "/healthz").status == 200
        posted = node.ask("POST", f"{LIVE_MIGRATION}/status", Authorization="Bearer v")
        assert posted.status == 403


def _half_read(node: ServedNode, path: str) -> socket.socket:
    """Ask for a file and read only the beginning of the answer."""
    parts = urlsplit(node.url)
    client = socket.socket()
    # A small window: what is not read soon stands in the server.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((parts.hostname, parts.port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: {SOURCE}\r\n\r\n".encode())
    assert client.recv(1024).startswith(b"HTTP/1.1 200")
    return client


def _wait_for_status(node: ServedNode, path: str, wanted: int) -> None:
    for _ in range(200):
        if node.ask("GET", path, host=SOURCE).status == wanted:
            return
        node.services.clock.sleep(0.02)
    raise AssertionError(f"{path} never was answered {wanted}")


def test_over_the_cap_is_503_until_a_client_goes(tmp_path: Path) -> None:
    """Invariants of permits.py and 2 of streaming.py."""
    with running_node(tmp_path, file_requests_max=2) as node:
        write(node, b"big", BIG * 16)
        write(node, b"small")
        big, small = f"{FILES}/data/0/big", f"{FILES}/data/0/small"
        holders = [_half_read(node, big) for _ in range(2)]
        refused = node.ask("GET", small, host=SOURCE)
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json["message"] == BUSY
        assert node.ask("GET", f"{small}?digestAlgorithm=MD5", host=SOURCE).status == 503
        assert node.ask("GET", FILES, host=SOURCE).status == 200
        holders[0].close()
        _wait_for_status(node, small, 200)
        holders[1].close()
        # Both are back: two more can be held.
        again = [_half_read(node, big) for _ in range(2)]
        assert node.ask("GET", small, host=SOURCE).status == 503
        for client in again:
            client.close()
        _wait_for_status(node, small, 200)


@pytest.mark.slow
def test_lists_are_bounded_on_their_own(tmp_path: Path) -> None:
    """Lists that nobody reads keep neither files nor, for long, other lists from anybody."""
    with running_node(tmp_path, client_timeout_s=2) as node:
        for number in range(20_000):
            path = node.root(SOURCE) / f"{number:0200d}"
            os.close(os.open(path, os.O_CREAT))
        holders = [_half_read(node, FILES) for _ in range(LISTS_MAX)]
        refused = node.ask("GET", FILES, host=SOURCE)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert node.ask("GET", f"{FILES}/data/0/{0:0200d}", host=SOURCE).status == 200
        time.sleep(2)
        _wait_for_status(node, FILES, 200)
        for client in holders:
            client.close()


def test_a_client_that_stands_still_loses_its_place(tmp_path: Path) -> None:
    """Invariant 2 of permits.py."""
    with running_node(tmp_path, file_requests_max=1, client_timeout_s=0.3) as node:
        write(node, b"big", BIG * 16)
        write(node, b"small")
        client = _half_read(node, f"{FILES}/data/0/big")
        _wait_for_status(node, f"{FILES}/data/0/small", 200)
        client.close()


def _patiently(node: ServedNode, path: str, within_s: float) -> bytes:
    """GET from another address, coming again as Retry-After says."""
    parts = urlsplit(node.url)
    until = time.monotonic() + within_s
    while True:
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=30, source_address=("127.0.0.2", 0)
        )
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": SOURCE})
            response = connection.getresponse()
            body = response.read()
        if response.status == 200:
            return body
        assert response.status == 503, body
        assert time.monotonic() < until, "the honest client never got in"
        time.sleep(float(response.headers["retry-after"]))


@pytest.mark.slow
@pytest.mark.parametrize("is_dripping", [True, False])
def test_while_all_permits_are_attacked_an_honest_client_gets_through(
    tmp_path: Path, is_dripping: bool
) -> None:
    """Invariant 3 of permits.py: attackers take some bytes now and then, or none, and come back."""
    with running_node(tmp_path, file_requests_max=3) as node:
        write(node, b"huge", BIG * 64)
        write(node, b"wanted", BIG * 4)
        parts = urlsplit(node.url)
        request = f"GET {FILES}/data/0/huge HTTP/1.1\r\nHost: {SOURCE}\r\n\r\n"
        with besieging(
            (parts.hostname or "", parts.port or 0),
            clients=9,
            opening=request.encode(),
            attack=take_a_little if is_dripping else lambda _client: None,
            buffer_bytes=4096,
        ) as siege:
            while node.application.file_permits.in_use < 3:
                time.sleep(0.01)
            for _ in range(SIEGE_ROUNDS):
                assert _patiently(node, f"{FILES}/data/0/wanted", 20) == BIG * 4
                digest = _patiently(node, f"{FILES}/data/0/wanted?digestAlgorithm=MD5", 20)
                assert json.loads(digest)["digestAlgorithm"] == "MD5"
        assert siege.connections >= 9


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with running_node(tmp_path, client_timeout_s=0.3) as node:
        parts = urlsplit(node.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as client:
            head = f"POST {LIVE_MIGRATION}/data-copy-tasks HTTP/1.1\r\nHost: {TARGET}\r\n"
            client.sendall(f"{head}Content-Length: 10\r\n\r\n{{".encode())
            answer = b"".join(iter(partial(client.recv, 4096), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"status":"Request Timeout","code":408,' in answer


def test_bytes_that_are_no_url_are_refused(node: ServedNode) -> None:
    parts = urlsplit(node.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as client:
        client.sendall(b"GET %s/data/0/\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n" % FILES.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert node.ask("GET", "/healthz").status == 200


def test_a_file_cut_short_while_it_is_sent_breaks_the_answer_off(tmp_path: Path) -> None:
    """Invariant 3 of streaming.py: never a shorter body that looks whole."""
    with running_node(tmp_path) as node:
        write(node, b"big", BIG * 16)
        client = _half_read(node, f"{FILES}/data/0/big")
        os.truncate(node.root(SOURCE) / "big", 1000)
        received = 0
        while chunk := client.recv(1 << 20):
            received += len(chunk)
        assert received < len(BIG) * 16
        client.close()


def test_a_body_of_a_get_is_dropped_and_the_connection_goes_on(node: ServedNode) -> None:
    write(node, b"f", b"data")
    answer = node.ask("GET", f"{FILES}/data/0/f", host=SOURCE, body=b"x" * 100_000)
    assert answer.body == b"data"


@pytest.mark.slow
def test_a_list_of_many_files_is_made_as_it_is_sent(tmp_path: Path) -> None:
    """A hundred thousand entries pass through without the document ever being held."""
    with running_node(tmp_path) as node:
        root = node.root(SOURCE)
        for number in range(100):
            (root / f"d{number:03}").mkdir()
            for name in range(1000):
                (root / f"d{number:03}" / f"file-{name:04}").touch()
        answer = node.ask("GET", FILES, host=SOURCE)
        assert answer.headers["transfer-encoding"] == "chunked"
        assert len(json.loads(answer.body)["files"]) == 100_100


@pytest.mark.slow
def test_the_memory_of_a_list_does_not_grow_with_the_tree(tmp_path: Path) -> None:
    """The generator alone, twenty times as many entries: the peak is that of one directory."""
    instance = make_instance(tmp_path, "many")
    root = Path(os.fsdecode(instance.directories[0].path))
    peaks = []
    for directories in (range(2), range(2, 40)):
        for number in directories:
            (root / f"d{number:03}").mkdir()
            for name in range(1000):
                (root / f"d{number:03}" / f"file-{name:04}").touch()
        tracemalloc.start()
        size_bytes = sum(map(len, list_files(instance, PosixReadableDirectory, exclusions_of)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert size_bytes > 4 << 20
    assert peaks[1] < peaks[0] + (1 << 20)
