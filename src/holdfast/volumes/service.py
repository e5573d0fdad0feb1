"""Use cases of volumes: create, list, show, serve, grow, scrub, remove, metrics.

What a volume holds is touched by its data process alone. A served volume is asked over its control
socket, whoever serves it; for one that is not, a process is started that answers only control, and
stopped again. So there is one way to grow or scrub, and no second writer.

Invariants:

1. Growing is prepared, then committed; a failure between the two leaves the old size.
2. A volume is removed only while no process has it open.
3. Listing never fails because of one volume: what cannot be told of it is in its view.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from holdfast.errors import (
    CancelledError,
    ConflictError,
    HoldfastError,
    NotFoundError,
    StateError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.model.ids import VolumeName, parse_volume_name
from holdfast.volumes.catalog import Catalog, Place
from holdfast.volumes.control import MetricsSnapshot, ScrubProgress, VolumeStatus
from holdfast.volumes.control_client import ControlClient
from holdfast.volumes.health import DOWN, Health, HealthWord, health_of
from holdfast.volumes.metrics import exposition
from holdfast.volumes.model import Preset
from holdfast.volumes.rules import parse_preset
from holdfast.volumes.supervision import DataProcess, ServeRequest, StartProcess, Supervisor

DEFAULT_PRESET: Final = "general"
SCRUB_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    """What there is to say of a volume."""

    name: VolumeName
    preset: str
    created_ns: int
    size_bytes: int
    used_bytes: int
    health: Health
    status: VolumeStatus | None
    """None if no process serves it."""
    is_kept: bool
    """Whether this process is to keep it served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSize:
    """What the files of a volume that is not served say."""

    size_bytes: int
    used_bytes: int


class VolumeStore(Protocol):
    """Volumes as files, as the composition root opens them."""

    def create(self, directory: Path, size_bytes: int, preset: Preset) -> None:
        """Make and flush the files of a volume; blocks."""
        ...

    def size(self, directory: Path) -> StoredSize:
        """Read sizes without opening the volume; IntegrityError if it cannot be told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the use cases need of the world."""

    catalog: Catalog
    store: VolumeStore
    supervisor: Supervisor
    start_offline: StartProcess
    """Starts a process that answers only control."""


class Volumes:
    """The volumes of one state directory."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def create(self, name: str, size_bytes: int, preset_name: str) -> VolumeView:
        """Make a volume; when this returns it survives loss of power."""
        around = self._around
        checked = parse_volume_name(name)
        preset = parse_preset(preset_name)
        await asyncio.to_thread(
            around.catalog.create,
            checked,
            preset.name,
            lambda staged: around.store.create(staged, size_bytes, preset),
        )
        return await self.show(checked)

    async def views(self) -> list[VolumeView]:
        """Return all volumes, in the order of their names."""
        found = []
        for name in self._around.catalog.names():
            with contextlib.suppress(NotFoundError):  # It was removed meanwhile.
                found.append(await self.show(name))
        return found

    async def show(self, name: str) -> VolumeView:
        """Return one volume, or raise NotFoundError (`no-volume`)."""
        place = self._find(name)
        status, health = await self._told(place)
        try:
            entry = self._around.catalog.entry(place)
            stored = self._stored(place, status)
            preset, created_ns = entry.preset, entry.created_ns
        except HoldfastError as error:
            preset, created_ns, stored = "", 0, StoredSize(size_bytes=0, used_bytes=0)
            health = Health(word=HealthWord.DAMAGED, lost_bytes=0, reason=error.message)
        return VolumeView(
            name=place.name,
            preset=preset,
            created_ns=created_ns,
            size_bytes=stored.size_bytes,
            used_bytes=stored.used_bytes,
            health=health,
            status=status,
            is_kept=place.name in self._around.supervisor.names(),
        )

    async def serve(self, request: ServeRequest) -> DataProcess:
        """Have a volume served until stopped; its process is started again if it ends."""
        self._find(request.name)
        return await self._around.supervisor.serve(request)

    async def stop(self, name: str) -> None:
        """Stop serving a volume that this process serves."""
        await self._around.supervisor.stop(self._find(name).name)

    async def stop_all(self) -> None:
        """Stop serving all volumes that this process serves."""
        await self._around.supervisor.stop_all()

    def reload_certificates(self) -> None:
        """Have the volumes that this process serves load their certificates anew."""
        self._around.supervisor.reload_all()

    async def grow(self, name: str, size_bytes: int) -> VolumeView:
        """Make a volume greater, served or not; when this returns it survives loss of power."""
        place = self._find(name)
        async with self.asking(name) as client:
            await client.prepare_expand(size_bytes)
            try:
                await client.commit_expand()
            except HoldfastError:
                with contextlib.suppress(HoldfastError):
                    await client.cancel_expand()
                raise
        return await self.show(place.name)

    async def start_scrub(self, name: str) -> ScrubProgress:
        """Begin to read a served volume back; StateError (`scrub-running`) if one runs."""
        async with self._served(name) as client:
            return await client.start_scrub()

    async def scrub(self, name: str) -> ScrubProgress:
        """Return how far the last scrub of a served volume is."""
        async with self._served(name) as client:
            return await client.scrub()

    async def cancel_scrub(self, name: str) -> ScrubProgress:
        """Stop the scrub of a served volume."""
        async with self._served(name) as client:
            return await client.cancel_scrub()

    async def scrub_whole(self, name: str, tell: Callable[[ScrubProgress], None]) -> ScrubProgress:
        """Read a volume back, served or not, and return what was found; stopped if this is.

        Raises:
            StorageFailedError: It could not be read to its end (`scrub-failed`).
            CancelledError: Somebody else stopped it.
        """
        async with self.asking(name) as client:
            progress = await client.start_scrub()
            try:
                while progress.state == "running":
                    tell(progress)
                    await asyncio.sleep(SCRUB_POLL_S)
                    progress = await client.scrub()
            except asyncio.CancelledError:
                await client.cancel_scrub()
                raise
        if progress.state == "failed":
            raise StorageFailedError(
                f"the scrub of {name} did not get to its end: {progress.reason}",
                code="scrub-failed",
                advice="look for errors of the medium in the kernel's log",
            )
        if progress.state == "cancelled":
            raise CancelledError(f"the scrub of {name} was stopped", code="cancelled")
        return progress

    async def remove(self, name: str) -> None:
        """Remove a volume and all it holds; ConflictError (`volume-in-use`) while it is served."""
        place = self._find(name)
        if place.name in self._around.supervisor.names():
            # Also while its process is being started again, and nobody holds the lock.
            raise ConflictError(
                f"the volume {place.name} is being served",
                code="volume-in-use",
                advice="stop serving it first",
                volume=place.name,
            )
        await asyncio.to_thread(self._around.catalog.remove, place.name)

    async def exposition(self, names: list[VolumeName] | None = None) -> bytes:
        """Return the metrics of these volumes, or of all, as Prometheus reads them."""
        wanted = self._around.catalog.names() if names is None else names
        return exposition({name: await self._snapshot(name) for name in wanted})

    @contextlib.asynccontextmanager
    async def asking(self, name: str) -> AsyncIterator[ControlClient]:
        """Yield a connection to the process of a volume, started for that if it has none."""
        place = self._find(name)
        async with contextlib.AsyncExitStack() as held:
            client = await _connect(place)
            if client is None:
                process = await self._around.start_offline(ServeRequest(name=place.name))
                held.push_async_callback(process.stop)
                client = await ControlClient.connect(place.control_socket)
            yield await held.enter_async_context(client)

    @contextlib.asynccontextmanager
    async def _served(self, name: str) -> AsyncIterator[ControlClient]:
        place = self._find(name)
        client = await _connect(place)
        if client is None:
            raise StateError(
                f"the volume {place.name} is not served",
                code="volume-not-served",
                advice="serve it first",
                volume=place.name,
            )
        async with client:
            yield client

    async def _told(self, place: Place) -> tuple[VolumeStatus | None, Health]:
        """Return what the process of a volume says, None if it says nothing, and its health."""
        client = await _connect(place)
        if client is None:
            return None, DOWN
        try:
            async with client:
                status = await client.status()
            return status, health_of(status)
        except HoldfastError as error:
            return None, Health(word=HealthWord.DOWN, lost_bytes=0, reason=error.message)

    async def _snapshot(self, name: VolumeName) -> MetricsSnapshot | None:
        with contextlib.suppress(HoldfastError):
            client = await _connect(self._find(name))
            if client is not None:
                async with client:
                    return await client.metrics()
        return None

    def _stored(self, place: Place, status: VolumeStatus | None) -> StoredSize:
        if status is None:
            return self._around.store.size(place.directory)
        return StoredSize(size_bytes=status.size_bytes, used_bytes=status.used_bytes)

    def _find(self, name: str) -> Place:
        return self._around.catalog.find(parse_volume_name(name))


async def _connect(place: Place) -> ControlClient | None:
    """Return a connection to the volume's process; None if it has none."""
    try:
        return await ControlClient.connect(place.control_socket)
    except UnavailableError:
        return None
