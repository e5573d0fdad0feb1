"""The processes of a node's tasks: started, watched, resumed when they die, ended with the node.

A task is a process, exec'ed with the lock of its subject and nothing else of ours. This module
owns them all, in the node's event loop; the journal has what they do.

Invariants:

1. A process dies with its node: the kernel kills it, and the task is resumed by the next node.
2. A task whose process died is gone on with, sooner or later, until it has crashed
   `task_crashes_max` times in a row soon after its start; then it ends as failed, `interrupted`.
3. When `close` returns, no process of ours is left, and no task of ours is RUNNING.
4. A task that is cancelled is told so by signal, not when it next looks; whoever starts another on
   its subject meanwhile is kept waiting for up to GIVING_WAY_S, not refused at once.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.errors import ConflictError, HoldfastError, StateError, UnavailableError
from holdfast.model.ids import TaskId
from holdfast.ports import Clock
from holdfast.server.node_logs import node_log
from holdfast.tasks.history import PAGE_MAX
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task, TaskState
from holdfast.tasks.runner import Runner

SPAWN_S: Final = 30.0
"""How long a start waits for the event loop to have its process."""
GIVING_WAY_S: Final = 2.0
SETTLED_S: Final = 30.0
"""How long workers of a dead process may take to be gone."""
POLL_S: Final = 0.05
CALM_S: Final = 60.0
"""A process that lived so long did not crash at its start."""
BACKOFF_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0

_log = node_log("tasks")


class TaskObserver(Protocol):
    """Told of what becomes of tasks."""

    def count_ended(self, task: Task) -> None:
        """Count a task that ended."""

    def count_crash(self, process: str) -> None:
        """Count a process that died unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSurroundings:
    """What the processes of tasks are started with."""

    settings_text: str
    """The node's settings, as its task processes read them from their standard input."""
    journal: TaskJournal
    runner: Runner
    clock: Clock
    observer: TaskObserver
    is_ours: Callable[[Task], bool]
    """Say whether an unfinished task is this node's to go on with."""
    crashes_max: int
    stop_timeout_s: float
    why_not: Callable[[Task], str]
    """Say why a task cannot be gone on with; empty if it can."""


class TaskProcesses:
    """All task processes of one node. Made inside its running loop."""

    def __init__(self, surroundings: TaskSurroundings) -> None:
        self._in = surroundings
        self._loop = asyncio.get_running_loop()
        self._processes: dict[TaskId, asyncio.subprocess.Process] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._crashes: dict[TaskId, int] = {}
        self._is_closing = asyncio.Event()

    def start(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        *,
        idempotency_key: str | None,
    ) -> Task:
        """Start new work; blocking, not in the loop's thread. Raises as Runner.start."""
        clock = self._in.clock
        until_ns = clock.monotonic_ns() + int(GIVING_WAY_S * 1e9)
        while True:
            try:
                return self._in.runner.start(
                    kind, subject, request, self._spawn, idempotency_key=idempotency_key
                )
            except ConflictError as error:
                is_late = clock.monotonic_ns() >= until_ns
                if error.code != "busy" or is_late or not self._gives_way(subject):
                    raise
            clock.sleep(POLL_S)

    def cancel(self, task_id: TaskId) -> Task:
        """Ask a task to stop, and have its process do so now; blocking, not in the loop's thread.

        Raises:
            StateError: `task-finished`.
            NotFoundError: `no-task`.
        """
        task = self._in.journal.request_cancel(task_id)
        self._loop.call_soon_threadsafe(self._terminate, task_id)
        return task

    def _terminate(self, task_id: TaskId) -> None:
        process = self._processes.get(task_id)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    def _gives_way(self, subject: str) -> bool:
        """Say whether what is at work on a subject is about to stop, or has just ended."""
        unfinished = self._in.journal.find_unfinished(subject)
        return unfinished is None or unfinished.cancel_requested

    async def resume_unfinished(self) -> None:
        """Go on with what an earlier node left; what cannot be gone on with ends as failed."""
        await asyncio.to_thread(self._in.runner.settle)
        for task in await asyncio.to_thread(self._unfinished):
            self._keep(self._go_on(task.id, crashes=0, wait_s=0.0))

    async def close(self) -> None:
        """Tell all processes to stop, and see to it that they do."""
        self._is_closing.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if self._watches:
            _, left = await asyncio.wait(self._watches, timeout=self._in.stop_timeout_s)
            for process in self._processes.values():
                _log.warning("task process killed", pid=process.pid)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            if left:
                await asyncio.wait(left, timeout=SETTLED_S)

    def _unfinished(self) -> list[Task]:
        return [
            task
            for state in (TaskState.RUNNING, TaskState.PENDING, TaskState.INTERRUPTED)
            for task in self._in.journal.list_tasks(state=state, limit=PAGE_MAX).tasks
            if self._in.is_ours(task)
        ]

    def _spawn(self, task: Task, lock: int) -> None:
        # In the loop's thread: a process dies with the thread that forked it (PR_SET_PDEATHSIG).
        run_or_withdraw(lambda: self._exec(task, lock), self._loop, SPAWN_S)

    async def _exec(self, task: Task, lock: int) -> None:
        if self._is_closing.is_set():
            raise UnavailableError(
                "the node is about to stop", code="stopping", advice="ask again in a moment"
            )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.server.task_process",
            task.id,
            str(lock),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr.fileno(),
            pass_fds=(lock,),
            start_new_session=True,
        )
        self._processes[task.id] = process
        if self._is_closing.is_set():
            process.terminate()
        _log.info("task process started", task=task.id, kind=task.kind, attempt=task.attempt)
        self._keep(self._watch(task, process))

    def _keep(self, coroutine: Coroutine[object, object, None]) -> None:
        watch = self._loop.create_task(coroutine)
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def _watch(self, task: Task, process: asyncio.subprocess.Process) -> None:
        began_ns = self._in.clock.monotonic_ns()
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(self._in.settings_text.encode())
            await process.stdin.drain()
        process.stdin.close()
        code = await process.wait()
        del self._processes[task.id]
        ended = await self._settled(task.id)
        state = "unknown" if ended is None else ended.state.value
        _log.info("task process ended", task=task.id, code=code, state=state)
        if ended is not None and ended.is_ended:
            self._crashes.pop(task.id, None)
            self._in.observer.count_ended(ended)
            return
        if self._is_closing.is_set():
            return
        self._in.observer.count_crash("task")
        lived_s = (self._in.clock.monotonic_ns() - began_ns) / 1e9
        crashes = 1 if lived_s >= CALM_S else self._crashes.get(task.id, 0) + 1
        self._crashes[task.id] = crashes
        await self._go_on(task.id, crashes=crashes, wait_s=backoff_s(crashes))

    async def _settled(self, task_id: TaskId) -> Task | None:
        """Return a task once no process of it is left, recorded as what it is then."""
        for _ in range(int(SETTLED_S / POLL_S)):
            try:
                await asyncio.to_thread(self._in.runner.settle)
                task = await asyncio.to_thread(self._in.journal.get, task_id)
                if task.state is not TaskState.RUNNING:
                    return task
            except HoldfastError as error:
                _log.error("journal not read", task=task_id, error=error.message)
            await asyncio.sleep(POLL_S)
        return None

    async def _go_on(self, task_id: TaskId, *, crashes: int, wait_s: float) -> None:
        """Go on with a task, after a while; try until that is done or the task has ended."""
        while not await self._is_over(wait_s):
            task = await self._settled(task_id)
            if task is not None and task.is_ended:
                return
            if task is not None and await self._resumed(task, crashes):
                return
            crashes += 1
            wait_s = backoff_s(crashes)

    async def _is_over(self, wait_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_closing.wait(), wait_s)
        return self._is_closing.is_set()

    async def _resumed(self, task: Task, crashes: int) -> bool:
        why_not = self._in.why_not(task)
        if crashes >= self._in.crashes_max:
            why_not = f"its process died {crashes} times in a row"
        try:
            if why_not:
                problem = _interrupted(task, why_not).as_problem()
                ended = await asyncio.to_thread(self._in.runner.abandon, task.id, problem)
                self._in.observer.count_ended(ended)
                _log.warning("task abandoned", task=task.id, reason=why_not)
            else:
                await asyncio.to_thread(self._in.runner.resume, task.id, self._spawn)
        except StateError:
            return True  # It ended meanwhile, such as by being cancelled.
        except (HoldfastError, OSError) as error:
            _log.error("task not resumed", task=task.id, error=str(error))
            return False
        return True


def run_or_withdraw(
    start: Callable[[], Coroutine[object, object, None]],
    loop: asyncio.AbstractEventLoop,
    timeout_s: float,
) -> None:
    """Start a process in a loop of another thread, or see to it that it never will be.

    Who waits lets go of the lock after that, and a process started later would get whatever its
    number means by then.

    Raises:
        UnavailableError: `start-timeout`: the loop did not come to it in time.
    """
    begun: Future[None] = Future()

    async def unless_withdrawn() -> None:
        if begun.set_running_or_notify_cancel():
            await start()

    running = asyncio.run_coroutine_threadsafe(unless_withdrawn(), loop)
    try:
        running.result(timeout_s)
    except TimeoutError as error:
        if begun.cancel():
            raise UnavailableError(
                f"no process could be started within {timeout_s:g} s",
                code="start-timeout",
                advice="look what keeps this host so busy, then ask again",
            ) from error
        running.result()


def backoff_s(crashes: int) -> float:
    """Return how long to wait after so many crashes in a row."""
    return float(min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (min(crashes, 16) - 1)))


def _interrupted(task: Task, why: str) -> UnavailableError:
    return UnavailableError(
        f"{task.id} was interrupted and cannot be gone on with: {why}",
        code="interrupted",
        advice="what was copied stays; ask for the same work again",
        reason="interrupted",
    )
