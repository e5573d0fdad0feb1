"""Goal: a source is taken for what it is, also right after it was away.

Method: a small HTTP server that answers as it is told, and real stream servers behind it.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.clocks import QuickClock
from tests.support.stream import StreamServer
from tests.support.trees import write

from holdfast.errors import UnavailableError
from holdfast.files.migration.model import (
    Instance,
    InstanceDirectory,
    SourceKind,
    SourcePeer,
)
from holdfast.server.node_sources import Sources
from holdfast.server.peer_http import check_not_completed, find_peer
from holdfast.stores.system import SystemClock, SystemEntropy

NODE = "/api/v1/node"
STATUS = "/api/v1/live-migration/status"


class Answering:
    """A server whose answers are set by the test: status and body by path."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Mapping[str, object]]] = {}
        self.cut: set[str] = set()
        """Paths whose answers end with the connection, before their end."""
        answers, cut = self.answers, self.cut

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path, (404, {}))
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw[: None if self.path not in cut else 5])
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.peer = SourcePeer(host="127.0.0.1", port=self.server.server_address[1])

    def be_node(self, stream_port: int) -> None:
        """Answer as a node whose stream listens there."""
        instances = [{"name": "db", "host": "127.0.0.1"}]
        self.answers[NODE] = (
            200,
            {"product": "holdfast", "streamPort": stream_port, "instances": instances},
        )
        self.answers[STATUS] = (200, {"state": "NOT_COMPLETED", "endTime": None})


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A server that knows nothing yet."""
    made = Answering()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("status", [404, 200])
def test_what_answers_and_is_no_node_is_a_sidecar(answering: Answering, status: int) -> None:
    answering.answers[NODE] = (status, {})
    assert find_peer(answering.peer, QuickClock()).kind is SourceKind.SIDECAR


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_trouble_does_not_make_a_node_a_sidecar(answering: Answering, status: int) -> None:
    """A pass over what a Sidecar would list is another source, which ends a copy for good."""
    answering.answers[NODE] = (status, {})
    with pytest.raises(UnavailableError):
        find_peer(answering.peer, QuickClock())


@pytest.mark.parametrize("body", [{}, {"state": "soon"}, {"state": ["NOT_COMPLETED"]}])
def test_a_source_that_does_not_tell_its_status_is_not_copied_from(
    answering: Answering, body: dict[str, object]
) -> None:
    answering.answers[STATUS] = (200, body)
    with pytest.raises(UnavailableError):
        check_not_completed(answering.peer, QuickClock())


@pytest.mark.parametrize("path", [NODE, STATUS])
def test_an_answer_that_is_cut_off_is_none(answering: Answering, path: str) -> None:
    """Half an answer says neither that it is no node, nor that its migration is not over."""
    answering.be_node(1)
    answering.cut.add(path)
    with pytest.raises(UnavailableError):
        (find_peer if path == NODE else check_not_completed)(answering.peer, QuickClock())


def test_a_source_that_comes_back_on_another_port_is_found(
    answering: Answering, tmp_path: Path
) -> None:
    write(tmp_path / "tree" / "f", "x")
    instance = Instance(
        name="db",
        directories=(InstanceDirectory(kind="data", index=0, path=b"/nowhere"),),
        staging=tmp_path / "staging",
    )
    sources = Sources(tmp_path / "scratch", SystemClock(), SystemEntropy())
    for _ in range(2):
        server = StreamServer(os.fsencode(tmp_path / "tree")).start()
        answering.be_node(server.port)
        try:
            (tree,) = sources.open(answering.peer, instance)
            assert tree.list_names(b"") == [(b"f", False)]
            tree.close()
        finally:
            server.stop()
