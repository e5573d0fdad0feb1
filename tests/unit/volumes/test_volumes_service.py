"""Goal: one volume that does not answer, or goes away, keeps nobody from seeing the others.

Method: the use cases over a real catalog; in the place of data processes sockets that take a
connection and close it, and a supervisor whose processes are the test's. Invariants of
volumes/service.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.errors import ConflictError, UnavailableError
from holdfast.model.ids import VolumeName, parse_volume_name
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.volumes.catalog import Catalog
from holdfast.volumes.health import HealthWord
from holdfast.volumes.local_socket import bind_local
from holdfast.volumes.model import Preset
from holdfast.volumes.service import StoredSize, Surroundings, Volumes
from holdfast.volumes.supervision import DataProcess, ServeRequest, Supervisor

pytestmark = pytest.mark.anyio
GOOD, MUTE = parse_volume_name("good"), parse_volume_name("mute")


class Store:
    """Volumes without files."""

    def create(self, directory: Path, size_bytes: int, preset: Preset) -> None:
        """See VolumeStore."""

    def size(self, directory: Path) -> StoredSize:
        """See VolumeStore."""
        return StoredSize(size_bytes=1 << 20, used_bytes=4096)


class VanishingCatalog(Catalog):
    """Names a volume that is removed before it is looked at."""

    def names(self) -> list[VolumeName]:
        """See Catalog."""
        return [*super().names(), parse_volume_name("removed")]


class Process:
    """A data process that has ended, and is to be started again."""

    pid = 1
    listening: tuple[str, ...] = ()
    listen: tuple[tuple[str, int], ...] = ()

    async def wait(self) -> str:
        """See DataProcess."""
        await asyncio.sleep(3600)
        return ""

    def reload(self) -> None:
        """See DataProcess."""

    async def stop(self) -> None:
        """See DataProcess."""


async def start(request: ServeRequest) -> DataProcess:
    return Process()


async def start_nothing(request: ServeRequest) -> DataProcess:
    raise UnavailableError("nothing starts here", code="x")


@contextlib.asynccontextmanager
async def hanging_up(path: Path) -> AsyncIterator[None]:
    """Listen at a control socket, and close every connection at once."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, sock=bind_local(path, for_others=False))
    async with server:
        yield


def volumes_in(catalog: Catalog) -> Volumes:
    return Volumes(
        Surroundings(
            catalog=catalog,
            store=Store(),
            supervisor=Supervisor(start, SystemClock()),
            start_offline=start_nothing,
        )
    )


async def test_volume_whose_process_does_not_answer_hides_no_other(tmp_path: Path) -> None:
    """Invariant 3; nor does one that was removed meanwhile. The metrics are there too."""
    catalog = VanishingCatalog(tmp_path, SystemClock(), SystemEntropy())
    volumes = volumes_in(catalog)
    for name in (GOOD, MUTE):
        await volumes.create(name, 1 << 20, "general")

    async with hanging_up(catalog.find(MUTE).control_socket):
        views = await volumes.views()
        told = await volumes.exposition()

    assert [view.name for view in views] == [GOOD, MUTE]
    assert [view.health.word for view in views] == [HealthWord.DOWN, HealthWord.DOWN]
    assert "did not answer" in views[1].health.reason
    assert b'volume="mute",word="down"} 1.0' in told


async def test_volume_that_is_to_be_served_is_not_removed(tmp_path: Path) -> None:
    """Between the end of its process and the next start its lock is free."""
    volumes = volumes_in(Catalog(tmp_path, SystemClock(), SystemEntropy()))
    await volumes.create(GOOD, 1 << 20, "general")
    await volumes.serve(ServeRequest(name=GOOD))

    with pytest.raises(ConflictError) as raised:
        await volumes.remove(GOOD)

    assert raised.value.code == "volume-in-use"
    await volumes.stop(GOOD)
    await volumes.remove(GOOD)
    assert await volumes.views() == []
