"""Goal: a copy may be killed at any moment; nothing half-written is ever seen, and it goes on.

Method: kill -9 of the real command, with and without its workers, at random moments of copies of
many small and some large files. At each of them every file under a final name is compared, and at
the end all that was ever written is added up.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.command import Holdfast
from tests.support.killing import KilledCopy


@pytest.mark.slow
@pytest.mark.parametrize(("group", "times"), [(True, 50), (False, 30)])
def test_killed_again_and_again(tmp_path: Path, group: bool, times: int) -> None:
    copy = KilledCopy(
        holdfast=Holdfast(state=tmp_path / "state"),
        source=tmp_path / "source",
        target=tmp_path / "target",
        seed=times,
        group=group,
    )
    copy.kill(times)
    copy.finish()
    copy.check_written()
    assert copy.kills_at_work > times // 4


ORPHAN = """
import multiprocessing, os
from holdfast.stores.pace import SharedPace
from holdfast.stores.processes import _become_worker
from holdfast.stores.system import SystemClock

slots = multiprocessing.get_context("fork").Value("i", 0)
_become_worker(print, SharedPace(SystemClock(), None), slots, PARENT)
print("lived")
"""


def test_a_worker_whose_parent_is_gone_already_does_not_begin() -> None:
    """Killed between the fork and the worker's first step; it would hold the task's lock."""
    lived = subprocess.run(
        [sys.executable, "-c", ORPHAN.replace("PARENT", "os.getppid()")],
        capture_output=True,
        text=True,
        check=False,
    )
    orphan = subprocess.run(
        [sys.executable, "-c", ORPHAN.replace("PARENT", "1 << 30")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (lived.returncode, lived.stdout) == (0, "lived\n"), lived.stderr
    assert (orphan.returncode, orphan.stdout) == (1, ""), orphan.stderr
