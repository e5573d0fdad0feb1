"""Where a verification restores to, only to compare: a place that nothing outlives."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from holdfast.checkpoints.running import Surroundings


@contextlib.contextmanager
def throw_away_place(around: Surroundings, task_id: str) -> Iterator[Path]:
    """Yield a directory to be made, whose parent is there and empty; all is removed at the end.

    What killed drills of this task, or of those that are over, left is removed first.
    """
    drills = around.state / "drills"
    place = drills / task_id
    for left in drills.iterdir() if drills.is_dir() else ():
        if left == place or around.is_over(left.name):
            shutil.rmtree(left, ignore_errors=True)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield place / "tree"
    finally:
        shutil.rmtree(place, ignore_errors=True)
