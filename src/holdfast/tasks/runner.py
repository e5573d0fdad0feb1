"""Runs one piece of long work in this process, under a lock that dies with the process.

Who owns a subject is decided by an exclusive flock on `locks/<sha256 of the subject>.lock`, never
by what the journal says: a journal outlives its writer, a lock does not. Lock files stay (removing
one would let two processes lock two files of the same name) and are empty.

Order of writes, and why it may be cut off after each:
    1. The lock is taken. Cut off here, the kernel frees it and nothing was written.
    2. One transaction ends what the last owner left, and writes this task as RUNNING. Cut off
       before, all is as it was; after, the row is RUNNING without an owner, which step 2 of the
       next run, or `settle`, sees by holding the lock, and records as INTERRUPTED.
    3. The work runs. Its stages, events and progress are a transaction each; what was not yet
       written is done again by the next attempt, so work must be able to find its own results.
    4. One transaction records the outcome. Cut off before, the next attempt finds all done; after,
       the task has ended and only the lock is left, as in 1.
    5. The descriptor is closed, without unlocking: a forked worker that still lives shares the
       lock, and no other run may begin before it is gone. (A worker that is exec'ed does not.)

Invariants:
    1. Of any number of runs on one subject at one time, one works; the others get `busy`.
    2. A task that was RUNNING when its process died is INTERRUPTED, never lost, never COMPLETED.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from holdfast.errors import CancelledError, HoldfastError, StorageFailedError
from holdfast.ports import Clock
from holdfast.tasks.journal import TaskJournal, busy
from holdfast.tasks.model import Progress, Task, TaskState, encode_json
from holdfast.tasks.rules import Sample, add_sample, estimate_eta, estimate_rate

PERSIST_NS: Final = 1_000_000_000
"""Progress is written, and a wish to cancel seen, once in this time."""
LISTEN_NS: Final = 100_000_000
"""Progress is shown once in this time."""

Listener = Callable[[Task], None]
"""Called in the thread of the work: when it begins, on every stage, and as it goes on."""


class TaskContext:
    """What work sees of its task. Owned by the one thread that does the work; not for forks."""

    def __init__(self, task: Task, journal: TaskJournal, clock: Clock, listener: Listener) -> None:
        self._task = task
        self._journal = journal
        self._clock = clock
        self._listener = listener
        self._samples: tuple[Sample, ...] = ()
        # What was told and not yet looked at: a call that nobody sees costs next to nothing.
        self._told: tuple[int, int | None, int, int | None] | None = None
        self._persisted_ns: int | None = None
        self._listened_ns: int | None = None
        self._on_rate: Callable[[float | None], None] = lambda _rate: None

    @property
    def task(self) -> Task:
        """The task as last known here, with the progress told last."""
        if self._told is not None:
            self._task = replace(self._task, progress=self._measure(*self._told))
            self._told = None
        return self._task

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier attempt may have left results."""
        return self._task.attempt > 1

    def enter(self, stage: str) -> None:
        """Record that a stage begins; its progress and rate count from nothing."""
        self._task = replace(self._journal.enter_stage(self._task.id, stage), progress=Progress())
        self._samples = ()
        self._told = self._persisted_ns = self._listened_ns = None
        self._listener(self._task)

    def follow_rate(self, on_rate: Callable[[float | None], None]) -> None:
        """Have `on_rate` called with the limit somebody asks for while the task runs."""
        self._on_rate = on_rate

    def event(self, name: str, /, **data: object) -> None:
        """Record something that happened; `name` is in the past tense."""
        self._journal.append_event(self._task.id, name, data)

    def progress(
        self,
        *,
        entries_done: int,
        bytes_done: int,
        entries_total: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        """Tell how far this stage is. Cheap: call it as often as there is something to tell.

        Raises:
            CancelledError: Someone asked for the task to stop; seen at most PERSIST_NS late.
        """
        self._told = (entries_done, entries_total, bytes_done, bytes_total)
        now_ns = self._clock.monotonic_ns()
        if self._listened_ns is not None and now_ns - self._listened_ns < LISTEN_NS:
            return
        self._listened_ns = now_ns
        self._listener(self.task)
        if self._persisted_ns is None or now_ns - self._persisted_ns >= PERSIST_NS:
            self._persisted_ns = now_ns
            self._task = self._journal.record_progress(self._task.id, self._task.progress)
            if self._task.rate_requested is not None:
                self._on_rate(self._task.rate_requested or None)
            if self._task.cancel_requested:
                raise CancelledError(
                    f"{self._task.id} was cancelled",
                    code="cancelled",
                    advice="what was done stays; run the same command to go on from there",
                )

    def _measure(
        self, entries_done: int, entries_total: int | None, bytes_done: int, bytes_total: int | None
    ) -> Progress:
        sample = Sample(self._clock.monotonic_ns(), bytes_done)
        self._samples = add_sample(self._samples, sample)
        rate = estimate_rate(self._samples)
        return Progress(
            entries_done=entries_done,
            entries_total=entries_total,
            bytes_done=bytes_done,
            bytes_total=bytes_total,
            rate_bytes_per_s=rate,
            eta_s=estimate_eta(
                bytes_done=bytes_done, bytes_total=bytes_total, rate_bytes_per_s=rate
            ),
        )


Work = Callable[[TaskContext], Mapping[str, object]]


def _ignore(_: Task) -> None:
    pass


class Runner:
    """Runs work under the locks of one state directory. Threads may share it."""

    def __init__(self, journal: TaskJournal, locks_directory: Path, clock: Clock) -> None:
        self._journal = journal
        self._locks_directory = locks_directory
        self._clock = clock

    def run(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        work: Work,
        *,
        idempotency_key: str | None = None,
        listener: Listener = _ignore,
    ) -> Task:
        """Do the work and return its ended task; go on with it if it was interrupted before.

        With a key whose task has ended, that task is returned as it ended and nothing is done.

        Raises:
            ConflictError: `busy`, naming the task at work; `idempotency-key-reused`.
            CancelledError: It stopped on request; the task is CANCELLED if the journal was asked,
                else INTERRUPTED.
            Whatever the work raises: the task is FAILED if that is an Exception, else (Ctrl-C)
                INTERRUPTED.
        """
        if idempotency_key is not None:
            known = self._journal.find_by_key(kind, subject, request, idempotency_key)
            if known is not None and known.is_ended:
                return known
        with self._exclusive(subject) as is_held:
            if not is_held:
                raise self._busy(subject)
            task = self._journal.admit(kind, subject, request, idempotency_key=idempotency_key)
            if task.is_ended:
                return task
            return self._work(
                TaskContext(task, self._journal, self._clock, listener), work, listener
            )

    def settle(self) -> tuple[Task, ...]:
        """Record every task whose process died as INTERRUPTED, or CANCELLED if that was asked.

        For the moments when tasks are shown: a run does this itself for its own subject. A run
        that begins on such a subject in the same instant may get `busy`.
        """
        settled: list[Task] = []
        cursor = None
        while True:
            page = self._journal.list_tasks(state=TaskState.RUNNING, cursor=cursor)
            for task in page.tasks:
                with self._exclusive(task.subject) as is_held:
                    if is_held and self._journal.get(task.id).state is TaskState.RUNNING:
                        settled.append(self._journal.stop(task.id))
            cursor = page.cursor_next
            if cursor is None:
                return tuple(settled)

    def _work(self, context: TaskContext, work: Work, listener: Listener) -> Task:
        task_id = context.task.id
        try:
            listener(context.task)
            result = work(context)
            encode_json(result, what="result")
        except CancelledError as error:
            self._record(error, lambda: self._journal.stop(task_id, context.task.progress))
            raise
        except Exception as error:
            problem = _problem_of(error)
            self._record(error, lambda: self._journal.fail(task_id, problem, context.task.progress))
            raise
        except BaseException as error:
            # Ctrl-C, SystemExit: the process is told to go; the work itself is not at fault.
            self._record(error, lambda: self._journal.stop(task_id, context.task.progress))
            raise
        return self._journal.complete(task_id, result, context.task.progress)

    def _record(self, error: BaseException, write: Callable[[], Task]) -> None:
        """Write the outcome; why the work stopped matters more than a journal that refuses."""
        try:
            write()
        except HoldfastError as refusal:
            # The row stays RUNNING and the lock goes: the next run takes it for interrupted.
            error.add_note(f"and the task journal could not record it: {refusal.message}")

    def _busy(self, subject: str) -> HoldfastError:
        unfinished = self._journal.find_unfinished(subject)
        is_running = unfinished is not None and unfinished.state is TaskState.RUNNING
        return busy(subject, unfinished.id if unfinished and is_running else None)

    @contextmanager
    def _exclusive(self, subject: str) -> Iterator[bool]:
        """Try to hold the subject, without waiting; say whether it is held."""
        name = hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest() + ".lock"
        path = self._locks_directory / name
        try:
            self._locks_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _lock_failed(path, error) from error
        try:
            yield _lock(descriptor, path)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _lock_failed(path, error) from error
    return True


def _lock_failed(path: Path, error: OSError) -> StorageFailedError:
    return StorageFailedError(
        f"the lock {path} cannot be taken: {error.strerror}",
        code="lock-failed",
        advice="name a state directory on a local disk that this user may write",
    )


def _problem_of(error: Exception) -> dict[str, object]:
    if isinstance(error, HoldfastError):
        return error.as_problem()
    return {
        "kind": "internal",
        "code": "internal",
        "message": f"{type(error).__name__}: {error}",
        "advice": "this is a defect of holdfast or of a plug-in; please report it",
        "context": {},
    }
