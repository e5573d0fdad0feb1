"""Goal: a bank written by an earlier version is read by this one, for ever.

Method: two banks kept in the repository, one encrypted with the key of bytes 0 to 31, are examined
by a machine that never saw them, verified by digest, and restored; the tree is compared by its
content. docs/formats/bank.md describes them.
"""

import os
from pathlib import Path

import pytest
from tests.support.checkpoints import BANK, DIRECTORY, MANNER, World

from holdfast.checkpoints.model import Verdict
from holdfast.proof.digests import Algorithm, digest_of
from holdfast.testing.objects import StoredObject

GOLDEN = Path(__file__).parents[2] / "golden"
SIGNERS = {
    "bank-v1": "7799-084c-5e71-db7e-9afe-63ce-ca1f-de39",
    "bank-v1-encrypted": "0aaf-ba98-5477-c49d-9450-46ff-a373-f784",
}


@pytest.mark.parametrize("name", sorted(SIGNERS))
def test_golden_bank_is_read(tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    objects = world.banks.setdefault(BANK, {})
    for path in (GOLDEN / name).rglob("*"):
        if path.is_file():
            stored = StoredObject(data=path.read_bytes(), modified_ns=0)
            objects[str(path.relative_to(GOLDEN / name))] = stored
    facet = world.start()

    told = facet.examine(BANK, MANNER, [SIGNERS[name]]).result or {}
    (checkpoint,) = facet.list()
    verified = facet.verify([checkpoint], MANNER).result or {}
    out = tmp_path / "out"
    given = {DIRECTORY: {"target": str(out)}}
    facet.restore(checkpoint.id, MANNER, parameters=given)

    assert told["onlyInBank"] == [checkpoint.id]
    assert told["orphanChunks"] == 0
    assert verified["verdict"] == Verdict.SUCCESS
    assert (out / "sub" / "file").read_bytes() == b"content\n"
    assert os.readlink(out / "link") == "sub/file"
    assert (out / "second").stat().st_ino == (out / "sub" / "file").stat().st_ino
    assert (out / "hole").read_bytes() == bytes(3 << 20)
    cut = b"".join(b"line %d of a file that is cut\n" % n for n in range(60000))
    assert digest_of(Algorithm.BLAKE3, (out / "cut").read_bytes()) == digest_of(
        Algorithm.BLAKE3, cut
    )
