"""The volumes of one state directory: a directory each, made and removed at once, locked in use.

    volumes/
        NAME/           lock  entry.json  control.sock  nbd.sock  and the engine's files
        .new-<hex>/     being made; nobody but its maker looks in
        .gone-<hex>/    removed, not yet deleted

What a volume is (size, identity, log) stands in its superblock; the entry only holds what the
superblock does not. What the names of directories say is the truth: there is no list beside them.

Invariants:

1. A directory without a dot is a whole volume: it got its name after everything in it was flushed.
2. Who has a volume open for writing holds an exclusive flock on its `lock`. It dies with its
   process, and is never waited for.
3. A volume that is locked is not removed.
4. What a crash leaves, `.new-` unlocked or `.gone-`, is deleted by the next creation or removal.

Crashes: before the rename of a creation, only `.new-` is left (4). After it, before the flush of
the directory, the volume is there or not, whole either way; nobody was told that it was made. A
removal is the same the other way round: what has lost its name is garbage.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from holdfast.errors import (
    CapacityError,
    ConflictError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    StorageFailedError,
)
from holdfast.model.ids import VolumeName, parse_volume_name
from holdfast.model.limits import VOLUMES_MAX
from holdfast.ports import Clock, Entropy

CONTROL_SOCKET: Final = "control.sock"
NBD_SOCKET: Final = "nbd.sock"
_ENTRY: Final = "entry.json"
_LOCK: Final = "lock"
_NEW: Final = ".new-"
_GONE: Final = ".gone-"
_FORMAT: Final = 1
_ENTRY_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the catalog keeps of a volume."""

    format: int
    preset: str
    created_ns: int
    """Wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a volume is."""

    name: VolumeName
    directory: Path

    @property
    def control_socket(self) -> Path:
        """Where its data process is asked."""
        return self.directory / CONTROL_SOCKET

    @property
    def nbd_socket(self) -> Path:
        """Where its data process serves NBD unless told otherwise."""
        return self.directory / NBD_SOCKET


class Catalog:
    """The directory `volumes` of a state directory, made when the first volume is."""

    def __init__(self, directory: Path, clock: Clock, entropy: Entropy) -> None:
        self._directory = directory
        self._clock = clock
        self._entropy = entropy

    def names(self) -> list[VolumeName]:
        """Return the names of all volumes, in order."""
        try:
            found = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _told(error, f"list the volumes in {self._directory}") from error
        return sorted(VolumeName(name) for name in found if not name.startswith("."))

    def find(self, name: VolumeName) -> Place:
        """Return where a volume is, or raise NotFoundError (`no-volume`)."""
        directory = self._directory / parse_volume_name(name)
        if not directory.is_dir():
            raise NotFoundError(
                f"there is no volume {name}",
                code="no-volume",
                advice="see 'holdfast volumes list'; make one with 'holdfast volumes create'",
                volume=name,
            )
        return Place(name=name, directory=directory)

    def entry(self, place: Place) -> Entry:
        """Return a volume's entry, or raise IntegrityError (`entry-damaged`)."""
        try:
            with open(place.directory / _ENTRY, "rb") as file:
                entry = msgspec.json.decode(file.read(_ENTRY_BYTES_MAX), type=Entry)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _damaged_entry(place, str(error)) from error
        if entry.format != _FORMAT:
            raise _damaged_entry(place, f"its format is {entry.format}, not {_FORMAT}")
        return entry

    def create(self, name: VolumeName, preset: str, build: Callable[[Path], None]) -> Place:
        """Make a volume; when this returns it survives loss of power, and before it is not there.

        Args:
            build: Makes and flushes the engine's files in the directory it is given.

        Raises:
            ConflictError: There is one of this name (`volume-exists`).
            CapacityError: There are VOLUMES_MAX (`volumes-full`), or `disk-full`.
            DeniedError: The state directory cannot be written (`state-denied`).
        """
        place = Place(name=name, directory=self._directory / parse_volume_name(name))
        with _telling(f"make the volume {name}"), contextlib.ExitStack() as held:
            self._make_directory()
            with self._alone():
                self._sweep()
                self._refuse_another(place)
                staged = self._directory / (_NEW + self._entropy.random_bytes(8).hex())
                staged.mkdir(mode=0o700)
                held.enter_context(locked(staged))
            try:
                build(staged)
                self._write_entry(staged, preset)
                _flush_directory(staged)
                with self._alone():
                    self._refuse_another(place)
                    os.rename(staged, place.directory)
                    _flush_directory(self._directory)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        return place

    def remove(self, name: VolumeName) -> None:
        """Remove a volume and all it holds; ConflictError (`volume-in-use`) if it is locked."""
        place = self.find(name)
        gone = self._directory / (_GONE + self._entropy.random_bytes(8).hex())
        with _telling(f"remove the volume {name}"), locked(place.directory):
            os.rename(place.directory, gone)
            _flush_directory(self._directory)
            with self._alone():
                self._sweep()

    def _make_directory(self) -> None:
        """Make the directory if need be, with its parents; their names survive loss of power."""
        made = [path for path in (self._directory, *self._directory.parents) if not path.exists()]
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in made:
            _flush_directory(path.parent)

    def _refuse_another(self, place: Place) -> None:
        if os.path.lexists(place.directory):
            raise ConflictError(
                f"there is a volume {place.name} already",
                code="volume-exists",
                advice="take another name, or remove that one first",
                volume=place.name,
            )
        if len(self.names()) >= VOLUMES_MAX:
            raise CapacityError(
                f"there are {VOLUMES_MAX} volumes, the most one state directory holds",
                code="volumes-full",
                advice="remove one, or name another state directory with HOLDFAST_STATE",
            )

    def _write_entry(self, staged: Path, preset: str) -> None:
        entry = Entry(format=_FORMAT, preset=preset, created_ns=self._clock.now_ns())
        with open(staged / _ENTRY, "xb") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _sweep(self) -> None:
        for path in self._directory.iterdir():
            if path.name.startswith(_GONE):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(_NEW):
                with contextlib.suppress(ConflictError, NotFoundError), locked(path):
                    shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for all others that make, name or sweep directories."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the volume in a directory exclusively, or raise ConflictError (`volume-in-use`)."""
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise _gone(directory) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"the volume {directory.name} is in use: a process has it open",
                code="volume-in-use",
                advice="it is being served, grown or scrubbed; stop that first",
                volume=directory.name,
            ) from error
        # It may have been removed between the opening and the locking.
        if not _is_still(path, descriptor):
            raise _gone(directory)
        yield
    finally:
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _gone(directory: Path) -> NotFoundError:
    return NotFoundError(
        f"there is no volume {directory.name} any more",
        code="no-volume",
        advice="see 'holdfast volumes list'",
    )


def _damaged_entry(place: Place, why: str) -> IntegrityError:
    return IntegrityError(
        f"the entry of the volume {place.name} cannot be read: {why}",
        code="entry-damaged",
        advice=f"its data is elsewhere; write {_ENTRY} anew, or use the version that made it",
        volume=place.name,
    )


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _told(error, what) from error


def _told(error: OSError, what: str) -> HoldfastError:
    message = f"cannot {what}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CapacityError(message, code="disk-full", advice="free some space")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeniedError(
            message, code="state-denied", advice="name another state with HOLDFAST_STATE"
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR):
        return InvalidRequestError(
            message, code="bad-state", advice="name another state with HOLDFAST_STATE"
        )
    return StorageFailedError(
        message, code="write-failed", advice="look for errors of the medium in the kernel's log"
    )
