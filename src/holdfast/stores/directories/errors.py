"""Turns an OSError of a directory tree into the error its caller should act on; one table."""

import errno
from typing import NoReturn

from holdfast.errors import (
    CapacityError,
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    StorageFailedError,
    UnsupportedError,
)
from holdfast.model.tree import display_path

_NOT_A_FILE = (ConflictError, "not-a-file", "not a regular file", "")
_FULL = (CapacityError, "disk-full", "no room left", "free some space, then run it again")
_DENIED = (
    DeniedError,
    "forbidden",
    "permission denied",
    "run as a user who may, or change its permissions",
)

_TABLE: dict[int, tuple[type[HoldfastError], str, str, str]] = {
    errno.ENOENT: (NotFoundError, "no-entry", "no such entry", ""),
    errno.ESTALE: (NotFoundError, "no-entry", "no such entry any more", ""),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: (DeniedError, "read-only", "read-only file system", "mount it writable"),
    errno.ENOTDIR: (ConflictError, "not-a-directory", "not a directory", ""),
    errno.EISDIR: (ConflictError, "is-a-directory", "is a directory", ""),
    errno.EEXIST: (ConflictError, "exists", "something stands there already", ""),
    errno.ENOTEMPTY: (ConflictError, "not-empty", "directory not empty", ""),
    errno.ELOOP: _NOT_A_FILE,
    errno.ENXIO: _NOT_A_FILE,
    errno.ENODEV: _NOT_A_FILE,
    errno.ETXTBSY: (ConflictError, "busy", "in use as a program", "stop the program first"),
    errno.EBUSY: (ConflictError, "busy", "in use, perhaps as a mount point", "unmount it first"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EMLINK: (CapacityError, "too-many-links", "too many links to one file", ""),
    errno.EMFILE: (CapacityError, "too-many-open-files", "too many open files", "raise ulimit -n"),
    errno.ENFILE: (CapacityError, "too-many-open-files", "too many open files", ""),
    errno.EFBIG: (CapacityError, "file-too-large", "larger than this file system allows", ""),
    errno.EXDEV: (
        UnsupportedError,
        "cross-device",
        "lies on another file system than the root",
        "copy to that mount point on its own",
    ),
    errno.EOPNOTSUPP: (UnsupportedError, "unsupported", "this file system cannot do it", ""),
    errno.ENAMETOOLONG: (
        InvalidRequestError,
        "name-too-long",
        "name too long for this file system",
        "",
    ),
    errno.EINVAL: (
        InvalidRequestError,
        "bad-name",
        "this file system refuses the name or value",
        "",
    ),
    errno.EILSEQ: (InvalidRequestError, "bad-name", "this file system refuses the name", ""),
}


def raise_translated(error: OSError, path: bytes, failed_code: str) -> NoReturn:
    """Raise what `error` on `path` means; see `translated`."""
    raise translated(error, path, failed_code) from error


def translated(error: OSError, path: bytes, failed_code: str) -> HoldfastError:
    """Return what `error` on `path` means; errors outside the table are StorageFailedError.

    Args:
        error: What the kernel said.
        path: Of the entry, for people.
        failed_code: The code when the medium itself refused: `read-failed`, `write-failed`, ...
    """
    row = _TABLE.get(error.errno or 0)
    if row is None:
        return StorageFailedError(
            f"{display_path(path)}: {error.strerror or error}",
            code=failed_code,
            advice="look at the kernel log and the health of the disk",
            path=path,
            errno=error.errno,
        )
    kind, code, text, advice = row
    return kind(f"{display_path(path)}: {text}", code=code, advice=advice, path=path)
