"""A directory tree of a real file system behind the Directory port.

Invariants:
1. Every path is walked from the root's descriptor, component by component, with O_NOFOLLOW; the
   last component is reached through the descriptor of its directory. So no symlink, planted before
   or during the work, leads out of the root.
2. Nothing but a regular file or a directory is ever opened for reading or writing. What a race
   put in its place is found by fstat on the descriptor; O_NONBLOCK keeps a FIFO from blocking.

Not thread-safe: owned by one process's worker. Descriptors of directories are kept open, the least
recently used making room, so that a sorted run over a tree opens each directory about once.
"""

import contextlib
import errno
import os
import platform
import stat as mode_bits
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from holdfast.errors import ConflictError, HoldfastError, NotFoundError
from holdfast.model.tree import (
    FULL_CAPABILITIES,
    ROOT_PATH,
    Capabilities,
    FileKind,
    Metadata,
    MetadataLoss,
    Space,
    Stat,
    display_path,
    join_path,
    parent_of,
)
from holdfast.ports import Buffer, ExpectedFile, SmallFile
from holdfast.stores.directories import linux
from holdfast.stores.directories.errors import raise_translated, translated
from holdfast.stores.directories.posix_file import (
    PosixFile,
    apply_metadata,
    convert_stat,
    read_small,
    read_xattrs,
    write_small,
)

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DESCRIPTORS_MAX = 64


class PosixReadableDirectory:
    """ReadableDirectory over `root`; see the module for its invariants."""

    def __init__(self, root: bytes) -> None:
        """Open the root, following symlinks in its own path as any command does.

        Raises:
            NotFoundError: Nothing is there (`no-root`).
            ConflictError: It is not a directory (`not-a-directory`).
        """
        self.root = os.path.realpath(root)
        try:
            self._root_descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{display_path(root)} does not exist",
                code="no-root",
                advice="check the path, and that its file system is mounted",
                path=root,
            ) from error
        except NotADirectoryError as error:
            raise ConflictError(
                f"{display_path(root)} is not a directory",
                code="not-a-directory",
                advice="name a directory; holdfast works on whole trees",
                path=root,
            ) from error
        except OSError as error:
            raise_translated(error, root, "read-failed")
        self._descriptors: OrderedDict[bytes, int] = OrderedDict()
        self._newest: tuple[bytes, int] = (ROOT_PATH, self._root_descriptor)
        """The directory used last, which the next path most often shares."""

    def describe(self) -> dict[str, object]:
        """See ReadableDirectory."""
        raw = os.fstat(self._root_descriptor)
        return {
            "path": display_path(self.root),
            "host": platform.node(),
            "device": raw.st_dev,
            "inode": raw.st_ino,
        }

    def capabilities(self) -> Capabilities:
        """See ReadableDirectory."""
        return FULL_CAPABILITIES

    def expect_directories(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory. The kernel reads ahead by itself."""

    def expect_metadata(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory."""

    def expect(self, files: Sequence[ExpectedFile], algorithm: str) -> None:
        """See ReadableDirectory."""

    def digest_files(self, paths: Sequence[bytes], algorithm: str, *, drop_cache: bool) -> None:
        """See ReadableDirectory. Nothing travels: the caller reads."""

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        """See ReadableDirectory."""
        try:
            # Its own descriptor: the position in a directory is shared by all users of one.
            descriptor = os.open(".", _DIRECTORY_FLAGS, dir_fd=self._directory(path))
        except OSError as error:
            raise_translated(error, path, "read-failed")
        try:
            with os.scandir(descriptor) as entries:
                return [
                    (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False))
                    for entry in entries
                ]
        except OSError as error:
            raise_translated(error, path, "read-failed")
        finally:
            os.close(descriptor)

    def stat(self, path: bytes) -> Stat:
        """See ReadableDirectory."""
        try:
            if path == ROOT_PATH:
                return convert_stat(os.fstat(self._root_descriptor))
            descriptor, name = self._parent(path)
            return convert_stat(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
        except OSError as error:
            raise_translated(error, path, "read-failed")

    def stat_names(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        """See ReadableDirectory."""
        found: list[Stat | HoldfastError] = []
        try:
            directory = self._directory(path)
        except HoldfastError as error:
            return [error] * len(names)
        for name in names:
            try:
                raw = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                found.append(translated(error, join_path(path, name), "read-failed"))
            else:
                found.append(convert_stat(raw))
        return found

    def read_link(self, path: bytes) -> bytes:
        """See ReadableDirectory."""
        descriptor, name = self._parent(path)
        try:
            return os.readlink(name, dir_fd=descriptor)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise ConflictError(
                    f"{display_path(path)}: not a symlink", code="not-a-symlink", path=path
                ) from error
            raise_translated(error, path, "read-failed")

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ReadableDirectory."""
        directory, name = self._parent(path) if path else (self._root_descriptor, b".")
        try:
            # One call for the many entries that have none; the last component is not followed.
            place = b"/proc/self/fd/%d/%s" % (directory, name)
            if not os.listxattr(place, follow_symlinks=False):
                return {}
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
                raise_translated(error, path, "read-failed")
        with self._pinned(path) as (target, _):
            try:
                return read_xattrs(target)
            except OSError as error:
                raise_translated(error, path, "read-failed")

    def open_file(self, path: bytes) -> PosixFile:
        """See ReadableDirectory."""
        return self._open_regular(path, os.O_RDONLY)

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """See ReadableDirectory."""
        directory, name = self._parent(path)
        descriptor, before = self._open_descriptor(directory, name, path, os.O_RDONLY)
        try:
            return read_small(descriptor, before, buffer)
        except OSError as error:
            raise_translated(error, path, "read-failed")
        finally:
            os.close(descriptor)

    def refresh(self) -> None:
        """Walk every path anew from here on: others may have renamed directories meanwhile."""
        self._forget(ROOT_PATH)

    def close(self) -> None:
        """See ReadableDirectory."""
        self._forget(ROOT_PATH)
        os.close(self._root_descriptor)

    def _open_regular(self, path: bytes, flags: int, mode: int = 0) -> PosixFile:
        directory, name = self._parent(path)
        return PosixFile(self._open_descriptor(directory, name, path, flags, mode)[0], path)

    def _open_descriptor(
        self, directory: int, name: bytes, path: bytes, flags: int, mode: int = 0
    ) -> tuple[int, os.stat_result]:
        try:
            descriptor = os.open(name, flags | _FILE_FLAGS, mode, dir_fd=directory)
        except IsADirectoryError as error:
            raise _not_a_file(path) from error
        except OSError as error:
            raise_translated(error, path, "read-failed")
        raw = os.fstat(descriptor)
        if not mode_bits.S_ISREG(raw.st_mode):
            os.close(descriptor)
            raise _not_a_file(path)
        return descriptor, raw

    @contextlib.contextmanager
    def _pinned(self, path: bytes) -> Iterator[tuple[bytes, FileKind]]:
        """Hold an entry without opening it; yields a path that names it whatever happens."""
        directory, name = self._parent(path) if path else (self._root_descriptor, b".")
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError as error:
            raise_translated(error, path, "read-failed")
        try:
            kind = convert_stat(os.fstat(descriptor)).kind
            yield b"/proc/self/fd/%d" % descriptor, kind
        finally:
            os.close(descriptor)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        if directory == self._newest[0]:
            return self._newest[1], name
        descriptor = self._directory(directory)
        self._newest = (directory, descriptor)
        return descriptor, name

    @contextlib.contextmanager
    def _parents(self, path: bytes, other: bytes) -> Iterator[tuple[int, bytes, int, bytes]]:
        """Hold the directories of two entries at once."""
        directory, name = self._parent(path)
        if other.count(b"/") < _DESCRIPTORS_MAX:
            yield directory, name, *self._parent(other)
            return
        # The way to so deep a directory may close the descriptor of the first, and its number
        # would then name something else.
        held = os.dup(directory)
        try:
            yield held, name, *self._parent(other)
        finally:
            os.close(held)

    def _directory(self, path: bytes) -> int:
        """Return a descriptor of a directory, opened along the way from the root."""
        if path == ROOT_PATH:
            return self._root_descriptor
        known = self._descriptors.get(path)
        if known is not None:
            self._descriptors.move_to_end(path)
            return known
        descriptor, opened_to, rest = self._nearest(path)
        for name in rest:
            try:
                descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=descriptor)
            except OSError as error:
                raise_translated(error, join_path(opened_to, name), "read-failed")
            opened_to = join_path(opened_to, name)
            self._descriptors[opened_to] = descriptor
            # The one just opened is the newest and stays, however deep the path is.
            if len(self._descriptors) > _DESCRIPTORS_MAX:
                os.close(self._descriptors.popitem(last=False)[1])
                self._newest = (ROOT_PATH, self._root_descriptor)
        return descriptor

    def _nearest(self, path: bytes) -> tuple[int, bytes, list[bytes]]:
        """Return the deepest open directory on the way: descriptor, its path, names still to go."""
        names = path.split(b"/")
        for depth in range(len(names) - 1, 0, -1):
            prefix = b"/".join(names[:depth])
            if prefix in self._descriptors:
                return self._descriptors[prefix], prefix, names[depth:]
        return self._root_descriptor, ROOT_PATH, names

    def _forget(self, path: bytes) -> None:
        """Close the descriptors of a directory and of all below it: its path changed meaning."""
        self._newest = (ROOT_PATH, self._root_descriptor)
        below = path + b"/"
        for known in [p for p in self._descriptors if not path or p == path or p.startswith(below)]:
            os.close(self._descriptors.pop(known))


class PosixDirectory(PosixReadableDirectory):
    """Directory over `root`; see the module for its invariants."""

    def __init__(self, root: bytes) -> None:
        """As PosixReadableDirectory."""
        super().__init__(root)
        self._flush_descriptor = self._open_again()
        self._flush_process = os.getpid()

    def close(self) -> None:
        """See ReadableDirectory."""
        os.close(self._flush_descriptor)
        super().close()

    def create_file(self, path: bytes, *, resume: bool, mode: int = 0o600) -> PosixFile:
        """See Directory."""
        self._listen_for_errors()
        flags = os.O_RDWR | os.O_CREAT
        return self._open_regular(path, flags if resume else flags | os.O_TRUNC, mode)

    def write_small(self, path: bytes, data: Buffer, metadata: Metadata) -> list[MetadataLoss]:
        """See Directory."""
        self._listen_for_errors()
        directory, name = self._parent(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        mode = metadata.mode & 0o777
        descriptor, current = self._open_descriptor(directory, name, path, flags, mode)
        try:
            return write_small(descriptor, current, data, metadata)
        except OSError as error:
            raise_translated(error, path, "write-failed")
        finally:
            os.close(descriptor)

    def make_directory(self, path: bytes) -> None:
        """See Directory."""
        directory, name = self._parent(path)
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except OSError as error:
            raise_translated(error, path, "write-failed")

    def make_symlink(self, path: bytes, target: bytes, metadata: Metadata) -> list[MetadataLoss]:
        """See Directory."""
        directory, name = self._parent(path)
        try:
            os.symlink(target, name, dir_fd=directory)
        except OSError as error:
            raise_translated(error, path, "write-failed")
        return self._set_symlink_metadata(path, metadata)

    def make_hard_link(self, existing: bytes, path: bytes) -> None:
        """See Directory."""
        with self._parents(existing, path) as (source, source_name, directory, name):
            try:
                os.link(
                    source_name,
                    name,
                    src_dir_fd=source,
                    dst_dir_fd=directory,
                    follow_symlinks=False,
                )
            except OSError as error:
                raise_translated(error, path, "write-failed")

    def set_metadata(self, path: bytes, kind: FileKind, metadata: Metadata) -> list[MetadataLoss]:
        """See Directory."""
        if kind is FileKind.SYMLINK:
            return self._set_symlink_metadata(path, metadata)
        with self._pinned(path) as (target, found):
            if found is not kind:
                raise ConflictError(
                    f"{display_path(path)}: is now a {found}, was a {kind}",
                    code="kind-changed",
                    advice="something else writes to this tree",
                    path=path,
                )
            try:
                return apply_metadata(target, metadata, os.stat(target))
            except OSError as error:
                raise_translated(error, path, "write-failed")

    def rename(self, path: bytes, new_path: bytes) -> None:
        """See Directory."""
        try:
            self._rename(path, new_path)
        except NotFoundError:
            # Another process may have put another directory in place of one held open here.
            self._forget(parent_of(path))
            self._forget(parent_of(new_path))
            self._rename(path, new_path)

    def _rename(self, path: bytes, new_path: bytes) -> None:
        with self._parents(path, new_path) as (directory, name, new_directory, new_name):
            try:
                os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
                moved = os.stat(new_name, dir_fd=new_directory, follow_symlinks=False)
            except OSError as error:
                raise_translated(error, new_path, "write-failed")
        if mode_bits.S_ISDIR(moved.st_mode):
            self._forget(path)
            self._forget(new_path)  # An empty directory may have stood there.

    def remove_file(self, path: bytes) -> None:
        """See Directory."""
        directory, name = self._parent(path)
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            raise_translated(error, path, "write-failed")

    def remove_directory(self, path: bytes) -> None:
        """See Directory."""
        directory, name = self._parent(path)
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            raise_translated(error, path, "write-failed")
        self._forget(path)

    def flush_directory(self, path: bytes) -> None:
        """See Directory."""
        try:
            os.fsync(self._directory(path))
        except OSError as error:
            raise_translated(error, path, "flush-failed")

    def flush_all(self) -> None:
        """See Directory."""
        try:
            linux.syncfs(self._flush_descriptor)
        except OSError as error:
            raise_translated(error, self.root, "flush-failed")

    def space(self) -> Space:
        """See Directory."""
        try:
            raw = os.fstatvfs(self._root_descriptor)
        except OSError as error:
            raise_translated(error, self.root, "read-failed")
        return Space(
            raw.f_bavail * raw.f_frsize, raw.f_favail if raw.f_files else None, raw.f_frsize
        )

    def _listen_for_errors(self) -> None:
        """Have `flush_all` tell this process of every write that fails from here on.

        The kernel tells of a failed writeback once to each opening of a directory that is synced.
        An opening inherited by fork is shared: one worker would be told of the loss of another's
        data, and the other would take it for durable.
        """
        process = os.getpid()
        if process != self._flush_process:
            os.close(self._flush_descriptor)
            self._flush_descriptor = self._open_again()
            self._flush_process = process

    def _open_again(self) -> int:
        try:
            return os.open(b".", _DIRECTORY_FLAGS, dir_fd=self._root_descriptor)
        except OSError as error:
            raise_translated(error, self.root, "read-failed")

    def _set_symlink_metadata(self, path: bytes, metadata: Metadata) -> list[MetadataLoss]:
        directory, name = self._parent(path)
        losses: list[MetadataLoss] = []
        times = (metadata.mtime_ns, metadata.mtime_ns)
        try:
            try:
                os.chown(name, metadata.uid, metadata.gid, dir_fd=directory, follow_symlinks=False)
            except PermissionError:
                losses.append(MetadataLoss.OWNER)
            os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise_translated(error, path, "write-failed")
        return losses


def _not_a_file(path: bytes) -> ConflictError:
    return ConflictError(f"{display_path(path)}: not a regular file", code="not-a-file", path=path)
