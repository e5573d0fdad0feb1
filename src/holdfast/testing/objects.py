"""An object store in memory behind the port ObjectStore, which fails on command.

Every call is counted from 1 (`Gate` of it: `calls_count` for all, `writes_count` for what changes
something). A test learns how many writes there are from one good run, then repeats it with the
process dying after each.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.errors import (
    CapacityError,
    DeniedError,
    NotFoundError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.model.objects import check_object_name
from holdfast.ports import Buffer, Clock, ObjectInfo, PutOutcome


class StoreCrashError(BaseException):
    """The process using the store died here. No `except Exception` may go on after it."""


@dataclass(slots=True, kw_only=True)
class StoreFaults:
    """A fault plan; the test may change it between calls. Numbers are of writes, from 1."""

    crash_before: int | None = None
    """Before this write the process dies, and every later call dies too."""
    crash_after: int | None = None
    """After this write was done the process dies."""
    reply_lost_at: int | None = None
    """This write is done, and UnavailableError raised."""
    failed_at: int | None = None
    """This write fails for good, as a medium's does; with a settle all that was staged is lost."""
    unreachable: bool = False
    read_only: bool = False
    full_from: int | None = None
    """From this write on CapacityError is raised, nothing being written."""
    slow_s: float = 0.0
    """The clock moves on by so much with each call."""
    creates_racy: bool = False
    """A create-only put is checked, then waits for others to be checked too."""


@dataclass(slots=True, kw_only=True)
class StoredObject:
    """One object."""

    data: bytes
    modified_ns: int


@dataclass(slots=True)
class SimObjectStore:
    """See the port ObjectStore. What is staged and not settled is lost with its process."""

    clock: Clock
    faults: StoreFaults = field(default_factory=StoreFaults)
    objects: dict[str, StoredObject] = field(default_factory=dict)
    """What survives the process; hand it to the next store to begin again."""
    on_write: Callable[[int, str, str], None] = lambda _number, _method, _name: None
    writes_count: int = 0
    calls_count: int = 0
    is_forkable: bool = False
    _staged: dict[str, bytes] = field(default_factory=dict)
    _is_dead: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _barrier: threading.Barrier | None = None

    def describe(self) -> str:
        """See ObjectStore."""
        return "simulated"

    def put(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        check_object_name(name)
        self._write("put", name, lambda: self._store(name, bytes(data)))

    def create(self, name: str, data: Buffer) -> PutOutcome:
        """See ObjectStore."""
        check_object_name(name)
        if self.faults.creates_racy:
            return self._create_racily(name, data)
        with self._lock:
            outcome = PutOutcome.EXISTS if name in self.objects else PutOutcome.CREATED

            def write() -> None:
                if outcome is PutOutcome.CREATED:
                    self._store(name, bytes(data))

            self._write("create", name, write)
            return outcome

    def stage(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        check_object_name(name)

        def write() -> None:
            self._staged[name] = bytes(data)

        self._write("stage", name, write)

    def settle(self) -> None:
        """See ObjectStore. Each object is a write of its own: a crash may come between any two."""
        while self._staged:
            name = min(self._staged)
            self._write("settle", name, lambda name=name: self._store(name, self._staged.pop(name)))  # type: ignore[misc]

    def get(self, name: str, limit_bytes: int) -> bytes:
        """See ObjectStore."""
        data = self._read(name)
        if len(data) > limit_bytes:
            raise CapacityError(f"{name} is too long", code="object-too-long")
        return data

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """See ObjectStore."""
        return self._read(name)[start : max(start, end)]

    def head(self, name: str) -> ObjectInfo | None:
        """See ObjectStore."""
        check_object_name(name)
        self._begin()
        found = self.objects.get(name)
        return None if found is None else ObjectInfo(name, len(found.data), found.modified_ns)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        self._begin()
        for name in sorted(self.objects):
            if name.startswith(prefix) and name > after and name in self.objects:
                found = self.objects[name]
                yield ObjectInfo(name, len(found.data), found.modified_ns)

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        check_object_name(name)

        def write() -> None:
            self.objects.pop(name, None)

        self._write("delete", name, write)

    def tidy(self, before_ns: int) -> int:  # noqa: ARG002 nothing is left half put
        """See ObjectStore."""
        return 0

    def close(self) -> None:
        """See ObjectStore."""

    def _store(self, name: str, data: bytes) -> None:
        self.objects[name] = StoredObject(data=data, modified_ns=self.clock.now_ns())

    def _read(self, name: str) -> bytes:
        check_object_name(name)
        self._begin()
        if name not in self.objects:
            raise NotFoundError(f"there is no object {name}", code="no-object")
        return self.objects[name].data

    def _begin(self) -> None:
        if self._is_dead:
            raise StoreCrashError("its process is dead")
        self.calls_count += 1
        if self.faults.slow_s:
            self.clock.sleep(self.faults.slow_s)
        if self.faults.unreachable:
            raise UnavailableError("the simulated store is away", code="store-unreachable")

    def _write(self, method: str, name: str, write: Callable[[], None]) -> None:
        with self._lock:
            self._begin()
            self.writes_count += 1
            number, faults = self.writes_count, self.faults
            self.on_write(number, method, name)
            if faults.crash_before == number:
                self._die(number)
            if faults.read_only:
                raise DeniedError("the simulated store is read-only", code="store-denied")
            if faults.full_from is not None and number >= faults.full_from:
                raise CapacityError("the simulated store is full", code="disk-full")
            if faults.failed_at == number:
                if method == "settle":
                    self._staged.clear()
                raise StorageFailedError("the simulated medium failed", code="flush-failed")
            write()
            if faults.crash_after == number:
                self._die(number)
            if faults.reply_lost_at == number:
                raise UnavailableError("the reply was lost", code="store-unreachable")

    def _die(self, number: int) -> None:
        self._is_dead = True
        raise StoreCrashError(f"at write {number}")

    def _create_racily(self, name: str, data: Buffer) -> PutOutcome:
        is_there = name in self.objects
        with self._lock:
            if self._barrier is None:
                self._barrier = threading.Barrier(2)
        try:
            self._barrier.wait(timeout=0.2)
        except threading.BrokenBarrierError:
            self._barrier.reset()
        if is_there:
            return PutOutcome.EXISTS
        self.put(name, data)
        return PutOutcome.CREATED
