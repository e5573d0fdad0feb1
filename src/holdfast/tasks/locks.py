"""The lock files of one state directory: who holds the one of a subject may work on it.

One empty file a subject, `<sha256 of the subject>.lock`, locked with flock(2). The kernel frees a
lock with the last descriptor of the opening that took it, so it dies with its holder and lives on
in processes that inherited it.

Invariants:
    1. A lock counts only if its file still has its name once it is taken: a file may be removed by
       whoever holds its lock, and two openings of one name must not lock two files.
    2. A file is removed only by whoever holds its lock, so never while a holder lives.
    3. From LOCK_FILES_MAX files on those that nobody holds are removed when a lock is taken.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import StorageFailedError
from holdfast.model.limits import LOCK_FILES_MAX


class Locks:
    """The locks below one directory. Threads may share it: flock excludes within a process too."""

    def __init__(self, directory: Path, *, files_max: int = LOCK_FILES_MAX) -> None:
        self._directory = directory
        self._files_max = files_max

    @contextmanager
    def try_hold(self, subject: str) -> Iterator[int | None]:
        """Try to hold the subject, without waiting; give the descriptor of its lock, or None.

        On leaving the descriptor is closed, not unlocked: who inherited it goes on holding.
        """
        path = self._path(subject)
        self._sweep(path)
        descriptor = self._open_named(path)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    @contextmanager
    def inherited(self, subject: str, descriptor: int) -> Iterator[bool]:
        """Take over a descriptor from another process; say whether it holds the subject's lock."""
        path = self._path(subject)
        try:
            os.set_inheritable(descriptor, False)
            # Of the same opening as the one that holds it, this succeeds; of any other it does not.
            yield _is_at(descriptor, path) and _lock(descriptor, path)
        except OSError as error:
            raise _failed(path, error) from error
        finally:
            os.close(descriptor)

    def _path(self, subject: str) -> Path:
        name = hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
        return self._directory / f"{name}.lock"

    def _open_named(self, path: Path) -> int | None:
        while True:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise _failed(path, error) from error
            try:
                is_locked = _lock(descriptor, path)
                if is_locked and _is_at(descriptor, path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            if not is_locked:
                return None

    def _sweep(self, kept: Path) -> None:
        try:
            names = os.listdir(self._directory)
        except OSError:
            return  # Whether there is a place for locks shows when one is made.
        if len(names) < self._files_max:
            return
        for name in names:
            path = self._directory / name
            if name.endswith(".lock") and path != kept:
                _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _lock(descriptor, path) and _is_at(descriptor, path):
            os.unlink(path)
    except OSError:
        pass  # Room is made by others, later.
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _failed(path, error) from error
    return True


def _failed(path: Path, error: OSError) -> StorageFailedError:
    return StorageFailedError(
        f"the lock {path} cannot be taken: {error.strerror}",
        code="lock-failed",
        advice="name a state directory on a local disk that this user may write",
    )
