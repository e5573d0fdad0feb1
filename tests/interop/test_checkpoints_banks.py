"""Goal: banks in real object stores are as good as in a directory: SeaweedFS as S3, and Swift.

Method: both started here; protect, verify, damage, heal, restore, delete and sweep on each, by the
same facet as the commands use, with threads for workers; what a store promises is measured.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.checkpoints.model import Resource, Retention
from holdfast.checkpoints.service import Checkpoints
from holdfast.server.checkpoints import open_checkpoints, open_store
from holdfast.server.local import LocalServices
from tests.contract.objects import BUCKET, KEYS, Weed, swift_alone, weed
from tests.interop.swift.cluster import Cluster
from tests.support.checkpoints import DIRECTORY, MANNER
from tests.support.trees import make_tree, pattern, read_tree, write

__all__ = ["swift_alone", "weed"]

pytestmark = pytest.mark.slow


@pytest.fixture(params=["s3", "swift"])
def bank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty place for a bank, with its login in the environment."""
    if request.param == "s3":
        server: Weed = request.getfixturevalue("weed")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
        yield f"s3+{server.url}/{BUCKET}/{os.urandom(5).hex()}"
    else:
        cluster: Cluster = request.getfixturevalue("swift_alone")
        monkeypatch.setenv("ST_AUTH", f"{cluster.url}/auth/v1.0")
        monkeypatch.setenv("ST_USER", "test:tester")
        monkeypatch.setenv("ST_KEY", "testing")
        yield f"swift:banks-{os.urandom(5).hex()}/here"


@pytest.fixture
def facet(tmp_path: Path) -> Checkpoints:
    return open_checkpoints(LocalServices(tmp_path / "state"), may_fork=False)


def test_whole_life_in_a_real_store(facet: Checkpoints, bank: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", files=50)
    for number in range(3):
        write(tree / f"large{number}", pattern(5 << 20, number))
    resource = Resource(type=DIRECTORY, id=str(tree))
    facet.make_plan("p", bank, [resource], retention=Retention())
    first = str((facet.protect("p", MANNER).result or {})["checkpoint"])
    write(tree / "large0", pattern(5 << 20, 9))
    second = facet.protect("p", MANNER).result or {}

    assert int(str(second["addedBytes"])) < 6 << 20
    verified = facet.verify(facet.list(), MANNER).result or {}
    assert verified["verdict"] == "success"
    out = tmp_path / "out"
    given = {DIRECTORY: {"target": str(out)}}
    facet.restore(str(second["checkpoint"]), MANNER, parameters=given)
    assert read_tree(out) == read_tree(tree)
    facet.delete(first, MANNER)
    swept = facet.sweep(bank, MANNER, grace_s=0).result or {}
    assert swept["deferred"] is False
    examined = facet.examine(bank, MANNER).result or {}
    assert examined["missingChunks"] == 0
    assert (facet.verify(facet.list(), MANNER).result or {})["verdict"] == "success"


def test_damage_in_a_real_store_is_found_and_healed(
    facet: Checkpoints, bank: str, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree", files=50)
    write(tree / "large", pattern(5 << 20, 1))
    resource = Resource(type=DIRECTORY, id=str(tree))
    facet.make_plan("p", bank, [resource], retention=Retention())
    facet.protect("p", MANNER)
    store = open_store(bank)
    largest = max(store.list("chunks/"), key=lambda found: found.size_bytes)
    data = bytearray(store.get(largest.name, 1 << 24))
    data[1000] ^= 1
    store.put(largest.name, bytes(data))

    verified = facet.verify(facet.list(), MANNER).result or {}
    assert (verified["verdict"], verified["badCount"]) == ("fail", 1)
    healed = facet.protect("p", MANNER).result or {}

    assert len(healed["healed"]) == 1  # type: ignore[arg-type]
    assert (facet.verify(facet.list(), MANNER).result or {})["verdict"] == "success"
    store.close()
