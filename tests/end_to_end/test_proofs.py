"""Goal: a proof lets anyone judge a tree later, without the source and without trust in its file.

Method: the real command on a proven copy. Tree and proof are altered by hand, one thing at a time;
coreutils are a second opinion.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Argument, Holdfast
from tests.support.trees import make_tree, pattern, write

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = make_tree(tmp_path / "source")
    write(tree / "large", pattern(9 * MIB))
    (tree / "back\\slash\nline").write_bytes(b"odd")
    return tree


@pytest.fixture
def proof(holdfast: Holdfast, source: Path, target: Path, tmp_path: Path) -> Path:
    """The proof of a copy, named by the user."""
    path = tmp_path / "proof.jsonl"
    done = holdfast.copy(source, target, "--digest", "sha256", "--proof", path)
    assert done.exit == 0
    assert done.json["proof"]["path"] == str(path)
    return path


def test_a_good_proof_of_an_equal_tree(
    holdfast: Holdfast, source: Path, target: Path, proof: Path
) -> None:
    """Alone, with the tree, and with the source, of which it is just as true."""
    assert holdfast("proof", "check", proof).exit == 0
    for tree in (target, source):
        done = holdfast("proof", "check", proof, tree, "--json")
        assert (done.exit, done.json["verdict"]) == (0, "proven")
    shutil.rmtree(source)
    moved = target.rename(target.with_name("elsewhere"))
    assert holdfast("verify", moved, "--proof", proof).exit == 0


@pytest.mark.parametrize(
    "mode", [("--mode", "full"), ("--mode", "incremental"), ("--sample", "100%")]
)
def test_a_tree_that_differs_from_its_proof(
    holdfast: Holdfast, target: Path, proof: Path, mode: tuple[str, str]
) -> None:
    """Everything is named by what happened to it, in the first run and again in the second."""
    assert holdfast("verify", target, "--proof", proof, *mode).exit == 0
    write(target / "added")
    (target / "d0/f0003").unlink()
    write(target / "d1/f0004", pattern(37 * 4, 999))
    (target / "d2/f0005").chmod(0o600)
    (target / "link").unlink()
    (target / "link").symlink_to("changed")
    for _ in range(2):
        done = holdfast("verify", target, "--proof", proof, *mode, "--json")
        assert (done.exit, done.json["verdict"]) == (3, "damaged")
        assert {f["path"]: f["outcome"] for f in done.json["findings"]} == {
            "added": "missing-at-source",
            "d0/f0003": "missing-at-target",
            "d1/f0004": "digest-differs",
            "d2/f0005": "metadata-differs",
            "link": "metadata-differs",
        }
    allowed = holdfast("verify", target, "--proof", proof, "--one-way", "--json")
    assert allowed.json["verify"]["counts"]["extra"] == 1


def test_a_tree_mended_agrees_with_its_proof_again(
    holdfast: Holdfast, source: Path, target: Path, proof: Path
) -> None:
    (target / "d0/f0003").unlink()
    assert holdfast("proof", "check", proof, target).exit == 3
    shutil.copy2(source / "d0/f0003", target / "d0/f0003")
    assert holdfast("proof", "check", proof, target).exit == 0


def edit_digest(text: str) -> str:
    digest = next(word for word in text.split('"') if len(word) == 64)
    return text.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1"), 1)


def drop_line(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:2] + lines[3:])


def swap_lines(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([lines[0], lines[2], lines[1], *lines[3:]])


EDITS: dict[str, Callable[[str], str]] = {
    "digest": edit_digest,
    "line dropped": drop_line,
    "lines swapped": swap_lines,
    "cut off": lambda text: text[: len(text) // 2],
    "end missing": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "more after the end": lambda text: text + text.splitlines(keepends=True)[-1],
    "path": lambda text: text.replace("d0/f0003", "d0/f9999"),
    "claim": lambda text: text.replace("proven", "damaged"),
    "empty": lambda _: "",
    "something else": lambda _: "hello\n" * 100,
    "bytes": lambda text: text[:100] + "\x00\x1b[2J" + text[104:],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_proof_is_never_good(
    holdfast: Holdfast, target: Path, proof: Path, edit: str
) -> None:
    altered = EDITS[edit](proof.read_text())
    assert altered != proof.read_text()
    proof.write_text(altered)
    commands: list[list[Argument]] = [["proof", "check", proof], ["proof", "check", proof, target]]
    for command in commands[:: 1 if edit in ("digest", "bytes") else 2]:
        done = holdfast(*command)
        assert done.exit in (3, 20), done
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert holdfast(*command, "--json").json["exit"] == done.exit


def test_a_proof_of_random_bytes(holdfast: Holdfast, tmp_path: Path) -> None:
    done = holdfast("proof", "check", tmp_path / "missing")
    assert done.exit == 10
    garbage = tmp_path / "garbage"
    for content in (os.urandom(5000), b"\xff" * 200_000, b"{" * 100_000, b"[" * 5000 + b"\n"):
        garbage.write_bytes(content)
        done = holdfast("proof", "check", garbage)
        assert done.exit in (3, 20), done
        assert len(done.stderr.splitlines()) <= 1


def test_the_signer_can_be_demanded(
    holdfast: Holdfast, proof: Path, target: Path, tmp_path: Path
) -> None:
    key = holdfast("proof", "key").stdout.strip()
    write(tmp_path / "key", key + "\n")
    other = Holdfast(state=tmp_path / "other")("proof", "key").stdout.strip()
    assert key != other
    for right in (key, tmp_path / "key"):
        assert holdfast("proof", "check", proof, "--key", right).exit == 0
        assert holdfast("verify", target, "--proof", proof, "--key", right).exit == 0
    for tree in ([], [target]):
        wrong = holdfast("proof", "check", proof, *tree, "--key", other)
        assert wrong.exit == 3
        assert "signer" in wrong.stdout
    assert holdfast("verify", target, "--proof", proof, "--key", other).exit == 3
    for bad in ("abc", key[:-1], "zz" * 32):
        done = holdfast("proof", "check", proof, "--key", bad)
        assert (done.exit, "Traceback" in done.stderr) == (2, False)


def test_the_export_is_what_sha256sum_checks(
    holdfast: Holdfast, target: Path, proof: Path, tmp_path: Path
) -> None:
    exported = holdfast("proof", "export", proof)
    assert exported.exit == 0
    sums = tmp_path / "sums"
    assert holdfast("proof", "export", proof, "--output", sums).exit == 0
    assert sums.read_text() == exported.stdout
    check: list[str | Path] = ["sha256sum", "--check", "--strict", "--quiet", sums]
    assert subprocess.run(check, cwd=target, check=False).returncode == 0
    write(target / "d1/f0004", b"changed")
    found = subprocess.run(check, cwd=target, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "d1/f0004: FAILED" in found.stdout


def test_only_sha256_can_be_exported_for_sha256sum(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    path = tmp_path / "proof"
    assert holdfast.copy(source, target, "--proof", path).exit == 0
    done = holdfast("proof", "export", path)
    assert done.exit == 13
    assert "sha256" in done.stderr


def test_damage_leaves_no_proof(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    assert holdfast.copy(source, target).exit == 0
    (target / "d0/f0003").unlink()
    path = tmp_path / "proof"
    assert holdfast.verify(source, target, "--write-proof", path).exit == 3
    assert not path.exists()
    assert holdfast.copy(source, target).exit == 0
    assert holdfast.verify(source, target, "--write-proof", path).exit == 0
    assert holdfast("proof", "check", path, target).exit == 0


def test_a_proof_of_a_part_says_what_is_not_in_it(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    """Exclusions are part of a proof, and used when a tree is judged by it."""
    path = tmp_path / "proof"
    assert holdfast.copy(source, target, "--exclude", "large", "--proof", path).exit == 0
    write(target / "large", b"another one")
    assert holdfast("proof", "check", path, target).exit in (0, 3)
    done = holdfast("verify", target, "--proof", path, "--json")
    assert "large" not in str(done.json["findings"])


def test_where_no_proof_can_be_written(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    done = holdfast("copy", source, target, "--proof", tmp_path / "missing/proof")
    assert done.exit not in (0, 1)
    assert "--proof" in done.stderr
    assert "Traceback" not in done.stderr
