"""Goal: what the guide to migrations says to type works as it stands there.

Method: every curl example of the guide is run in its order against two real nodes, with their URLs
and the last task's id put in.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node_process import NodePair, running_pair

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "migrate.md"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[NodePair]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; 'make deps' installs it")
    with running_pair(tmp_path) as pair:
        (pair.source.data / "file").write_bytes(b"x" * 1000)
        yield pair


def examples() -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    commands = [
        command.strip()
        for block in blocks
        for command in re.split(r"\n(?=curl )", block)
        if command.startswith("curl ")
    ]
    assert len(commands) >= 10
    return commands


@pytest.mark.slow
def test_every_curl_example_of_the_guide_works(pair: NodePair) -> None:
    task = ""
    for command in examples():
        typed = command.replace("http://dest-host.example.com:9043", pair.target.url)
        typed = typed.replace("http://source-host.example.com:9043", pair.source.url)
        typed = typed.replace("TASK", task)
        ended = subprocess.run(
            ["bash", "-c", typed.replace("curl ", "curl -sS --fail-with-body ", 1)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, (typed, ended.stdout, ended.stderr)
        if '"taskId"' in ended.stdout and '"status"' not in ended.stdout:
            task = json.loads(ended.stdout)["taskId"]
            pair.target.wait_until_ended(task)
