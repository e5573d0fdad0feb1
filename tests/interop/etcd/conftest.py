"""One real etcd for the folder, with a prefix of its own for each test."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.etcd import EtcdCluster


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"), 1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def prefix() -> str:
    """A prefix that nobody else uses."""
    return f"{uuid4().hex}/"
