"""Goal: kill -9 at any write of protect, verify, restore, delete or sweep: nothing stuck or lost.

Method: the command as a real process on a bank in a directory. One good run counts its changes to
names below bank and target; then, for each of them, the same run from the same beginning is killed
right before it, workers too. `doctor` must find nothing missing, what was there before must verify,
the same command must go on, and what comes out must be the source. Bank invariants 1-3, protecting
invariant 1.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.forked import KILLED, Ended, Forked
from tests.support.trees import make_tree, pattern, read_tree, write

pytestmark = pytest.mark.slow

LARGE_BYTES = 3 << 20


@dataclass(slots=True, kw_only=True)
class Place:
    """A tree, a bank and a state with one checkpoint of the tree before it changed."""

    root: Path
    first: str = ""

    @property
    def tree(self) -> Path:
        """What is protected."""
        return self.root / "tree"

    @property
    def bank(self) -> Path:
        """Where to."""
        return self.root / "bank"

    @property
    def out(self) -> Path:
        """Where restores go."""
        return self.root / "out"

    def prepare(self) -> None:
        """Make everything, and keep a copy of it to begin from again."""
        make_tree(self.tree, files=12)
        write(self.tree / "large", pattern(LARGE_BYTES, 1))
        run = self.forked("prepare")
        good(
            run("checkpoints", "plan", "p", "--bank", str(self.bank), "--resource", str(self.tree))
        )
        self.first = good(run("checkpoints", "protect", "p", "--json")).json["checkpoint"]
        write(self.tree / "large", pattern(LARGE_BYTES, 2))
        write(self.tree / "d0" / "new", pattern(3000, 3))
        for name in ("state", "bank"):
            shutil.copytree(self.root / name, self.root / "kept" / name)

    def begin_again(self) -> None:
        """Bring state and bank back to where they were, and forget what was restored."""
        for name in ("state", "bank"):
            shutil.rmtree(self.root / name)
            shutil.copytree(self.root / "kept" / name, self.root / name)
        shutil.rmtree(self.out, ignore_errors=True)

    def forked(self, label: str) -> Forked:
        """Return what runs commands on it."""
        return Forked(
            state=self.root / "state",
            place=self.root / "said" / label,
            roots=(self.bank, self.out),
        )


def good(ended: Ended) -> Ended:
    assert ended.exit == 0, ended
    return ended


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(root=tmp_path)
    place.prepare()
    return place


def check_nothing_lost(place: Place, run: Forked, *gone: str) -> None:
    """What is in the bank is whole; nothing is under way that nobody does."""
    told = good(run("checkpoints", "doctor", str(place.bank), "--json")).json
    assert (told["missingChunks"], told["damagedManifests"], told["onlyInCatalogue"]) == (0, {}, [])
    listed = good(run("checkpoints", "list", "--json")).stdout.splitlines()
    assert not [line for line in listed if '"protecting"' in line]
    if place.first not in gone:
        verified = good(run("checkpoints", "verify", place.first, "--json"))
        assert verified.json["verdict"] == "success"


def check_restored(place: Place, run: Forked, checkpoint: str) -> None:
    out = place.root / "compared"
    good(run("checkpoints", "restore", checkpoint, "--target", str(out), "--json"))
    assert read_tree(out) == read_tree(place.tree)
    shutil.rmtree(out)


def killed_at_every_write(
    place: Place, words: tuple[str, ...], check: Callable[[Forked, Ended, Ended], None]
) -> int:
    """Kill a command at each of its writes in turn, run it again, and check; return the writes."""
    writes_count = good(place.forked("good")(*words)).writes_count
    for number in range(1, writes_count + 1):
        place.begin_again()
        run = place.forked(str(number))
        killed = run(*words, kill_at=number)
        assert killed.exit == KILLED, (number, killed)
        check_nothing_lost(place, run, place.first if words[1] == "delete" else "")
        again = good(run(*words))
        check(run, killed, again)
    return writes_count


def test_protect_killed_at_every_write(place: Place) -> None:
    def check(run: Forked, _killed: Ended, again: Ended) -> None:
        check_restored(place, run, again.json["checkpoint"])
        swept = good(
            run("checkpoints", "doctor", str(place.bank), "--sweep", "--grace", "0", "--json")
        ).json
        assert (swept["missingChunks"], swept["sweep"]["deferred"]) == (0, False)
        assert len(list((place.bank / "manifests").iterdir())) == 2

    words = ("checkpoints", "protect", "p", "--jobs", "1", "--json")
    assert killed_at_every_write(place, words, check) >= 10


def test_verify_that_finds_damage_killed_at_every_write(place: Place) -> None:
    """The damaged chunk is in the bank or in quarantine; the next protect heals it."""
    chunks = [
        path for path in (place.root / "kept" / "bank" / "chunks").rglob("*") if path.is_file()
    ]
    largest = max(chunks, key=os.path.getsize)
    damaged = bytearray(largest.read_bytes())
    damaged[5000] ^= 4
    largest.write_bytes(damaged)
    place.begin_again()
    words = ("checkpoints", "verify", place.first, "--json")
    writes_count = place.forked("good")(*words).writes_count
    for number in range(1, writes_count + 1):
        place.begin_again()
        run = place.forked(str(number))
        assert run(*words, kill_at=number).exit == KILLED
        again = run(*words)
        assert (again.exit, again.json["verdict"]) == (3, "fail")
        kept = [
            *place.bank.rglob(largest.name),
            *(place.bank / "quarantine").glob(f"*{largest.name}"),
        ]
        assert {path.read_bytes() for path in kept} == {bytes(damaged)}
        assert run("checkpoints", "doctor", str(place.bank), "--json").exit == 3
        write(place.tree / "large", pattern(LARGE_BYTES, 1))
        assert good(run("checkpoints", "protect", "p", "--json")).json["healed"] == [largest.name]
        check_nothing_lost(place, run)
        write(place.tree / "large", pattern(LARGE_BYTES, 2))
    assert writes_count >= 4


def test_restore_killed_at_every_write(place: Place) -> None:
    run = place.forked("more")
    checkpoint = good(run("checkpoints", "protect", "p", "--json")).json["checkpoint"]
    shutil.rmtree(place.root / "kept")
    for name in ("state", "bank"):
        shutil.copytree(place.root / name, place.root / "kept" / name)

    def check(run: Forked, _killed: Ended, again: Ended) -> None:
        (report,) = again.json["reports"].values()
        assert report["verdict"] == "proven"
        assert read_tree(place.out) == read_tree(place.tree)

    words = (
        "checkpoints",
        "restore",
        checkpoint,
        "--target",
        str(place.out),
        "--overwrite",
        "--json",
    )
    assert killed_at_every_write(place, words, check) > 10


def test_delete_killed_at_every_write(place: Place) -> None:
    good(place.forked("more")("checkpoints", "verify", place.first, "--json"))
    shutil.rmtree(place.root / "kept")
    for name in ("state", "bank"):
        shutil.copytree(place.root / name, place.root / "kept" / name)
    words = ("checkpoints", "delete", place.first, "--json")
    writes_count = good(place.forked("good")(*words)).writes_count
    for number in range(1, writes_count + 1):
        place.begin_again()
        run = place.forked(str(number))
        assert run(*words, kill_at=number).exit == KILLED
        check_nothing_lost(place, run, place.first)
        assert run(*words).exit in (0, 10)  # 10: doctor found its manifest gone, and ended it.
        assert good(run("checkpoints", "list", "--json")).stdout == ""
        check_nothing_lost(place, run, place.first)
    assert writes_count >= 2


def test_sweep_killed_at_every_write(place: Place) -> None:
    """Killed, it holds up neither the next sweep nor a protect."""
    more = place.forked("more")
    good(more("checkpoints", "protect", "p", "--json"))
    good(more("checkpoints", "delete", place.first))
    shutil.rmtree(place.root / "kept")
    for name in ("state", "bank"):
        shutil.copytree(place.root / name, place.root / "kept" / name)

    def check(run: Forked, _killed: Ended, again: Ended) -> None:
        assert again.json["sweep"]["deferred"] is False
        told = good(run("checkpoints", "doctor", str(place.bank), "--json")).json
        assert told["orphanChunks"] == 0
        made = good(run("checkpoints", "protect", "p", "--json")).json
        check_restored(place, run, made["checkpoint"])

    place.first, gone = "", place.first
    assert gone
    words = ("checkpoints", "doctor", str(place.bank), "--sweep", "--grace", "0", "--json")
    before = good(place.forked("look")("checkpoints", "doctor", str(place.bank))).writes_count
    writes_count = good(place.forked("good")(*words)).writes_count
    for number in range(before + 1, writes_count + 1):
        place.begin_again()
        run = place.forked(str(number))
        killed = run(*words, kill_at=number)
        assert killed.exit == KILLED
        check_nothing_lost(place, run, "")
        check(run, killed, good(run(*words)))
        place.begin_again()
        run = place.forked(f"{number}-protect")
        assert run(*words, kill_at=number).exit == KILLED
        made = good(run("checkpoints", "protect", "p", "--json")).json
        check_restored(place, run, made["checkpoint"])
    assert writes_count >= before + 4
