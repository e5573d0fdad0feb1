"""Goal: a bank that fills up, turns read-only or is moved away in the middle costs nothing.

Method: the real commands on a bank in a small file system mounted for the test. The error, its exit
code and advice are looked at; what was there must verify; once the bank is well again, the same
command must succeed.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import needs_root
from tests.support.command import Completed, Holdfast, kill_group
from tests.support.trees import make_tree, pattern, read_tree, write

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
FULL, DENIED, NOT_FOUND = 16, 17, 10

pytestmark = [needs_root, pytest.mark.needs_root, pytest.mark.slow]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 64 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    image = tmp_path / "image"
    with open(image, "wb") as stream:
        stream.truncate(SIZE_BYTES)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system: {error}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def first(holdfast: Holdfast, source: Path, small: Path) -> str:
    """A checkpoint in the bank, before the source grew."""
    make_tree(source, files=20)
    words = ("plan", "p", "--bank", small / "bank", "--resource", source)
    assert holdfast("checkpoints", *words).exit == 0
    return str(run(holdfast, "protect", "p").json["checkpoint"])


def run(holdfast: Holdfast, *words: str | Path) -> Completed:
    return holdfast("checkpoints", *words, "--json")


def check_good(holdfast: Holdfast, bank: Path, *checkpoints: str) -> None:
    told = run(holdfast, "doctor", bank)
    assert (told.exit, told.json["missingChunks"]) == (0, 0), told
    for checkpoint in checkpoints:
        assert run(holdfast, "verify", checkpoint).json["verdict"] == "success"


def test_full_bank(holdfast: Holdfast, source: Path, target: Path, small: Path, first: str) -> None:
    """What fits is kept and found again; room comes from a deletion and a sweep, full as it is."""
    write(source / "first", pattern(20 * MIB, 1))
    second = run(holdfast, "protect", "p").json["checkpoint"]
    (source / "first").unlink()
    write(source / "large", pattern(36 * MIB, 2))

    full = run(holdfast, "protect", "p")

    assert (full.exit, full.json["code"]) == (FULL, "disk-full"), full
    assert (full.json["advice"], full.json["context"]["bank"]) > ("", str(small))
    check_good(holdfast, small / "bank", first, second)
    assert run(holdfast, "delete", second).exit == 0
    swept = run(holdfast, "doctor", small / "bank", "--sweep", "--grace", "0")
    assert swept.json["sweep"]["deletedBytes"] > 20 * MIB
    done = run(holdfast, "protect", "p")
    assert done.exit == 0, done
    check_good(holdfast, small / "bank", first, done.json["checkpoint"])
    words = ("restore", done.json["checkpoint"], "--target", target)
    assert run(holdfast, *words).exit == 0
    assert read_tree(target) == read_tree(source)


def test_bank_that_turned_read_only(
    holdfast: Holdfast, source: Path, target: Path, small: Path, first: str
) -> None:
    """It can still be verified and restored from."""
    write(source / "new", pattern(3 * MIB, 1))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)

    refused = run(holdfast, "protect", "p")
    verified = run(holdfast, "verify", first)
    restored = run(holdfast, "restore", first, "--target", target)

    assert (refused.exit, refused.json["code"]) == (DENIED, "read-only"), refused
    assert refused.json["advice"]
    assert (verified.exit, verified.json["verdict"]) == (0, "success")
    assert restored.exit == 0, restored
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    assert run(holdfast, "protect", "p").exit == 0
    check_good(holdfast, small / "bank", first)


def test_bank_moved_away_in_the_middle(
    holdfast: Holdfast, source: Path, target: Path, small: Path, first: str
) -> None:
    for number in range(8):
        write(source / f"large{number}", pattern(4 * MIB, number))
    started = holdfast.start("checkpoints", "protect", "p", "--json", "--bwlimit", "8M")
    deadline = time.monotonic() + 60
    while not any((small / "bank" / "leases").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)
    (small / "bank").rename(small / "elsewhere")
    try:
        stdout, _ = started.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        kill_group(started)
        raise
    assert started.returncode not in (0, 1, 70), stdout
    gone = run(holdfast, "protect", "p")
    assert (gone.exit, gone.json["code"]) == (NOT_FOUND, "no-bank"), gone
    # No new bank was begun where the other was.
    assert not list((small).glob("bank/manifests/*"))
    subprocess.run(["rm", "-rf", small / "bank"], check=True)
    (small / "elsewhere").rename(small / "bank")
    done = run(holdfast, "protect", "p")
    assert done.exit == 0, done
    check_good(holdfast, small / "bank", first, done.json["checkpoint"])
