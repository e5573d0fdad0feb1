"""Goal: whatever happens to the link or to the source, a migration ends right, proven and thrifty.

Method: two real nodes in two network namespaces; the link is cut, lossy, narrow, of another MTU,
the source restarted, in the middle of a large file and of bundles of small ones. What crossed the
link is counted by the kernel. The proof is checked by `holdfast proof check`.
HOLDFAST_TEST_OUTAGE_S makes every outage so many seconds long, for a release: 30.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.network.conftest import HostNode, Hosts
from tests.support.command import Holdfast
from tests.support.node_process import TASKS, VERIFICATIONS
from tests.support.trees import pattern, read_tree, write

MIB = 1 << 20
LARGE_BYTES = 40 * MIB
SMALL_COUNT, SMALL_BYTES = 6000, 6000
RATE_BYTES_PER_S = 8 * MIB
WINDOW_BYTES = 8 * MIB
"""What may be under way, for each time a connection is lost."""

pytestmark = [pytest.mark.slow, pytest.mark.needs_root]


def fill_large(root: Path) -> int:
    """Make a tree in which a large file is what takes time; return its bytes."""
    write(root / "first", "first")
    write(root / "large", pattern(LARGE_BYTES))
    return LARGE_BYTES


def fill_small(root: Path) -> int:
    """Make a tree of small files."""
    for number in range(SMALL_COUNT):
        write(root / f"d{number % 9}" / f"{number}", pattern(SMALL_BYTES, number))
    return SMALL_COUNT * SMALL_BYTES


def block(hosts: Hosts, is_cut: bool) -> None:
    """Drop everything that arrives, on both sides."""
    for node in (hosts.source, hosts.target):
        node.host.block() if is_cut else node.host.unblock()


def unplug(hosts: Hosts, is_cut: bool) -> None:
    """Take the link down."""
    hosts.source.host.set_link("down" if is_cut else "up")


def start_slowly(hosts: Hosts, size_bytes: int, **more: object) -> str:
    """Start a copy; return once about a third of it is there."""
    target = hosts.target
    task_id = target.start_copy(rateBytesPerSecond=RATE_BYTES_PER_S, **more)
    target.wait_for(
        task_id,
        lambda task: task["state"] == "running" and task["progress"]["bytesDone"] > size_bytes / 3,
    )
    return task_id


def go_on(target: HostNode, task_id: str) -> dict[str, Any]:
    """Lift the limit and wait for the end."""
    until = time.monotonic() + 30
    while True:
        answer = target.ask("PATCH", f"{TASKS}/{task_id}", {"rateBytesPerSecond": 0})
        if answer.status != 409 or time.monotonic() > until:
            break
        time.sleep(0.2)  # Between two attempts.
    assert answer.status == 200, answer
    return wait_long(target, task_id)


def wait_long(target: HostNode, task_id: str) -> dict[str, Any]:
    """Return a task once it has ended, however long a lost connection is waited for."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        task = target.task(task_id)
        if task["state"] in ("completed", "failed", "cancelled"):
            return task
        time.sleep(0.1)
    raise AssertionError((task, target.log[-10:]))


def check_proven(hosts: Hosts) -> None:
    """The trees are equal, and a verification says so."""
    assert read_tree(hosts.target.data) == read_tree(hosts.source.data)
    check_verified(hosts)


def check_verified(hosts: Hosts) -> None:
    """A verification finds no difference, and its proof holds for the target."""
    target = hosts.target
    asked = {"maxConcurrency": 2, "digestAlgorithm": "BLAKE3"}
    answer = target.ask("POST", VERIFICATIONS, asked)
    assert answer.status == 202, answer
    ended = wait_long(target, answer.json["taskId"])
    assert ended["state"] == "completed", (ended["error"], ended["detail"], target.log[-3:])
    assert ended["detail"]["state"] == "COMPLETED", ended["detail"]
    (directory,) = ended["result"]["directories"]
    holdfast = Holdfast(state=target.directory / "elsewhere")
    checked = holdfast("proof", "check", directory["proof"]["path"], target.data)
    assert checked.exit == 0, checked


@pytest.mark.parametrize(
    ("cut", "fill", "outage_s"),
    [(block, fill_large, 30.0), (unplug, fill_small, 10.0)],
    ids=["dropped-large", "unplugged-small"],
)
def test_a_link_that_is_cut(
    hosts: Hosts,
    cut: Callable[[Hosts, bool], None],
    fill: Callable[[Path], int],
    outage_s: float,
) -> None:
    outage_s = float(os.environ.get("HOLDFAST_TEST_OUTAGE_S", outage_s))
    size_bytes = fill(hosts.source.data)
    received = hosts.target.host.received_bytes()
    task_id = start_slowly(hosts, size_bytes)

    cut(hosts, True)
    time.sleep(outage_s)
    held = hosts.target.task(task_id)
    cut(hosts, False)
    ended = go_on(hosts.target, task_id)

    moved = hosts.target.host.received_bytes() - received
    print("moved", moved, "of", size_bytes, "held at", held["progress"]["bytesDone"])
    assert held["state"] == "running"
    assert held["progress"]["bytesDone"] < size_bytes
    assert ended["state"] == "completed", ended
    assert size_bytes <= moved < 1.15 * size_bytes + WINDOW_BYTES
    check_proven(hosts)


def test_lost_packets(hosts: Hosts) -> None:
    write(hosts.source.data / "large", pattern(10 * MIB))
    for number in range(500):
        write(hosts.source.data / "d" / f"{number}", pattern(3000, number))
    for node in (hosts.source, hosts.target):
        # One segment a packet, as on a wire: else whole windows are lost, or none.
        node.host.set_link("gso_max_segs", "1")
        node.host.lose(0.05)

    ended = wait_long(hosts.target, hosts.target.start_copy())

    assert ended["state"] == "completed", ended
    lost = [node.host.lost_packets() for node in (hosts.source, hosts.target)]
    print("lost", lost)
    assert lost[1] > 50
    check_proven(hosts)


def test_a_narrow_link(hosts: Hosts) -> None:
    size_bytes = 12 * MIB
    write(hosts.source.data / "large", pattern(size_bytes))
    hosts.source.host.cap("40mbit")
    began = time.monotonic()

    ended = hosts.target.wait_until_ended(hosts.target.start_copy())

    took_s = time.monotonic() - began
    print("bytes/s", size_bytes / took_s)
    assert ended["state"] == "completed", ended
    assert took_s > 0.9 * size_bytes / 5e6
    check_proven(hosts)


def test_a_source_that_is_restarted(hosts: Hosts) -> None:
    size_bytes = fill_large(hosts.source.data)
    received = hosts.target.host.received_bytes()
    task_id = start_slowly(hosts, size_bytes)

    hosts.source.stop(signal.SIGKILL)
    time.sleep(3)
    hosts.source.start()
    ended = go_on(hosts.target, task_id)

    moved = hosts.target.host.received_bytes() - received
    print("moved", moved, "of", size_bytes)
    assert ended["state"] == "completed", ended
    assert moved < 1.1 * size_bytes + WINDOW_BYTES
    check_proven(hosts)


def test_a_source_that_comes_back_as_another(hosts: Hosts, tmp_path: Path) -> None:
    """Another root under the same name: nothing of it arrives, and the error says what happened."""
    size_bytes = fill_large(hosts.source.data)
    write(hosts.target.data / "only-here", "kept")
    other = tmp_path / "other"
    write(other / "stranger", "stranger")
    task_id = start_slowly(hosts, size_bytes)

    hosts.source.stop()
    hosts.source.start(hosts.source.settings.replace(str(hosts.source.data), str(other)))
    ended = go_on(hosts.target, task_id)

    assert ended["state"] == "failed", ended
    assert ended["error"]["code"] == "source-replaced", ended
    assert sorted(path.name for path in hosts.target.data.iterdir() if path.is_file()) in (
        ["first", "only-here"],
        ["only-here"],
    )
    hosts.source.stop()
    hosts.source.start()
    assert hosts.target.wait_until_ended(hosts.target.start_copy())["state"] == "completed"
    check_proven(hosts)


def test_packets_that_became_too_large(hosts: Hosts) -> None:
    """Large segments vanish without a word: only a new connection learns the new size."""
    size_bytes = fill_large(hosts.source.data)
    for node in (hosts.source, hosts.target):
        node.host.set_link("gso_max_segs", "1")
    task_id = start_slowly(hosts, size_bytes)

    hosts.target.host.set_link("mtu", "600")
    ended = go_on(hosts.target, task_id)

    assert ended["state"] == "completed", ended
    check_proven(hosts)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_side_that_dies_behind_a_cut_link(hosts: Hosts, side: str) -> None:
    """The other is told nothing: its connections are half open, and must not hold it up."""
    size_bytes = fill_large(hosts.source.data)
    task_id = start_slowly(hosts, size_bytes)
    dying: HostNode = getattr(hosts, side)

    block(hosts, True)
    dying.stop(signal.SIGKILL)
    dying.start()
    block(hosts, False)
    ended = go_on(hosts.target, task_id)

    assert ended["state"] == "completed", ended
    check_proven(hosts)


def test_with_certificates(secured_hosts: Hosts) -> None:
    """Both ports speak TLS and know each other by certificates alone; cut, they find back."""
    hosts = secured_hosts
    size_bytes = fill_large(hosts.source.data)
    received = hosts.target.host.received_bytes()
    task_id = start_slowly(hosts, size_bytes)

    unplug(hosts, True)
    hosts.source.stop(signal.SIGKILL)
    hosts.source.start()
    unplug(hosts, False)
    ended = go_on(hosts.target, task_id)

    assert ended["state"] == "completed", ended
    assert hosts.target.host.received_bytes() - received < 1.15 * size_bytes + WINDOW_BYTES
    check_proven(hosts)


def test_a_verification_across_an_outage(hosts: Hosts) -> None:
    """The link is cut in the middle of it; and the source is away as another one begins."""
    source, target = hosts.source, hosts.target
    fill_small(source.data)
    assert wait_long(target, target.start_copy())["state"] == "completed"
    asked = {"maxConcurrency": 2, "digestAlgorithm": "MD5", "rateBytesPerSecond": 16 * MIB}
    for cut in (block, None):
        if cut is None:
            source.stop(signal.SIGKILL)
        answer = target.ask("POST", VERIFICATIONS, asked)
        task_id = answer.json["taskId"]
        if cut is not None:
            target.wait_until_moving(task_id)
            cut(hosts, True)
        time.sleep(float(os.environ.get("HOLDFAST_TEST_OUTAGE_S", 6)))
        assert target.task(task_id)["state"] == "running"
        if cut is None:
            source.start()
        else:
            cut(hosts, False)
        ended = wait_long(target, task_id)
        assert ended["state"] == "completed", (ended["error"], ended["detail"])
        assert ended["detail"]["state"] == "COMPLETED", ended["detail"]
        assert ended["detail"]["filesMatched"] == SMALL_COUNT
