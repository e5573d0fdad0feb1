"""The command, for each test its own."""

from pathlib import Path

import pytest

from tests.support.command import Holdfast


@pytest.fixture
def holdfast(tmp_path: Path) -> Holdfast:
    return Holdfast(state=tmp_path / "state")
