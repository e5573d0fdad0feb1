"""Goal: the operator's six phases of a live migration work by curl as with Cassandra Sidecar, and
every answer is byte for byte of Sidecar's shape, with ours after it where there is more.

Method: curl against two real node processes; ids, times and figures are put back as names before
the bytes are compared. The shapes are written here from Sidecar's facts.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node_process import SOURCE, NodePair, NodeProcess, running_pair

BASE = "/api/v1/live-migration"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
COPY = '{"maxIterations": 5, "successThreshold": %s, "maxConcurrency": 10}'
NOT_COMPLETED = '{"state":"NOT_COMPLETED","endTime":null}'
MTIME_MS = 1_650_000_000_123


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[NodePair]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; 'make deps' installs it")
    with running_pair(tmp_path) as pair:
        yield pair


def curl(node: NodeProcess, method: str, path: str, *more: str) -> tuple[int, str, str]:
    """Return status, content type and body."""
    command = ["curl", "-sS", "-X", method, *more, "-w", "\n%{http_code} %{content_type}"]
    ended = subprocess.run(
        [*command, f"{node.url}{path}"], capture_output=True, text=True, timeout=60, check=True
    )
    body, _, written = ended.stdout.rpartition("\n")
    status, _, content_type = written.partition(" ")
    return int(status), content_type, body


def post(node: NodeProcess, path: str, body: str) -> tuple[int, str, str]:
    return curl(node, "POST", path, "-H", "Content-Type: application/json", "-d", body)


def put(node: NodeProcess, name: str, content: bytes) -> None:
    path = node.data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    subprocess.run(["touch", "-d", f"@{MTIME_MS / 1000:.3f}", path], check=True)


def start(node: NodeProcess, route: str, body: str) -> str:
    """Start a task; return its id once it has ended."""
    status, content_type, answer = post(node, f"{BASE}/{route}", body)
    assert (status, content_type) == (202, "application/json"), answer
    found = re.fullmatch(
        rf'\{{"taskId":"({UUID})","statusUrl":"{BASE}/{route}/({UUID})"\}}', answer
    )
    assert found is not None, answer
    assert found[1] == found[2]
    node.wait_until_ended(found[1])
    return found[1]


def refusal(status: int, phrase: str, message: str) -> tuple[int, str, str]:
    body = f'{{"status":"{phrase}","code":{status},"message":"{message}"}}'
    return status, "application/json", body


def guard(status: int, phrase: str) -> tuple[int, str, str]:
    return status, "application/json", f'{{"status":"{phrase}"}}'


def good(body: str) -> tuple[int, str, str]:
    return 200, "application/json", body


@pytest.mark.slow
def test_six_phases_by_curl(pair: NodePair) -> None:
    source, target = pair.source, pair.target
    put(source, "ks/a b%.db", b"x" * 1000)
    put(source, "empty", b"")

    url = check_source(pair)

    # 1. Copy while the source runs; 2. and once it is stopped.
    start(target, "data-copy-tasks", COPY % "0.95")
    copy_id = start(target, "data-copy-tasks", COPY % "1.0")
    status, _, shown = curl(target, "GET", f"{BASE}/data-copy-tasks/{copy_id}")
    assert status == 200
    assert shown.startswith(
        f'{{"taskId":"{copy_id}","source":"{SOURCE}","port":{source.port},"maxIterations":5,'
        '"successThreshold":1.0,"maxConcurrency":10,"status":[{"iteration":0,"state":"SUCCESS",'
        '"totalSize":1000,"totalFiles":3,"bytesToDownload":-1,"filesToDownload":-1,'
        '"filesDownloaded":0,"downloadFailures":0,"bytesDownloaded":0'
    ), shown
    assert curl(target, "GET", f"{BASE}/data-copy-tasks") == good(f"[{shown}]")
    assert curl(target, "PATCH", f"{BASE}/data-copy-tasks/{copy_id}") == good(shown)
    assert curl(target, "GET", f"{BASE}/files-verification-tasks") == good("[]")

    # 3. Verify.
    body = '{"maxConcurrency": 10, "digestAlgorithm": "MD5"}'
    verification_id = start(target, "files-verification-tasks", body)
    _, _, shown = curl(target, "GET", f"{BASE}/files-verification-tasks/{verification_id}")
    assert shown.startswith(
        f'{{"id":"{verification_id}","digestAlgorithm":"MD5","seed":null,"state":"COMPLETED",'
        f'"source":"{SOURCE}","port":{source.port},"filesNotFoundAtSource":0,'
        '"filesNotFoundAtDestination":0,"metadataMatched":3,"metadataMismatches":0,'
        '"digestMismatches":0,"digestVerificationFailures":0,"filesMatched":2,'
    ), shown
    assert curl(target, "GET", f"{BASE}/files-verification-tasks") == good(f"[{shown}]")
    check_refusals(pair, copy_id, verification_id)

    # 4. Complete both; 5. the new host starts: nothing is copied any more.
    for node in (source, target):
        before_ms = time.time_ns() // 1_000_000
        status, content_type, body = curl(node, "POST", f"{BASE}/status")
        assert (status, content_type) == (200, "application/json")
        found = re.fullmatch(r'\{"state":"COMPLETED","endTime":(\d{13})\}', body)
        assert found is not None, body
        assert before_ms - 1000 <= int(found[1]) <= time.time_ns() // 1_000_000 + 1000
        assert curl(node, "GET", f"{BASE}/status") == good(body)
        assert curl(node, "POST", f"{BASE}/status")[0] == 400
        assert curl(node, "DELETE", f"{BASE}/status") == guard(403, "Forbidden")
    for route in ("data-copy-tasks", "files-verification-tasks"):
        assert post(target, f"{BASE}/{route}", "{}") == guard(400, "Bad Request")
    assert curl(source, "GET", url) == guard(400, "Bad Request")

    check_clearing(pair)


def check_clearing(pair: NodePair) -> None:
    """6. Out of the map, and cleared."""
    for node in (pair.source, pair.target):
        node.stop()
        node.more = ""
        node.start(re.sub(r'\n"127.0.0.1" = "localhost"', "", node.settings))
        assert json.loads(curl(node, "GET", f"{BASE}/status")[2])["state"] == "COMPLETED"
        assert curl(node, "GET", f"{BASE}/files") == guard(404, "Not Found")
        assert curl(node, "POST", f"{BASE}/status") == guard(404, "Not Found")
        assert curl(node, "DELETE", f"{BASE}/status") == good('{"status":"OK"}')
        assert curl(node, "GET", f"{BASE}/status") == good(NOT_COMPLETED)


def check_source(pair: NodePair) -> str:
    """Compare what there is before: the list, one file, a part of it, digests; return its URL."""
    source, target = pair.source, pair.target
    _, _, listed = curl(source, "GET", f"{BASE}/files")
    directory_ms = (source.data / "ks").stat().st_mtime_ns // 1_000_000
    entries = {
        f'{{"fileUrl":"{BASE}/files/data/0/ks","size":-1,"fileType":"DIRECTORY",'
        f'"lastModifiedTime":{directory_ms}}}',
        f'{{"fileUrl":"{BASE}/files/data/0/ks/a%20b%25.db","size":1000,"fileType":"FILE",'
        f'"lastModifiedTime":{MTIME_MS}}}',
        f'{{"fileUrl":"{BASE}/files/data/0/empty","size":0,"fileType":"FILE",'
        f'"lastModifiedTime":{MTIME_MS}}}',
    }
    assert set(re.findall(r'\{"fileUrl"[^}]*\}', listed)) == entries
    assert re.fullmatch(r'\{"files":\[.*\],"totalSize":1000\}', listed)
    url = f"{BASE}/files/data/0/ks/a%20b%25.db"
    assert curl(source, "GET", url) == (200, "application/octet-stream", "x" * 1000)
    part = curl(source, "GET", url, "-H", "Range: bytes=-3")
    assert part == (206, "application/octet-stream", "xxx")
    assert curl(source, "GET", f"{BASE}/files/data/0/empty") == (
        200,
        "application/octet-stream",
        "",
    )
    assert curl(source, "GET", f"{BASE}/files/data/0/empty?digestAlgorithm=md5") == good(
        '{"digest":"1B2M2Y8AsgTpgAmY7PhCfg==","digestAlgorithm":"md5"}'
    )
    assert curl(source, "GET", f"{BASE}/files/data/0/empty?digestAlgorithm=XXHash32") == good(
        '{"digest":"2cc5d05","digestAlgorithm":"XXHash32"}'
    )
    for node in (source, target):
        assert curl(node, "GET", f"{BASE}/status") == good(NOT_COMPLETED)
    return url


def check_refusals(pair: NodePair, copy_id: str, verification_id: str) -> None:
    """Compare every refusal that Sidecar's clients may match on."""
    source, target = pair.source, pair.target
    files = f"{BASE}/files"
    for path, status, phrase, message in (
        (f"{files}/nope/0/f", 400, "Bad Request", "Invalid directory type: nope"),
        (f"{files}/data/7/f", 400, "Bad Request", "Invalid directoryIndex: 7"),
        (f"{files}/data/0/ks", 400, "Bad Request", "Cannot transfer directory"),
        (f"{files}/data/0/none", 404, "Not Found", "File not found"),
    ):
        assert curl(source, "GET", path) == refusal(status, phrase, message)
    climbing = curl(source, "GET", f"{files}/data/0/%2e%2e/f")
    assert climbing[0] == 400
    assert climbing[2].startswith(
        '{"status":"Bad Request","code":400,"message":"Tried to access file using relative path: '
    )
    past = curl(source, "GET", f"{files}/data/0/ks/a%20b%25.db", "-H", "Range: bytes=1000-")
    assert past[0] == 416
    assert past[2].startswith('{"status":"Requested Range Not Satisfiable","code":416,"message":"')

    unknown = "00000000-0000-0000-0000-000000000000"
    for route, other, noun in (
        ("data-copy-tasks", verification_id, "data copy"),
        ("files-verification-tasks", copy_id, "files verification"),
    ):
        for method in ("GET", "PATCH"):
            assert curl(target, method, f"{BASE}/{route}/{unknown}") == refusal(
                404, "Not Found", f"No task found with given id {unknown}"
            )
            assert curl(target, method, f"{BASE}/{route}/{other}") == refusal(
                404, "Not Found", f"Task {other} is not a {noun} task"
            )
        assert curl(source, "GET", f"{BASE}/{route}") == guard(404, "Not Found")
        assert post(source, f"{BASE}/{route}", "{}") == guard(404, "Not Found")
        assert curl(target, "DELETE", f"{BASE}/{route}")[:2] == (405, "application/json")
    assert curl(target, "GET", f"{files}/data/0/empty") == guard(404, "Not Found")
    too_many = COPY.replace("10", "21") % "1.0"
    assert post(target, f"{BASE}/data-copy-tasks", too_many) == refusal(
        400, "Bad Request", "max concurrency can not be more than 20"
    )
    for route, message in (
        ("data-copy-tasks", "Error while decoding values, please check your request body."),
        (
            "files-verification-tasks",
            "Failed to parse request body, please ensure that the request is valid.",
        ),
    ):
        answer = post(target, f"{BASE}/{route}", "{")
        assert answer[0] == 400
        assert answer[2].startswith(f'{{"status":"Bad Request","code":400,"message":"{message}'), (
            answer
        )
