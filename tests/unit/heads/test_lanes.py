"""Goal: no request waits for ever behind others of its key (original's bug 18), nor for other keys.

Method: lanes held by coroutines that do not let go.
"""

import asyncio

import pytest

from holdfast.errors import UnavailableError
from holdfast.heads.lanes import Lanes


async def _hold(lanes: Lanes, key: str, until: asyncio.Event) -> None:
    async with lanes.enter(key):
        await until.wait()


def test_bug_18_waiting_behind_a_slow_request_ends() -> None:
    async def scenario() -> None:
        lanes = Lanes(width=1, waiting_max=10, timeout_s=0.05)
        until = asyncio.Event()
        holding = asyncio.create_task(_hold(lanes, "k", until))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError) as caught:
            async with asyncio.timeout(1), lanes.enter("k"):
                pass
        assert caught.value.code == "head-busy"
        async with lanes.enter("other"):
            pass
        until.set()
        await holding
        async with lanes.enter("k"):
            pass
        assert lanes.keys_count == 0

    asyncio.run(scenario())


def test_more_waiting_than_allowed_are_refused_at_once() -> None:
    async def scenario() -> None:
        lanes = Lanes(width=2, waiting_max=3, timeout_s=60)
        until = asyncio.Event()
        tasks = [asyncio.create_task(_hold(lanes, "k", until)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(1), lanes.enter("k"):
                pass
        until.set()
        await asyncio.gather(*tasks)
        assert lanes.keys_count == 0

    asyncio.run(scenario())


def test_waiting_that_is_cancelled_leaves_no_trace() -> None:
    async def scenario() -> None:
        lanes = Lanes(width=1, waiting_max=3, timeout_s=60)
        until = asyncio.Event()
        tasks = [asyncio.create_task(_hold(lanes, "k", until)) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        until.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert lanes.keys_count == 0

    asyncio.run(scenario())
