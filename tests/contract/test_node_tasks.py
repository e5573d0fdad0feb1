"""Goal: tasks can be listed, followed, slowed and cancelled by anyone who may, events come in order
and each once, and a client that lost its connection misses none (invariants of task_answers.py).

Method: the application on a real server with real task processes; events read from a raw stream.
"""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from holdfast.files.http.task_answers import EVENT_STREAMS_MAX
from holdfast.model.access import Permission
from tests.contract.test_node_migrations import (
    COPIES,
    COPY,
    VERIFICATION,
    VERIFICATIONS,
    start,
    wait_until,
)
from tests.support.node import TARGET, ServedNode, running_node

TASKS = "/api/v1/tasks"
PROBLEM = "application/problem+json"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServedNode]:
    with running_node(tmp_path) as served:
        yield served


def finish(node: ServedNode, task_id: str) -> dict[str, Any]:
    node.finish_tasks({"iterations": []})
    return wait_until(node, task_id, "completed")


def messages_of(node: ServedNode, path: str, **headers: str) -> list[dict[str, str]]:
    """Read a stream of events to its end."""
    parts = urlsplit(node.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request("GET", path, headers={"Accept": "text/event-stream"} | headers)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    text = answer.read().decode()
    connection.close()
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_all_tasks_are_paged_newest_first(node: ServedNode) -> None:
    ids = []
    for path, body in ((COPIES, COPY), (VERIFICATIONS, VERIFICATION), (COPIES, COPY)):
        ids.append(start(node, path, body))
        finish(node, ids[-1])
    first = node.ask("GET", f"{TASKS}?limit=2").json
    rest = node.ask("GET", f"{TASKS}?limit=2&cursor={first['cursorNext']}").json
    assert rest["cursorNext"] is None
    listed = [task["id"] for task in (*first["tasks"], *rest["tasks"])]
    shown = [node.ask("GET", f"{TASKS}/{task_id}").json["id"] for task_id in reversed(ids)]
    assert listed == shown
    verifications = node.ask("GET", f"{TASKS}?kind=files.verify-migration").json["tasks"]
    assert [task["kind"] for task in verifications] == ["files.verify-migration"]
    assert node.ask("GET", f"{TASKS}?state=running").json["tasks"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=x", "state=odd", "cursor=%00"],
)
def test_bad_parameters_are_400(node: ServedNode, query: str) -> None:
    answer = node.ask("GET", f"{TASKS}?{query}")
    assert (answer.status, answer.headers["content-type"]) == (400, PROBLEM)
    assert answer.json["kind"] == "invalid-request"
    assert answer.json["advice"]


def test_a_running_task_is_slowed_and_cancelled(node: ServedNode) -> None:
    task_id = start(node)
    url = f"{TASKS}/{task_id}"
    slowed = node.ask("PATCH", url, body={"rateBytesPerSecond": 1000})
    assert (slowed.status, slowed.json["rateRequested"]) == (200, 1000)
    assert node.ask("PATCH", url, body={"rateBytesPerSecond": 0}).json["rateRequested"] == 0
    for body in (
        {},
        {"cancel": False},
        {"rateBytesPerSecond": -1},
        {"cancle": True},
        {"cancel": 1},
    ):
        assert node.ask("PATCH", url, body=body).status == 400, body
    cancelled = node.ask("PATCH", url, body={"cancel": True})
    assert (cancelled.status, cancelled.json["cancelRequested"]) == (200, True)
    wait_until(node, task_id, "cancelled")
    late = node.ask("PATCH", url, body={"rateBytesPerSecond": 5})
    assert (late.status, late.json["code"]) == (409, "task-finished")
    assert node.ask("PATCH", url, body={"cancel": True}).status == 200


def test_there_are_no_other_tasks(node: ServedNode) -> None:
    for name in ("task-" + "0" * 32, "nonsense", "%00"):
        for path in (f"{TASKS}/{name}", f"{TASKS}/{name}/events"):
            answer = node.ask("GET", path)
            assert (answer.status, answer.json["code"]) == (404, "no-task")


def test_who_may_look_may_not_change(tmp_path: Path) -> None:
    grants = {
        "copy": frozenset({Permission.COPY}),
        "verify": frozenset({Permission.VERIFY}),
        "read": frozenset({Permission.READ}),
    }
    with running_node(tmp_path, grants=grants) as node:

        def ask(token: str, method: str, path: str, body: dict[str, Any] | None = None) -> int:
            return node.ask(method, path, body=body, Authorization=f"Bearer {token}").status

        assert [ask(token, "POST", COPIES, COPY) for token in grants] == [202, 403, 403]
        listed = node.ask("GET", TASKS, Authorization="Bearer read").json["tasks"]
        url = f"{TASKS}/{listed[0]['id']}"
        assert [ask(token, "GET", url) for token in grants] == [200, 200, 200]
        rate = {"rateBytesPerSecond": 5}
        assert [ask(token, "PATCH", url, rate) for token in grants] == [200, 403, 403]
        assert ask("nobody", "GET", url) == 401


def test_events_are_followed_to_the_end(node: ServedNode) -> None:
    """Invariants 1 and 2."""
    task_id = start(node)
    node.tell({"iterations": [{"iteration": 0, "state": "DOWNLOADING"}]})
    wait_until(node, task_id, "running")
    node.finish_tasks({"done": 1})
    messages = messages_of(node, f"{TASKS}/{task_id}/events")
    names = [message["event"] for message in messages if "id" in message]
    assert names == ["created", "started", "stage-entered", "completed"]
    assert [int(message["id"]) for message in messages if "id" in message] == [1, 2, 3, 4]
    assert messages[-1]["event"] == "ended"
    assert json.loads(messages[-1]["data"])["result"] == {"done": 1}
    later = messages_of(node, f"{TASKS}/{task_id}/events", **{"Last-Event-ID": "2"})
    assert [m["event"] for m in later] == ["stage-entered", "completed", "ended"]
    over = node.ask(
        "GET", f"{TASKS}/{task_id}/events", Accept="text/event-stream", Last_Event_ID="4"
    )
    assert (over.status, over.body) == (204, b"")
    odd = node.ask("GET", f"{TASKS}/{task_id}/events", Last_Event_ID="x")
    assert odd.status == 400


def test_where_to_go_on_is_checked_wherever_it_is_said(node: ServedNode) -> None:
    task_id = start(node)
    finish(node, task_id)
    url = f"{TASKS}/{task_id}/events"
    assert node.ask("GET", f"{url}?after=1000000000000000000", Last_Event_ID="0").status == 400
    events = node.ask("GET", f"{url}?after=1", Last_Event_ID="3").json["events"]
    assert [event["sequence"] for event in events] == [4]


def test_followers_of_tasks_are_bounded(node: ServedNode) -> None:
    """A client beyond EVENT_STREAMS_MAX is told to come again, and gets in once one has gone."""
    task_id = start(node)
    url = f"{TASKS}/{task_id}/events"
    parts = urlsplit(node.url)
    followers = []
    for _ in range(EVENT_STREAMS_MAX):
        follower = socket.create_connection((parts.hostname, parts.port), timeout=30)
        head = f"GET {url} HTTP/1.1\r\nHost: {TARGET}\r\nAccept: text/event-stream\r\n\r\n"
        follower.sendall(head.encode())
        assert follower.recv(12) == b"HTTP/1.1 200"
        followers.append(follower)
    refused = node.ask("GET", url, Accept="text/event-stream")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.json["code"] == "too-many-requests"
    assert node.ask("GET", url).status == 200, "pages are not streams"
    for follower in followers:
        follower.close()
    node.finish_tasks({"iterations": []})
    wait_until(node, task_id, "completed")
    until = time.monotonic() + 20
    while node.ask("GET", url, Accept="text/event-stream").status != 200:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_events_are_paged(node: ServedNode) -> None:
    task_id = start(node)
    finish(node, task_id)
    events = node.ask("GET", f"{TASKS}/{task_id}/events?after=1&limit=2").json["events"]
    assert [(event["sequence"], event["name"]) for event in events] == [
        (2, "started"),
        (3, "stage-entered"),
    ]


def test_a_repair_is_of_a_verification(node: ServedNode) -> None:
    verification = start(node, VERIFICATIONS, VERIFICATION)
    url = f"{VERIFICATIONS}/{verification}/repair"
    busy = node.ask("POST", url)
    assert (busy.status, busy.json["code"]) == (409, "busy")
    node.finish_tasks({"state": "FAILED", "digestMismatches": 1})
    wait_until(node, verification, "completed")
    repair = node.ask("POST", url, body={"maxConcurrency": 3}, Idempotency_Key="r")
    assert repair.status == 202
    again = node.ask("POST", url, body={"maxConcurrency": 3}, Idempotency_Key="r")
    assert (again.status, again.json) == (202, repair.json)
    shown = node.ask("GET", repair.json["statusUrl"]).json
    assert shown["kind"] == "files.repair-migration"
    assert shown["request"]["request"]["maxConcurrency"] == 3
    assert shown["request"]["request"]["verificationId"].startswith("task-")
    node.finish_tasks({"repaired": 1})
    wait_until(node, repair.json["taskId"], "completed")
    copy = start(node)
    for path in (f"{VERIFICATIONS}/{copy}/repair", f"{COPIES}/{verification}/results"):
        method = "POST" if path.endswith("repair") else "GET"
        answer = node.ask(method, path)
        assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)


def test_results_of_a_task_without_any_are_an_empty_page(node: ServedNode) -> None:
    task_id = start(node, VERIFICATIONS, VERIFICATION)
    url = f"{VERIFICATIONS}/{task_id}/results"
    page = node.ask("GET", url)
    assert (page.status, page.json) == (200, {"entries": [], "cursorNext": None})
    lines = node.ask("GET", url, Accept="application/x-ndjson")
    assert lines.status == 200
    (summary,) = lines.body.splitlines()
    assert json.loads(summary)["summary"]["entries"] == 0
    assert lines.headers["content-type"] == "application/x-ndjson"
    for query in ("limit=0", "outcome=odd", "cursor=nonsense"):
        assert node.ask("GET", f"{url}?{query}").status == 400, query


def test_everything_that_is_answered_is_counted(node: ServedNode) -> None:
    node.ask("GET", "/healthz")
    node.ask("GET", f"{COPIES}/x")
    node.ask("GET", "/nothing")
    assert node.observed == [
        ("GET", "/healthz", 200),
        ("GET", COPIES + "/{taskId}", 404),
        ("GET", "(none)", 404),
    ]


@pytest.mark.slow
def test_a_silent_task_is_still_heard_of(node: ServedNode) -> None:
    """A stream says something every HEARTBEAT_S even if nothing happens."""
    task = node.services.journal.create("files.other", "nothing", {})
    parts = urlsplit(node.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request("GET", f"{TASKS}/{task.id}/events", headers={"Accept": "text/event-stream"})
    answer = connection.getresponse()
    lines: list[bytes] = []
    while not lines or not lines[-1].startswith(b":"):
        lines.append(answer.readline())
    connection.close()
    assert b"event: created\n" in lines
