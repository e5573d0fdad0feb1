"""Goal: damage and forgery in a bank is found, and the right resource named, and no other.

Method: two resources of different content in one bank, each attack of the list on chunks of the
first alone, then a verification by digest; and what heals it.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpoints.bank import manifest_name
from holdfast.checkpoints.manifest import decode_manifest, encode_manifest
from holdfast.checkpoints.model import Budget, CheckpointId, Depth
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError, StateError
from holdfast.proof.signature import SigningKey
from holdfast.testing.objects import StoreFaults
from tests.support.checkpoints import BANK, DIRECTORY, MANNER, World, directory_plan, protect
from tests.support.trees import make_tree, pattern, read_tree, write


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    write(tmp_path / "hurt" / "a", pattern(5000, 1))
    write(tmp_path / "hurt" / "large", pattern(3 << 20, 2))
    write(tmp_path / "whole" / "b", pattern(5000, 3))
    return world


def key(world: World, name: str) -> str:
    return f"{DIRECTORY}#{os.path.realpath(world.root / name)}"


def chunks_of_hurt(world: World, facet: Checkpoints, checkpoint: str) -> list[str]:
    """Names of the chunks that only the first resource needs, the listing apart."""
    found, body = facet.show(checkpoint)
    assert body is not None
    stored = world.banks[BANK][manifest_name(found.id)].data
    said = decode_manifest(stored, found.bank_id, found.id).statement
    segments = {segment.id.hex() for r in body.records for segment in r.segments}
    segments.add(said.body.id.hex())
    wanted = []
    for name in sorted(world.banks[BANK]):
        digits = name.rpartition("/")[2]
        if not name.startswith("chunks/") or digits in segments:
            continue
        sharers = facet.catalogue.chunks.sharers(found.bank_id, bytes.fromhex(digits))
        if sharers == [(checkpoint, key(world, "hurt"))]:
            wanted.append(name)
    assert len(wanted) >= 2
    return wanted


def attack(world: World, kind: str, names: list[str], checkpoint: str) -> None:
    objects = world.banks[BANK]
    first, second = objects[names[0]], objects[names[1]]
    match kind:
        case "bit-flipped":
            data = bytearray(first.data)
            data[len(data) // 2] ^= 1
            first.data = bytes(data)
        case "removed":
            del objects[names[0]]
        case "swapped":
            first.data, second.data = second.data, first.data
        case "tail-cut":
            first.data = first.data[:-7]
        case "emptied":
            first.data = b""
        case "manifest-replaced":
            older = next(n for n in objects if n.startswith("manifests/") and checkpoint not in n)
            objects[manifest_name(CheckpointId(checkpoint))].data = objects[older].data
        case "manifest-removed":
            del objects[manifest_name(CheckpointId(checkpoint))]


def verify(facet: Checkpoints, checkpoint: str, depth: Depth = Depth.DIGEST) -> dict[str, Any]:
    return dict(facet.verify([facet.get(checkpoint)], MANNER, depth=depth).result or {})


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", ["bit-flipped", "removed", "swapped", "tail-cut", "emptied"])
def test_hurt_resource_is_named_and_no_other(world: World, kind: str, encrypted: bool) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole", encrypted=encrypted)
    checkpoint = protect(facet)
    assert verify(facet, checkpoint)["verdict"] == "success"
    attack(world, kind, chunks_of_hurt(world, facet, checkpoint), checkpoint)

    result = verify(facet, checkpoint)

    assert result["verdict"] == "fail"
    (told,) = result["checkpoints"]
    assert told["resources"] == {key(world, "hurt"): "error", key(world, "whole"): "available"}
    assert told["paths"][key(world, "hurt")]
    assert facet.get(checkpoint).verified.bad == (key(world, "hurt"),)  # type: ignore[union-attr]
    with pytest.raises(StateError, match="verification"):
        facet.restore(checkpoint, MANNER)


@pytest.mark.parametrize("kind", ["manifest-replaced", "manifest-removed"])
def test_manifest_is_bound_to_its_checkpoint(world: World, kind: str) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    protect(facet)
    write(world.root / "hurt" / "a", b"newer")
    checkpoint = protect(facet)
    attack(world, kind, sorted(world.banks[BANK])[:2], checkpoint)

    result = verify(facet, checkpoint, Depth.PRESENCE)

    assert result["verdict"] == "fail"
    (told,) = result["checkpoints"]
    assert set(told["resources"]) == {key(world, "hurt"), key(world, "whole")}
    with pytest.raises(HoldfastError):
        facet.restore(checkpoint, MANNER, force=True)


def test_presence_alone_sees_what_is_missing_and_claims_no_more(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    checkpoint = protect(facet)
    names = chunks_of_hurt(world, facet, checkpoint)
    attack(world, "bit-flipped", names, checkpoint)

    assert verify(facet, checkpoint, Depth.PRESENCE)["verdict"] == "success"
    attack(world, "removed", names, checkpoint)
    assert verify(facet, checkpoint, Depth.PRESENCE)["verdict"] == "fail"


def test_next_protect_heals_and_verifies_again(world: World) -> None:
    """What is bad is put aside, read anew from the source, stored, and proven."""
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    first = protect(facet)
    attack(world, "bit-flipped", chunks_of_hurt(world, facet, first), first)
    assert verify(facet, first)["verdict"] == "fail"
    assert any(name.startswith("quarantine/") for name in world.banks[BANK])

    second = protect(facet)

    assert facet.get(first).verified.verdict == "success"  # type: ignore[union-attr]
    assert verify(facet, second)["verdict"] == "success"
    assert facet.catalogue.chunks.bad(facet.get(first).bank_id) == frozenset()


def test_other_bank_heals(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    directory_plan(facet, world.root / "hurt", world.root / "whole", name="q", bank="sim:other")
    checkpoint = protect(facet)
    protect(facet, "q")
    attack(world, "swapped", chunks_of_hurt(world, facet, checkpoint), checkpoint)
    assert verify(facet, checkpoint)["badCount"] == 2

    result = facet.heal(BANK, "sim:other", MANNER).result or {}

    assert (result["healedCount"], result["notHealedCount"]) == (2, 0)
    assert facet.get(checkpoint).verified.verdict == "success"  # type: ignore[union-attr]


def test_good_part_is_restored_by_force(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt")
    checkpoint = protect(facet)
    names = chunks_of_hurt(world, facet, checkpoint)
    attack(world, "removed", names, checkpoint)
    verify(facet, checkpoint)
    out = world.root / "out"

    with pytest.raises(StateError, match=r"large|a "):
        facet.restore(checkpoint, MANNER, parameters={DIRECTORY: {"target": str(out)}}, force=True)

    whole = read_tree(world.root / "hurt")
    restored = read_tree(out)
    assert len(restored) == 1
    assert all(whole[path].content == entry.content for path, entry in restored.items())


def test_budget_reads_part_and_says_so(world: World) -> None:
    """Verifying invariant 1; over several runs everything is read once."""
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    checkpoint = facet.get(protect(facet))
    seen = 0
    for _ in range(20):
        world.clock.sleep(1)
        result = facet.verify([checkpoint], MANNER, budget=Budget(percent=20)).result or {}
        assert result["verdict"] == "partial"
        seen += int(str(result["readChunks"]))
        memory = facet.catalogue.chunks.memory(checkpoint.bank_id, {})
        if not memory and seen >= int(str(result["chunks"])):
            break
    rows = facet.catalogue.chunks.known(checkpoint.bank_id)
    told = facet.catalogue.chunks.memory(checkpoint.bank_id, dict.fromkeys(rows, 1))
    assert all(each.checked_ns for each in told)


def test_restore_drill_compares_and_leaves_nothing(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    checkpoint = protect(facet)

    result = verify(facet, checkpoint, Depth.RESTORE)

    assert result["verdict"] == "success"
    (told,) = result["checkpoints"]
    drills = [report["drill"] for report in told["reports"].values()]
    assert [drill["verdict"] for drill in drills] == ["proven", "proven"]
    assert not list((world.state / "drills").iterdir())


@pytest.mark.parametrize("fault", ["full", "read-only", "unreachable", "slow"])
def test_bank_in_trouble_ends_with_an_error_and_the_next_run_goes_on(
    world: World, fault: str
) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    before = protect(facet)
    write(world.root / "hurt" / "new", pattern(9000, 9))
    faults = StoreFaults(slow_s=5.0) if fault == "slow" else StoreFaults()
    troubled = world.start(faults)

    def strike(number: int, _method: str, _name: str) -> None:
        if number == 3:
            faults.full_from = 3 if fault == "full" else None
            faults.read_only = fault == "read-only"
            faults.unreachable = fault == "unreachable"

    world.on_write = strike
    if fault == "slow":
        protect(troubled)
    else:
        with pytest.raises(HoldfastError):
            protect(troubled)
        world.on_write = None
        again = world.start()
        assert protect(again) != before
    checked = world.start()
    for each in checked.list():
        if each.state == "available":
            assert verify(checked, each.id)["verdict"] == "success"


def test_trees_with_everything_in_them_come_back(world: World) -> None:
    tree = make_tree(world.root / "tree", files=40)
    os.link(tree / "d0" / "f0000", tree / "second-name")
    os.truncate(write(tree / "hole", b"end"), 5 << 20)
    os.setxattr(tree / "d1" / "f0001", "user.color", b"blue")
    os.chmod(tree / "d2", 0o500)
    (tree / os.fsdecode(b"odd-\xff\n-name")).write_bytes(b"x")
    facet = world.start()
    directory_plan(facet, tree)
    checkpoint = protect(facet)
    out = world.root / "out"

    facet.restore(checkpoint, MANNER, parameters={DIRECTORY: {"target": str(out)}})

    assert read_tree(out) == read_tree(tree)
    assert os.stat(out / "second-name").st_ino == os.stat(out / "d0" / "f0000").st_ino
    assert os.stat(out / "hole").st_blocks < 100


def test_forged_manifest_is_found_whoever_signed_it(world: World) -> None:
    """One that names other content under the same id: not the one that was written."""
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    checkpoint = CheckpointId(protect(facet))
    bank_id = facet.get(checkpoint).bank_id
    stored = world.banks[BANK][manifest_name(checkpoint)]
    said = decode_manifest(stored.data, bank_id, checkpoint).statement
    own, stranger = facet.around.load_key(), SigningKey.from_seed(bytes(32))

    for signer, words in ((own, "not the one"), (stranger, "not the one")):
        stored.data = encode_manifest(replace(said, total_bytes=1), signer)
        result = verify(facet, checkpoint, Depth.PRESENCE)
        (told,) = result["checkpoints"]
        assert result["verdict"] == "fail"
        assert words in told["reason"]
        with pytest.raises(HoldfastError, match="not the one"):
            facet.restore(checkpoint, MANNER, force=True)


def test_bad_chunk_that_could_not_be_put_aside_is_replaced(world: World) -> None:
    facet = world.start()
    directory_plan(facet, world.root / "hurt", world.root / "whole")
    checkpoint = protect(facet)
    names = chunks_of_hurt(world, facet, checkpoint)
    attack(world, "bit-flipped", names, checkpoint)
    read_only = world.start(StoreFaults(read_only=True))

    assert verify(read_only, checkpoint)["verdict"] == "fail"
    assert names[0] in world.banks[BANK]
    protect(world.start())

    assert verify(world.start(), checkpoint)["verdict"] == "success"
