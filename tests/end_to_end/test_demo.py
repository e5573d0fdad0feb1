"""Goal: the first command a newcomer runs tells the whole story, and writes nothing beside it.

Method: run `holdfast demo` as a user would, from an empty directory, on a tree of ours.
"""

import subprocess
import sys
from pathlib import Path


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
        "verdict   proven",
        "digest-differs: large (1 block differs: bytes 1048576-2097152)",
        "exit status 3",
        "repaired: large",
        "proof     good",
    ):
        assert told in ended.stdout
    assert not list(here.iterdir())
    assert (tree / "large").read_bytes() == bytes(range(256)) * 12_288


def test_demo_leaves_its_scratch_directory_when_asked(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
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
    assert (scratch / "copy" / "file").read_text() == "content"
