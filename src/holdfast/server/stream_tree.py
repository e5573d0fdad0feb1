"""A tree as a stream server shows it: what is excluded is not there, and refused by name.

Paths come from outside: each is checked before it is used, and walked by the directory below, which
follows no symlink.
"""

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.errors import DeniedError, HoldfastError, InvalidRequestError
from holdfast.model.limits import NAME_BYTES_MAX
from holdfast.model.tree import (
    ROOT_PATH,
    FileKind,
    Stat,
    check_path,
    display_path,
    join_path,
    parent_of,
)
from holdfast.ports import ReadableFile, SmallFile
from holdfast.stores.directories.posix import PosixReadableDirectory


@dataclass(slots=True, kw_only=True)
class ExportedTree:
    """The readable part of a directory."""

    directory: PosixReadableDirectory
    is_excluded: Callable[[bytes, bool], bool]
    """Given a path and whether it is a directory."""
    _allowed: tuple[bytes, bool] = (ROOT_PATH, True)
    """The directory asked about last: whether what is in it may be shown."""

    def refresh(self) -> None:
        """See what directories are there now, before each request."""
        self.directory.refresh()

    def names(self, path: bytes) -> list[bytes]:
        """Return the names of a directory that are shown, sorted."""
        self._check_directory(path)
        prefix = path + b"/" if path else b""
        return sorted(
            name
            for name, is_directory in self.directory.list_names(path)
            if not self.is_excluded(prefix + name, is_directory)
        )

    def stats(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        """Return the states of names that were shown."""
        return self.directory.stat_names(path, names)

    def stat(self, path: bytes) -> Stat:
        """Return the state of an entry; of the root for the empty path."""
        if path == ROOT_PATH:
            return self.directory.stat(path)
        self._check_parents(path)
        stat = self.directory.stat(path)
        if self.is_excluded(path, stat.kind is FileKind.DIRECTORY):
            raise _excluded(path)
        return stat

    def read_link(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        self._check_file(path)
        return self.directory.read_link(path)

    def link_of(self, path: bytes, name: bytes) -> bytes:
        """Return the target of a symlink that was shown; empty if it is gone."""
        try:
            return self.directory.read_link(join_path(path, name))
        except HoldfastError:
            return b""

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes of an entry."""
        self.stat(path)
        return self.directory.xattrs(path)

    def open_file(self, path: bytes) -> ReadableFile:
        """Open a regular file."""
        self._check_file(path)
        return self.directory.open_file(path)

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """Read a small regular file whole."""
        self._check_file(path)
        return self.directory.read_small(path, buffer)

    def _check_file(self, path: bytes) -> None:
        self._check_parents(path)
        if self.is_excluded(path, False):
            raise _excluded(path)

    def _check_parents(self, path: bytes) -> None:
        _check(path)
        parent = parent_of(path)
        if self._allowed[0] != parent:
            self._allowed = (parent, self._shows_directory(parent))
        if not self._allowed[1]:
            raise _excluded(path)

    def _check_directory(self, path: bytes) -> None:
        if path != ROOT_PATH:
            _check(path)
        if not self._shows_directory(path):
            raise _excluded(path)

    def _shows_directory(self, path: bytes) -> bool:
        while path:
            if self.is_excluded(path, True):
                return False
            path = parent_of(path)
        return True


def _check(path: bytes) -> None:
    if any(len(name) > NAME_BYTES_MAX for name in path.split(b"/")):
        raise InvalidRequestError(
            f"{display_path(path[:200])}...: name too long", code="name-too-long", path=path[:200]
        )
    check_path(path)


def _excluded(path: bytes) -> DeniedError:
    return DeniedError(
        f"{display_path(path)} is excluded from what this node shows",
        code="excluded",
        advice="change the exclusions of the instance at the source",
        path=path,
    )
