"""Goal: a Sidecar that lies about one file costs that file alone, and nothing half is named.

Method: the product's copy from a Sidecar-shaped source that lies in one way at a time.
"""

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import StateError
from holdfast.files.model import CacheUse
from tests.support.migrations import COPY, VERIFICATION, Migration
from tests.support.sidecar_source import BASE, Faults, SidecarSource

from .conftest import open_sidecar

LIAR = "data/0/ks/liar"
CONTENT = os.urandom(300_000)


@pytest.fixture
def migration(tmp_path: Path) -> Migration:
    """One directory: a file that is lied about, and others."""
    made = Migration(place=tmp_path, names=(("data", 0),))
    (made.source() / "ks").mkdir()
    (made.source() / "ks" / "liar").write_bytes(CONTENT)
    for number in range(12):
        (made.source() / "ks" / f"{number}").write_bytes(b"%d" % number)
    return made


@pytest.fixture
def source(migration: Migration) -> Iterator[SidecarSource]:
    """Serves it."""
    with SidecarSource({"data/0": migration.source()}) as server:
        migration.sources = lambda made: open_sidecar(server, made.place)
        yield server


def others_arrived(migration: Migration) -> bool:
    return all(
        (migration.target() / "ks" / f"{number}").read_bytes() == b"%d" % number
        for number in range(12)
    )


def lie(**lies: object) -> Callable[[Faults], None]:
    """Set faults."""

    def apply(faults: Faults) -> None:
        for name, value in lies.items():
            setattr(faults, name, value)

    return apply


LIES = {
    "larger in the list": lie(sizes={LIAR: len(CONTENT) + 1}),
    "smaller in the list": lie(sizes={LIAR: len(CONTENT) - 1}),
    "body of nothing": lie(short={LIAR: 0}),
    "always vanishing": lie(vanishing={LIAR}),
}


@pytest.mark.parametrize("lies", LIES.values(), ids=list(LIES))
def test_lies_about_a_file(
    migration: Migration, source: SidecarSource, lies: Callable[[Faults], None]
) -> None:
    lies(source.faults)
    with pytest.raises(StateError) as caught:
        migration.copy(replace(COPY, max_iterations=1))

    assert LIAR in caught.value.message
    assert not (migration.target() / "ks" / "liar").exists()
    assert others_arrived(migration)


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "nul\0", "", "3"])
def test_a_lie_of_the_list_costs_its_directory(
    migration: Migration, source: SidecarSource, name: str
) -> None:
    """What is beside it arrives, what is in it stays, nothing is deleted anywhere; it is told."""
    (migration.source() / "other").mkdir()
    (migration.source() / "other" / "f").write_bytes(b"arrives")
    gone = migration.target() / "gone"
    gone.write_bytes(b"not at the source")
    with urllib.request.urlopen(f"http://127.0.0.1:{source.port}{BASE}/files") as answer:
        listed = json.load(answer)
    lie_of = next(each for each in listed["files"] if each["fileUrl"].endswith("/ks/3"))
    url = f"{BASE}/files/data/0/ks/{name}"
    listed["files"].append(lie_of | {"fileUrl": url})
    source.faults.list_answer = json.dumps(listed).encode()

    with pytest.raises(StateError) as caught:
        migration.copy(replace(COPY, max_iterations=1))

    assert "data/0/ks" in caught.value.message
    assert "which no tree can hold" in caught.value.message
    assert (migration.target() / "other" / "f").read_bytes() == b"arrives"
    assert gone.read_bytes() == b"not at the source"
    assert not list((migration.target() / "ks").iterdir())


def test_short_bodies_are_read_on(migration: Migration, source: SidecarSource) -> None:
    """A little at a time, but all of it."""
    source.faults.short = {LIAR: 30_000}
    migration.copy()
    assert (migration.target() / "ks" / "liar").read_bytes() == CONTENT


def test_a_body_without_end_is_cut_at_its_size(migration: Migration, source: SidecarSource) -> None:
    """Without a length no byte can be told from another: a verification is what finds it."""
    source.faults.endless = {LIAR}
    migration.copy()
    assert (migration.target() / "ks" / "liar").stat().st_size == len(CONTENT)
    assert others_arrived(migration)
    source.faults.endless = set()
    found = migration.verify(replace(VERIFICATION, cache=CacheUse.KEEP))
    assert found.detail["digestMismatches"] == 1


@pytest.mark.parametrize("told", ["AAAAAAAAAAAAAAAAAAAAAA==", "no digest", ""])
def test_a_wrong_digest_is_a_mismatch_or_a_failure(
    migration: Migration, source: SidecarSource, told: str
) -> None:
    migration.copy()
    source.faults.digests = {LIAR: told or " "}
    found = migration.verify(replace(VERIFICATION, cache=CacheUse.KEEP))
    assert found.detail["state"] == "FAILED"
    counted = [found.detail[name] for name in ("digestMismatches", "digestVerificationFailures")]
    assert sorted(counted, key=str) == [0, 1]
    assert found.detail["filesMatched"] == 12
