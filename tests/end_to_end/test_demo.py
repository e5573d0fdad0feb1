"""Goal: the first command a newcomer runs tells the whole story, and writes nothing beside it.

Method: run `holdfast demo` as a user would, from an empty directory, on a tree of ours.
"""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_demo_tells_the_whole_story(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "large").write_bytes(bytes(range(256)) * 12_288)
    (tree / "sub" / "small").write_text("small")
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "holdfast", "demo", "--tree", str(tree)]
    ended = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for told in (
        "trend     with the source stopped now",
        "verdict   every entry was examined and is equal",
        "digest-differs: data/0/large (1 block differs: bytes 1048576-2097152)",
        "exit status 3",
        "repaired  data/0/large",
        "status    COMPLETED",
        "proof     good",
        "verdict   proven",
    ):
        assert told in ended.stdout
    assert not list(here.iterdir())
    assert (tree / "large").read_bytes() == bytes(range(256)) * 12_288


@pytest.mark.slow
def test_demo_leaves_its_scratch_directory_when_asked(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3):
        (tree / f"large{number}").write_bytes(b"x" * 1_000_000 * number)
    (tree / "file").write_text("content")
    command = [sys.executable, "-m", "holdfast", "demo", "--keep", "--tree", str(tree)]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (scratch,) = tmp_path.glob("holdfast-demo-*")
    assert (scratch / "new" / "data" / "file").read_text().startswith("content")
