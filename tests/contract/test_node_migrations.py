"""Goal: a destination starts, shows and cancels tasks in Sidecar's shapes, one at a time, and
answers whatever is sent without failing; the latch opens and closes as Sidecar's does.

Method: the application on a real server, with a real journal, runner and task processes; what the
process of a task does is tests/support/node_task.py.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.stores.system import SystemClock
from tests.support.heads import Answer
from tests.support.node import (
    LIVE_MIGRATION,
    OTHER,
    SOURCE,
    TARGET,
    TARGET_2,
    ServedNode,
    running_node,
)

COPIES = f"{LIVE_MIGRATION}/data-copy-tasks"
VERIFICATIONS = f"{LIVE_MIGRATION}/files-verification-tasks"
STATUS = f"{LIVE_MIGRATION}/status"
COPY = {"maxIterations": 3, "successThreshold": 1.0, "maxConcurrency": 4}
VERIFICATION = {"maxConcurrency": 4, "digestAlgorithm": "md5"}
UUID_1 = r"[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServedNode]:
    with running_node(tmp_path) as served:
        yield served


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """A node on which no test starts a task."""
    with running_node(tmp_path_factory.mktemp("node")) as served:
        yield served


def start(node: ServedNode, path: str = COPIES, body: Mapping[str, Any] = COPY) -> str:
    answer = node.ask("POST", path, body=body)
    assert answer.status == 202, answer
    task_id = answer.json["taskId"]
    assert isinstance(task_id, str)
    return task_id


def wait_until(node: ServedNode, task_id: str, state: str) -> dict[str, Any]:
    for _ in range(500):
        task = node.ask("GET", f"/api/v1/tasks/{task_id}").json
        if task["state"] == state:
            return task
        node.services.clock.sleep(0.02)
    raise AssertionError(f"the task never was {state}: {task}")


def test_a_data_copy_lives_in_sidecars_shapes(node: ServedNode) -> None:
    answer = node.ask("POST", COPIES, body=COPY)
    assert (answer.status, list(answer.json)) == (202, ["taskId", "statusUrl"])
    assert re.fullmatch(UUID_1, answer.json["taskId"])
    url = answer.json["statusUrl"]
    assert url == f"{COPIES}/{answer.json['taskId']}"
    told = {"iteration": 0, "state": "DOWNLOADING", "totalSize": 9, "totalFiles": 2}
    node.tell({"iterations": [told]})
    wait_until(node, answer.json["taskId"], "running")
    for _ in range(300):
        shown = node.ask("GET", url).json
        if shown["status"][-1]["state"] == "DOWNLOADING":
            break
        node.services.clock.sleep(0.02)
    assert shown["status"] == [told]
    assert {name: shown[name] for name in COPY} == COPY
    assert (shown["source"], shown["port"]) == (SOURCE, 9043)
    assert node.ask("GET", COPIES).json_list == [node.ask("GET", url).json]
    assert node.ask("GET", VERIFICATIONS).json_list == []
    node.finish_tasks({"iterations": [told | {"state": "SUCCESS"}]})
    wait_until(node, answer.json["taskId"], "completed")
    assert node.ask("GET", url).json["status"][-1]["state"] == "SUCCESS"


def test_a_verification_lives_in_sidecars_shapes(node: ServedNode) -> None:
    task_id = start(node, VERIFICATIONS, VERIFICATION | {"seed": 5, "digestAlgorithm": "XXHASH32"})
    url = f"{VERIFICATIONS}/{task_id}"
    shown = node.ask("GET", url).json
    assert (shown["id"], shown["state"]) == (task_id, "IN_PROGRESS")
    assert (shown["digestAlgorithm"], shown["seed"]) == ("XXHASH32", 5)
    assert shown["filesMatched"] == 0
    node.finish_tasks({"state": "COMPLETED", "filesMatched": 3, "metadataMatched": 4})
    wait_until(node, task_id, "completed")
    shown = node.ask("GET", url).json
    assert (shown["state"], shown["filesMatched"], shown["metadataMatched"]) == ("COMPLETED", 3, 4)


def test_a_cancelled_task_shows_so_at_once_and_frees_the_instance(node: ServedNode) -> None:
    task_id = start(node)
    for _ in range(2):
        cancelled = node.ask("PATCH", f"{COPIES}/{task_id}")
        assert cancelled.status == 200
        assert cancelled.json["status"][-1]["state"] == "CANCELLED"
    wait_until(node, task_id, "cancelled")
    second = start(node, VERIFICATIONS, VERIFICATION)
    node.finish_tasks({"state": "COMPLETED"})
    wait_until(node, second, "completed")
    assert node.ask("PATCH", f"{VERIFICATIONS}/{second}").json["state"] == "COMPLETED"
    # What a Sidecar would have forgotten can still be read.
    assert node.ask("GET", f"{COPIES}/{task_id}").status == 200
    assert [one["id"] for one in node.ask("GET", VERIFICATIONS).json_list] == [second]
    assert node.ask("GET", COPIES).json_list == []


def test_another_task_is_refused_while_one_runs(node: ServedNode) -> None:
    start(node)
    copy = node.ask("POST", COPIES, body=COPY)
    assert copy.status == 409
    assert copy.json == {
        "status": "Conflict",
        "code": 409,
        "message": "Another task is already under progress. Cannot accept new task.",
    }
    verification = node.ask("POST", VERIFICATIONS, body=VERIFICATION)
    assert verification.status == 409
    assert verification.json["message"] == (
        f"Another files digest verification is in progress for instance={TARGET}"
    )


def test_of_fifty_requests_at_once_one_is_accepted(node: ServedNode) -> None:
    def post(number: int) -> Answer:
        path, body = ((COPIES, COPY), (VERIFICATIONS, VERIFICATION))[number % 2]
        return node.ask("POST", path, body=body)

    with ThreadPoolExecutor(50) as threads:
        statuses = [answer.status for answer in threads.map(post, range(50))]
    assert sorted(statuses) == [202] + [409] * 49


def test_the_same_key_is_the_same_task(node: ServedNode) -> None:
    first = node.ask("POST", COPIES, body=COPY, Idempotency_Key="k1")
    again = node.ask("POST", COPIES, body=COPY, Idempotency_Key="k1")
    assert (again.status, again.json) == (202, first.json)
    other = node.ask("POST", COPIES, body=COPY | {"maxIterations": 4}, Idempotency_Key="k1")
    assert other.status == 409
    assert "already names" in other.json["message"]
    node.finish_tasks({"iterations": []})
    wait_until(node, first.json["taskId"], "completed")
    ended = node.ask("POST", COPIES, body=COPY, Idempotency_Key="k1")
    assert (ended.status, ended.json) == (202, first.json)
    for key in ("", "x" * 5000, "\x7f"):
        refused = node.ask("POST", COPIES, body=COPY, Idempotency_Key=key)
        assert refused.status == 400, key


def test_unknown_ids_and_other_kinds_are_told_as_sidecar_does(node: ServedNode) -> None:
    task_id = start(node)
    for unknown in ("b8e4f3d2-5c6b-5d9e-0f2a-3b4c5d6e7f80", "nonsense", "%F0%9F%90%9F"):
        for method in ("GET", "PATCH"):
            answer = node.ask(method, f"{COPIES}/{unknown}")
            assert answer.status == 404
            assert answer.json["message"].startswith("No task found with given id ")
    other = node.ask("GET", f"{VERIFICATIONS}/{task_id}")
    assert other.json["message"] == f"Task {task_id} is not a files verification task"
    assert other.status == 404


def test_tasks_belong_to_the_destination_alone(node: ServedNode) -> None:
    for host in (SOURCE, OTHER):
        for method, path in (
            ("POST", COPIES),
            ("GET", COPIES),
            ("POST", VERIFICATIONS),
            ("GET", f"{VERIFICATIONS}/x"),
            ("PATCH", f"{COPIES}/x"),
        ):
            answer = node.ask(method, path, host=host)
            assert (answer.status, answer.json) == (404, {"status": "Not Found"})


def test_each_instance_has_tasks_of_its_own(node: ServedNode) -> None:
    task_id = start(node)
    assert node.ask("GET", COPIES, host=TARGET_2).json_list == []
    for method in ("GET", "PATCH"):
        assert node.ask(method, f"{COPIES}/{task_id}", host=TARGET_2).status == 404
    other = node.ask("POST", COPIES, body=COPY, host=TARGET_2)
    assert other.status == 202
    assert len(node.ask("GET", "/api/v1/tasks").json["tasks"]) == 2


BAD_COPIES: list[Any] = [
    {},
    {"maxIterations": 3, "successThreshold": 1.0},
    {"maxIterations": 3, "maxConcurrency": 1},
    {"successThreshold": 1, "maxConcurrency": 1},
    COPY | {"maxIterations": None},
    COPY | {"maxIterations": 0},
    COPY | {"maxIterations": -1},
    COPY | {"maxIterations": "3"},
    COPY | {"maxIterations": 2.5},
    COPY | {"maxIterations": True},
    COPY | {"maxIterations": 10**30},
    COPY | {"successThreshold": 1.01},
    COPY | {"successThreshold": -0.1},
    COPY | {"successThreshold": "1"},
    COPY | {"maxConcurrency": 0},
    COPY | {"maxConcurrency": [1]},
    COPY | {"digestAlgorithm": "rot13"},
    COPY | {"verify": "maybe"},
    COPY | {"allowEmptied": ["x"] * 1000},
    [COPY],
    "text",
    None,
]


@pytest.mark.parametrize("body", BAD_COPIES)
def test_bad_copy_requests_are_400(shared_node: ServedNode, body: Any) -> None:
    answer = shared_node.ask("POST", COPIES, body=json.dumps(body).encode())
    assert answer.status == 400, answer
    assert list(answer.json) == ["status", "code", "message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"maxConcurrency": 1},
        {"digestAlgorithm": "MD5"},
        VERIFICATION | {"digestAlgorithm": ""},
        VERIFICATION | {"digestAlgorithm": "  "},
        VERIFICATION | {"digestAlgorithm": "SHA1"},
        VERIFICATION | {"digestAlgorithm": 5},
        VERIFICATION | {"seed": "x"},
        VERIFICATION | {"seed": 1 << 40},
        VERIFICATION | {"mode": "sample"},
        VERIFICATION | {"mode": "none"},
        VERIFICATION | {"maxConcurrency": 0},
    ],
)
def test_bad_verification_requests_are_400(shared_node: ServedNode, body: Any) -> None:
    answer = shared_node.ask("POST", VERIFICATIONS, body=json.dumps(body).encode())
    assert answer.status == 400, answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"maxIterations": NaN}',
        b'{"a": ' * 10_000,
        b"[" * 60_000,
        b'"\xed\xa0\x80"',
        b'{"maxIterations": 1e999, "successThreshold": 1, "maxConcurrency": 1}',
        b'{"\\ud800": 1}',
    ],
)
@pytest.mark.parametrize("path", [COPIES, VERIFICATIONS])
def test_broken_bodies_are_400(shared_node: ServedNode, path: str, body: bytes) -> None:
    answer = shared_node.ask("POST", path, body=body)
    assert answer.status == 400, answer
    messages = {
        COPIES: "Error while decoding values, please check your request body.",
        VERIFICATIONS: "Failed to parse request body, please ensure that the request is valid.",
    }
    assert answer.json["message"].startswith(messages[path])


def test_an_endless_body_is_cut_off(shared_node: ServedNode) -> None:
    parts = urlsplit(shared_node.url)
    sent = 0
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as client:
        head = f"POST {COPIES} HTTP/1.1\r\nHost: {TARGET}\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        with contextlib.suppress(OSError):
            while sent < 1 << 30:
                client.sendall(piece)
                sent += len(piece)
    assert sent < 64 << 20


def test_a_body_over_the_limit_is_413(shared_node: ServedNode) -> None:
    for size_bytes in (70_000, 5_000_000):
        answer = shared_node.ask("POST", COPIES, body=b" " * size_bytes)
        assert (answer.status, answer.json["status"]) == (413, "Request Entity Too Large")


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*COPY, *VERIFICATION, "seed", "mode"]), inner, max_size=5
            )
        ),
        max_leaves=8,
    )
)
def test_no_body_is_a_failure_of_ours(shared_node: ServedNode, body: Any) -> None:
    """Over the concurrency of the node, so that none is accepted."""
    if isinstance(body, dict):
        body["maxConcurrency"] = 21
    for path in (COPIES, VERIFICATIONS):
        assert shared_node.ask("POST", path, body=json.dumps(body).encode()).status == 400


def test_concurrency_is_bounded_by_the_node(shared_node: ServedNode) -> None:
    for path, body in ((COPIES, COPY), (VERIFICATIONS, VERIFICATION)):
        answer = shared_node.ask("POST", path, body=body | {"maxConcurrency": 21})
        assert answer.status == 400
        assert answer.json["message"] == "max concurrency can not be more than 20"


def test_a_whole_number_may_be_spelt_as_jackson_takes_it(node: ServedNode) -> None:
    body = b'{"maxIterations": 4.0, "successThreshold": 1, "maxConcurrency": 2e0}'
    started = node.ask("POST", COPIES, body=body)
    assert started.status == 202, started
    shown = node.ask("GET", started.json["statusUrl"]).body
    assert b'"maxIterations":4,"successThreshold":1.0,"maxConcurrency":2,' in shown


def test_unknown_members_are_ignored(node: ServedNode) -> None:
    start(node, COPIES, COPY | {"gossipFetchBatchSize": 7})


def test_the_latch_closes_once_and_stops_everything(node: ServedNode) -> None:
    before = node.ask("GET", STATUS)
    assert (before.status, before.body) == (200, b'{"state":"NOT_COMPLETED","endTime":null}')
    closed = node.ask("POST", STATUS)
    assert closed.status == 200
    assert closed.json["state"] == "COMPLETED"
    assert isinstance(closed.json["endTime"], int)
    assert node.ask("GET", STATUS).json == closed.json
    again = node.ask("POST", STATUS)
    assert again.status == 400
    assert again.json["message"] == "Live Migration marked as COMPLETED earlier."
    for path, body in ((COPIES, COPY), (VERIFICATIONS, VERIFICATION)):
        refused = node.ask("POST", path, body=body)
        assert (refused.status, refused.json) == (400, {"status": "Bad Request"})
    in_map = node.ask("DELETE", STATUS)
    assert (in_map.status, in_map.json) == (403, {"status": "Forbidden"})


def test_a_migration_under_a_copy_is_not_marked_complete(node: ServedNode) -> None:
    """The copy would go on, under a database that is started now."""
    task_id = start(node)
    refused = node.ask("POST", STATUS)
    assert refused.status == 409
    assert refused.json["code"] == 409
    assert task_id.replace("-", "") in refused.json["message"]
    assert node.ask("GET", STATUS).json["state"] == "NOT_COMPLETED"
    node.ask("PATCH", f"{COPIES}/{task_id}")
    wait_until(node, task_id, "cancelled")
    start(node, VERIFICATIONS, VERIFICATION)
    assert node.ask("POST", STATUS).status == 200, "a verification changes nothing"


def test_a_repeated_completion_is_answered_as_the_first(node: ServedNode) -> None:
    first = node.ask("POST", STATUS, Idempotency_Key="done")
    again = node.ask("POST", STATUS, Idempotency_Key="done")
    assert (first.status, again.status, again.json) == (200, 200, first.json)
    assert node.ask("POST", STATUS, Idempotency_Key="other").status == 400


def test_the_status_outlives_the_map_and_is_cleared_then(node: ServedNode) -> None:
    assert node.ask("GET", STATUS, host=OTHER).json["state"] == "NOT_COMPLETED"
    assert node.ask("POST", STATUS, host=OTHER).status == 404
    assert node.ask("GET", STATUS, host="nobody.test").status == 404
    # As a destination leaves its mark in the directories too, that later are no destination's.
    mark = node.root(OTHER) / ".holdfast"
    mark.mkdir()
    (mark / "completed.json").write_text('{"state": "COMPLETED", "endTime": 5}')
    assert node.ask("GET", STATUS, host=OTHER).json == {"state": "COMPLETED", "endTime": 5}
    cleared = node.ask("DELETE", STATUS, host=OTHER)
    assert (cleared.status, cleared.body) == (200, b'{"status":"OK"}')
    assert node.ask("GET", STATUS, host=OTHER).json["state"] == "NOT_COMPLETED"


def test_completing_a_source_writes_nothing_into_its_directories(node: ServedNode) -> None:
    assert node.ask("POST", STATUS, host=SOURCE).status == 200
    assert list(node.root(SOURCE).iterdir()) == []
    assert node.ask("POST", STATUS, host=TARGET).status == 200
    assert list(node.root(TARGET).iterdir()) != []


def test_a_latch_that_cannot_be_read_lets_nothing_through(node: ServedNode) -> None:
    """Invariant 2 of guards.py."""
    staging = node.instances[TARGET].staging
    (staging / "live_migration_status.json").mkdir()
    answer = node.ask("POST", COPIES, body=COPY)
    assert (answer.status, answer.json) == (503, {"status": "Service Unavailable"})
    assert answer.headers["retry-after"] == "1"


def test_a_completion_lets_go_of_what_was_kept_at_the_destination(node: ServedNode) -> None:
    kept = []
    for host in (SOURCE, TARGET):
        root = Path(os.fsdecode(node.instances[host].directories[0].path))
        kept.append(root / ".holdfast/quarantine/task-1/f")
        kept[-1].parent.mkdir(parents=True)
        kept[-1].write_bytes(b"replaced")

    for host in (SOURCE, TARGET):
        assert node.ask("POST", STATUS, host=host).status == 200

    for _ in range(500):
        if not kept[1].exists():
            break
        SystemClock().sleep(0.01)
    assert [path.exists() for path in kept] == [True, False]
