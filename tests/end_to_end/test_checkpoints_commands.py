"""Goal: the commands on checkpoints do what the guide says, in another process and after a kill.

Method: the installed command over banks in directories: the whole life of a plan, encryption, an
odd source, damage on the disk, a process killed in the middle, a lost catalogue.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Completed, Holdfast
from tests.support.trees import make_tree, pattern, read_tree, write


class Shell:
    """Runs holdfast with a state of its own."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self._holdfast = Holdfast(state=self.state)

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run a command on checkpoints with --json and return what it printed last."""
        done = self.end(*words)
        assert done.exit == code, done
        lines = done.stdout.splitlines()
        told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return told

    def end(self, *words: str) -> Completed:
        """Run a command on checkpoints with --json to whatever end it has."""
        return self._holdfast("checkpoints", *words, "--json")

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start a command."""
        return self._holdfast.start("checkpoints", *words, "--quiet")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_life_of_a_plan(shell: Shell, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", files=20)
    bank = tmp_path / "bank"
    plan = ["plan", "p", "--bank", str(bank), "--resource", str(tree), "--encrypt"]
    shell.run(*plan, "--keep", "last=1")
    first = shell.run("protect", "p")["checkpoint"]
    write(tree / "new", pattern(9000))
    second = shell.run("protect", "p")["checkpoint"]

    assert shell.run("verify", first)["verdict"] == "success"
    assert not [p for p in bank.rglob("*") if p.is_file() and b"f0001" in p.read_bytes()]
    out = tmp_path / "out"
    restored = shell.run("restore", second, "--target", str(out))
    assert read_tree(out) == read_tree(tree)
    (report,) = restored["reports"].values()
    assert Path(report["proof"]).exists()
    # The first is the newest that was verified good: it stays beside the newest.
    assert shell.run("retain", "p", "--dry-run")["keep"] is True
    shell.run("verify", second)
    assert shell.run("retain", "p")["keep"] is False
    assert shell.run("list")["id"] == second
    swept = shell.run("doctor", str(bank), "--sweep", "--grace", "0")
    assert swept["sweep"]["deleted"] > 0
    assert shell.run("verify", second)["verdict"] == "success"


@pytest.mark.slow
def test_damage_on_the_disk_is_named_and_healed(shell: Shell, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", files=20)
    bank = tmp_path / "bank"
    shell.run("plan", "p", "--bank", str(bank), "--resource", str(tree))
    checkpoint = shell.run("protect", "p")["checkpoint"]
    largest = max((p for p in (bank / "chunks").rglob("*") if p.is_file()), key=os.path.getsize)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)

    result = shell.run("verify", checkpoint, code=3)

    assert result["bad"][0]["chunk"] == largest.name
    assert result["bad"][0]["sharedBy"] == [[checkpoint, f"Holdfast::Directory#{tree}"]]
    shell.run("restore", checkpoint, "--target", str(tmp_path / "out"), code=13)
    assert shell.run("protect", "p")["healed"] == [largest.name]
    assert shell.run("list", "--verdict", "success")["id"] == checkpoint


@pytest.mark.slow
def test_lost_catalogue_comes_back_from_the_bank(shell: Shell, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", files=20)
    bank = tmp_path / "bank"
    shell.run("plan", "p", "--bank", str(bank), "--resource", str(tree))
    checkpoint = shell.run("protect", "p")["checkpoint"]
    for path in shell.state.glob("checkpoints.sqlite*"):
        path.unlink()

    assert shell.run("doctor", str(bank))["onlyInBank"] == [checkpoint]
    out = tmp_path / "out"
    shell.run("restore", checkpoint, "--target", str(out))
    assert read_tree(out) == read_tree(tree)
    shutil.rmtree(shell.state)
    assert list(shell.run("doctor", str(bank))["unknownSigners"]) == [checkpoint]


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(shell: Shell, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", files=300)
    for number in range(8):
        write(tree / f"large{number}", pattern(6 << 20, number))
    bank = tmp_path / "bank"
    shell.run("plan", "p", "--bank", str(bank), "--resource", str(tree))
    for delay_s in (0.3, 0.5, 0.7, 0.9, 1.1):
        with shell.start("protect", "p") as started:
            time.sleep(delay_s)
            started.send_signal(signal.SIGKILL)
        shutil.rmtree(bank / "leases", ignore_errors=True)
    checkpoint = shell.run("protect", "p")["checkpoint"]

    assert shell.run("verify", checkpoint)["verdict"] == "success"
    doctor = shell.run("doctor", str(bank), "--sweep", "--grace", "0")
    assert doctor["missingChunks"] == 0
    out = tmp_path / "out"
    shell.run("restore", checkpoint, "--target", str(out))
    assert read_tree(out) == read_tree(tree)


@pytest.mark.slow
def test_changed_files_are_told_and_never_mixed(shell: Shell, tmp_path: Path) -> None:
    """What is written all the time is either left out and told, or one whole moment of it."""
    tree = make_tree(tmp_path / "tree", files=5)
    moving = tree / "moving"
    moving.write_bytes(b"a" * 200_000)
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os,sys,itertools\n"
            "f=os.open(sys.argv[1],os.O_WRONLY)\n"
            "for n in itertools.count(): os.pwrite(f,bytes([97+n%26])*200000,0)",
            str(moving),
        ]
    )
    try:
        shell.run("plan", "p", "--bank", str(tmp_path / "bank"), "--resource", str(tree))
        done = shell.end("protect", "p")
    finally:
        writer.kill()
        writer.wait()
    result = json.loads(done.stdout)
    out = tmp_path / "out"
    shell.run("restore", result["checkpoint"], "--target", str(out))
    if result["leftOutCount"]:
        assert done.exit == 13
        assert result["leftOut"][0] == {
            "resource": f"Holdfast::Directory#{tree}", "path": "moving", "why": "changed",
        }  # fmt: skip
        assert not (out / "moving").exists()
    else:
        assert len(set((out / "moving").read_bytes())) == 1


@pytest.mark.slow
def test_schedules_run_what_is_due(shell: Shell, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    shell.run("plan", "p", "--bank", str(tmp_path / "bank"), "--resource", str(tree))
    added = shell.run("schedule", "p", "--cron", "0 3 * * *", "--operation", "verify")

    assert added["nextRunAt"].endswith("T03:00:00Z")
    assert shell.run("run-schedules") == {}
    assert shell.run("schedule", "--remove", added["id"]) == {}
    shell.run("schedule", "p", "--cron", "nonsense", code=2)
    assert shell.run("plan", "p", "--remove") == {}
    shell.run("plan", "p", "--remove", code=10)
    shell.run("plan", "--remove", code=2)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("protect", "nobody"), 10),
        (("show", "00000000-0000-0000-0000-000000000000"), 10),
        (("verify", "nonsense"), 2),
        (("plan", "p", "--bank", "ftp://x/y", "--resource", "/"), 2),
        (("doctor", "/nonexistent/bank"), 10),
        (("doctor", "s3+http://key:secret@127.0.0.1:1/b"), 2),
        (("list", "--verdict", "foo"), 2),
        (("list", "--stale-days", "99999999999"), 2),
        (("hold", "x", "--days", "99999999999"), 2),
    ],
)
def test_mistakes_have_their_exit_codes(shell: Shell, words: tuple[str, ...], code: int) -> None:
    # What the parser of the command line refuses is told in its own words.
    assert shell.run(*words, code=code).get("exit", code) == code
