"""Makes the data sets: the same bytes on every machine, which no file system can compress."""

import hashlib
from pathlib import Path

from tests.bench.model import Dataset

_BLOCK_BYTES = 1 << 20


def make_dataset(dataset: Dataset, root: Path) -> None:
    """Make the tree at `root`, which must not exist."""
    root.mkdir(parents=True)
    for index in range(dataset.directories_count):
        (root / f"d{index:04}").mkdir()
    for index in range(dataset.files_count):
        directory = root / f"d{index % dataset.directories_count:04}"
        with open(directory / f"f{index:07}.dat", "wb") as file:
            length_bytes = dataset.size_of(index)
            for start in range(0, length_bytes, _BLOCK_BYTES):
                size_bytes = min(_BLOCK_BYTES, length_bytes - start)
                file.write(hashlib.shake_128(f"{index}:{start}".encode()).digest(size_bytes))


def measure_tree(root: Path) -> tuple[int, int]:
    """Return (files, bytes) below `root`; (0, 0) where nothing is."""
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
