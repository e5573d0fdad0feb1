"""Runs one piece of long work in this process, or hands it to one that is exec'ed for it, under a
lock that dies with the process.

Who owns a subject is decided by an exclusive flock on `locks/<sha256 of the subject>.lock`, never
by what the journal says: a journal outlives its writer, a lock does not (the files: locks.py).

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

Where the work is handed over (`start`, `resume`), 1 and 2 happen here and 3 to 5 in the process
that inherits the descriptor (`adopt`). Cut off in between, the row is RUNNING without an owner.

Invariants:
    1. Of any number of runs on one subject at one time, one works; the others get `busy`.
    2. A task that was RUNNING when its process died is INTERRUPTED, never lost, never COMPLETED.
    3. At no moment between admission here and the end of the work there can the lock be had.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from holdfast.errors import CancelledError, HoldfastError, StateError, UnavailableError
from holdfast.model.ids import TaskId
from holdfast.ports import Clock
from holdfast.tasks.journal import TaskJournal, busy
from holdfast.tasks.locks import Locks
from holdfast.tasks.model import Progress, Task, TaskState, Told, encode_json
from holdfast.tasks.rules import Sample, add_sample, estimate_eta, estimate_rate

PERSIST_NS: Final = 1_000_000_000
"""Progress is written, and a wish to cancel seen, once in this time."""
LISTEN_NS: Final = 100_000_000
"""Progress is shown once in this time."""
KEY_TRIES: Final = 100
KEY_WAIT_S: Final = 0.01
"""How long a start waits for another, of the same key, that holds the lock to write its task."""

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
        self._detail: Mapping[str, object] | None = None
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

    def last_told(self) -> Told:
        """Return what was told last, to be written with the outcome."""
        return Told(progress=self.task.progress, detail=self._detail)

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier attempt may have left results."""
        return self._task.attempt > 1

    def enter(self, stage: str) -> None:
        """Record that a stage begins; its progress and rate count from nothing."""
        told = Told(detail=self._detail)
        entered = self._journal.enter_stage(self._task.id, stage, told)
        self._task = replace(entered, progress=Progress())
        self._detail = None
        self._samples = ()
        self._told = self._persisted_ns = self._listened_ns = None
        self._listener(self._task)

    def follow_rate(self, on_rate: Callable[[float | None], None]) -> None:
        """Have `on_rate` called with the limit somebody asks for while the task runs."""
        self._on_rate = on_rate

    def tell(self, detail: Mapping[str, object]) -> None:
        """Tell what the task is at, in place of what was told before; never changed afterwards.

        Kept in `Task.detail`, at most TASK_DETAIL_BYTES_MAX of JSON: written with progress, at the
        next stage and at the end. As cheap as `progress`.

        Raises:
            CancelledError: See `progress`.
        """
        self._detail = detail
        now_ns = self._clock.monotonic_ns()
        if self._persisted_ns is None or now_ns - self._persisted_ns >= PERSIST_NS:
            self._persist(now_ns)

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
            self._persist(now_ns)

    def _persist(self, now_ns: int) -> None:
        self._persisted_ns = now_ns
        try:
            self._task = self._journal.record_progress(self._task.id, self.last_told())
        except UnavailableError:
            return  # It stayed locked: what was told is told again in a while.
        self._detail = None
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
Spawn = Callable[[Task, int], None]
"""Execs a process for a task that inherits this descriptor, and returns once it has it."""


def _ignore(_: Task) -> None:
    pass


class Runner:
    """Runs work under the locks of one state directory. Threads may share it."""

    def __init__(self, journal: TaskJournal, locks_directory: Path, clock: Clock) -> None:
        self._journal = journal
        self._locks = Locks(locks_directory)
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
        with self._locks.try_hold(subject) as lock:
            if lock is None:
                raise self._busy(subject)
            task = self._journal.admit(kind, subject, request, idempotency_key=idempotency_key)
            if task.is_ended:
                return task
            return self._work(
                TaskContext(task, self._journal, self._clock, listener), work, listener
            )

    def start(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        spawn: Spawn,
        *,
        idempotency_key: str | None = None,
    ) -> Task:
        """Begin new work in a process of its own; with a known key, return the task it names.

        Unlike `run` it neither goes on with nor replaces an unfinished task of the subject.

        Raises:
            ConflictError: `busy`, naming the unfinished task; `idempotency-key-reused`.
            Whatever `spawn` raises: the task is INTERRUPTED then.
        """
        for _ in range(KEY_TRIES):
            with self._locks.try_hold(subject) as lock:
                if lock is not None:
                    task = self._journal.create(
                        kind, subject, request, idempotency_key=idempotency_key
                    )
                    is_new = task.state is TaskState.PENDING
                    return self._hand_over(task.id, spawn, lock) if is_new else task
            if idempotency_key is None:
                break
            # In this order: what is at work has written its key together with itself.
            unfinished = self._journal.find_unfinished(subject)
            known = self._journal.find_by_key(kind, subject, request, idempotency_key)
            if known is not None:
                return known
            if unfinished is not None:
                break
            self._clock.sleep(KEY_WAIT_S)
        raise self._busy(subject)

    def resume(self, task_id: TaskId, spawn: Spawn) -> Task:
        """Go on with an unfinished task in a process of its own; CANCELLED if that was asked.

        Raises:
            ConflictError: `busy`: it, or another of its subject, is at work.
            StateError: `task-finished`.
        """
        subject = self._journal.get(task_id).subject
        with self._locks.try_hold(subject) as lock:
            if lock is None:
                raise self._busy(subject)
            return self._hand_over(task_id, spawn, lock)

    def abandon(self, task_id: TaskId, problem: Mapping[str, object]) -> Task:
        """End an unfinished task that nobody works on as failed; raises as `resume`."""
        subject = self._journal.get(task_id).subject
        with self._locks.try_hold(subject) as lock:
            if lock is None:
                raise self._busy(subject)
            return self._journal.abandon(task_id, problem)

    def adopt(
        self, task_id: TaskId, lock: int, work: Work, *, listener: Listener = _ignore
    ) -> Task:
        """Do the work of a task begun by `start` or `resume` elsewhere, whose lock came here.

        Returns and raises as `run`; the descriptor is closed at the end.

        Raises:
            StateError: `lock-not-held`: this is not the lock of the task, or it does not run.
        """
        task = self._journal.get(task_id)
        with self._locks.inherited(task.subject, lock) as is_held:
            if not is_held or task.state is not TaskState.RUNNING:
                raise StateError(
                    f"{task_id} was not handed to this process",
                    code="lock-not-held",
                    advice="let the node that made the task start it",
                )
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
                with self._locks.try_hold(task.subject) as lock:
                    if lock is not None and self._journal.get(task.id).state is TaskState.RUNNING:
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
            self._record(error, lambda: self._journal.stop(task_id, context.last_told()))
            raise
        except Exception as error:
            problem = _problem_of(error)
            self._record(error, lambda: self._journal.fail(task_id, problem, context.last_told()))
            raise
        except BaseException as error:
            # Ctrl-C, SystemExit: the process is told to go; the work itself is not at fault.
            self._record(error, lambda: self._journal.stop(task_id, context.last_told()))
            raise
        return self._journal.complete(task_id, result, context.last_told())

    def _hand_over(self, task_id: TaskId, spawn: Spawn, lock: int) -> Task:
        task = self._journal.begin(task_id)
        if task.is_ended:
            return task
        try:
            spawn(task, lock)
        except BaseException as error:
            self._record(error, lambda: self._journal.stop(task_id))
            raise
        return task

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
