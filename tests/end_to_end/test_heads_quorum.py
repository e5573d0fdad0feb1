"""Goal: a client of three real services goes on with one of them dead or wiped, and says when not.

Method: three processes with registers of their own in front of one store; one is killed, one is
started again on an empty register.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.client.heads import HeadName, HeadsClient
from holdfast.client.quorum import QuorumClient
from holdfast.errors import UnavailableError
from holdfast.testing.clock import SimEntropy
from tests.support.heads import ServiceProcess, StoreProcess, running_service, running_store

Act = Callable[[QuorumClient, HeadName], Awaitable[object]]


def _components(value: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in value.split())


class World:
    def __init__(self, directory: Path, store: StoreProcess, stack: ExitStack) -> None:
        self._directory = directory
        self._store = store
        self._stack = stack
        self.name = HeadName(storage_url=store.put("/v1/a/c/o", b"0 0"), token="owner")
        self.services = [self._start(number) for number in range(3)]
        self.draws = 0

    def wipe(self, number: int) -> None:
        self.services[number].stop(9)
        shutil.rmtree(self._directory / str(number) / "db")
        self.services[number] = self._start(number)

    def act(self, act: Act, *, is_growing: bool) -> object:
        self.draws += 1

        async def scenario() -> object:
            clients = [HeadsClient(service.url, timeout_s=5) for service in self.services]
            quorum = QuorumClient(
                clients,
                SimEntropy(self.draws),
                components_of=_components if is_growing else None,
            )
            try:
                async with asyncio.timeout(20):
                    return await act(quorum, self.name)
            finally:
                await quorum.finish()
                for client in clients:
                    await client.close()

        return asyncio.run(scenario())

    def _start(self, number: int) -> ServiceProcess:
        return self._stack.enter_context(
            running_service(
                self._directory / str(number), f"ICKPT.StoreEndpoints={self._store.url}/v1/"
            )
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running_store() as store, ExitStack() as stack:
        yield World(tmp_path, store, stack)


def _write(value: bytes) -> Act:
    return lambda quorum, name: quorum.write(name, value)


def _read(quorum: QuorumClient, name: HeadName) -> Awaitable[object]:
    return quorum.read(name)


@pytest.mark.parametrize("is_growing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_dead_service_holds_up_neither_reads_nor_writes(world: World, is_growing: bool) -> None:
    world.act(_write(b"1 1"), is_growing=is_growing)
    world.services[1].stop(9)
    world.act(_write(b"2 2"), is_growing=is_growing)

    assert world.act(_read, is_growing=is_growing) == b"2 2"
    world.services[2].stop(9)
    with pytest.raises(UnavailableError, match="heads-unreachable"):
        world.act(_read, is_growing=is_growing)
    with pytest.raises(UnavailableError):
        world.act(_write(b"3 3"), is_growing=is_growing)


def test_wiped_service_does_not_bring_back_the_store_copy(world: World) -> None:
    world.act(_write(b"1 1"), is_growing=True)
    world.wipe(0)

    assert world.act(_read, is_growing=True) == b"1 1"
    world.wipe(1)
    with pytest.raises(UnavailableError):
        world.act(_read, is_growing=True)
    world.act(_write(b"2 2"), is_growing=True)
    assert world.act(_read, is_growing=True) == b"2 2"
