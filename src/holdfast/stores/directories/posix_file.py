"""Regular files of a real file system, open for reading or for writing."""

import contextlib
import errno
import os
import stat as mode_bits
from collections.abc import Iterator, Mapping

from holdfast.model.limits import MIB
from holdfast.model.tree import FileKind, Metadata, MetadataLoss, Signature, Stat
from holdfast.ports import Buffer, SmallFile
from holdfast.stores.directories import linux
from holdfast.stores.directories.errors import raise_translated

_KINDS = {
    mode_bits.S_IFREG: FileKind.FILE,
    mode_bits.S_IFDIR: FileKind.DIRECTORY,
    mode_bits.S_IFLNK: FileKind.SYMLINK,
    mode_bits.S_IFIFO: FileKind.FIFO,
    mode_bits.S_IFSOCK: FileKind.SOCKET,
}
_SET_ID_BITS = 0o6000
_ZEROS = bytes(MIB)

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_CAPABILITY = b"security.capability"

Target = int | bytes
"""A descriptor, or a path through /proc/self/fd that names one opened with O_PATH."""


def convert_stat(raw: os.stat_result) -> Stat:
    """Return the port's view of what the kernel says."""
    mode = raw.st_mode
    kind = _KINDS.get(mode & 0o170000, FileKind.DEVICE)
    # As Stat(...) does, without a call of Python.
    return tuple.__new__(
        Stat,
        (
            kind,
            raw.st_size if kind is FileKind.FILE or kind is FileKind.SYMLINK else 0,
            raw.st_mtime_ns,
            raw.st_ctime_ns,
            raw.st_ino,
            raw.st_dev,
            mode & 0o7777,
            raw.st_uid,
            raw.st_gid,
            raw.st_nlink,
            raw.st_blocks * 512,
        ),
    )


def read_xattrs(target: Target) -> dict[bytes, bytes]:
    """Return the attributes that belong to the data: user, trusted, ACLs and capabilities.

    Security labels of the host and other `system.` attributes stay with the host.
    """
    try:
        names = os.listxattr(target)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
            return {}
        raise
    if not names:
        return {}
    found: dict[bytes, bytes] = {}
    for text in names:
        name = os.fsencode(text)
        if _is_copied(name):
            # An attribute may vanish or be unreadable between the two calls.
            with contextlib.suppress(OSError):
                found[name] = os.getxattr(target, name)
    return found


def _is_copied(name: bytes) -> bool:
    return name.startswith((b"user.", b"trusted.")) or name in _ACLS or name == _CAPABILITY


def apply_metadata(
    target: Target, metadata: Metadata, current: os.stat_result
) -> list[MetadataLoss]:
    """Set owner, mode, attributes and times, in the order in which none undoes another.

    chown clears set-id bits and capabilities, so it comes first; an ACL writes the mode, so it
    comes after chmod; any of them moves ctime but not mtime, which comes last all the same.
    """
    losses: list[MetadataLoss] = []
    mode = metadata.mode
    owner_changed = False
    if (current.st_uid, current.st_gid) != (metadata.uid, metadata.gid):
        try:
            os.chown(target, metadata.uid, metadata.gid)
            owner_changed = True  # And with it perhaps the mode.
        except PermissionError:
            losses.append(MetadataLoss.OWNER)
            if mode & _SET_ID_BITS:
                # A set-id program must never come to run as somebody else than it was meant to.
                mode &= ~_SET_ID_BITS
                losses.append(MetadataLoss.SET_ID)
    if current.st_mode & 0o7777 != mode or owner_changed:
        os.chmod(target, mode)
    if not _apply_xattrs(target, metadata.xattrs):
        losses.append(MetadataLoss.XATTR)
    os.utime(target, ns=(metadata.mtime_ns, metadata.mtime_ns))
    return losses


def read_small(descriptor: int, before: os.stat_result, buffer: memoryview) -> SmallFile | None:
    """Read a file opened a moment ago whole; see ReadableDirectory.read_small."""
    size_bytes = before.st_size
    if size_bytes > len(buffer) or before.st_blocks * 512 < size_bytes:
        return None
    done = 0
    while done < size_bytes:
        more = os.preadv(descriptor, [buffer[done:size_bytes]], done)
        if not more:
            break
        done += more
    xattrs = read_xattrs(descriptor)
    after = os.fstat(descriptor)
    is_steady = (
        after.st_mtime_ns == before.st_mtime_ns
        and after.st_ctime_ns == before.st_ctime_ns
        and after.st_size == size_bytes
    )
    return SmallFile(convert_stat(before), done, xattrs, is_steady)


def write_small(
    descriptor: int, current: os.stat_result, data: Buffer, metadata: Metadata
) -> list[MetadataLoss]:
    """Write a file that was just made or emptied; see Directory.write_small."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:] if done else data, done)
    return apply_metadata(descriptor, metadata, current)


def _apply_xattrs(target: Target, wanted: Mapping[bytes, bytes]) -> bool:
    """Make the copied attributes exactly `wanted`; return whether that worked."""
    present = read_xattrs(target)
    if present == wanted:
        return True
    kept = True
    for name in present.keys() - wanted.keys():
        try:
            os.removexattr(target, name)
        except OSError:
            kept = False
    for name, value in wanted.items():
        if present.get(name) != value:
            try:
                os.setxattr(target, name, value)
            except OSError:
                kept = False
    return kept


class PosixFile:
    """An open regular file: ReadableFile and WritableFile of holdfast.ports.

    Owned by one worker. The descriptor is closed once, by `close`.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, descriptor: int, path: bytes) -> None:
        self._descriptor = descriptor
        self._path = path

    def stat(self) -> Stat:
        """See ReadableFile."""
        return convert_stat(os.fstat(self._descriptor))

    def signature(self) -> Signature:
        """See ReadableFile."""
        raw = os.fstat(self._descriptor)
        return Signature(raw.st_size, raw.st_mtime_ns, raw.st_ctime_ns, raw.st_ino)

    def size_bytes(self) -> int:
        """See WritableFile."""
        return os.fstat(self._descriptor).st_size

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """See ReadableFile."""
        wanted = len(buffer)
        try:
            done = os.preadv(self._descriptor, [buffer], offset_bytes)
            while 0 < done < wanted:
                more = os.preadv(self._descriptor, [buffer[done:]], offset_bytes + done)
                if not more:
                    break
                done += more
        except OSError as error:
            raise_translated(error, self._path, "read-failed")
        return done

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """See ReadableFile."""
        start = 0
        while start < size_bytes:
            try:
                start = os.lseek(self._descriptor, start, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                if error.errno == errno.EINVAL:
                    yield start, size_bytes
                    return
                raise_translated(error, self._path, "read-failed")
            if start < size_bytes:
                yield start, min(end, size_bytes)
            start = end

    def xattrs(self) -> dict[bytes, bytes]:
        """See ReadableFile."""
        return read_xattrs(self._descriptor)

    def given_digest(self) -> None:
        """See ReadableFile."""

    def digest_prefix(self, end: int) -> None:
        """See ReadableFile."""

    def drop_cache(self) -> None:
        """See ReadableFile."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            # Of a large file the kernel fetches but a first part.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_WILLNEED)

    def write_at(self, data: Buffer, offset_bytes: int) -> None:
        """See WritableFile."""
        try:
            done = os.pwrite(self._descriptor, data, offset_bytes)
            while done < len(data):
                done += os.pwrite(self._descriptor, memoryview(data)[done:], offset_bytes + done)
        except OSError as error:
            raise_translated(error, self._path, "write-failed")

    def truncate(self, size_bytes: int) -> None:
        """See WritableFile."""
        try:
            os.ftruncate(self._descriptor, size_bytes)
        except OSError as error:
            raise_translated(error, self._path, "write-failed")

    def punch(self, start: int, end: int) -> None:
        """See WritableFile."""
        end = min(end, self.size_bytes())
        if start >= end:
            return
        try:
            linux.punch_hole(self._descriptor, start, end)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise_translated(error, self._path, "write-failed")
            for offset in range(start, end, len(_ZEROS)):
                self.write_at(memoryview(_ZEROS)[: end - offset], offset)

    def set_metadata(self, metadata: Metadata) -> list[MetadataLoss]:
        """See WritableFile."""
        try:
            return apply_metadata(self._descriptor, metadata, os.fstat(self._descriptor))
        except OSError as error:
            raise_translated(error, self._path, "write-failed")

    def start_writeback(self, offset_bytes: int, size_bytes: int) -> None:
        """See WritableFile."""
        with contextlib.suppress(OSError):
            linux.start_writeback(self._descriptor, offset_bytes, size_bytes)

    def flush(self) -> None:
        """See WritableFile."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise_translated(error, self._path, "flush-failed")

    def close(self) -> None:
        """See ReadableFile."""
        # On Linux the descriptor is gone whatever close says; what counts was flushed before.
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
