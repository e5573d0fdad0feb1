"""Goal: what is due runs once, in UTC, whatever was missed, and no failure holds up another.

Method: the invariants of scheduling.py over a simulated bank and a clock that jumps.
"""

from pathlib import Path

import pytest
from tests.support.checkpoints import MANNER, World, directory_plan
from tests.support.trees import make_tree

from holdfast.checkpoints.model import Retention
from holdfast.checkpoints.scheduling import ScheduledOperation, Scheduler, next_time
from holdfast.errors import InvalidRequestError, NotFoundError

HOUR_NS = 3600 * 10**9
MIDNIGHT_NS = 2_000_073_600 * 10**9
"""2033-05-19 00:00 UTC."""


@pytest.mark.parametrize(
    ("cron", "hours"), [("0 * * * *", 1), ("0 3 * * *", 3), ("0 0 20 * *", 24), ("0 0 1 6 *", 312)]
)
def test_next_time_is_in_utc(cron: str, hours: int) -> None:
    assert next_time(cron, MIDNIGHT_NS) == MIDNIGHT_NS + hours * HOUR_NS


@pytest.mark.parametrize("cron", ["", "x", "61 * * * *", "* * * *", "0 0 31 2 *"])
def test_line_that_never_comes_is_refused(cron: str) -> None:
    with pytest.raises(InvalidRequestError):
        next_time(cron, MIDNIGHT_NS)


def test_missed_times_make_one_run(tmp_path: Path) -> None:
    """Invariants 1 and 2."""
    world = World(tmp_path)
    facet = world.start()
    directory_plan(facet, make_tree(tmp_path / "tree"), retention=Retention(last=2))
    scheduler = Scheduler(facet)
    scheduler.add("p", ScheduledOperation.RETENTION_PROTECT, "0 * * * *", {})
    assert scheduler.run_due(MANNER) == []
    world.clock.sleep(5 * 3600)

    (ran,) = scheduler.run_due(MANNER)

    assert ran.last_result == "success"
    assert world.clock.now_ns() < ran.next_ns <= world.clock.now_ns() + HOUR_NS
    assert scheduler.run_due(MANNER) == []
    for _ in range(3):
        world.clock.sleep(3600)
        scheduler.run_due(MANNER)
    assert len(facet.list()) == 2


def test_failure_is_told_and_holds_up_no_other(tmp_path: Path) -> None:
    """Invariant 3."""
    world = World(tmp_path)
    facet = world.start()
    tree = make_tree(tmp_path / "tree")
    gone = make_tree(tmp_path / "gone")
    directory_plan(facet, gone, name="bad")
    directory_plan(facet, tree, name="good")
    gone.rename(tmp_path / "away")
    scheduler = Scheduler(facet)
    for name in ("bad", "good"):
        scheduler.add(name, ScheduledOperation.PROTECT, "0 * * * *", {})
    scheduler.add("good", ScheduledOperation.VERIFY, "30 * * * *", {"percent": 100})
    world.clock.sleep(7200)

    told = {(each.plan_id, each.operation): each.last_result for each in scheduler.run_due(MANNER)}

    results = sorted(told.values())
    assert len(results) == 3
    assert results[0].startswith("nothing-protected")
    assert set(results[1:]) == {"success"} or results[1].startswith("nothing-to-verify")


def test_schedule_is_removed_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    facet = world.start()
    directory_plan(facet, make_tree(tmp_path / "tree"))
    scheduler = Scheduler(facet)
    added = scheduler.add("p", ScheduledOperation.PROTECT, "0 * * * *", {})
    scheduler.remove(added.id)

    with pytest.raises(NotFoundError):
        scheduler.remove(added.id)
    with pytest.raises(InvalidRequestError):
        scheduler.add("p", ScheduledOperation.VERIFY, "0 * * * *", {"depth": "deep"})
