"""The registers every contract of the port runs on, each made empty."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast.ports import Register
from holdfast.stores.registers.etcd import EtcdRegister
from holdfast.stores.registers.etcd_client import EtcdClient, EtcdSettings
from holdfast.stores.registers.sqlite import SqliteRegister
from holdfast.testing.register import SimRegister
from tests.support.etcd import EtcdCluster

KINDS = ("sim", "sqlite", "etcd")


@pytest.fixture(scope="session")
def etcd_endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """One real etcd for the session."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"), 1)
    try:
        cluster.start()
        yield cluster.endpoints
    finally:
        cluster.kill()


@pytest.fixture(params=KINDS)
async def register(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Register]:
    """One implementation of the port, empty."""
    made = open_register(request.param, request, tmp_path)
    yield made
    await made.close()


def open_register(kind: str, request: pytest.FixtureRequest, directory: Path) -> Register:
    """Make an empty register of one kind."""
    match kind:
        case "sim":
            return SimRegister()
        case "sqlite":
            return SqliteRegister(directory / "heads.db")
        case _:
            endpoints = request.getfixturevalue("etcd_endpoints")
            client = EtcdClient(EtcdSettings(endpoints=endpoints))
            return EtcdRegister(client, prefix=f"{uuid4().hex}/")
