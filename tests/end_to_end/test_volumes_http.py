"""Goal: over HTTP a volume lives the same life as by the command line, and errors are problems.

Method: the routes under uvicorn on a free port of loopback, in a process that supervises real data
processes; a plain HTTP client. Cites invariants 1-3 of volumes/http.py.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import ROOT
from tests.support.heads import Answer, ask
from tests.support.volumes import need, run

MIB = 1 << 20
Ask = Callable[..., Answer]

SERVER = """
import asyncio, pathlib, socket, sys
import uvicorn
from starlette.applications import Starlette
from holdfast.files.http.problems import problem_response
from holdfast.server.volumes import open_volumes
from holdfast.volumes.http import volume_routes

async def serve():
    volumes = open_volumes(pathlib.Path(sys.argv[1]))
    bound = socket.create_server(("127.0.0.1", 0))
    print(bound.getsockname()[1], flush=True)
    routes = volume_routes(volumes, problem_response)
    config = uvicorn.Config(Starlette(routes=routes), log_level="warning")
    try:
        await uvicorn.Server(config).serve([bound])
    finally:
        await volumes.stop_all()

asyncio.run(serve())
"""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Ask]:
    """The routes, served; asked with a method, a path and a body to be made JSON."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, tmp_path / "state"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"

    def call(method: str, path: str, body: Any = None) -> Answer:
        sent = None if body is None else json.dumps(body).encode()
        return ask(url, method, path, body=sent)

    try:
        yield call
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_volume_from_creation_to_removal(api: Ask) -> None:
    need("nbdinfo")
    made = api("POST", "/api/v1/volumes", {"name": "db", "size_bytes": 8 * MIB})
    assert (made.status, made.headers["location"]) == (201, "/api/v1/volumes/db")
    assert made.json["health"] == "down"
    assert api("POST", "/api/v1/volumes/db/scrub").json["code"] == "volume-not-served"

    served = api("PUT", "/api/v1/volumes/db/serving")
    assert served.status == 200
    assert run("nbdinfo", "--size", served.json["listening"][0]) == f"{8 * MIB}\n"
    assert api("PUT", "/api/v1/volumes/db/serving").json["code"] == "volume-served"
    grown = api("POST", "/api/v1/volumes/db/grow", {"size_bytes": 16 * MIB})
    assert (grown.status, grown.json["size_bytes"], grown.json["health"]) == (
        200,
        16 * MIB,
        "healthy",
    )
    assert api("POST", "/api/v1/volumes/db/scrub").status == 202
    assert api("GET", "/api/v1/volumes/db/scrub").json["total_bytes"] == 16 * MIB
    (listed,) = api("GET", "/api/v1/volumes").json["volumes"]
    assert listed["serving"]["block_bytes"] == 4096
    refused = api("DELETE", "/api/v1/volumes/db")
    assert (refused.status, refused.json["code"]) == (409, "volume-in-use")

    assert api("DELETE", "/api/v1/volumes/db/serving").status == 204
    assert api("DELETE", "/api/v1/volumes/db").status == 204
    assert api("GET", "/api/v1/volumes/db").status == 404


def test_wrong_body_is_a_problem(api: Ask) -> None:
    for body, code in (
        ({"name": "a/b", "size_bytes": 8 * MIB}, "bad-volume-name"),
        ({"name": "db", "size_bytes": 5}, "bad-volume-size"),
        ({"name": "db", "size_bytes": 1 << 70}, "bad-volume-size"),
        ({"name": "db", "size_bytes": 8 * MIB, "preset": "x"}, "bad-preset"),
        ({"name": "db", "size_bytes": 8 * MIB, "more": 1}, "bad-body"),
        (["x" * 5000], "body-too-large"),
    ):
        answer = api("POST", "/api/v1/volumes", body)
        assert answer.status in (400, 413)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == code
    assert api("GET", "/api/v1/volumes").json["volumes"] == []
