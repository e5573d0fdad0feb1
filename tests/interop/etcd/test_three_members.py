"""Goal: with three members, losing any one loses no acknowledged head and shows no stale one.

Method: clients read and advance the same keys through different members while the leader is killed
with kill -9 and started again, or stopped and continued. Every call is recorded. Afterwards the
linearizability checker must find an order, and etcd's own log must hold every acknowledged write.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.errors import UnavailableError
from holdfast.model.head import ABSENT, Advanced, HeadState
from holdfast.stores.registers.etcd import EtcdRegister
from holdfast.stores.registers.etcd_client import EtcdClient, EtcdSettings
from holdfast.stores.registers.etcd_record import decode_record
from holdfast.stores.registers.etcd_watch import Snapshot, watch
from holdfast.stores.registers.etcd_wire import Changed, end_of_prefix
from holdfast.testing.linearizability import Operation, Recorder, find_violation
from tests.support.etcd import EtcdCluster, EtcdMember

pytestmark = pytest.mark.anyio

CLIENTS = 6
KEYS = ("a", "b", "c")
ELECTION = ["--heartbeat-interval", "50", "--election-timeout", "500"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    made = EtcdCluster(tmp_path / "etcd", 3, ELECTION)
    try:
        made.start()
        yield made
    finally:
        made.kill()


class Storm:
    """Clients at work on one cluster."""

    def __init__(self, cluster: EtcdCluster, prefix: str) -> None:
        self._prefix = prefix
        self.operations: list[Operation] = []
        self.acknowledged: set[str] = set()
        self.wins_s: list[float] = []
        self.recorders = []
        for number in range(CLIENTS):
            turn = number % 3
            endpoints = cluster.endpoints[turn:] + cluster.endpoints[:turn]
            self.recorders.append(Recorder(self.open(endpoints), self.operations))

    def open(self, endpoints: tuple[str, ...]) -> EtcdRegister:
        settings = EtcdSettings(endpoints=endpoints, deadline_s=6, request_timeout_s=0.7)
        return EtcdRegister(EtcdClient(settings), self._prefix)

    async def work(self, client: int, until: float) -> None:
        """Read and advance; every third advance goes by what was seen before, and may lose."""
        recorder = self.recorders[client]
        seen: dict[str, HeadState] = {}
        number = 0
        while time.monotonic() < until:
            number += 1
            key = KEYS[(client + number) % len(KEYS)]
            if number % 3 or key not in seen:
                state = await recorder.read(key)
                if state is None:
                    continue
                seen[key] = state
            write_id = f"{client}-{number}"
            outcome = await recorder.advance(key, seen[key], write_id.encode(), write_id)
            if isinstance(outcome, Advanced):
                self.acknowledged.add(write_id)
                self.wins_s.append(time.monotonic())
                seen[key] = outcome.state
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for recorder in self.recorders:
            register = recorder.register
            await register.close()


@pytest.fixture
async def storm(cluster: EtcdCluster, prefix: str) -> AsyncIterator[Storm]:
    made = Storm(cluster, prefix)
    yield made
    await made.close()


async def strike(cluster: EtcdCluster, until: float, struck: list[str]) -> None:
    """Kill or stop the leader, now one, now the other, until it is time; note which."""
    while time.monotonic() < until - 2.5:
        await asyncio.sleep(0.8)
        leader = await asyncio.to_thread(cluster.leader)
        if leader is None:
            continue
        struck.append("killed" if len(struck) % 2 == 0 else "stopped")
        await strike_one(leader, struck[-1])


async def strike_one(leader: EtcdMember, how: str) -> None:
    if how == "killed":
        leader.kill()
        await asyncio.sleep(1.5)
        leader.start()
    else:
        leader.stop()
        try:
            await asyncio.sleep(1.7)
        finally:
            leader.go_on()


async def written(cluster: EtcdCluster, prefix: str, last_revision: int) -> list[str]:
    """Return every write id in etcd's log, in order."""
    client = EtcdClient(EtcdSettings(endpoints=cluster.endpoints))
    start = f"{prefix}heads/".encode()
    found = []
    async for item in watch(client, start, end_of_prefix(start), start_revision=1):
        assert not isinstance(item, Snapshot)
        found.append(decoded(item).write_id)
        if item.mod_revision >= last_revision:
            break
    await client.close()
    return found


def decoded(item: Changed) -> HeadState:
    assert item.value is not None
    return decode_record(item.key, item.value, item.mod_revision)


@pytest.mark.parametrize("duration_s", [10, pytest.param(60, marks=pytest.mark.slow)])
async def test_nothing_acknowledged_is_lost_and_nothing_stale_is_read(
    cluster: EtcdCluster, storm: Storm, prefix: str, duration_s: int
) -> None:
    until = time.monotonic() + duration_s
    struck: list[str] = []
    await asyncio.gather(
        *(storm.work(client, until) for client in range(CLIENTS)), strike(cluster, until, struck)
    )

    last = []
    for endpoint in cluster.endpoints:
        recorder = Recorder(storm.open((endpoint,)), storm.operations)
        for key in KEYS:
            state = await recorder.read(key)
            assert state is not None
            last.append(state.revision)
        await recorder.register.close()
    in_log = await written(cluster, prefix, max(last))

    assert {"killed", "stopped"} <= set(struck)
    assert find_violation(storm.operations) is None
    assert storm.acknowledged <= set(in_log)
    assert len(in_log) == len(set(in_log))
    in_doubt = sum(recorder.unknown_count for recorder in storm.recorders)
    pauses = [after - before for before, after in zip(storm.wins_s, storm.wins_s[1:], strict=False)]
    print(
        f"\n{len(storm.acknowledged)} acknowledged, {len(in_log)} in the log, {in_doubt} unknown"
        f" answers, {len(storm.operations)} operations, {len(struck)} strikes,"
        f" longest pause {max(pauses):.2f} s"
    )
    assert len(storm.acknowledged) > 100


async def test_minority_answers_nothing_rather_than_something_stale(
    cluster: EtcdCluster, storm: Storm
) -> None:
    recorder = storm.recorders[0]
    assert isinstance(await recorder.advance("a", ABSENT, b"1", "w1"), Advanced)
    lonely = cluster.leader()
    assert lonely is not None
    for member in cluster.members:
        if member is not lonely:
            member.kill()
    register = EtcdRegister(
        EtcdClient(
            EtcdSettings(endpoints=(lonely.client_url,), deadline_s=2, request_timeout_s=0.5)
        ),
        "other/",
    )

    with pytest.raises(UnavailableError):
        await register.read("a")
    with pytest.raises(UnavailableError):
        await register.check()
    await register.close()
