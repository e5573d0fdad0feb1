"""An object store in a directory of a local file system.

Order of writes, and the crash each survives:
    1. An object is written whole under a name of its own in `.staging`. Cut off here, no listing
       shows what is left, and `tidy` removes it.
    2. It is flushed (`fsync`, for staged ones one `syncfs`). Cut off here, the same.
    3. It is linked (create-only) or renamed to its name. After a crash the name is there or not;
       under it stands a whole object, for it was flushed before.
    4. Its directory is flushed (for staged ones by a second `syncfs`). Then it is durable.

Invariants:
1. Under a name stands nothing or a whole object, whatever was cut off.
2. After a stage or flush that failed, what was staged is dropped and must be staged anew.
"""

import contextlib
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from typing import Final

from holdfast.errors import CapacityError, HoldfastError, NotFoundError, StorageFailedError
from holdfast.model.objects import check_object_name
from holdfast.ports import Buffer, Entropy, ObjectInfo, PutOutcome
from holdfast.stores.directories import linux
from holdfast.stores.directories.errors import raise_translated

_Staged = list[tuple[str, str]]

_STAGING: Final = ".staging"
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class DirectoryObjects:
    """ObjectStore below `root`, which must exist."""

    is_forkable = True

    def __init__(self, root: str, entropy: Entropy) -> None:
        """Open the root.

        Raises:
            NotFoundError: There is no such directory (`no-root`).
        """
        self._root = os.path.realpath(root)
        self._entropy = entropy
        if not os.path.isdir(self._root):
            raise NotFoundError(
                f"the directory {root} does not exist",
                code="no-root",
                advice="make it, or mount its file system",
            )
        self._own = threading.local()
        self._drawn = (0, "")
        self._count = itertools.count()
        self._made: set[str] = set()

    def describe(self) -> str:
        """See ObjectStore."""
        return self._root

    def put(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        staged = self._write(name, data, flush=True)
        path = self._path(name)
        try:
            self._make_parent(path)
            os.rename(staged, path)
            _flush_directory(os.path.dirname(path))
        except OSError as error:
            _drop(staged)
            raise_translated(error, os.fsencode(name), "write-failed")

    def create(self, name: str, data: Buffer) -> PutOutcome:
        """See ObjectStore."""
        path = self._path(name)
        staged = self._write(name, data, flush=True)
        outcome = PutOutcome.CREATED
        try:
            self._make_parent(path)
            try:
                os.link(staged, path)
            except FileExistsError:
                outcome = PutOutcome.EXISTS
            _flush_directory(os.path.dirname(path))
        except OSError as error:
            raise_translated(error, os.fsencode(name), "write-failed")
        finally:
            _drop(staged)
        return outcome

    def stage(self, name: str, data: Buffer) -> None:
        """See ObjectStore."""
        try:
            written = self._write(name, data, flush=False)
        except HoldfastError:
            self.close()  # A full disk is not to be held full by what will never be settled.
            raise
        self._staged().append((written, self._path(name)))

    def settle(self) -> None:
        """See ObjectStore."""
        staged, self._own.staged = self._staged(), []
        if not staged:
            return
        try:
            self._flush_all()
            for temporary, path in staged:
                self._make_parent(path, flush=False)
                os.rename(temporary, path)
            self._flush_all()
        except OSError as error:
            self._made.clear()
            for temporary, _ in staged:
                _drop(temporary)
            raise_translated(error, os.fsencode(self._root), "flush-failed")

    def get(self, name: str, limit_bytes: int) -> bytes:
        """See ObjectStore."""
        descriptor = self._open(name)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > limit_bytes:
                raise CapacityError(
                    f"the object {name} has {size_bytes} bytes, over {limit_bytes}",
                    code="object-too-long",
                    advice="something else wrote it; look at the store",
                )
            return _read(descriptor, 0, size_bytes)
        except OSError as error:
            raise_translated(error, os.fsencode(name), "read-failed")
        finally:
            os.close(descriptor)

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """See ObjectStore."""
        descriptor = self._open(name)
        try:
            return _read(descriptor, start, end - start)
        except OSError as error:
            raise_translated(error, os.fsencode(name), "read-failed")
        finally:
            os.close(descriptor)

    def head(self, name: str) -> ObjectInfo | None:
        """See ObjectStore."""
        try:
            found = os.stat(self._path(name), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise_translated(error, os.fsencode(name), "read-failed")
        if not stat.S_ISREG(found.st_mode):
            return None
        return ObjectInfo(name, found.st_size, found.st_mtime_ns)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        directory = prefix.rpartition("/")[0]
        if directory:
            check_object_name(directory)
        yield from self._list(directory, prefix, after)

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        path = self._path(name)
        try:
            os.unlink(path)
            _flush_directory(os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise_translated(error, os.fsencode(name), "write-failed")

    def tidy(self, before_ns: int) -> int:
        """See ObjectStore."""
        removed = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self._staging()) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime_ns < before_ns:
                    _drop(entry.path)
                    removed += 1
        return removed

    def close(self) -> None:
        """See ObjectStore."""
        for temporary, _ in self._staged():
            _drop(temporary)
        self._own.staged = []

    def _staged(self) -> _Staged:
        """Return what this thread staged: where each is, and its name to be."""
        if not hasattr(self._own, "staged"):
            self._own.staged = []
        staged: _Staged = self._own.staged
        return staged

    def _path(self, name: str) -> str:
        return os.path.join(self._root, check_object_name(name))

    def _staging(self) -> str:
        return os.path.join(self._root, _STAGING)

    def _temporary(self) -> str:
        process_id, run = self._drawn
        if process_id != os.getpid():
            # A fork must not use its parent's names.
            run = self._entropy.random_bytes(8).hex()
            self._drawn = (os.getpid(), run)
        return os.path.join(self._staging(), f"{run}-{next(self._count)}")

    def _write(self, name: str, data: Buffer, *, flush: bool) -> str:
        temporary = self._temporary()
        try:
            try:
                descriptor = os.open(temporary, _FLAGS, 0o600)
            except FileNotFoundError:
                os.makedirs(self._staging(), mode=0o700, exist_ok=True)
                descriptor = os.open(temporary, _FLAGS, 0o600)
            try:
                _write_all(descriptor, data)
                if flush:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            _drop(temporary)
            raise_translated(error, os.fsencode(name), "write-failed")
        return temporary

    def _make_parent(self, path: str, *, flush: bool = True) -> None:
        """Make the directories above an object; they are durable unless the caller flushes all."""
        parent = os.path.dirname(path)
        if parent in self._made:
            return
        missing = []
        while not os.path.isdir(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            if flush:
                _flush_directory(os.path.dirname(directory))
        self._made.add(os.path.dirname(path))

    def _flush_all(self) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            linux.syncfs(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"there is no object {name} in {self._root}",
                code="no-object",
                advice="see 'holdfast checkpoints doctor'",
            ) from error
        except OSError as error:
            raise_translated(error, os.fsencode(name), "read-failed")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StorageFailedError(f"{name} is not a file", code="read-failed")
        return descriptor

    def _list(self, directory: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(os.path.join(self._root, directory)) as entries:
                keys = sorted(
                    entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise_translated(error, os.fsencode(directory), "read-failed")
        for key in keys:
            name = f"{directory}/{key}" if directory else key
            if key[-1] == "/":
                # What lies below begins with `name`: skip it where all of that is not asked for.
                is_asked = name.startswith(prefix) or prefix.startswith(name)
                if is_asked and (name > after or after.startswith(name)):
                    yield from self._list(name[:-1], prefix, after)
            elif name.startswith(prefix) and name > after:
                found = self.head(name)
                if found is not None:
                    yield found


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int, start: int, size_bytes: int) -> bytes:
    """Read up to `size_bytes`; fewer only at the end."""
    parts = []
    while size_bytes > 0:
        part = os.pread(descriptor, size_bytes, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        size_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _flush_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
