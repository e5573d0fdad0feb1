"""Answers control requests for one running volume: status, growth, scrub, fence, flush, stop.

Lives in the data process, in its event thread, and so is the owner's voice: it calls the engine
directly and hands long work to the volume's helper threads.

Invariants:

1. An expansion is durable before it is answered, and visible only after its commit.
2. One scrub runs at a time, window by window: a checkpoint waits for one window at most.
3. Status and metrics never wait: they tell what the owner has at hand.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import assert_never

from holdfast.errors import FencedError, HoldfastError, InvalidRequestError, StateError
from holdfast.volumes.control import (
    CancelExpand,
    CancelScrub,
    CommitExpand,
    Flush,
    GetMetrics,
    GetScrub,
    GetStatus,
    MetricsSnapshot,
    PrepareExpand,
    Request,
    ScrubProgress,
    SetFence,
    StartScrub,
    Stop,
    VolumeStatus,
)
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import BLOCK_BYTES, Role
from holdfast.volumes.nbd.server import NbdServer
from holdfast.volumes.running import RunningVolume


class Answering:
    """What the control socket of a data process is answered by; made in its event loop.

    Args:
        name: Of the volume.
        servers: Its front ends, stopped by `close`.
        listening: Their URIs.
        used_bytes: Tells what the volume takes on its medium.
    """

    def __init__(
        self,
        name: str,
        volume: Volume,
        running: RunningVolume,
        *,
        servers: Sequence[NbdServer],
        listening: tuple[str, ...],
        used_bytes: Callable[[], int],
    ) -> None:
        self.stopped = asyncio.Event()
        """Set once the process is to end."""
        self.listening = listening
        self._name = name
        self._volume = volume
        self._running = running
        self._servers = servers
        self._used_bytes = used_bytes
        self._scrub = ScrubProgress()

    async def __call__(self, request: Request) -> object:
        """Do what a request asks for and return the result."""
        match request:
            case GetStatus():
                pass
            case GetMetrics():
                return MetricsSnapshot(status=self._status(), counters=self._running.counters)
            case PrepareExpand(size_bytes=size_bytes):
                self._volume.prepare_expand(size_bytes)
            case CommitExpand():
                self._volume.commit_expand()
            case CancelExpand():
                self._volume.cancel_expand()
            case StartScrub():
                pass
            case GetScrub():
                return self._scrub
            case CancelScrub():
                pass
            case SetFence():
                self._fence(request)
            case Flush():
                await self._flush()
            case Stop():
                self.stopped.set()
            case _ as never:
                assert_never(never)
        return self._status()

    async def close(self) -> None:
        """Stop the scrub and the front ends."""
        for server in self._servers:
            await server.stop()

    def _status(self) -> VolumeStatus:
        volume = self._volume
        fence = volume.authority.now
        geometry = volume.geometry
        return VolumeStatus(
            name=self._name,
            volume_id=volume.store.current.volume_id.hex(),
            pid=os.getpid(),
            state=volume.state,
            reason=volume.state_reason,
            size_bytes=geometry.size_bytes,
            prepared_size_bytes=volume.store.current.prepared_bytes,
            used_bytes=self._used_bytes(),
            block_bytes=geometry.block_bytes,
            role=fence.role.name.lower(),
            epoch=fence.epoch,
            may_acknowledge=self._may_acknowledge(),
            last_lsn=volume.last_lsn,
            durable_lsn=volume.durable_lsn,
            checkpoint_lsn=volume.log.checkpoint_lsn,
            log_size_bytes=2 * geometry.segment_bytes,
            log_used_bytes=volume.log.used + volume.log.frozen_used,
            dirty_bytes=_dirty_bytes(volume),
            checkpoint_age_ns=0,
            is_stalled=self._running.is_stalled,
            connections_count=sum(server.connections_count for server in self._servers),
            listening=self.listening,
            scrub=self._scrub,
        )

    def _may_acknowledge(self) -> bool:
        try:
            self._volume.check_fence()
        except FencedError:
            return False
        return True

    def _fence(self, request: SetFence) -> None:
        try:
            role = Role[request.role.upper()]
        except KeyError as error:
            raise InvalidRequestError(
                f"{request.role!r} is no role",
                code="bad-role",
                advice=f"take one of {', '.join(role.name.lower() for role in Role)}",
            ) from error
        lease_end_ns = None
        if request.lease_ms is not None:
            lease_end_ns = self._running.clock.monotonic_ns() + request.lease_ms * 1_000_000
        self._volume.fence(request.epoch, role, lease_end_ns)

    async def _flush(self) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(error: HoldfastError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._running.sync(self._volume.last_lsn, told)
        await done


def _dirty_bytes(volume: Volume) -> int:
    """Return how much data is not in its place yet, at most: blocks written twice count twice."""
    slot_bytes = volume.geometry.slot_bytes
    return sum(
        (layer.weight - layer.placed_count) * BLOCK_BYTES + layer.placed_count * slot_bytes
        for layer in volume.maps.layers()
    )
