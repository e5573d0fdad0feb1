"""Goal: a migration that is killed at any moment goes on from there and loses nothing.

Method: a copy of an instance in a process group of its own is killed with SIGKILL at random moments
(the seed is printed), again and again, while the source changes; whatever stands under a final name
is then whole, some content that the source had. At last it is let through.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.migrations import Migration, iterations
from tests.support.trees import read_tree

from holdfast.files.migration.model import MigrationKind
from holdfast.tasks.model import TaskState

MIB = 1 << 20
KILLS = 12
BIG_BYTES = 40 * MIB
RATE_BYTES_PER_S = 60 * MIB


def write(path: Path, seed: int, size: int) -> bytes:
    """Write content of its own for every seed; return its digest."""
    content = random.Random(seed).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).digest()


def is_whole(path: Path, allowed: set[bytes]) -> bool:
    """Say whether a file is not there, or has one of these contents."""
    return not path.exists() or hashlib.sha256(path.read_bytes()).digest() in allowed


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    migration = Migration(place=tmp_path)
    allowed: dict[Path, set[bytes]] = {}

    def change(generation: int) -> None:
        for number in range(120):
            path = migration.source() / f"ks/t{number % 7}/f{number}"
            if generation == 0 or number % 10 == generation % 10:
                size = chance.randrange(20_000)
                content = write(path, seed + 1000 * generation + number, size)
                allowed.setdefault(path.relative_to(migration.source()), set()).add(content)
        big = write(migration.source() / "ks/big", seed + 1000 * generation + 999, BIG_BYTES)
        allowed.setdefault(Path("ks/big"), set()).add(big)

    change(0)
    started, kills, generation = time.monotonic(), 0, 0
    while kills < KILLS:
        process = start(tmp_path)
        try:
            process.wait(timeout=chance.uniform(0.2, 1.2))  # About as long as one takes.
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        for path, contents in allowed.items():
            assert is_whole(migration.target() / path, contents), f"{path} is torn"
        if process.returncode == 0 or kills % 4 == 0:
            generation += 1
            change(generation)
        assert time.monotonic() - started < 400

    ended = time.monotonic() + 60
    while start(tmp_path).wait(timeout=60) and time.monotonic() < ended:
        time.sleep(0.2)  # What was killed holds its lock until the kernel is done with it.
    for kind, index in migration.names:
        name = f"{kind}{index}"
        assert read_tree(migration.target(name)) == read_tree(migration.source(name))
    task = migration.last_task()
    assert (task.kind, task.state) == (MigrationKind.COPY, TaskState.COMPLETED)
    numbers = [each["iteration"] for each in iterations(task)]
    assert numbers == list(range(len(numbers))), "no pass is lost or counted twice"


def start(place: Path) -> "subprocess.Popen[bytes]":
    """Start a copy in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.migrations", str(place), str(RATE_BYTES_PER_S)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
