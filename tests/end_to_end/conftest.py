"""The command, and two places for trees, for each test its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import NOBODY, Holdfast, unprivileged

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def holdfast(tmp_path: Path) -> Holdfast:
    return Holdfast(state=tmp_path / "state")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A root for a tree; made by the test."""
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def common_place() -> Iterator[Path]:
    """A directory that users without privileges reach: the temporary one of a test they do not."""
    place = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    place.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def nobody(common_place: Path) -> Holdfast:
    """The command as a user without privileges."""
    command = unprivileged(common_place / "state")
    if isinstance(command, str):
        pytest.skip(command)
    return command
