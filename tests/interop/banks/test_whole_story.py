"""Goal: banks in real object stores are as good as in a directory: SeaweedFS as S3, and Swift.

Method: both started here; the whole life of a plan on each, by the same facet as the commands use,
with threads for workers: plan, protect, verify at three depths, damage, heal from another bank and
by the next protect, restore, delete, sweep, a lost catalogue. What a store promises is measured.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpoints.model import Depth, Resource, Retention
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import StateError
from holdfast.server.checkpoints import open_checkpoints, open_store
from holdfast.server.local import LocalServices
from holdfast.tasks.model import Task
from tests.interop.banks.conftest import BankServer
from tests.support.checkpoints import DIRECTORY, MANNER
from tests.support.trees import make_tree, pattern, read_tree, write

pytestmark = pytest.mark.slow

LARGE_BYTES = 5 << 20


def open_facet(state: Path) -> Checkpoints:
    return open_checkpoints(LocalServices(state), may_fork=False)


def told(task: Task) -> dict[str, Any]:
    return dict(task.result or {})


def make_plan(facet: Checkpoints, name: str, bank: str, tree: Path) -> None:
    facet.make_plan(name, bank, [Resource(type=DIRECTORY, id=str(tree))], retention=Retention())


def restored(facet: Checkpoints, checkpoint: str, out: Path) -> object:
    facet.restore(checkpoint, MANNER, parameters={DIRECTORY: {"target": str(out)}})
    found = read_tree(out)
    shutil.rmtree(out)
    return found


def damage_largest(bank: str) -> str:
    """Flip a bit in the middle of the largest chunk, and return its name."""
    store = open_store(bank)
    try:
        largest = max(store.list("chunks/"), key=lambda found: found.size_bytes)
        data = bytearray(store.get(largest.name, 1 << 24))
        data[1000] ^= 1
        store.put(largest.name, bytes(data))
        return largest.name.rpartition("/")[2]
    finally:
        store.close()


def test_whole_life_in_a_real_store(server: BankServer, tmp_path: Path) -> None:
    bank, tree, out = server.bank(), make_tree(tmp_path / "tree", files=50), tmp_path / "out"
    for number in range(3):
        write(tree / f"large{number}", pattern(LARGE_BYTES, number))
    facet = open_facet(tmp_path / "state")
    make_plan(facet, "p", bank, tree)
    first = told(facet.protect("p", MANNER))["checkpoint"]
    write(tree / "large0", pattern(LARGE_BYTES, 9))
    second = told(facet.protect("p", MANNER))

    assert second["addedBytes"] < LARGE_BYTES + (1 << 20)
    newest = facet.get(second["checkpoint"])
    for depth in Depth:
        verified = told(facet.verify([newest], MANNER, depth=depth))
        assert (verified["verdict"], verified["depth"]) == ("success", depth)
    assert restored(facet, newest.id, out) == read_tree(tree)

    facet.delete(first, MANNER)
    swept = told(facet.sweep(bank, MANNER, grace_s=0))
    assert (swept["deferred"], swept["deleted"] > 0) == (False, True)
    examined = told(facet.examine(bank, MANNER))
    assert (examined["missingChunks"], examined["orphanChunks"]) == (0, 0)
    assert examined["checkpoints"] == 1

    # The catalogue is lost, but for the key that signs; the bank alone gives all back.
    shutil.copytree(tmp_path / "state" / "keys", tmp_path / "new" / "keys")
    rebuilt = open_facet(tmp_path / "new")
    assert told(rebuilt.examine(bank, MANNER))["onlyInBank"] == [newest.id]
    again = rebuilt.get(newest.id)
    assert again.verified is not None
    assert (again.verified.depth, again.verified.verdict) == (Depth.RESTORE, "success")
    assert restored(rebuilt, newest.id, out) == read_tree(tree)
    assert told(rebuilt.protect("p", MANNER))["addedBytes"] < 1 << 20


def test_damage_in_a_real_store_is_found_and_healed(server: BankServer, tmp_path: Path) -> None:
    bank, other = server.bank(), tmp_path / "other"
    other.mkdir()
    tree = make_tree(tmp_path / "tree", files=50)
    write(tree / "large", pattern(LARGE_BYTES, 1))
    facet = open_facet(tmp_path / "state")
    make_plan(facet, "p", bank, tree)
    make_plan(facet, "q", str(other), tree)
    first = facet.get(told(facet.protect("p", MANNER))["checkpoint"])
    facet.protect("q", MANNER)

    # By the next protect, which has the same content.
    hurt = damage_largest(bank)
    verified = told(facet.verify([first], MANNER))
    assert (verified["verdict"], verified["bad"][0]["chunk"]) == ("fail", hurt)
    with pytest.raises(StateError, match="failed"):
        restored(facet, first.id, tmp_path / "out")
    assert told(facet.protect("p", MANNER))["healed"] == [hurt]
    assert facet.get(first.id).verified.verdict == "success"  # type: ignore[union-attr]

    # From another bank, after the content is gone.
    hurt = damage_largest(bank)
    assert told(facet.verify([first], MANNER))["verdict"] == "fail"
    before = read_tree(tree)
    shutil.rmtree(tree)
    assert told(facet.heal(bank, str(other), MANNER))["healed"] == [hurt]
    assert facet.get(first.id).verified.verdict == "success"  # type: ignore[union-attr]
    assert restored(facet, first.id, tmp_path / "out") == before
