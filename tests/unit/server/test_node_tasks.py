"""Goal: a process whose start was given up is never started.

Method: a real event loop in a thread, held up for longer than the start is waited for.
"""

import asyncio
import threading

import pytest

from holdfast.errors import UnavailableError
from holdfast.server.node_tasks import run_or_withdraw


@pytest.mark.parametrize("is_held_up", [False, True])
def test_a_start_is_had_or_withdrawn(is_held_up: bool) -> None:
    loop = asyncio.new_event_loop()
    goes_on = threading.Event()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    started: list[str] = []

    async def start() -> None:
        started.append("process")

    if is_held_up:
        loop.call_soon_threadsafe(goes_on.wait)
    if is_held_up:
        with pytest.raises(UnavailableError) as raised:
            run_or_withdraw(start, loop, 0.05)
        assert raised.value.code == "start-timeout"
        goes_on.set()
    else:
        run_or_withdraw(start, loop, 30)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()

    assert started == ([] if is_held_up else ["process"])
