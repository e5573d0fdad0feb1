"""Goal: what a node keeps running runs again, whatever is in the way for a while.

Method: a real process that is killed; no descriptor is left when it is to be started again. Cites
the invariants of node_processes.py.
"""

import asyncio
import contextlib
import os
import resource
import signal
from pathlib import Path

import pytest

from holdfast.server.node_metrics import NodeMetrics
from holdfast.server.node_processes import KeptProcess
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal


@pytest.mark.slow
def test_a_start_that_the_system_refuses_is_tried_again(tmp_path: Path) -> None:
    """Invariant 1."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main(kept: KeptProcess) -> bool:
        await kept.start()
        stopping = asyncio.Event()
        watching = asyncio.create_task(kept.watch(stopping))
        assert kept._process is not None
        os.kill(kept._process.pid, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        await asyncio.sleep(2)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for _ in range(100):
            await asyncio.sleep(0.1)
            if kept.is_alive or watching.done():
                break
        is_alive = kept.is_alive
        stopping.set()
        await watching
        await kept.close()
        return is_alive

    with contextlib.closing(
        TaskJournal(tmp_path / "tasks.sqlite", SystemClock(), SystemEntropy())
    ) as journal:
        kept = KeptProcess("stream", "tests.support.kept_process", "", NodeMetrics(journal))
        try:
            assert asyncio.run(main(kept))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
