"""Goal: a copy may be killed at any moment; nothing half-written is ever seen, and it goes on.

Method: kill -9 of the real command at random moments of a copy of many small and some large files,
some times here; many times in tests/crash.
"""

from pathlib import Path

from tests.support.command import Holdfast
from tests.support.killing import KilledCopy


def test_killed_five_times(holdfast: Holdfast, source: Path, target: Path) -> None:
    copy = KilledCopy(holdfast=holdfast, source=source, target=target, seed=1, group=True)
    copy.kill(5)
    copy.finish()
    copy.check_written()
    newest = holdfast.tasks()[0]
    assert newest["state"] == "completed"
    assert copy.kills_at_work
    assert copy.generation > 1 or 1 < newest["attempt"] <= 6
