"""Goal: a copy may be killed at any moment; nothing half-written is ever seen, and it goes on.

Method: kill -9 of the real command, with and without its workers, at random moments of copies of
many small and some large files. At each of them every file under a final name is compared, and at
the end all that was ever written is added up.
"""

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
