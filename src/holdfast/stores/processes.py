"""Workers: one function over many items, in forked processes or, for little work, right here.

Processes are forked, not spawned: they start in milliseconds, share the open root and the lock
file of their task, and need nothing pickled but items and results. The caller forks before it
starts any thread. A worker dies with the process that forked it (PR_SET_PDEATHSIG), and while one
lives it holds the task's lock, so a new run never meets a worker of an old one.
"""

import contextlib
import gc
import os
import pickle
import signal
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from io import RawIOBase
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Final, Generic, NoReturn, TypeVar

from holdfast.errors import UnavailableError
from holdfast.stores.directories.linux import die_with_parent
from holdfast.stores.pace import SharedPace

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_IDLE_S = 0.1
STOP_S: Final = 5.0
_HEAD: Final = struct.Struct("=Qc")
_PAGE: Final = b"p"
_ERROR: Final = b"e"
_END: Final = b"."


class InlineWorkers(Generic[ItemT, ResultT]):
    """Workers in this process, one item at a time."""

    def __init__(self, function: Callable[[ItemT], ResultT]) -> None:
        self._function = function

    def run(self, items: Iterable[ItemT], on_idle: Callable[[], None]) -> Iterator[ResultT]:
        """See Workers."""
        for item in items:
            yield self._function(item)
            on_idle()


class ProcessWorkers(Generic[ItemT, ResultT]):
    """Workers in `jobs` forked processes that end when the run ends."""

    def __init__(
        self, function: Callable[[ItemT], ResultT], pace: SharedPace, *, jobs: int
    ) -> None:
        self._function = function
        self._pace = pace
        self._jobs = jobs

    def run(self, items: Iterable[ItemT], on_idle: Callable[[], None]) -> Iterator[ResultT]:
        """See Workers.

        When the consumer stops early, workers are stopped at their next block, or killed if they
        come to none in STOP_S: such as those that wait for a source which is away.
        """
        context = get_context("fork")
        slots = context.Value("i", 0)
        pool = ProcessPoolExecutor(
            self._jobs,
            mp_context=context,
            initializer=_become_worker,
            initargs=(self._function, self._pace, slots, os.getpid()),
        )
        pending: set[Future[ResultT]] = set()
        finished = False
        try:
            for item in items:
                pending.add(pool.submit(_run_one, item))
                while len(pending) > 2 * self._jobs:
                    yield from self._drain(pending, on_idle)
            while pending:
                yield from self._drain(pending, on_idle)
            finished = True
        except BrokenProcessPool as error:
            raise _killed() from error
        finally:
            late = threading.Timer(STOP_S, _kill, [list((pool._processes or {}).values())])
            if not finished:
                self._pace.stop()
                late.start()
            pool.shutdown(wait=True, cancel_futures=True)
            late.cancel()

    def _drain(
        self, pending: "set[Future[ResultT]]", on_idle: Callable[[], None]
    ) -> Iterator[ResultT]:
        done, _ = wait(pending, timeout=_IDLE_S, return_when=FIRST_COMPLETED)
        on_idle()
        for future in done:
            pending.discard(future)
            yield future.result()


def collect_seldom() -> None:
    """Look for cycles of garbage less often: what is made here by the million has none."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run_beside(pages: Iterator[bytes]) -> Iterator[bytes]:
    """See files.ahead.RunBeside."""
    reading, writing = os.pipe()
    parent_id = os.getpid()
    process = os.fork()
    if not process:
        _become_beside(pages, writing, parent_id)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            while True:
                head = pipe.read(_HEAD.size)
                size_bytes, kind = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, b"?")
                page = pipe.read(size_bytes)
                if kind == _END:
                    return
                if kind == _ERROR:
                    raise pickle.loads(page)
                if kind != _PAGE or len(page) < size_bytes:
                    raise _killed()
                yield page
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _become_beside(pages: Iterator[bytes], writing: int, parent_id: int) -> NoReturn:
    try:
        die_with_parent()
        if os.getppid() == parent_id:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.disable()
            with open(writing, "wb", buffering=0) as pipe:
                try:
                    for page in pages:
                        _write_all(pipe, _HEAD.pack(len(page), _PAGE) + page)
                    _write_all(pipe, _HEAD.pack(0, _END))
                except Exception as error:  # noqa: BLE001 the outermost loop here
                    told = pickle.dumps(error)
                    _write_all(pipe, _HEAD.pack(len(told), _ERROR) + told)
    finally:
        # Nothing that the parent would do at its end is to be done twice.
        os._exit(0)


def _write_all(pipe: RawIOBase, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        with contextlib.suppress(ValueError):
            process.kill()


def _killed() -> UnavailableError:
    return UnavailableError(
        "a worker process was killed from outside",
        code="worker-died",
        advice="look for the out-of-memory killer in the kernel log, then run it again",
    )


_installed: list[Callable[[Any], Any]] = []
"""In a worker: the one function it runs, inherited by fork instead of pickled with each item."""


def _become_worker(
    function: Callable[[Any], Any],
    pace: SharedPace,
    slots: "Synchronized[int]",
    parent_id: int,
) -> None:
    die_with_parent()
    if os.getppid() != parent_id:
        # It died before the kernel was asked; nobody would end this worker, which holds the lock.
        os._exit(1)
    # Ctrl-C goes to the whole group; the coordinator hears it and stops us between two blocks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Modes are given with each file made; short-lived values without cycles need no collector.
    os.umask(0)
    gc.disable()
    with slots.get_lock():
        slots.value += 1
        pace.use_slot(slots.value)
    _installed[:] = [function]


def _run_one(item: Any) -> Any:
    return _installed[0](item)
