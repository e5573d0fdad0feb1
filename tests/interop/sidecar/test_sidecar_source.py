"""Goal: a node pulls from a Sidecar with all its faults: copies, verifies, repairs, completes; and
every counter is Sidecar's.

Method: a real node process as destination of a server shaped like a Sidecar. What each counter has
to be is counted here, from the source's own list and from what the test has damaged.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_process import COPIES, SOURCE, STATUS, TARGET, VERIFICATIONS, NodeProcess
from tests.support.sidecar_source import SidecarSource
from tests.support.trees import read_tree

MIB = 1 << 20
COUNTERS = (
    "filesNotFoundAtSource",
    "filesNotFoundAtDestination",
    "metadataMatched",
    "metadataMismatches",
    "digestMismatches",
    "digestVerificationFailures",
    "filesMatched",
)
MTIME_NS = 1_650_000_000_123_456_789


class Pair:
    """A Sidecar with two data directories and its node."""

    def __init__(self, source: SidecarSource, node: NodeProcess) -> None:
        self.source = source
        self.node = node
        self.directories = ("data/0", "data/1")

    def at_source(self, name: str) -> Path:
        """Return the path of `data/0/...` at the source."""
        return self._below(self.source.directories, name)

    def at_target(self, name: str) -> Path:
        """Return the same at the target."""
        roots = {each: self.node.directory / each.replace("/", "") for each in self.directories}
        return self._below(roots, name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file at the source."""
        put(self.at_source(name), content)

    def copy(self, **more: object) -> Mapping[str, Any]:
        """Copy to the end; return Sidecar's answer about it."""
        self.node.wait_until_ended(self.node.start_copy(**more))
        return self.shown()

    def shown(self) -> Mapping[str, Any]:
        """Return Sidecar's answer about the last copy, and how it stands in ours."""
        (shown,) = self.node.ask("GET", COPIES).json_list
        return {**shown, "task": self.node.task(shown["taskId"])}

    def verify(self, **more: object) -> Mapping[str, Any]:
        """Verify to the end; return Sidecar's answer about it."""
        request = {"maxConcurrency": 2, "digestAlgorithm": "MD5", **more}
        started = self.node.ask("POST", VERIFICATIONS, request)
        assert started.status == 202, started
        self.node.wait_until_ended(started.json["taskId"])
        (shown,) = self.node.ask("GET", VERIFICATIONS).json_list
        return shown

    def assert_arrived(self) -> None:
        """Compare what a Sidecar can tell."""
        for name in self.directories:
            found, wanted = (contents(at(name)) for at in (self.at_target, self.at_source))
            assert found == wanted

    def _below(self, roots: Mapping[str, Path], name: str) -> Path:
        kind, index, *rest = name.split("/", 2)
        return roots[f"{kind}/{index}"].joinpath(*rest)


def put(path: Path, content: bytes, mtime_ns: int = MTIME_NS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def contents(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Return kind, content, and time of files in milliseconds."""
    return {
        path: (entry.kind, entry.content, entry.content and entry.mtime_ns // 1_000_000)
        for path, entry in read_tree(root).items()
        if path
    }


def counters(answer: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(answer[name] for name in COUNTERS)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    directories = {"data/0": tmp_path / "s0", "data/1": tmp_path / "s1"}
    node = NodeProcess(name=TARGET, directory=tmp_path / "target")
    node.directory.mkdir()
    for root in (*directories.values(), node.directory / "data0", node.directory / "data1"):
        root.mkdir()
    with SidecarSource(directories) as source:
        pair = Pair(source, node)
        sizes = (0, 1, 4096, 100_000, MIB + 1)
        for number, size in enumerate(sizes):
            pair.write(f"data/0/ks/t {number % 2}/per%20cent?#{number}", os.urandom(size))
            pair.write(f"data/1/ks/{number}", os.urandom(10 * number + 10))
        (directories["data/1"] / "empty").mkdir()
        node.start(
            f'[node]\nnames = ["{TARGET}"]\nstate = "{tmp_path}/state"\n'
            f'[listen]\nport = 0\nstream_port = 0\n[migration_map]\n"{SOURCE}" = "{TARGET}"\n'
            f'[peers."{SOURCE}"]\nport = {source.port}\nkind = "sidecar"\n'
            f'[instances.main]\ndirectories = {{ data = ["{node.directory}/data0", '
            f'"{node.directory}/data1"] }}\n'
        )
        yield pair
        node.stop(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("old_revision", [False, True])
def test_a_node_migrates_from_a_sidecar_with_its_faults(pair: Pair, old_revision: bool) -> None:
    source, node = pair.source, pair.node
    source.faults.old_revision = old_revision
    source.faults.busy_answers = 3
    cut = "data/0/ks/t 0/per%20cent?#4"
    source.faults.cut_after_bytes[cut] = 300_000
    source.faults.vanishing.add("data/1/ks/3")
    listed: dict[str, Any] = source.list_files()

    task_id = node.start_copy(maxIterations=20)
    node.wait_for(task_id, lambda task: len(task["detail"].get("iterations", ())) > 1)
    source.faults.vanishing.clear()
    node.wait_until_ended(task_id)
    copied = pair.shown()

    assert copied["task"]["state"] == "completed", copied
    assert (copied["source"], copied["port"]) == (SOURCE, source.port)
    first, last = copied["status"][0], copied["status"][-1]
    assert [one["iteration"] for one in copied["status"]] == list(range(len(copied["status"])))
    assert last["state"] == "SUCCESS"
    assert (last["bytesToDownload"], last["filesToDownload"]) == (-1, -1)
    for one in (first, last):
        assert (one["totalSize"], one["totalFiles"]) == (listed["totalSize"], len(listed["files"]))
    assert (first["bytesToDownload"], first["filesToDownload"]) == (
        listed["totalSize"],
        len(listed["files"]),
    )
    missed = next(e["size"] for e in listed["files"] if e["fileUrl"].endswith("/data/1/ks/3"))
    assert first["filesDownloaded"] == len(listed["files"]) - 1
    assert first["downloadFailures"] + first["entriesChanged"] == 1
    assert first["bytesDownloaded"] == listed["totalSize"] - missed
    pair.assert_arrived()

    files = sum(entry["fileType"] == "FILE" for entry in listed["files"])
    for algorithm in ("MD5", "XXHash32", "xxhash32"):
        verified = pair.verify(digestAlgorithm=algorithm)
        assert (verified["state"], verified["digestAlgorithm"]) == ("COMPLETED", algorithm)
        assert counters(verified) == (0, 0, len(listed["files"]), 0, 0, 0, files)

    assert node.ask("POST", STATUS).json["state"] == "COMPLETED"
    assert node.ask("POST", COPIES, {}).status == 400
    assert node.ask("POST", VERIFICATIONS, {}).status == 400


@pytest.mark.slow
def test_every_counter_is_what_was_damaged(pair: Pair) -> None:
    """Of each counter another number, so that none stands for another."""
    for number in range(40):
        pair.write(f"data/1/many/{number}", b"%d" % number * 20)
    pair.copy()
    listed: dict[str, Any] = pair.source.list_files()
    entries = len(listed["files"])
    files = sum(entry["fileType"] == "FILE" for entry in listed["files"])

    (pair.at_target("data/0/own directory")).mkdir()  # Not at the source: a directory, 2 files.
    put(pair.at_target("data/0/own directory/one"), b"1")
    put(pair.at_target("data/1/own"), b"2")
    os.rmdir(pair.at_target("data/1/empty"))  # Not at the destination: a directory, 3 files.
    for number in range(3):
        os.unlink(pair.at_target(f"data/1/many/{number}"))
    put(pair.at_target("data/1/many/10"), b"other length")  # Metadata: size, time, kind, time.
    put(pair.at_target("data/1/many/11"), b"11" * 20, MTIME_NS + 1_000_000)
    os.unlink(pair.at_target("data/1/many/12"))
    pair.at_target("data/1/many/12").mkdir()
    put(pair.at_target("data/1/many/13"), b"13" * 20, MTIME_NS - 1_000_000)
    put(pair.at_target("data/1/many/14"), b"14" * 20, MTIME_NS + 1000)  # The same millisecond.
    put(pair.at_target("data/1/many/15"), b"14" * 20, MTIME_NS + 2_000_000)
    for number in range(20, 26):  # Digests of six differ.
        put(pair.at_target(f"data/1/many/{number}"), b"##" * 20)
    vanishing = {f"data/1/many/{number}" for number in range(30, 37)}  # Seven are not told.
    pair.source.faults.vanishing |= vanishing
    stopped = pair.verify()
    assert stopped["state"] == "FAILED"
    # The metadata stage ends it, as in Sidecar: nothing was digested.
    matched = entries - 4 - 5
    assert counters(stopped) == (3, 4, matched, 5, 0, 0, 0)

    whole = pair.verify(continueOnMetadataMismatch=True)
    good = files - 3 - 5 - 6 - 7
    found = dict(zip(COUNTERS, counters(whole), strict=True))
    assert found["filesMatched"] in (good, good + 3), found
    assert counters(whole)[:6] == (3, 4, matched, 5, 6, 7)

    pair.source.faults.vanishing.clear()
    repair = pair.node.ask("POST", f"{VERIFICATIONS}/{whole['id']}/repair", {})
    assert repair.status == 202, repair
    ended = pair.node.wait_until_ended(repair.json["taskId"])
    assert ended["state"] == "completed", ended
    pair.copy()  # What is only here is deleted by a pass, not by a repair.
    pair.assert_arrived()
    again = pair.verify()
    assert (again["state"], counters(again)) == ("COMPLETED", (0, 0, entries, 0, 0, 0, files))


@pytest.mark.slow
def test_a_list_that_is_aborted_deletes_nothing_and_the_next_pass_goes_on(pair: Pair) -> None:
    pair.copy()
    before = read_tree(pair.at_target("data/1"))
    pair.write("data/1/new", b"new")
    pair.source.faults.list_status = 500
    healed = threading.Timer(1.5, lambda: setattr(pair.source.faults, "list_status", 200))
    task_id = pair.node.start_copy(maxIterations=10)
    time.sleep(0.7)
    assert read_tree(pair.at_target("data/1")) == before
    healed.start()
    assert pair.node.wait_until_ended(task_id)["state"] == "completed"
    healed.join()
    pair.assert_arrived()


@pytest.mark.slow
def test_a_completed_source_is_not_copied_from(pair: Pair) -> None:
    pair.source.faults.completed = True
    copied = pair.copy(maxIterations=1)
    assert copied["task"]["state"] == "failed"
    assert copied["status"][-1]["state"] == "FAILED"
    assert not list(pair.at_target("data/1").iterdir())
