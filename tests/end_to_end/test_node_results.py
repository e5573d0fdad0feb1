"""Goal: what a verification found of every entry can be paged, filtered and streamed, and all three
say the same.

Method: two node processes, a real copy and a real verification of trees that differ.
"""

import base64
import json
import os
import socket
import time
from pathlib import Path

import pytest

from holdfast.files.http.migration_answers import RESULT_STREAMS_MAX
from tests.support.node_process import COPIES, VERIFICATIONS, running_pair

NAMES = (b"a", b"b %?#", b"caf\xc3\xa9", b"\xff\xfe", b"new\nline", b"z")


@pytest.mark.slow
def test_results_are_paged_filtered_and_streamed_alike(tmp_path: Path) -> None:
    with running_pair(tmp_path) as pair:
        for name in NAMES:
            with open(os.path.join(os.fsencode(pair.source.data), name), "wb") as stream:
                stream.write(b"data of " + name)
        target = pair.target
        copy_id = target.start_copy()
        assert target.wait_until_ended(copy_id)["state"] == "completed"
        (target.data / "z").write_bytes(b"something else")
        request = {"maxConcurrency": 2, "digestAlgorithm": "MD5"}
        started = target.ask(
            "POST", VERIFICATIONS, request | {"continueOnMetadataMismatch": True}
        ).json
        target.wait_until_ended(started["taskId"])
        shown = target.ask("GET", started["statusUrl"]).json
        assert (shown["state"], shown["filesMatched"]) == ("FAILED", len(NAMES) - 1)
        assert shown["metadataMismatches"] + shown["digestMismatches"] >= 1
        url = f"{started['statusUrl']}/results"

        streamed = target.ask("GET", url, Accept="application/x-ndjson").body.splitlines()
        *entries, summary = [json.loads(line) for line in streamed]
        assert sorted(_raw_path(entry) for entry in entries) == sorted(NAMES)

        told = summary["summary"]
        assert told["outcomes"] == {"matched": len(NAMES) - 1, "metadata-differs": 1}
        assert (told["entries"], told["cursorNext"]) == (len(NAMES), None)

        first = target.ask("GET", f"{url}?limit=2", Accept="application/x-ndjson")
        *some, summary = [json.loads(line) for line in first.body.splitlines()]
        cursor = summary["summary"]["cursorNext"]
        rest = target.ask("GET", f"{url}?cursor={cursor}", Accept="application/x-ndjson")
        assert [*some, *map(json.loads, rest.body.splitlines()[:-1])] == entries
        assert len(some) == 2

        of_copy = target.ask("GET", f"{COPIES}/{copy_id}/results", Accept="application/x-ndjson")
        trend = json.loads(of_copy.body.splitlines()[-1])["summary"]["trend"]
        assert trend == target.ask("GET", f"{COPIES}/{copy_id}").json["trend"]
        assert trend is not None

        paged, query = [], "?limit=2"
        while True:
            page = target.ask("GET", url + query).json
            assert len(page["entries"]) <= 2
            paged += page["entries"]
            if page["cursorNext"] is None:
                break
            query = f"?limit=2&cursor={page['cursorNext']}"
        assert paged == entries

        outcomes = {_raw_path(entry): entry["outcome"] for entry in entries}
        assert outcomes.pop(b"z") == "metadata-differs"
        assert set(outcomes.values()) == {"matched"}
        (found,) = target.ask("GET", f"{url}?outcome=metadata-differs").json["entries"]
        assert found["path"] == "z"
        assert found["reason"]


@pytest.mark.slow
def test_streams_of_results_are_bounded(tmp_path: Path) -> None:
    """Who reads none of what it asked for is one of RESULT_STREAMS_MAX; others are told to wait."""
    with running_pair(tmp_path) as pair:
        target = pair.target
        deep = pair.source.data.joinpath(*["d" * 250] * 8)
        deep.mkdir(parents=True)
        for number in range(3000):
            (deep / f"{number:0250d}").touch()
        copy_id = target.start_copy()
        assert target.wait_until_ended(copy_id)["state"] == "completed"
        url = f"{COPIES}/{copy_id}/results"
        head = f"GET {url} HTTP/1.1\r\nHost: {target.name}\r\n"
        head += "Accept: application/x-ndjson\r\n\r\n"
        readers = []
        for _ in range(RESULT_STREAMS_MAX):
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", target.port))
            reader.sendall(head.encode())
            assert reader.recv(12) == b"HTTP/1.1 200"
            readers.append(reader)
        refused = target.ask("GET", url, Accept="application/x-ndjson")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert target.ask("GET", url).status == 200, "pages are not streams"
        for reader in readers:
            reader.close()
        until = time.monotonic() + 20
        while (whole := target.ask("GET", url, Accept="application/x-ndjson")).status != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        *_, last = whole.body.splitlines()
        assert json.loads(last)["summary"]["outcomes"] == {"settled": 3000}


def _raw_path(entry: dict[str, str]) -> bytes:
    """Return the name: outside UTF-8 from pathBase64, else with its control characters escaped."""
    if "pathBase64" in entry:
        return base64.b64decode(entry["pathBase64"])
    return entry["path"].replace("\\n", "\n").encode()
