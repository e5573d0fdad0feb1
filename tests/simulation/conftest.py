"""A place for states that tests cut off and copy often."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def states() -> Iterator[Path]:
    """A directory for states, in memory where there is some: what is cut here is not that disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as path:
        yield Path(path)
