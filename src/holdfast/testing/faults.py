"""What goes wrong in a simulated directory tree, and when: the plan, the counters, the gate.

Every call that changes or flushes something is an *operation*, every other one a *look*; each has
a running number from 1. A test learns how many there are from one good run, then repeats it with a
fault at each. Not here: what the fault does to stored bytes (see inodes and power).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.errors import CapacityError, DeniedError, StorageFailedError
from holdfast.model.limits import BLOCK_BYTES
from holdfast.model.tree import MetadataLoss, display_path

Hook = Callable[[int, str, bytes], None]
"""Takes the running number, the name of the port's method and the path."""


class PowerCutError(BaseException):
    """The machine lost power here. No `except Exception` may go on after it: nothing runs."""


@dataclass(slots=True, kw_only=True)
class SimFaults:
    """A fault plan; the test may change it between calls. All numbers are from 1."""

    power_cut_at: int | None = None
    """Before this operation the power fails, and every later call raises PowerCutError too."""
    disk_full_from: int | None = None
    """From this `write_at` on half of the data is written, then CapacityError is raised."""
    flush_fails_at: int | None = None
    """This flush raises StorageFailedError, and no later flush saves what it should have."""
    unreadable: set[tuple[bytes, int]] = field(default_factory=set)
    """(path as opened, number of the block of BLOCK_BYTES) that cannot be read."""
    forbidden: set[bytes] = field(default_factory=set)
    """Paths that may not be listed, opened or changed."""
    cannot_keep: frozenset[MetadataLoss] = frozenset()
    on_operation: Hook | None = None
    """Called before each operation. What it does itself is neither counted nor hooked."""
    on_look: Hook | None = None
    """Called before each look: list_names, stat, read_link, xattrs, open_file, read_into, ..."""


@dataclass(slots=True)
class Gate:
    """Every call passes here first. Owned by one SimDirectory."""

    faults: SimFaults
    operations_count: int = 0
    looks_count: int = 0
    writes_count: int = 0
    flushes_count: int = 0
    written_bytes: Counter[bytes] = field(default_factory=Counter)
    """Bytes given to `write_at`, by path as opened."""
    is_off: bool = False
    _in_hook: bool = False

    def operation(self, name: str, path: bytes) -> None:
        """Count an operation, let the test's hook act, and fail if it is to fail now."""
        if self._in_hook:
            return
        self._check_power()
        self.operations_count += 1
        self._call(self.faults.on_operation, self.operations_count, name, path)
        if self.operations_count == self.faults.power_cut_at:
            self.is_off = True
        self._check_power()
        self._check_allowed(path)

    def look(self, name: str, path: bytes) -> None:
        """As `operation`, for a call that changes nothing."""
        if self._in_hook:
            return
        self._check_power()
        self.looks_count += 1
        self._call(self.faults.on_look, self.looks_count, name, path)
        if name != "stat":
            self._check_allowed(path)

    def write(self, path: bytes, size_bytes: int) -> int:
        """Count a write; return how many of its bytes fit."""
        if self._in_hook:
            return size_bytes
        self.writes_count += 1
        first = self.faults.disk_full_from
        taken = size_bytes // 2 if first is not None and self.writes_count >= first else size_bytes
        self.written_bytes[path] += taken
        return taken

    def flush_succeeds(self) -> bool:
        """Count a flush; return whether this one succeeds."""
        if self._in_hook:
            return True
        self.flushes_count += 1
        return self.flushes_count != self.faults.flush_fails_at

    def check_readable(self, path: bytes, start: int, end: int) -> None:
        """Raise StorageFailedError if [start, end) touches an unreadable block."""
        if not self.faults.unreadable or end <= start:
            return
        for block in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
            if (path, block) in self.faults.unreadable:
                raise StorageFailedError(
                    f"block {block} of {display_path(path)} cannot be read",
                    code="read-failed",
                    advice="restore this file from elsewhere; its medium is failing",
                    path=path,
                )

    def _check_power(self) -> None:
        if self.is_off:
            raise PowerCutError(f"no power since operation {self.operations_count}")

    def _check_allowed(self, path: bytes) -> None:
        if path in self.faults.forbidden:
            raise DeniedError(
                f"{display_path(path)} may not be touched",
                code="forbidden",
                advice="run as a user who may, or change its permissions",
                path=path,
            )

    def _call(self, hook: Hook | None, number: int, name: str, path: bytes) -> None:
        if hook is None:
            return
        self._in_hook = True
        try:
            hook(number, name, path)
        finally:
            self._in_hook = False


def disk_full(path: bytes) -> CapacityError:
    """Return the error of a write for which there was no room."""
    return CapacityError(
        f"no room to write {display_path(path)}",
        code="disk-full",
        advice="free some space and run the same command again",
        path=path,
    )


def flush_failed(path: bytes) -> StorageFailedError:
    """Return the error of a flush that the medium refused."""
    return StorageFailedError(
        f"{display_path(path)} could not be flushed; what is on the medium is unknown",
        code="flush-failed",
        advice="check the medium, then make the file anew",
        path=path,
    )
