"""Keeps one data process running for each volume that is to be served.

How a process is started is the composition root's matter; here is when. A process that ends
without having been asked to is started again, later each time it does so soon after its start.

Invariants:

1. There is at most one process for a volume; the next is started after the last has ended.
2. The first start is answered: served, or the error the process ended with. Later ones are logged.
3. A restart waits restart_delay_s, never longer than RESTART_DELAY_MAX_S.
4. A restart listens where the first start did, chosen ports included.
5. After stop() has returned no process of the volume runs, and none is started.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from holdfast.errors import StateError
from holdfast.model.ids import VolumeName
from holdfast.ports import Clock

RESTART_DELAY_S: Final = 0.1
RESTART_DELAY_MAX_S: Final = 10.0
STEADY_S: Final = 60.0
"""A process that ran this long did not fail to start: the count begins anew."""

_log = logging.getLogger("holdfast.volumes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Which volume is served, and where beside its control socket."""

    name: VolumeName
    listen: tuple[tuple[str, int], ...] = ()
    """Addresses and ports of TCP; port 0 is any free one."""
    socket_path: str | None = None
    """Of the unix socket for NBD; the one in the volume's directory unless given."""
    spin_us: int = 0
    """How long to look for the next request before sleeping; see NbdServer."""


class DataProcess(Protocol):
    """A process that serves a volume."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def listening(self) -> tuple[str, ...]:
        """URIs of its front ends."""
        ...

    @property
    def listen(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports of TCP, as they became."""
        ...

    async def wait(self) -> str:
        """Wait for its end and return how it ended, in words."""
        ...

    def reload(self) -> None:
        """Have it load its certificates anew; it goes on with the old ones if they do not load."""
        ...

    async def stop(self) -> None:
        """End it, orderly if it can within its time, else at once; then return."""
        ...


class StartProcess(Protocol):
    """Starts data processes."""

    async def __call__(self, request: ServeRequest) -> DataProcess:
        """Return a process that serves, or raise the error it ended with instead."""
        ...


def restart_delay_s(failures_count: int) -> float:
    """Return how long to wait before another start, after so many ends in a row."""
    return min(RESTART_DELAY_S * 2.0 ** min(failures_count - 1, 30), RESTART_DELAY_MAX_S)


@dataclass(slots=True, kw_only=True)
class _Served:
    request: ServeRequest
    starting: "asyncio.Future[DataProcess]"
    """The first start."""
    process: DataProcess | None = None
    restarts_count: int = 0
    task: "asyncio.Task[None] | None" = None


class Supervisor:
    """Owns the data processes of one process; used from one event loop.

    Args:
        on_restart: Told after each restart of a process, of a volume that serves again.
    """

    def __init__(
        self,
        start: StartProcess,
        clock: Clock,
        on_restart: Callable[[VolumeName, DataProcess], None] = lambda _name, _process: None,
    ) -> None:
        self._start = start
        self._clock = clock
        self._on_restart = on_restart
        self._served: dict[VolumeName, _Served] = {}

    def names(self) -> list[VolumeName]:
        """Return the volumes that are to be served."""
        return sorted(self._served)

    def restarts_count(self, name: VolumeName) -> int:
        """Return how often the process of a volume was started again."""
        return self._served[name].restarts_count if name in self._served else 0

    async def serve(self, request: ServeRequest) -> DataProcess:
        """Have a volume served from now on.

        Raises:
            StateError: It is (`volume-served`), or it was stopped while it started
                (`volume-stopped`).
        """
        if request.name in self._served:
            raise StateError(
                f"the volume {request.name} is served already",
                code="volume-served",
                advice="stop it first to serve it elsewhere",
            )
        starting = asyncio.ensure_future(self._start(request))
        served = self._served[request.name] = _Served(request=request, starting=starting)
        try:
            served.process = await starting
            # Clients come back to where they were: a free port is chosen once.
            served.request = replace(request, listen=served.process.listen)
        except asyncio.CancelledError:
            self._forget(served)
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                raise
            raise StateError(
                f"the volume {request.name} was stopped while it was started",
                code="volume-stopped",
                advice="serve it again if it is still wanted",
            ) from None
        except BaseException:
            self._forget(served)
            raise
        served.task = asyncio.create_task(self._keep(served, served.process))
        return served.process

    async def stop(self, name: VolumeName) -> None:
        """Stop serving a volume; nothing happens if it is not served."""
        served = self._served.get(name)
        if served is None:
            return
        if served.task is None:
            served.starting.cancel()
            # Whoever waits for it in `serve` goes on before we do.
            await asyncio.gather(served.starting, return_exceptions=True)
        if served.task is not None:
            served.task.cancel()
            await asyncio.gather(served.task, return_exceptions=True)
        if served.process is not None:
            await served.process.stop()
        self._forget(served)

    def reload_all(self) -> None:
        """Have every process load its certificates anew; one that starts later does anyway."""
        for served in self._served.values():
            if served.process is not None:
                served.process.reload()

    async def stop_all(self) -> None:
        """Stop serving every volume, all at once."""
        await asyncio.gather(*(self.stop(name) for name in self.names()))

    def _forget(self, served: _Served) -> None:
        if self._served.get(served.request.name) is served:
            del self._served[served.request.name]

    async def _keep(self, served: _Served, process: DataProcess) -> None:
        failures_count = 0
        while True:
            began_ns = self._clock.monotonic_ns()
            how = await process.wait()
            served.process = None
            if self._clock.monotonic_ns() - began_ns > STEADY_S * 1e9:
                failures_count = 0
            _log.error("volume %s: its data process ended: %s", served.request.name, how)
            process, failures_count = await self._restart(served, failures_count)
            served.process = process
            served.restarts_count += 1
            self._on_restart(served.request.name, process)

    async def _restart(self, served: _Served, failures_count: int) -> tuple[DataProcess, int]:
        while True:
            failures_count += 1
            await asyncio.sleep(restart_delay_s(failures_count))
            starting = asyncio.ensure_future(self._start(served.request))
            try:
                return await asyncio.shield(starting), failures_count
            except asyncio.CancelledError:
                # Stopped while one starts: it must not be forgotten, or two would run (5).
                started = await asyncio.gather(starting, return_exceptions=True)
                if not isinstance(started[0], BaseException):
                    await started[0].stop()
                raise
            except Exception as error:  # noqa: BLE001 a volume is not given up, whatever it was
                _log.error("volume %s: not started again: %s", served.request.name, error)
