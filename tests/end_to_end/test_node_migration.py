"""Goal: two nodes migrate a database as an operator would do it, and what dies is gone on with.

Method: two real node processes on loopback, asked over HTTP in Sidecar's words and by the command
line. What has to be caught in the middle is slowed down by its own rate limit; the limit is then
lifted through the API.
"""

import concurrent.futures
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Holdfast, kill_group
from tests.support.node_process import (
    COPIES,
    SOURCE,
    STATUS,
    TARGET,
    TASKS,
    VERIFICATIONS,
    NodePair,
    NodeProcess,
    child_named,
    is_running,
    running_pair,
)
from tests.support.sidecar_source import SidecarSource
from tests.support.trees import read_tree

MIB = 1 << 20
SLOW = 4 * MIB
"""Bytes a second of a copy that is to be caught in the middle."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[NodePair]:
    with running_pair(tmp_path) as pair:
        fill(pair.source.data)
        yield pair


def fill(root: Path) -> None:
    """Write a small tree with one file of several blocks."""
    (root / "ks" / "table").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "ks" / "table" / "big.db").write_bytes(os.urandom(24 * MIB))
    for number in range(20):
        (root / "ks" / "table" / f"{number} %?#.db").write_bytes(os.urandom(100 * number))


def lift_rate(node: NodeProcess, task_id: str) -> None:
    answer = node.ask("PATCH", f"{TASKS}/{task_id}", {"rateBytesPerSecond": 0})
    assert answer.status == 200, answer


def test_the_whole_story_in_sidecars_words_and_by_the_command(pair: NodePair) -> None:
    target, source = pair.target, pair.source
    copied = target.wait_until_ended(target.start_copy())
    assert copied["state"] == "completed"
    (shown,) = json.loads(target.ask("GET", COPIES).body)
    assert [one["state"] for one in shown["status"]] == ["DOWNLOAD_COMPLETE", "SUCCESS"]
    assert (shown["source"], shown["port"]) == (source.name, source.port)
    assert read_tree(target.data) == read_tree(source.data)

    verified = target.command("verify", "--json")
    assert (verified.exit, verified.json["detail"]["filesMatched"]) == (0, 21)

    big = target.data / "ks" / "table" / "big.db"
    before = big.stat()
    with open(big, "r+b") as stream:
        stream.seek(MIB)
        byte = stream.read(1)[0]
        stream.seek(MIB)
        stream.write(bytes([byte ^ 1]))
    os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = target.command("verify", "--json")
    assert (found.exit, found.json["detail"]["digestMismatches"]) == (3, 1)
    listed = target.command("results", found.json["id"], "--json", "--outcome", "digest-differs")
    assert listed.json["path"] == "ks/table/big.db"

    repaired = target.command("repair", found.json["id"], "--json")
    assert repaired.exit == 0, repaired
    assert read_tree(target.data) == read_tree(source.data)

    for node in (target, source):
        assert node.command("complete").exit == 0
        assert node.ask("GET", STATUS).json["state"] == "COMPLETED"
    assert target.ask("POST", COPIES, {}).status == 400


def test_of_fifty_requests_at_once_one_is_admitted(pair: NodePair) -> None:
    request = {
        "maxIterations": 1,
        "successThreshold": 1.0,
        "maxConcurrency": 1,
        "rateBytesPerSecond": SLOW,
    }

    def post(number: int) -> int:
        route = COPIES if number % 2 else VERIFICATIONS
        return pair.target.ask("POST", route, {**request, "digestAlgorithm": "MD5"}).status

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(post, range(50)))
    assert statuses == [202] + [409] * 49
    (task,) = pair.target.ask("GET", TASKS).json["tasks"]
    route = COPIES if task["kind"] == "files.migrate" else VERIFICATIONS
    assert pair.target.ask("PATCH", f"{route}/{task['id']}").status == 200
    assert pair.target.wait_until_ended(task["id"])["state"] in ("cancelled", "completed")


@pytest.mark.slow
@pytest.mark.parametrize("is_ours", [True, False])
def test_after_a_cancellation_the_next_request_is_admitted_at_once(
    pair: NodePair, is_ours: bool
) -> None:
    """Invariant 4 of node_tasks.py."""
    target = pair.target
    first = target.start_copy(rateBytesPerSecond=SLOW)
    target.wait_until_moving(first)
    if is_ours:
        answer = target.ask("PATCH", f"{TASKS}/{first}", {"cancel": True})
    else:
        answer = target.ask("PATCH", f"{COPIES}/{first}")
    assert answer.status == 200, answer
    second = target.start_copy()
    assert target.task(first)["state"] == "cancelled"
    assert target.wait_until_ended(second)["state"] == "completed"
    assert read_tree(target.data) == read_tree(pair.source.data)
    codes = [line["code"] for line in target.log if line["event"] == "task process ended"]
    assert codes[0] == 130, "the process was told by signal"


@pytest.mark.slow
def test_fifty_requests_of_one_key_are_one_task(pair: NodePair) -> None:
    request = {
        "maxIterations": 1,
        "successThreshold": 1.0,
        "maxConcurrency": 1,
        "rateBytesPerSecond": SLOW,
    }

    def post(_: int) -> tuple[int, object]:
        answer = pair.target.ask("POST", COPIES, request, idempotency_key="k")
        return answer.status, answer.json.get("taskId")

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(post, range(50)))
    assert len(answers) == 1
    ((status, task_id),) = answers
    assert status == 202
    assert pair.target.ask("PATCH", f"{COPIES}/{task_id}").status == 200


def test_a_killed_task_process_is_replaced_and_the_task_completes(pair: NodePair) -> None:
    """Invariant 2 of node_tasks.py."""
    target = pair.target
    task_id = target.start_copy(rateBytesPerSecond=SLOW)
    target.wait_until_moving(task_id)
    os.kill(child_named(target, "holdfast.server.task_process"), signal.SIGKILL)
    target.wait_for(task_id, lambda task: task["attempt"] == 2 and task["state"] == "running")
    lift_rate(target, task_id)
    assert target.wait_until_ended(task_id)["state"] == "completed"
    assert read_tree(target.data) == read_tree(pair.source.data)
    metrics = target.ask("GET", "/metrics").body.decode()
    assert 'holdfast_node_process_crashes_total{process="task"} 1.0' in metrics
    assert 'holdfast_node_tasks_ended_total{kind="files.migrate",state="completed"} 1.0' in metrics


@pytest.mark.slow
def test_a_killed_node_takes_its_task_along_and_the_next_goes_on(pair: NodePair) -> None:
    """Invariant 1 of node_tasks.py."""
    target = pair.target
    task_id = target.start_copy(rateBytesPerSecond=SLOW)
    target.wait_until_moving(task_id)
    task_process = child_named(target, "holdfast.server.task_process")
    stream = child_named(target, "holdfast.server.node_stream")
    target.stop(signal.SIGKILL)
    target.start()
    assert not is_running(task_process)
    assert not is_running(stream)
    resumed = target.wait_for(task_id, lambda task: task["state"] == "running")
    assert resumed["attempt"] == 2
    lift_rate(target, task_id)
    assert target.wait_until_ended(task_id)["state"] == "completed"
    assert read_tree(target.data) == read_tree(pair.source.data)


@pytest.mark.slow
def test_a_stopped_node_records_its_task_as_interrupted_and_the_next_goes_on(
    pair: NodePair,
) -> None:
    """Invariant 2 of node.py, invariant 3 of node_tasks.py."""
    target = pair.target
    task_id = target.start_copy(rateBytesPerSecond=SLOW)
    target.wait_until_moving(task_id)
    task_process = child_named(target, "holdfast.server.task_process")
    assert target.stop() == 0
    assert not is_running(task_process)
    states = [line["state"] for line in target.log if line["event"] == "task process ended"]
    assert states == ["interrupted"]
    target.start()
    lift_rate_when_running(target, task_id)
    done = target.wait_until_ended(task_id)
    assert (done["state"], done["attempt"]) == ("completed", 2)
    assert read_tree(target.data) == read_tree(pair.source.data)
    started = [line for line in target.log if line["event"] == "task completed"]
    assert {line["task"] for line in started} == {done["id"]}


def lift_rate_when_running(node: NodeProcess, task_id: str) -> None:
    node.wait_for(task_id, lambda task: task["state"] == "running")
    lift_rate(node, task_id)


@pytest.mark.slow
def test_a_task_whose_source_left_the_settings_ends_as_failed_interrupted(pair: NodePair) -> None:
    target = pair.target
    task_id = target.start_copy(rateBytesPerSecond=SLOW)
    target.wait_until_moving(task_id)
    target.stop(signal.SIGKILL)
    target.more = ""
    target.start(
        target.settings.replace(f'"{SOURCE}" = ', '"elsewhere" = ').replace(
            f'= "{TARGET}"', '= "nowhere"'
        )
    )
    ended = target.wait_until_ended(task_id)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "interrupted")


@pytest.mark.slow
def test_a_dead_stream_server_is_started_again_on_its_port(pair: NodePair) -> None:
    """Invariant 3 of node.py."""
    source = pair.source
    os.kill(child_named(source, "holdfast.server.node_stream"), signal.SIGKILL)
    task_id = pair.target.start_copy()
    assert pair.target.wait_until_ended(task_id)["state"] == "completed"
    assert read_tree(pair.target.data) == read_tree(source.data)


def wait_for_attempt(node: NodeProcess, task_id: str, attempt: int) -> None:
    node.wait_for(task_id, lambda task: (task["attempt"], task["state"]) == (attempt, "running"))


@pytest.mark.slow
def test_a_task_that_crashes_too_often_ends_as_failed_interrupted(tmp_path: Path) -> None:
    """Invariant 2 of node_tasks.py."""
    with running_pair(tmp_path, more="[limits]\ntask_crashes_max = 2\n") as pair:
        fill(pair.source.data)
        target = pair.target
        task_id = target.start_copy(rateBytesPerSecond=SLOW)
        for attempt in (1, 2):
            wait_for_attempt(target, task_id, attempt)
            os.kill(child_named(target, "holdfast.server.task_process"), signal.SIGKILL)
        ended = target.wait_until_ended(task_id)
        assert (ended["state"], ended["error"]["code"]) == ("failed", "interrupted")
        assert ended["error"]["context"]["reason"] == "interrupted"


@pytest.mark.slow
def test_a_node_with_followers_stops_at_once(pair: NodePair) -> None:
    target = pair.target
    task_id = target.start_copy(rateBytesPerSecond=SLOW)
    holdfast = Holdfast(state=target.directory / "cli-state")
    follower = holdfast.start("files", "--node", target.url, "watch", task_id, "--json")
    assert follower.stdout is not None
    follower.stdout.readline()
    target.wait_until_moving(task_id)
    began = time.monotonic()
    assert target.stop() == 0
    assert time.monotonic() - began < 10
    kill_group(follower)
    assert [line for line in target.log if line["level"] == "error"] == []


@pytest.mark.slow
def test_a_target_killed_at_random_moments_ends_right(pair: NodePair) -> None:
    """No file has its name before it is whole, at any of the moments."""
    target, source = pair.target, pair.source
    wanted = read_tree(source.data)
    chance = random.Random(7)
    task_id = target.start_copy(rateBytesPerSecond=2 * SLOW)
    for _ in range(6):
        time.sleep(chance.uniform(0.2, 1.2))
        target.stop(signal.SIGKILL)
        found = read_tree(target.data)
        for path, entry in found.items():
            assert entry.content == wanted[path].content, path
        target.start()
    if target.task(task_id)["state"] == "running":
        lift_rate(target, task_id)
    assert target.wait_until_ended(task_id)["state"] == "completed"
    assert read_tree(target.data) == wanted


@pytest.mark.slow
def test_a_node_finds_out_by_itself_that_its_source_is_a_sidecar(tmp_path: Path) -> None:
    tree = tmp_path / "sidecar"
    tree.mkdir()
    fill(tree)
    with SidecarSource({"data/0": tree}) as source:
        target = NodeProcess(name=TARGET, directory=tmp_path / "target")
        target.more = f'[peers."{SOURCE}"]\nport = {source.port}\n'
        target.start()
        try:
            ended = target.wait_until_ended(target.start_copy())
            assert ended["state"] == "completed", ended
            verified = target.command("verify", "--digest", "XXHash32", "--json")
            assert (verified.exit, verified.json["detail"]["filesMatched"]) == (0, 21)
        finally:
            target.stop(signal.SIGKILL)
    copied = {path: entry.content for path, entry in read_tree(target.data).items()}
    assert copied == {path: entry.content for path, entry in read_tree(tree).items()}
