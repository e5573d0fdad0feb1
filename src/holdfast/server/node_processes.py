"""Processes of ours that live as long as the node does: started, watched, started again.

Invariants:

1. A process that dies is started again, on the port it had, later each time.
2. It dies with the node: it asks the kernel for that, in its first lines.
"""

import asyncio
import contextlib
import os
import signal
import sys
from typing import Final

from holdfast.errors import UnavailableError
from holdfast.server.node_logs import node_log
from holdfast.server.node_metrics import NodeMetrics
from holdfast.server.node_tasks import backoff_s

START_S: Final = 30.0

_log = node_log("node")


class KeptProcess:
    """One process, `python -m MODULE PORT PARENT`, told the settings on its standard input.

    Args:
        name: What it is called in errors, metrics and the log.
        module: What it runs.
        text: The settings.
        metrics: Where its deaths are counted.
        port: What it is to listen on; 0 for any, or if it does not listen.
        stop_s: What it gets to end in order.
    """

    def __init__(
        self,
        name: str,
        module: str,
        text: str,
        metrics: NodeMetrics,
        *,
        port: int = 0,
        stop_s: float = 0.0,
    ) -> None:
        self._name = name
        self._module = module
        self._text = text
        self._metrics = metrics
        self._port = port
        self._stop_s = stop_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> int:
        """Start it; return the port it says once it listens, 0 if it does not listen.

        Raises:
            UnavailableError: `NAME-not-started`; why is in its log.
        """
        # In the main thread: the process dies with the thread that forked it.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            str(self._port),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(self._text.encode())
            await process.stdin.drain()
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(process.stdout.readline(), START_S)
            if line.strip().isdigit():
                self._port = int(line)
                return self._port
        await self.close()
        raise UnavailableError(
            f"the {self._name} server did not start on port {self._port}"
            if self._port
            else f"the process {self._name} did not start",
            code=f"{self._name}-not-started",
            advice="see the log above; set listen.stream_port if another process has the port",
        )

    async def watch(self, stopping: asyncio.Event) -> None:
        """Start it again whenever it dies, until the node stops."""
        crashes = 0
        while not stopping.is_set():
            assert self._process is not None
            died = asyncio.create_task(self._process.wait())
            stopped = asyncio.create_task(stopping.wait())
            await asyncio.wait({died, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if stopping.is_set():
                died.cancel()
                return
            crashes += 1
            self._metrics.count_crash(self._name)
            _log.error(f"{self._name} server died", code=self._process.returncode)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), backoff_s(crashes))
                return
            # OSError: no process or descriptor is to be had just now.
            with contextlib.suppress(UnavailableError, OSError):
                await self.start()
                crashes = 0

    def reload(self) -> None:
        """Have it read certificates and tokens anew."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    async def close(self) -> None:
        """End it, in order if it has time for that, and with it all that it forked."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            if self._stop_s:
                self._process.terminate()
                await asyncio.wait_for(self._process.wait(), self._stop_s)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
