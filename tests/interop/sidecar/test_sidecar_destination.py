"""Goal: a Sidecar as destination completes a whole migration from a node of ours, while the source
is written to, and is refused once it is complete.

Method: a client written from Sidecar's facts alone (sidecar_destination.py) works through the
operator's phases against a real node process; trees are compared without the product.
"""

import concurrent.futures
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node_process import SOURCE, STATUS, TARGET, NodeProcess
from tests.support.sidecar_destination import BASE, Refused, SidecarDestination
from tests.support.trees import read_tree

MIB = 1 << 20
NAMES = (
    b"per%20cent",
    b"what? #now",
    b"sp ace/\xc3\xa9t\xc3\xa9+&;=",
    b"\xff\xfe/raw\x80",
    b"q\"'\\",
)
EXCLUDED = (b"ks/t/snapshots", b"other/t/snapshots")
CAP = 2


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A source with two data directories and hints, and patterns with placeholders."""
    node = NodeProcess(name=SOURCE, directory=tmp_path / "source")
    node.directory.mkdir()
    settings = (
        f'[node]\nnames = ["{SOURCE}"]\nstate = "{tmp_path}/state"\n'
        f'[listen]\nport = 0\nstream_port = 0\n[migration_map]\n"{SOURCE}" = "{TARGET}"\n'
        f"[limits]\nfile_requests_max = {CAP}\n"
        "[instances.main]\n"
        'files_to_exclude = ["glob:${HINTS_DIR}/*.tmp", "regex:.*/heap-[0-9]+[.]hprof"]\n'
        "dirs_to_exclude = "
        '["glob:${DATA_FILE_DIR}/*/*/snapshots", "glob:${DATA_FILE_DIR_1}/junk"]\n'
        f'directories = {{ data = ["{tmp_path}/d0", "{tmp_path}/d1"], hints = ["{tmp_path}/h"] }}\n'
    )
    for name, root in roots(tmp_path).items():
        fill(root, name)
    node.start(settings)
    yield node
    node.stop(signal.SIGKILL)


def roots(place: Path) -> dict[str, Path]:
    return {"data/0": place / "d0", "data/1": place / "d1", "hints/0": place / "h"}


def fill(root: Path, name: str) -> None:
    for number, path in enumerate((*NAMES, b"ks/t/big", b"ks/t/empty", b"junk/f", b"a.tmp")):
        write(
            root, path, os.urandom({b"ks/t/big": 3 * MIB, b"ks/t/empty": 0}.get(path, number + 1))
        )
    (root / "empty directory").mkdir()
    for path in EXCLUDED:
        write(root, path + b"/old", b"old of " + name.encode())
    write(root, b"heap-12.hprof", b"heap")


def write(root: Path, path: bytes, content: bytes) -> None:
    where = os.path.join(os.fsencode(root), path)
    os.makedirs(os.path.dirname(where), exist_ok=True)
    with open(where, "wb") as stream:
        stream.write(content)


def is_excluded(name: str, path: bytes, is_directory: bool) -> bool:
    """Say so in words of its own, as the destination's own patterns would."""
    if is_directory:
        parts = path.split(b"/")
        is_snapshot = name.startswith("data/") and len(parts) == 3 and parts[2] == b"snapshots"
        return is_snapshot or (name, path) == ("data/1", b"junk")
    if path.rpartition(b"/")[2] == b"heap-12.hprof":
        return True
    return name == "hints/0" and b"/" not in path and path.endswith(b".tmp")


@pytest.fixture
def destination(node: NodeProcess, tmp_path: Path) -> Iterator[SidecarDestination]:
    place = tmp_path / "destination"
    for root in (staging := place / "staging", *roots(place).values()):
        root.mkdir(parents=True)
    made = SidecarDestination(
        host=SOURCE,
        port=node.port,
        roots=roots(place),
        staging=staging,
        is_excluded=is_excluded,
        pool=8,
    )
    yield made
    made.close()


def contents(root: Path, name: str) -> dict[bytes, tuple[object, ...]]:
    """Return what a Sidecar copies, of what is not excluded."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path, entry in read_tree(root).items():
        parts = path.split(b"/")
        above = [b"/".join(parts[:depth]) for depth in range(1, len(parts))]
        is_directory = os.path.isdir(os.path.join(os.fsencode(root), path))
        if any(is_excluded(name, each, True) for each in above):
            continue
        if not path or is_excluded(name, path, is_directory):
            continue
        mtime = None if is_directory else entry.mtime_ns // 1_000_000
        found[path] = (entry.kind, entry.content, mtime)
    return found


class Writer:
    """A database that writes: appends, makes and removes files, until told to stop."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            write(self._root, b"ks/t/live-%d" % number, os.urandom(2000))
            with open(self._root / "ks/t/log", "ab") as log:
                log.write(b"x" * 1000)
            if number >= 5:
                os.unlink(self._root / f"ks/t/live-{number - 5}")
            if self._stop.wait(0.005):
                return

    def stop(self) -> None:
        """Stop, and return when nothing is written any more."""
        self._stop.set()
        self._thread.join()


@pytest.mark.slow
def test_a_sidecar_completes_a_migration_from_a_node(
    node: NodeProcess, destination: SidecarDestination, tmp_path: Path
) -> None:
    write(destination.roots["data/0"], b"stale/of before", b"x")
    write(destination.roots["data/1"], b"junk/own", b"of this host alone")
    source = roots(tmp_path)
    writer = Writer(source["data/1"])
    try:
        live = destination.copy(max_iterations=3, success_threshold=0.9, max_concurrency=CAP)
    finally:
        writer.stop()
    assert live[0]["filesDownloaded"] >= 3 * len(NAMES)
    assert not (destination.roots["data/0"] / "stale").exists()

    final = destination.copy(max_iterations=5, success_threshold=1.0, max_concurrency=CAP)
    assert final[-1]["state"] == "SUCCESS", final
    for name, root in source.items():
        assert contents(destination.roots[name], name) == contents(root, name)
        assert not (destination.roots[name] / "ks/t/snapshots").exists() or name == "hints/0"
    assert (destination.roots["data/1"] / "junk/own").exists()
    assert (destination.roots["data/0"] / "junk/f").exists()

    listed, _ = destination.list_source()
    files = sum(entry["fileType"] == "FILE" for entry in listed.values())
    for algorithm in ("MD5", "XXHash32", "md5"):
        verified = destination.verify(max_concurrency=CAP, algorithm=algorithm)
        assert (verified["state"], verified["filesMatched"]) == ("COMPLETED", files), verified
        assert verified["metadataMatched"] == len(listed)

    assert 503 not in destination.answers, "as many at once as the cap are never over it"

    marked = node.ask("POST", STATUS)
    assert (marked.status, marked.json["state"]) == (200, "COMPLETED")
    destination.complete()
    a_file = next(entry["fileUrl"] for entry in listed.values() if entry["size"] > 0)
    for target in (a_file, f"{a_file}?digestAlgorithm=MD5"):
        with pytest.raises(Refused) as refused:
            destination.get(target)
        assert refused.value.status == 400
    assert node.ask("POST", STATUS).status == 400
    assert node.ask("DELETE", STATUS).status == 403
    with pytest.raises(Refused):
        destination.copy(max_iterations=1, success_threshold=1.0, max_concurrency=1)
    (destination.staging / "live_migration_status.json").unlink()
    again = destination.copy(max_iterations=1, success_threshold=1.0, max_concurrency=1)
    assert [one["state"] for one in again] == ["FAILED", "FAILED"]


def test_damage_of_one_byte_is_found_by_strings_of_digests(
    node: NodeProcess, destination: SidecarDestination
) -> None:
    copied = destination.copy(max_iterations=2, success_threshold=1.0, max_concurrency=2)
    assert copied[-1]["state"] == "SUCCESS", copied
    damaged = destination.roots["data/1"] / "ks/t/big"
    before = damaged.stat()
    with open(damaged, "r+b") as stream:
        byte = stream.read(1)[0]
        stream.seek(0)
        stream.write(bytes([byte ^ 1]))
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    for algorithm in ("MD5", "XXHash32"):
        found = destination.verify(max_concurrency=2, algorithm=algorithm)
        assert (found["state"], found["digestMismatches"]) == ("FAILED", 1)
        assert found["digestVerificationFailures"] == 0


@pytest.mark.slow
def test_over_the_cap_a_sidecar_is_told_when_to_come_and_comes(
    node: NodeProcess, destination: SidecarDestination, tmp_path: Path
) -> None:
    """All permits are held at first, so that each of the first requests is refused."""
    write(tmp_path / "d0", b"huge", os.urandom(40 * MIB))
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        holders = [hold(node.port, f"{BASE}/files/data/0/huge") for _ in range(CAP)]
        copying = worker.submit(
            destination.copy, max_iterations=2, success_threshold=1.0, max_concurrency=8
        )
        until = time.monotonic() + 20
        while 503 not in destination.answers and time.monotonic() < until:
            time.sleep(0.01)
        for holder in holders:
            holder.close()
        status = copying.result(60)
    assert 503 in destination.answers
    assert 429 not in destination.answers
    assert status[-1]["state"] == "SUCCESS" or status[-1]["downloadFailures"] == 0, status
    final = destination.copy(max_iterations=3, success_threshold=1.0, max_concurrency=CAP)
    assert final[-1]["state"] == "SUCCESS", final
    assert contents(destination.roots["data/0"], "data/0") == contents(tmp_path / "d0", "data/0")


def hold(port: int, target: str) -> socket.socket:
    """Ask for a file, take the beginning of the answer, and no more."""
    held = socket.create_connection((SOURCE, port), timeout=10)
    held.sendall(f"GET {target} HTTP/1.1\r\nHost: {SOURCE}:{port}\r\n\r\n".encode())
    assert held.recv(12) == b"HTTP/1.1 200"
    return held
