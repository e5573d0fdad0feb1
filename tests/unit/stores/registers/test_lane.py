"""Goal: a lane does every accepted job once, in order and in batches, and never waits without end.

Method: work that records its batches, held by an event; a full queue, a defect, a close under load.
"""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from holdfast.errors import HoldfastError, StateError, UnavailableError
from holdfast.stores.registers.lane import Lane

pytestmark = pytest.mark.anyio


class Work:
    """Doubles numbers; 13 is refused, 99 is a defect."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()

    def __call__(self, jobs: Sequence[int]) -> Sequence[int | HoldfastError]:
        assert self.may_go.wait(10)
        self.batches.append(list(jobs))
        if 99 in jobs:
            raise ZeroDivisionError
        return [StateError("no", code="no") if job == 13 else 2 * job for job in jobs]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0.01)


async def test_what_waits_is_one_batch() -> None:
    work = Work()
    lane = Lane("lane", work, queue_max=10, batch_max=4)
    tasks = [asyncio.create_task(lane.submit(number)) for number in range(7)]
    await settled()
    work.may_go.set()

    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10, 12]
    assert [number for batch in work.batches for number in batch] == list(range(7))
    assert max(len(batch) for batch in work.batches) == 4
    await lane.close()


async def test_full_queue_refuses_at_once() -> None:
    work = Work()
    lane = Lane("lane", work, queue_max=2, batch_max=1)
    first = asyncio.create_task(lane.submit(0))
    await settled()
    others = [asyncio.create_task(lane.submit(number)) for number in (1, 2)]
    await settled()

    with pytest.raises(UnavailableError, match="too much waiting"):
        await lane.submit(3)
    work.may_go.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4]
    await lane.close()


async def test_error_is_the_answer_of_its_job_and_a_defect_that_of_all() -> None:
    work = Work()
    work.may_go.set()
    lane = Lane("lane", work, queue_max=9, batch_max=9)

    assert await lane.submit(1) == 2
    with pytest.raises(StateError):
        await lane.submit(13)
    with pytest.raises(ZeroDivisionError):
        await lane.submit(99)
    assert await lane.submit(2) == 4
    await lane.close()


async def test_close_finishes_what_was_accepted() -> None:
    work = Work()
    lane = Lane("lane", work, queue_max=9, batch_max=2)
    tasks = [asyncio.create_task(lane.submit(number)) for number in range(5)]
    await settled()
    closing = asyncio.create_task(lane.close())
    await settled()

    with pytest.raises(UnavailableError, match="closed"):
        await lane.submit(9)
    work.may_go.set()
    await closing
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]
    await lane.close()


async def test_cancelled_caller_does_not_hold_up_the_others() -> None:
    work = Work()
    lane = Lane("lane", work, queue_max=9, batch_max=9)
    tasks = [asyncio.create_task(lane.submit(number)) for number in range(3)]
    await settled()
    tasks[0].cancel()
    work.may_go.set()

    assert await asyncio.gather(*tasks[1:]) == [2, 4]
    await lane.close()
