"""Goal: a running migration is watched without a gap, slowed and hurried meanwhile, and stopped.

Method: two real nodes; bytes a second are taken from what the task tells of itself; the events are
followed through all passes on connections that are cut, each going on with Last-Event-ID.
"""

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node_process import TASKS, NodePair, NodeProcess, running_pair
from tests.support.trees import pattern, read_tree, write

MIB = 1 << 20
MEASURED_S = 3.0

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[NodePair]:
    with running_pair(tmp_path) as pair:
        write(pair.source.data / "large", pattern(64 * MIB))
        yield pair


def rate_now(node: NodeProcess, task_id: str) -> float:
    """Return the bytes a second that a task moves in the next seconds."""
    time.sleep(1.5)  # What was begun at the rate before goes through.
    began, before = time.monotonic(), done_bytes(node, task_id)
    time.sleep(MEASURED_S)
    return (done_bytes(node, task_id) - before) / (time.monotonic() - began)


def done_bytes(node: NodeProcess, task_id: str) -> int:
    return int(node.task(task_id)["progress"]["bytesDone"])


def test_the_rate_is_changed_while_it_runs(pair: NodePair) -> None:
    """By PATCH and by the command, up and down; seen in bytes a second."""
    target = pair.target
    task_id = target.start_copy(rateBytesPerSecond=2 * MIB)
    target.wait_until_moving(task_id)
    slow = rate_now(target, task_id)
    assert target.ask("PATCH", f"{TASKS}/{task_id}", {"rateBytesPerSecond": 6 * MIB}).status == 200
    faster = rate_now(target, task_id)
    assert target.command("limit", task_id, "1M").exit == 0
    slower = rate_now(target, task_id)
    print("MiB/s", slow / MIB, faster / MIB, slower / MIB)

    assert 1 * MIB < slow < 3.2 * MIB
    assert 3.4 * MIB < faster < 8 * MIB
    assert slower < 2 * MIB

    cancelled = target.command("cancel", task_id)
    assert cancelled.exit == 0, cancelled
    ended = target.wait_until_ended(task_id)
    assert ended["state"] == "cancelled"
    assert not (target.data / "large").exists()
    assert target.wait_until_ended(target.start_copy())["state"] == "completed"
    assert read_tree(target.data) == read_tree(pair.source.data)


class Follower:
    """Follows the events of a task, on a new connection whenever the one before was cut."""

    def __init__(self, node: NodeProcess, task_id: str, *, messages_each: int) -> None:
        self._node = node
        self._path = f"{TASKS}/{task_id}/events"
        self._messages_each = messages_each
        self.sequences: list[int] = []
        self.names: list[str] = []
        self.connections = 0
        self.is_over = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.is_over and self.connections < 500:
            self.connections += 1
            self._follow()

    def _follow(self) -> None:
        connection = http.client.HTTPConnection(self._node.name, self._node.port, timeout=30)
        headers = {"Accept": "text/event-stream"}
        if self.sequences:
            headers["Last-Event-ID"] = str(self.sequences[-1])
        connection.request("GET", self._path, headers=headers)
        answer = connection.getresponse()
        if answer.status == 204:  # All of it was taken before.
            self.is_over = True
        message: dict[str, str] = {}
        seen = 0
        while seen < self._messages_each and (raw := answer.readline()):
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(":")
                message[name] = value.strip()
                continue
            self._take(message)
            seen += "id" in message
            message = {}
        connection.close()

    def _take(self, message: dict[str, str]) -> None:
        if "id" in message:
            self.sequences.append(int(message["id"]))
            self.names.append(message["event"])
        elif message.get("event") == "ended":
            self.is_over = True
            assert json.loads(message["data"])["state"] == "completed"


def test_events_of_all_passes_on_cut_connections(pair: NodePair) -> None:
    """Every event once and in order, from the creation to the end."""
    target, source = pair.target, pair.source
    task_id = target.start_copy(rateBytesPerSecond=12 * MIB, maxIterations=5)
    follower = Follower(target, task_id, messages_each=3)
    for number in range(3):
        target.wait_for(task_id, lambda task: task["progress"]["bytesDone"] > 0)
        write(source.data / f"new{number}", os.urandom(4 * MIB))
        time.sleep(1)
    ended = target.wait_until_ended(task_id)
    follower.thread.join(30)

    assert ended["state"] == "completed", ended
    assert follower.sequences == list(range(1, follower.sequences[-1] + 1))
    assert (follower.names[0], follower.names[-1]) == ("created", "completed")
    assert follower.names.count("stage-entered") >= 4
    assert follower.is_over
    assert follower.connections > 3
    listed = target.ask("GET", f"{TASKS}/{task_id}/events?limit=1000").json["events"]
    assert [event["sequence"] for event in listed] == follower.sequences
