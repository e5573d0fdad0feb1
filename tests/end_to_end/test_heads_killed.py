"""Goal: over HTTP, heads are linearizable while the service, or etcd below it, is killed.

Method: clients read, and move heads from what they read (If-Match), with unique values; a lost
answer is cleared up by X-Transaction-Id or stays unknown. Servers are killed with -9 at random
moments and started again. The history goes through the checker.
"""

import asyncio
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from holdfast.testing.linearizability import find_violation
from tests.support.etcd import EtcdCluster, free_ports
from tests.support.heads import ServiceProcess, running_store, start_service
from tests.support.heads_clients import Clients

CLIENTS = 8
KEYS = 3


class Services:
    """Instances of the service on fixed ports, killed and started again."""

    def __init__(self, directory: Path, count: int, *lines: str) -> None:
        self._directory = directory
        self._confs = []
        self.urls = []
        for number, port in enumerate(free_ports(count)):
            conf = directory / f"{number}.conf"
            conf.write_text("\n".join(["[ICKPT]", f"Port: {port}", "AdminPort: 0", *lines]) + "\n")
            self._confs.append(conf)
            self.urls.append(f"http://127.0.0.1:{port}")
        self._running = [start_service(directory, conf) for conf in self._confs]

    async def kill_and_restart(self, number: int) -> None:
        """Kill one at once, and start it again."""
        self._running[number].stop(signal.SIGKILL)
        self._running[number] = await asyncio.to_thread(self._start, number)

    def stop(self) -> None:
        """Kill all."""
        for service in self._running:
            service.stop(signal.SIGKILL)

    def _start(self, number: int) -> ServiceProcess:
        return start_service(self._directory, self._confs[number])


async def _play(
    services: Services, store_url: str, seed: int, trouble: Sequence[Callable[[], object]]
) -> Clients:
    chance = random.Random(seed)
    clients = Clients(
        services=services.urls,
        storage_urls=[f"{store_url}/v1/any/{number}" for number in range(KEYS)],
        chance=chance,
    )
    running = asyncio.create_task(clients.run(CLIENTS))
    for strike in trouble:
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        struck = strike()
        if asyncio.iscoroutine(struck):
            await struck
    await asyncio.sleep(1)
    clients.is_over = True
    await running
    return clients


def _judge(clients: Clients, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(clients.operations)} operations: {clients.counts}")
    assert find_violation(clients.operations) is None
    assert clients.counts.get("commits", 0) > 50


@pytest.mark.slow
def test_service_on_sqlite_killed_again_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_store() as store:
        services = Services(
            tmp_path, 1, f"DataBasePath: {tmp_path}/db", f"StoreEndpoints: {store.url}/"
        )
        try:
            trouble = [lambda: services.kill_and_restart(0)] * 6
            clients = asyncio.run(_play(services, store.url, 1, trouble))
        finally:
            services.stop()

    _judge(clients, capsys)


@pytest.mark.slow
def test_two_services_over_three_etcd_members_with_both_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = EtcdCluster(tmp_path / "etcd", 3)
    try:
        cluster.start()
        with running_store() as store:
            services = Services(
                tmp_path,
                2,
                f"EtcdEndpoints: {', '.join(cluster.endpoints)}",
                f"StoreEndpoints: {store.url}/",
            )
            try:
                clients = asyncio.run(_play(services, store.url, 2, _trouble(services, cluster)))
            finally:
                services.stop()
    finally:
        cluster.kill()

    _judge(clients, capsys)


def _trouble(services: Services, cluster: EtcdCluster) -> list[Callable[[], object]]:
    def kill_leader() -> None:
        leader = cluster.leader() or cluster.members[0]
        leader.kill()
        leader.start()

    return [
        lambda: services.kill_and_restart(0),
        kill_leader,
        lambda: services.kill_and_restart(1),
        kill_leader,
        lambda: services.kill_and_restart(0),
    ]
