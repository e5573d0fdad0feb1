"""Goal: a volume's process is started again when it ends, never twice, and not after a stop.

Method: the supervisor over processes that are futures of this test; invariants of
volumes/supervision.py.
"""

import asyncio

import pytest

from holdfast.errors import ConflictError, StateError, UnavailableError
from holdfast.model.ids import VolumeName
from holdfast.stores.system import SystemClock
from holdfast.volumes.supervision import (
    RESTART_DELAY_MAX_S,
    ServeRequest,
    Supervisor,
    restart_delay_s,
)

pytestmark = pytest.mark.anyio
DB = ServeRequest(name=VolumeName("db"))


class Process:
    """A process that ends when the test says so."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.listening = (f"nbd://{pid}",)
        self.listen = (("127.0.0.1", 7000 + pid),)
        self.reloads_count = 0
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait(self) -> str:
        return await asyncio.shield(self.ended)

    def reload(self) -> None:
        self.reloads_count += 1

    async def stop(self) -> None:
        if not self.ended.done():
            self.ended.set_result("stopped")


class Starter:
    """Starts them, or raises what the test put in."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.requests: list[ServeRequest] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: ServeRequest) -> Process:
        self.requests.append(request)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        assert all(process.ended.done() for process in self.started), "two at once (1)"
        self.started.append(Process(len(self.started)))
        return self.started[-1]

    async def has_started(self, count: int) -> Process:
        """Wait until this many were started."""
        async with asyncio.timeout(10):
            while len(self.started) < count:
                await asyncio.sleep(0.005)
        return self.started[count - 1]


@pytest.fixture
async def starter() -> Starter:
    return Starter()


@pytest.fixture
async def supervisor(starter: Starter) -> Supervisor:
    return Supervisor(starter, SystemClock())


async def test_process_that_ends_is_started_again(supervisor: Supervisor, starter: Starter) -> None:
    first = await supervisor.serve(DB)

    starter.started[0].ended.set_result("it was killed")
    second = await starter.has_started(2)

    assert (first.pid, second.pid) == (0, 1)
    assert [request.listen for request in starter.requests] == [(), (("127.0.0.1", 7000),)]
    await supervisor.stop(DB.name)
    assert second.ended.result() == "stopped"


async def test_start_that_fails_is_answered(supervisor: Supervisor, starter: Starter) -> None:
    """Invariant 2; and the volume is not kept as if it were served."""
    starter.failures = [ConflictError("in use", code="volume-in-use")]

    with pytest.raises(ConflictError):
        await supervisor.serve(DB)

    assert supervisor.names() == []
    await supervisor.serve(DB)
    await supervisor.stop_all()


async def test_restart_goes_on_after_failures(supervisor: Supervisor, starter: Starter) -> None:
    await supervisor.serve(DB)
    starter.failures = [UnavailableError("no", code="x"), UnavailableError("no", code="x")]

    starter.started[0].ended.set_result("it was killed")
    await starter.has_started(2)
    await asyncio.sleep(0)

    assert starter.failures == []
    assert supervisor.restarts_count(DB.name) == 1
    await supervisor.stop_all()


async def test_volume_is_served_once(supervisor: Supervisor) -> None:
    await supervisor.serve(DB)

    with pytest.raises(StateError) as raised:
        await supervisor.serve(DB)

    assert raised.value.code == "volume-served"
    await supervisor.stop_all()


async def test_nothing_runs_after_a_stop_during_a_restart(
    supervisor: Supervisor, starter: Starter
) -> None:
    """Invariant 5: a process that was just being started is ended too."""
    await supervisor.serve(DB)
    starter.gate.clear()
    starter.started[0].ended.set_result("it was killed")
    await asyncio.sleep(2 * restart_delay_s(1))

    stopping = asyncio.create_task(supervisor.stop(DB.name))
    await asyncio.sleep(0.01)
    starter.gate.set()
    await stopping

    assert all(process.ended.done() for process in starter.started)
    assert supervisor.names() == []


async def test_restart_goes_on_after_what_nobody_expected(
    supervisor: Supervisor, starter: Starter
) -> None:
    """A machine out of processes or memory: the volume is not given up for good."""
    await supervisor.serve(DB)
    starter.failures = [BlockingIOError(11, "no more processes")]

    starter.started[0].ended.set_result("it was killed")
    await starter.has_started(2)

    assert supervisor.names() == [DB.name]
    await supervisor.stop_all()


async def test_stop_during_the_first_start_stops_it(
    supervisor: Supervisor, starter: Starter
) -> None:
    """Invariant 5: who asked for it is told, and nothing is served."""
    starter.gate.clear()
    serving = asyncio.create_task(supervisor.serve(DB))
    await asyncio.sleep(0.01)

    await supervisor.stop(DB.name)
    starter.gate.set()
    with pytest.raises(StateError) as raised:
        await serving

    assert raised.value.code == "volume-stopped"
    assert supervisor.names() == []
    assert starter.started == []
    await supervisor.serve(DB)
    await supervisor.stop_all()


def test_restart_waits_longer_each_time_up_to_a_most() -> None:
    """Invariant 3."""
    delays = [restart_delay_s(count) for count in range(1, 100)]

    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.1, RESTART_DELAY_MAX_S)
