"""Goal: an instance behind a Sidecar, its faults included, arrives whole and is verified.

Method: the product's copy, verification and repair against a server shaped like a Sidecar; both
trees are compared without the product.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import StateError
from holdfast.files.migration.requests import spell_algorithm
from holdfast.files.model import CacheUse
from holdfast.model.limits import FILE_BYTES_LARGE, MIB
from holdfast.proof.digests import Algorithm
from holdfast.proof.statement import VerificationMode
from holdfast.tasks.model import TaskState
from tests.support.migrations import COPY, VERIFICATION, Migration, iterations
from tests.support.sidecar_source import BASE, SidecarSource
from tests.support.trees import read_tree

from .conftest import open_sidecar

NAMES = (("data", 0), ("data", 1))
VERIFY = replace(VERIFICATION, cache=CacheUse.KEEP)


@pytest.fixture
def migration(tmp_path: Path) -> Migration:
    """An instance with files of all sizes and odd names."""
    made = Migration(place=tmp_path, names=NAMES)
    for number, size in enumerate((0, 1, 4096, 100_000, MIB + 1, FILE_BYTES_LARGE + 5)):
        write(made, f"ks/t {number % 2}/per%20cent?#{number}", os.urandom(size))
    for number in range(20):
        write(made, f"ks/small/{number}", b"%d" % number, name="data1")
    (made.source() / "ks/empty").mkdir()
    return made


@pytest.fixture
def source(migration: Migration) -> Iterator[SidecarSource]:
    """Serves it."""
    roots = {f"{kind}/{index}": migration.source(f"{kind}{index}") for kind, index in NAMES}
    with SidecarSource(roots) as server:
        migration.sources = lambda made: open_sidecar(server, made.place)
        yield server


def write(migration: Migration, path: str, content: bytes, name: str = "data0") -> None:
    where = migration.source(name) / path
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(content)
    os.utime(where, ns=(1_650_000_000_123_456_789,) * 2)


def contents(root: Path) -> dict[bytes, tuple[int, bytes, int]]:
    """Return what a Sidecar can tell: kind, content, time of files in milliseconds."""
    return {
        path: (entry.kind, entry.content, entry.mtime_ns // 1_000_000 if entry.size_bytes else 0)
        for path, entry in read_tree(root).items()
    }


def assert_arrived(migration: Migration) -> None:
    for name in ("data0", "data1"):
        assert contents(migration.target(name)) == contents(migration.source(name))


@pytest.mark.parametrize("old_revision", [False, True])
def test_copy_verify_and_prove(
    migration: Migration, source: SidecarSource, old_revision: bool
) -> None:
    source.faults.old_revision = old_revision
    source.faults.busy_answers = 3

    task = migration.copy()

    assert [each["state"] for each in iterations(task)] == ["DOWNLOAD_COMPLETE", "SUCCESS"]
    assert_arrived(migration)
    for algorithm in ("MD5", "XXHash32", "SHA256"):
        verified = migration.verify(replace(VERIFY, digest_algorithm=algorithm))
        assert verified.detail["state"] == "COMPLETED", verified.result
        assert verified.detail["filesMatched"] == 26
        assert verified.result is not None
    asked = [target for target, _ in source.requests if "digestAlgorithm=MD5" in target]
    assert len(asked) == 26, "the source took these digests itself"


def test_workers_in_processes_have_connections_of_their_own(
    migration: Migration, source: SidecarSource
) -> None:
    for number in range(400):
        write(migration, f"ks/many/{number}", b"%d" % number * 50, name="data1")

    task = migration.copy(replace(COPY, max_concurrency=3))

    assert [each["state"] for each in iterations(task)] == ["DOWNLOAD_COMPLETE", "SUCCESS"]
    assert_arrived(migration)
    assert migration.verify(replace(VERIFY, max_concurrency=3)).detail["filesMatched"] == 426
    assert not list((migration.place / "scratch").iterdir())


def test_a_pass_after_a_change_fetches_that_alone(
    migration: Migration, source: SidecarSource
) -> None:
    migration.copy()
    write(migration, "ks/t 0/new", b"new")
    os.utime(migration.source() / "ks/t 0/new", ns=(0, 1_660_000_000_000_000_000))
    os.unlink(migration.source("data1") / "ks/small/3")
    source.requests.clear()

    task = migration.copy()

    first = iterations(task)[0]
    assert (first["filesToDownload"], first["deleted"]) == (1, 1)
    assert [target for target, _ in source.requests if "/files/" in target] == [
        f"{BASE}/files/data/0/ks/t%200/new"
    ]
    assert_arrived(migration)


def test_a_file_that_leaves_while_it_is_read_costs_a_pass_only(
    migration: Migration, source: SidecarSource
) -> None:
    source.faults.vanishing.add("data/1/ks/small/7")

    def leave(_: Migration, times: int) -> None:
        if times == 1:
            source.faults.vanishing.clear()
            os.unlink(migration.source("data1") / "ks/small/7")

    migration.on_open = leave
    task = migration.copy()
    assert [each["state"] for each in iterations(task)] == ["DOWNLOAD_COMPLETE", "SUCCESS"]
    assert iterations(task)[0]["entriesChanged"] == 1
    assert_arrived(migration)


def test_a_cut_connection_is_read_on(migration: Migration, source: SidecarSource) -> None:
    name = f"data/0/ks/t 1/per%20cent?#{5}"
    source.faults.cut_after_bytes[name] = 3 * MIB
    migration.copy()
    assert any(asked and asked.startswith(f"bytes={3 * MIB}") for _, asked in source.requests)
    assert_arrived(migration)


def test_other_bytes_than_the_file_has_are_found_by_verification(
    migration: Migration, source: SidecarSource
) -> None:
    source.faults.rotten["data/1/ks/small/12"] = b"21"
    migration.copy()
    source.faults.rotten.clear()

    task = migration.verify(VERIFY)

    assert task.detail["state"] == "FAILED"
    assert (task.detail["digestMismatches"], task.detail["filesMatched"]) == (1, 25)
    assert migration.repair(task).result is not None
    assert_arrived(migration)
    assert migration.verify(VERIFY).detail["state"] == "COMPLETED"


def test_nothing_is_trusted_without_reading(migration: Migration, source: SidecarSource) -> None:
    """The same size and time say little: an incremental verification reads all the same."""
    migration.copy()
    incremental = replace(
        VERIFY,
        mode=VerificationMode.INCREMENTAL,
        digest_algorithm=spell_algorithm(Algorithm.BLAKE3),
    )
    migration.verify(incremental)
    write(migration, "ks/small/12", b"21", name="data1")
    assert migration.verify(incremental).detail["digestMismatches"] == 1


def test_a_hostile_list_writes_nothing(migration: Migration, source: SidecarSource) -> None:
    migration.copy()
    before = read_tree(migration.place / "target")
    listed = source.list_files()
    files = listed["files"]
    assert isinstance(files, list)
    escaping = {
        "fileUrl": f"{BASE}/files/data/0/../../../escaped",
        "size": 3,
        "fileType": "FILE",
        "lastModifiedTime": 0,
    }
    source.faults.list_answer = json.dumps({"files": files[1:] + [escaping]}).encode()

    with pytest.raises(StateError) as caught:
        migration.copy(replace(COPY, max_iterations=1))

    assert "which no tree can hold" in caught.value.message
    assert migration.last_task().state is TaskState.FAILED
    assert read_tree(migration.place / "target") == before
    assert not list(migration.place.rglob("escaped"))


def test_a_link_planted_at_the_target_is_not_followed(
    migration: Migration, source: SidecarSource, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (migration.target("data1") / "ks").symlink_to(outside)

    migration.copy()

    assert not list(outside.iterdir())
    assert_arrived(migration)


def test_an_empty_list_deletes_nothing(migration: Migration, source: SidecarSource) -> None:
    migration.copy()
    source.faults.list_answer = b'{"files": [], "totalSize": 0}'
    with pytest.raises(StateError) as caught:
        migration.copy()
    assert caught.value.code == "source-empty"
    source.faults.list_answer = None
    assert_arrived(migration)
