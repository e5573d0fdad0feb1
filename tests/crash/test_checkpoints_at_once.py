"""Goal: two protects, a verification and a sweep at once, and kills at any moment, lose nothing.

Method: the commands as real processes on one bank in a directory. At once: two plans with contents
in common, from two state directories as from two machines, sweeps without grace beside them, while
what came before is deleted. Killed: a command drawn by chance, with its workers, after a time drawn
by chance; the seed is told. After each, `doctor` and a verification. Bank invariants 1 and 2.
"""

import random
import shutil
import time
from pathlib import Path

import pytest
from tests.support.forked import KILLED, Ended, Forked
from tests.support.trees import pattern, read_tree, write

pytestmark = pytest.mark.slow

ROUNDS = 3
KILLS = 10


class Site:
    """A bank, and machines with trees that protect into it."""

    def __init__(self, root: Path, names: str) -> None:
        self.root = root
        self.bank = root / "bank"
        self.machines = {
            name: Forked(state=root / f"state-{name}", place=root / f"said-{name}", roots=())
            for name in names
        }
        for name in names:
            self.change(name, 0)
            self.good(
                name, "plan", name, "--bank", str(self.bank), "--resource", str(self.tree(name))
            )

    def tree(self, name: str) -> Path:
        """What a machine protects."""
        return self.root / f"tree-{name}"

    def change(self, name: str, generation: int) -> None:
        """Change a tree; each has what another one had one generation before."""
        for number in range(40):
            seed = generation + number + ord(name[0])
            write(self.tree(name) / f"d{number % 4}" / f"s{number}", pattern(900 * number, seed))
        for number in range(4):
            seed = generation + number + ord(name[0])
            write(self.tree(name) / f"large{number}", pattern(3 << 20, seed))

    def good(self, name: str, *words: str) -> Ended:
        """Run a command on checkpoints that must succeed."""
        ended = self.machines[name]("checkpoints", *words, "--json")
        assert ended.exit == 0, (words, ended)
        return ended

    def newest(self, name: str) -> list[str]:
        """Return the ids of a machine's checkpoints that are good to have, newest first."""
        lines = self.good(name, "list", name).stdout.splitlines()
        return [line.split('"')[3] for line in lines if '"available"' in line]

    def check(self, name: str) -> None:
        """Nothing in the bank is missing or bad, and nothing is under way."""
        told = self.good(name, "doctor", str(self.bank)).json
        assert (told["missingChunks"], told["badCount"], told["damagedManifests"]) == (0, 0, {})
        assert told["onlyInCatalogue"] == []
        assert '"protecting"' not in self.good(name, "list").stdout

    def check_restored(self, name: str) -> None:
        out = self.root / "out"
        self.good(name, "restore", self.newest(name)[0], "--target", str(out))
        assert read_tree(out) == read_tree(self.tree(name))
        shutil.rmtree(out)


def test_two_protects_a_verification_and_a_sweep_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path, "ab")
    for name in "ab":
        site.good(name, "protect", name)
    swept = 0
    for generation in range(1, ROUNDS + 1):
        kept = {name: site.newest(name)[0] for name in "ab"}
        for name in "ab":
            site.change(name, generation)
            for old in site.newest(name)[1:]:
                site.good(name, "delete", old)
        words = {
            "protect-a": ("a", "protect", "a"),
            "sweep": ("b", "doctor", str(site.bank), "--sweep", "--grace", "0"),
            "verify": ("a", "verify", kept["a"]),
            "protect-b": ("b", "protect", "b"),
        }
        running = {
            label: site.machines[name].start("checkpoints", *rest, "--json")
            for label, (name, *rest) in words.items()
        }
        ended = {label: each.wait() for label, each in running.items()}
        assert {label: each.exit for label, each in ended.items()} == dict.fromkeys(words, 0), ended
        assert ended["verify"].json["verdict"] == "success"
        swept += not ended["sweep"].json["sweep"]["deferred"]
        swept += not site.good("a", "doctor", str(site.bank), "--sweep", "--grace", "0").json[
            "sweep"
        ]["deferred"]
        for name in "ab":
            site.check(name)
            for checkpoint in site.newest(name):
                assert site.good(name, "verify", checkpoint).json["verdict"] == "success"
    assert swept >= ROUNDS
    for name in "ab":
        site.check_restored(name)


def test_killed_again_and_again(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    site = Site(tmp_path, "a")
    run = site.machines["a"]
    site.good("a", "protect", "a")
    began_s = time.monotonic()
    site.change("a", 1)
    site.good("a", "protect", "a")
    longest_s = 1.2 * (time.monotonic() - began_s)
    kills = generation = 1
    while kills <= KILLS:
        checkpoints = site.newest("a")
        out = tmp_path / "killed-out"
        words = chance.choice(
            [
                ("protect", "a"),
                ("protect", "a"),
                ("verify", checkpoints[0]),
                ("restore", checkpoints[0], "--target", str(out), "--overwrite"),
                ("delete", checkpoints[-1]),
                ("doctor", str(site.bank), "--sweep", "--grace", "0"),
            ]
        )
        if words[0] == "delete" and len(checkpoints) < 3:
            continue
        generation += 1
        site.change("a", generation)
        running = run.start("checkpoints", *words, "--json")
        time.sleep(chance.uniform(0, longest_s))
        killed = running.kill()
        assert killed.exit in (0, KILLED), (seed, killed)
        kills += killed.exit == KILLED
        site.check("a")
        for checkpoint in site.newest("a"):
            assert site.good("a", "verify", checkpoint).json["verdict"] == "success", seed
        again = run("checkpoints", *words, "--json")
        # What was to be deleted may be gone already; what was restored may have been changed since.
        assert again.exit == 0 or (words[0] == "delete" and again.exit == 10), (seed, again)
        if words[0] == "protect":
            site.check_restored("a")
        for old in site.newest("a")[3:]:
            site.good("a", "delete", old)
    swept = site.good("a", "doctor", str(site.bank), "--sweep", "--grace", "0").json["sweep"]
    assert swept["deferred"] is False
    site.check("a")
    assert not list((site.bank / "leases").iterdir())
