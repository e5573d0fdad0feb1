"""Goal: the memory of both nodes does not grow with the number of entries they migrate.

Method: two real pairs of nodes copy and verify a tree and one of three times its entries; the
kernel's count of all their processes is compared. The smaller one is large enough to fill every
cache of a fixed size: what grows beyond it grows with the entries.
"""

import os
from pathlib import Path

import pytest

from tests.support.memory import MemorySampler
from tests.support.node_process import VERIFICATIONS, NodePair, running_pair

SMALL, LARGE = 60_000, 180_000
FILES_OF_DIRECTORY = 1000
WITHIN_S = 400
BYTES_AN_ENTRY_MAX = 200
"""What more an entry may seem to cost; a path and what is known of it would cost more."""


def fill(root: Path, entries: int) -> None:
    for number in range(entries):
        directory = root / f"keyspace-{number // FILES_OF_DIRECTORY}"
        if number % FILES_OF_DIRECTORY == 0:
            directory.mkdir()
        else:
            os.close(os.open(directory / f"nb-{number}-big-Statistics.db", os.O_CREAT))


def peak_bytes(place: Path, entries: int) -> list[int]:
    """Return the most that the source's and the target's processes held."""
    with running_pair(place) as pair:
        fill(pair.source.data, entries)
        assert pair.source.process is not None
        assert pair.target.process is not None
        with MemorySampler([pair.source.process.pid, pair.target.process.pid]) as sampler:
            copied = pair.target.wait_until_ended(pair.target.start_copy(), WITHIN_S)
            verified = verify(pair)
        assert copied["state"] == "completed"
        assert verified["detail"]["filesMatched"] == entries - entries // FILES_OF_DIRECTORY
    return sampler.peak_bytes


def verify(pair: NodePair) -> dict[str, dict[str, object]]:
    request = {"maxConcurrency": 2, "digestAlgorithm": "XXHash32", "cache": "keep"}
    started = pair.target.ask("POST", VERIFICATIONS, request)
    assert started.status == 202, started
    return pair.target.wait_until_ended(started.json["taskId"], WITHIN_S)


@pytest.mark.slow
def test_memory_does_not_grow_with_entries(tmp_path: Path) -> None:
    small = peak_bytes(tmp_path / "small", SMALL)
    large = peak_bytes(tmp_path / "large", LARGE)
    for side, before, after in zip(("source", "target"), small, large, strict=True):
        an_entry = (after - before) / (LARGE - SMALL)
        print(f"{side}: {before >> 20} MiB, then {after >> 20} MiB: {an_entry:.0f} bytes an entry")
        assert an_entry < BYTES_AN_ENTRY_MAX
        assert after < 300 << 20
