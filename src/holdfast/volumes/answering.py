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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, assert_never

from holdfast.errors import (
    FencedError,
    HoldfastError,
    InvalidRequestError,
    StateError,
    UnavailableError,
)
from holdfast.model.limits import DAMAGE_REPORTED_MAX
from holdfast.volumes.control import (
    CancelExpand,
    CancelScrub,
    CommitExpand,
    DamagedRange,
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
from holdfast.volumes.engine.expansion import (
    cancel_expansion,
    commit_expansion,
    prepare_expansion,
)
from holdfast.volumes.engine.scrub import Scrub
from holdfast.volumes.engine.volume import Volume
from holdfast.volumes.model import BLOCK_BYTES, Damage, Role
from holdfast.volumes.nbd.server import NbdServer
from holdfast.volumes.running import RunningVolume

SCRUB_SHARE: Final = 0.2
"""Of the interpreter's time that a scrub takes while clients are there."""
EXPAND_S: Final = 20.0
"""Longest wait for a moment between two checkpoints."""
DAMAGE_DETAIL_CHARS: Final = 200


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
        self._progress = ScrubProgress()
        self._scrubbing: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> object:
        """Do what a request asks for and return the result."""
        match request:
            case GetStatus():
                pass
            case GetMetrics():
                return MetricsSnapshot(status=self._status(), counters=self._running.counters)
            case PrepareExpand(size_bytes=size_bytes):
                await self._expand(lambda v, epoch: prepare_expansion(v, size_bytes, epoch))
            case CommitExpand():
                await self._expand(commit_expansion)
            case CancelExpand():
                await self._expand(cancel_expansion)
            case StartScrub():
                return self._start_scrub()
            case GetScrub():
                return self._progress
            case CancelScrub():
                return await self._cancel_scrub()
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
        await self._cancel_scrub()
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
            checkpoint_age_ns=volume.checkpoint_age_ns,
            is_stalled=self._running.is_stalled,
            connections_count=sum(server.connections_count for server in self._servers),
            listening=self.listening,
            scrub=self._progress,
        )

    def _may_acknowledge(self) -> bool:
        try:
            self._volume.authority.check()
        except FencedError:
            return False
        return True

    async def _expand(self, act: Callable[[Volume, int], None]) -> None:
        """Take a step of an expansion, between two checkpoints, in the epoch in force."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def attempt() -> None:
            if ended.done():
                return
            try:
                act(self._volume, self._volume.authority.now.epoch)
            except HoldfastError as error:
                if error.code == "checkpoint-running":
                    self._running.wait_for_room(attempt)
                else:
                    ended.set_exception(error)
            else:
                ended.set_result(None)

        attempt()
        try:
            async with asyncio.timeout(EXPAND_S):
                await ended
        except TimeoutError as error:
            raise UnavailableError(
                "one checkpoint followed the other, and the volume could not be grown between them",
                code="checkpoint-running",
                advice="try again when less is written",
            ) from error

    def _start_scrub(self) -> ScrubProgress:
        if self._scrubbing is not None and not self._scrubbing.done():
            raise StateError(
                f"a scrub of {self._name} is running",
                code="scrub-running",
                advice="wait for its end, or cancel it",
            )
        total_bytes = self._volume.geometry.size_bytes
        self._progress = ScrubProgress(state="running", total_bytes=total_bytes)
        self._scrubbing = asyncio.create_task(self._run_scrub(Scrub(self._volume)))
        return self._progress

    async def _cancel_scrub(self) -> ScrubProgress:
        if self._scrubbing is not None and not self._scrubbing.done():
            self._scrubbing.cancel()
            await asyncio.gather(self._scrubbing, return_exceptions=True)
        return self._progress

    async def _run_scrub(self, scrub: Scrub) -> None:
        state, reason = "failed", "a defect, see the log"
        try:
            while not scrub.is_done:
                await self._take_step(scrub)
                self._progress = self._progress_of(scrub, "running")
            state, reason = "done", ""
        except asyncio.CancelledError:
            state, reason = "cancelled", ""
        except HoldfastError as error:
            state, reason = "failed", error.message
        finally:
            self._progress = replace(
                self._progress_of(scrub, state),
                ended_ns=self._running.clock.now_ns(),
                reason=reason,
            )

    async def _take_step(self, scrub: Scrub) -> None:
        """Take one step of a scrub; then leave the interpreter to whoever reads and writes."""
        clock = self._running.clock
        began_ns = clock.monotonic_ns()
        step = scrub.begin()
        ended: asyncio.Future[HoldfastError | None] = asyncio.get_running_loop().create_future()
        self._running.run(step, ended.set_result)
        # Even if cancelled: a step under way uses files that must not be closed meanwhile.
        scrub.finish(step, await asyncio.shield(ended))
        if self._running.clients_count:
            took_s = (clock.monotonic_ns() - began_ns) / 1e9
            await asyncio.sleep(took_s * (1 / SCRUB_SHARE - 1))

    def _progress_of(self, scrub: Scrub, state: str) -> ScrubProgress:
        geometry = self._volume.geometry
        damage = list(merge_damage(scrub.damage))
        return ScrubProgress(
            state=state,
            done_bytes=min(scrub.next_slot * geometry.slot_bytes, geometry.size_bytes),
            total_bytes=geometry.size_bytes,
            checked_bytes=scrub.scanned_bytes,
            damage=tuple(damage[:DAMAGE_REPORTED_MAX]),
            damaged_bytes=sum(found.end - found.start for found in damage),
        )

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


def merge_damage(found: Sequence[Damage]) -> Iterator[DamagedRange]:
    """Yield what was found in its order, neighbours in one place as one range."""
    current: DamagedRange | None = None
    for each in found:
        if current is not None and (current.place, current.end) == (each.place, each.start):
            current = replace(current, end=each.end)
            continue
        if current is not None:
            yield current
        what = each.detail[:DAMAGE_DETAIL_CHARS]
        current = DamagedRange(place=each.place, start=each.start, end=each.end, what=what)
    if current is not None:
        yield current
