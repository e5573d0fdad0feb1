"""Goal: one copy of a large tree, whose nodes are killed at random moments, ends right and proven.

Method: two nodes in two namespaces; SIGKILL to the task's process, to the node, or to all of one
side, again and again in one copy of a tree with the shape of a database: large files, mostly holes,
some of them all data, and thousands of small ones. After every kill each file that has its final
name is compared with the source's. What crossed the link is counted by the kernel: what was
received is not received again. With HOLDFAST_TEST_FULL set: 10 GiB of shape and 30 kills, for a
release; else less of both.
"""

import os
import random
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import pytest

from tests.interop.network.conftest import HostNode, Hosts
from tests.interop.network.test_migration_network import check_verified, go_on
from tests.support.node_process import child_named, children_of
from tests.support.trees import list_paths, pattern, write

IS_FULL: Final = bool(os.environ.get("HOLDFAST_TEST_FULL"))
MIB: Final = 1 << 20
SPARSE_COUNT: Final = 3
SPARSE_BYTES: Final = (3300 if IS_FULL else 300) * MIB
ISLANDS: Final = 12
"""Pieces of data in each of them."""
LARGE_BYTES: Final = (96 * MIB + 1, 40 * MIB)
SMALL_COUNT: Final = 4000
TARGET_KILLS: Final = 30 if IS_FULL else 7
SOURCE_KILLS: Final = 12 if IS_FULL else 4
RATE_BYTES_PER_S: Final = 4 * MIB
WINDOW_BYTES: Final = 10 * MIB
"""What may be received again after a kill: what two workers had in hand, the kernel's buffers, a
batch of small files not yet named, lists."""
TASK_PROCESS: Final = "holdfast.server.task_process"

pytestmark = [pytest.mark.slow, pytest.mark.needs_root]


def fill(root: Path) -> int:
    """Make the tree; return its bytes without the holes."""
    due = sum(LARGE_BYTES)
    for number, size_bytes in enumerate(LARGE_BYTES):
        write(root / f"real{number}", pattern(MIB, number) * (size_bytes // MIB + 1))
        os.truncate(root / f"real{number}", size_bytes)
    for number in range(SPARSE_COUNT):
        with open(root / f"sparse{number}", "wb") as stream:
            stream.truncate(SPARSE_BYTES)
            for island in range(ISLANDS):
                stream.seek(SPARSE_BYTES // ISLANDS * island // 4096 * 4096)
                due += stream.write(pattern(MIB, 100 * number + island))
    for number in range(SMALL_COUNT):
        due += 3000
        write(root / "ks" / f"t{number % 40}" / f"{number}", pattern(3000, number))
    return due


def same_content(one: BinaryIO, other: BinaryIO, size_bytes: int) -> bool:
    """Compare two files of one size; only what is data in either is read."""
    for start, end in (*islands(one, size_bytes), *islands(other, size_bytes)):
        for at in range(start, end, MIB):
            length = min(MIB, end - at)
            pieces = (os.pread(each.fileno(), length, at) for each in (one, other))
            if len(set(pieces)) > 1:
                return False
    return True


def islands(stream: BinaryIO, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where there is data."""
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(stream.fileno(), end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
        yield start, end


class Looking:
    """Looks at the target after each kill; what was whole and is untouched is not read again."""

    def __init__(self, hosts: Hosts) -> None:
        self._source = hosts.source.data
        self._target = hosts.target.data
        self._seen: dict[bytes, tuple[int, int, int]] = {}

    def check_whole(self) -> int:
        """No file has its final name before it is whole; return what is there, partial files too.

        Holes do not count.
        """
        count = sum(
            path.stat().st_blocks * 512
            for path in (self._target / ".holdfast" / "partial").glob("*")
            if path.is_file()
        )
        for path in list_paths(self._target):
            there = os.path.join(os.fsencode(self._target), path)
            try:
                found = os.lstat(there)
            except FileNotFoundError:
                continue  # The next attempt is at work already.
            if not stat.S_ISREG(found.st_mode):
                continue
            count += found.st_blocks * 512
            key = (found.st_ino, found.st_size, found.st_ctime_ns)
            if self._seen.get(path) == key:
                continue
            wanted = os.path.join(os.fsencode(self._source), path)
            assert found.st_size == os.stat(wanted).st_size, (path, "is torn")
            with open(wanted, "rb") as one, open(there, "rb") as other:
                assert same_content(one, other, found.st_size), (path, "is torn")
            self._seen[path] = key
        return count


def kill(node: HostNode, what: str) -> None:
    """Kill something of a node; on return the node runs again."""
    assert node.process is not None
    match what:
        case "task" | "stream":
            module = TASK_PROCESS if what == "task" else "holdfast.server.node_stream"
            try:
                os.kill(child_named(node, module), signal.SIGKILL)
            except AssertionError:
                pass  # Between two of them.
            return
        case "all":
            for process in [*descendants(node.process.pid), node.process.pid]:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
    node.stop(signal.SIGKILL)


def descendants(process_id: int) -> list[int]:
    """Return all processes below one."""
    try:
        children = children_of(process_id)
    except FileNotFoundError:
        return []
    return [each for child in children for each in (*descendants(child), child)]


@pytest.mark.parametrize("side", ["target", "source"])
def test_killed_at_random_moments(hosts: Hosts, side: str) -> None:
    due = fill(hosts.source.data)
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    dying: HostNode = getattr(hosts, side)
    kills = TARGET_KILLS if side == "target" else SOURCE_KILLS
    kinds = ["task", "node", "all"] if side == "target" else ["stream", "node", "all"]
    hosts.target.more += "[limits]\ntask_crashes_max = 100\n"
    hosts.target.stop()
    hosts.target.start()
    looking = Looking(hosts)
    received = hosts.target.host.received_bytes()
    task_id = hosts.target.start_copy(rateBytesPerSecond=RATE_BYTES_PER_S)
    hosts.target.wait_until_moving(task_id)

    kept, losses = 0, 0
    for number in range(kills):
        time.sleep(chance.uniform(0.05, 2.5))
        kill(dying, kinds[number % 3])
        before, kept = kept, looking.check_whole()
        losses += kept < before - MIB
        if kinds[number % 3] in ("node", "all"):
            dying.start()
    killed = hosts.target.task(task_id)
    received_then = hosts.target.host.received_bytes()
    ended = go_on(hosts.target, task_id)

    received_last = hosts.target.host.received_bytes()
    figures = {
        "seed": seed,
        "kills": kills,
        "due": due,
        "moved": received_last - received,
        "there at the last kill": kept,
        "moved after the last kill": received_last - received_then,
    }
    print(figures)
    assert killed["state"] in ("running", "pending", "interrupted"), (figures, killed)
    assert ended["state"] == "completed", (figures, ended)
    assert kept > 4 * MIB, "killed inside a large file"
    assert not losses, "what was there at a kill is gone on with"
    assert received_last - received_then < 1.02 * (due - kept) + WINDOW_BYTES, figures
    assert received_last - received < 1.05 * due + kills * WINDOW_BYTES, figures
    looking.check_whole()
    assert list_paths(hosts.target.data) == list_paths(hosts.source.data), figures
    for number in range(SPARSE_COUNT):
        blocks = os.stat(hosts.target.data / f"sparse{number}").st_blocks
        assert blocks * 512 < (ISLANDS + 2) * MIB, "holes stay holes"
    check_verified(hosts)
