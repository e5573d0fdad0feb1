"""A volume in an event loop: who waits for durability or room, and the helper threads.

The event thread owns the volume. Two helper threads run its jobs, one those that flush the log, one
checkpoints, so that a flush never queues behind a checkpoint. Front ends share this object.

Invariants:

1. A waiter is called exactly once, in the event thread.
2. Nobody is told of durability before the volume counts it, and a failed flush tells all waiters.
3. One flush answers everyone who asked before it began; at most one is under way.
4. From the soft watermark of the log on, `take_pause` slows those who write: few ever stall.
5. After every checkpoint everyone who waits for room tries again; after a failed one a tick later.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from holdfast.errors import HoldfastError, StorageFailedError
from holdfast.model.limits import KIB
from holdfast.ports import Clock
from holdfast.volumes import rules
from holdfast.volumes.counters import Counters
from holdfast.volumes.served import Job, ServedVolume

TICK_S: Final = 0.1
"""How often a volume that is not written to is asked whether it wants a checkpoint."""

ASK_BYTES: Final = 256 * KIB
"""How much is written between two such questions: asking costs as much as a small write."""

SINGLES_MIN: Final = 64

OnDurable = Callable[[HoldfastError | None], None]


class RunningVolume:
    """The engine of a volume, its helper threads and all who wait. Made inside the event loop."""

    def __init__(self, volume: ServedVolume, *, clock: Clock, counters: Counters) -> None:
        self.volume = volume
        self.counters = counters
        self.clock = clock
        self._pause_s = 0.0
        self.clients_count = 0
        """Connections of all front ends; each front end counts its own in and out."""
        self._loop = asyncio.get_running_loop()
        self._committer = ThreadPoolExecutor(1, "committer")
        self._checkpointer = ThreadPoolExecutor(1, "checkpointer")
        self._waiters: list[tuple[int, OnDurable]] = []
        self._room_waiters: list[Callable[[], None]] = []
        self._unasked_bytes = 0
        self._last_client: object = None
        self._singles_count = 0
        self._is_syncing = False
        self._is_checkpointing = False
        self._running_count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def sync(self, lsn: int, done: OnDurable, *, is_alone: bool = False) -> None:
        """Call `done` once everything up to `lsn` is durable, or with why it cannot be.

        Args:
            lsn: Not above the volume's last.
            done: Called at once if it is durable already, with why it may not be acknowledged.
            is_alone: Nobody else asks for anything now: flush here, a hop to a thread costs more.
        """
        if self.volume.durable_lsn >= lsn:
            done(self._refusal())
            return
        self._waiters.append((lsn, done))
        if not self._is_syncing:
            self._begin_sync(here=is_alone and not self._is_checkpointing)

    def _refusal(self) -> HoldfastError | None:
        """Return why even what is durable must not be acknowledged: fenced, poisoned, damaged."""
        try:
            self.volume.check_writable()
        except HoldfastError as error:
            return error
        return None

    def wait_for_room(self, retry: Callable[[], None]) -> None:
        """Call `retry` once after the next checkpoint; begin one if none is under way."""
        self._room_waiters.append(retry)
        if not self._is_checkpointing:
            self._begin_checkpoint()

    def written(self, size_bytes: int) -> None:
        """Take note of writes; from time to time ask the volume whether it wants a checkpoint."""
        self._unasked_bytes += size_bytes
        if self._unasked_bytes >= ASK_BYTES:
            self._ask_for_checkpoint()

    def _ask_for_checkpoint(self) -> None:
        self._unasked_bytes = 0
        self._pause_s = rules.pressure(self.volume.log_fraction).pause_s
        if not self._is_checkpointing and self.volume.wants_checkpoint():
            self._begin_checkpoint()

    def take_pause(self) -> float:
        """Return for how many seconds who has written should take nothing more, or 0.

        Once for each ASK_BYTES written, by whomever: a pause for each request would slow small
        ones, that come singly, a hundred times as much as large ones.
        """
        pause_s, self._pause_s = self._pause_s, 0.0
        return pause_s

    def is_alone(self, client: object, requests_count: int) -> bool:
        """Take note of requests that came together; return whether only this client asks, singly.

        Of many under way one may well come by itself: only after many that did is it how it asks.
        """
        if requests_count != 1 or client is not self._last_client:
            self._last_client, self._singles_count = client, 0
            return False
        self._singles_count += 1
        return self._singles_count > SINGLES_MIN

    @property
    def is_stalled(self) -> bool:
        """Whether someone waits for room."""
        return bool(self._room_waiters)

    def run(self, job: Job, finish: Callable[[HoldfastError | None], None]) -> None:
        """Run a job of another kind in the thread of checkpoints; `finish` in this one."""
        self._start(self._checkpointer, job, finish)

    async def close(self) -> None:
        """Wait for the jobs under way and end the threads; the volume stays open."""
        self._tick.cancel()
        await self._idle.wait()
        self._committer.shutdown()
        self._checkpointer.shutdown()

    def _on_tick(self) -> None:
        self._tick = self._loop.call_later(TICK_S, self._on_tick)
        self._ask_for_checkpoint()

    def _begin_sync(self, *, here: bool = False) -> None:
        try:
            job = self.volume.begin_sync()
        except HoldfastError as error:
            self._answer(error)
            return
        if job is None:
            self._answer(None)
            return
        self._is_syncing = True
        began_ns = self.clock.monotonic_ns()

        def finish(error: HoldfastError | None) -> None:
            self._synced(job, began_ns, error)

        if here:
            finish(_outcome(job))
        else:
            self._start(self._committer, job, finish)

    def _synced(self, job: Job, began_ns: int, error: HoldfastError | None) -> None:
        self._is_syncing = False
        self.counters.syncs_count += 1
        self.counters.sync_ns += self.clock.monotonic_ns() - began_ns
        try:
            self.volume.finish_sync(job, error)
        except HoldfastError as refused:
            error = refused
        self._answer(error)
        if self._waiters and not self._is_syncing:
            self._begin_sync()

    def _answer(self, error: HoldfastError | None) -> None:
        """Tell all waiters of an error; of success those whose writes are durable now."""
        durable_lsn = self.volume.durable_lsn
        waiters, self._waiters = self._waiters, []
        for lsn, done in waiters:
            if error is not None or lsn <= durable_lsn:
                done(error)
            else:
                self._waiters.append((lsn, done))

    def _begin_checkpoint(self) -> None:
        error: HoldfastError | None = None
        job: Job | None = None
        try:
            job = self.volume.begin_checkpoint()
        except HoldfastError as refused:
            error = refused
        if job is None or error is not None:
            # A volume that cannot make room says so when it is asked again.
            self._loop.call_later(TICK_S, self._wake_room_waiters)
            return
        self._is_checkpointing = True
        self._run_checkpoint(job, self.clock.monotonic_ns())
        # It goes on in the other half of the log: there is room at once.
        self._loop.call_soon(self._wake_room_waiters)

    def _run_checkpoint(self, job: Job, began_ns: int) -> None:
        def finish(error: HoldfastError | None) -> None:
            self._checkpointed(job, began_ns, error)

        self._start(self._checkpointer, job, finish)

    def _checkpointed(self, job: Job, began_ns: int, error: HoldfastError | None) -> None:
        following: Job | None = None
        try:
            following = self.volume.finish_checkpoint(job, error)
        except HoldfastError:
            pass  # The volume has taken note; whoever asks for anything is told.
        if following is not None:
            self._run_checkpoint(following, began_ns)
            return
        self._is_checkpointing = False
        if error is not None:
            # There is no more room than before; on a full medium asking at once would go on and on.
            self._loop.call_later(TICK_S, self._wake_room_waiters)
            return
        self.counters.checkpoints_count += 1
        self.counters.checkpoint_ns += self.clock.monotonic_ns() - began_ns
        self._wake_room_waiters()
        self._ask_for_checkpoint()

    def _wake_room_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for retry in waiters:
            retry()

    def _start(
        self,
        executor: ThreadPoolExecutor,
        job: Job,
        finish: Callable[[HoldfastError | None], None],
    ) -> None:
        self._running_count += 1
        self._idle.clear()

        def ended(future: "Future[HoldfastError | None]") -> None:
            self._loop.call_soon_threadsafe(self._ended, finish, future)

        executor.submit(_outcome, job).add_done_callback(ended)

    def _ended(
        self,
        finish: Callable[[HoldfastError | None], None],
        future: "Future[HoldfastError | None]",
    ) -> None:
        finish(future.result())
        self._running_count -= 1
        if self._running_count == 0:
            self._idle.set()


def _outcome(job: Job) -> HoldfastError | None:
    try:
        job.run()
    except HoldfastError as error:
        return error
    except Exception as error:  # noqa: BLE001 - outermost of a helper thread
        return StorageFailedError(
            f"a job of the volume broke: {error!r}",
            code="volume-job-broke",
            advice="restart 'holdfast volumes serve' and report this",
        )
    return None
