"""Goal: a store that is slow for one object holds up no other head.

Method: a real store process that answers one object after 4 s, asked for by more clients at once
than the service has connections; meanwhile 10 000 other heads are read, and some written.
"""

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support.heads import running_service, running_store

OTHERS = 10_000
AT_ONCE = 32
SLOW_CLIENTS = 200
SLOW_S = 4.0


@pytest.mark.slow
def test_slow_store_on_one_key_leaves_ten_thousand_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        running_store() as store,
        running_service(tmp_path, f"ICKPT.StoreEndpoints={store.url}/v1/") as service,
    ):
        waiting_count, durations = asyncio.run(_run(service.url, store.url))

    durations.sort()
    p99_s, worst_s = durations[len(durations) * 99 // 100], durations[-1]
    with capsys.disabled():
        print(
            f"\n{len(durations)} reads of other heads beside {SLOW_CLIENTS} slow ones: "
            f"p99 {p99_s * 1e3:.0f} ms, worst {worst_s * 1e3:.0f} ms"
        )
    assert len(durations) == OTHERS
    assert worst_s < SLOW_S / 2
    assert waiting_count > 0, "the slow requests ended too early to show anything"


async def _run(url: str, store_url: str) -> tuple[int, list[float]]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def ask(method: str, name: str, path: str = "/") -> int:
            headers = {"X-Storage-Url": f"{store_url}/v1/{name}", "X-Auth-Token": "owner"}
            async with session.request(method, url + path, headers=headers) as answer:
                await answer.read()
                return answer.status

        async def ask_slowly() -> int:
            return await ask("GET", f"any/sleep-{SLOW_S}/o")

        async def ask_others(numbers: range) -> None:
            for number in numbers:
                began = time.monotonic()
                assert await ask("GET", f"any/{number}") == 200
                durations.append(time.monotonic() - began)

        durations: list[float] = []
        slow = [asyncio.create_task(ask_slowly()) for _ in range(SLOW_CLIENTS)]
        await asyncio.sleep(0.5)
        await asyncio.gather(*(ask_others(range(i, OTHERS, AT_ONCE)) for i in range(AT_ONCE)))
        assert await ask("DELETE", "any/written", "/t") == 204
        assert await ask("POST", "any/written", "/t") == 200
        waiting_count = sum(not task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return waiting_count, durations
