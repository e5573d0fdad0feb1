"""One total table from our kinds of error to those of NBD; it knows only eight."""

from typing import Final

from holdfast import errors
from holdfast.errors import HoldfastError
from holdfast.volumes.nbd.codec import Errno

ERRNOS: Final[dict[type[HoldfastError], Errno]] = {
    errors.InvalidRequestError: Errno.EINVAL,
    errors.NotFoundError: Errno.EINVAL,
    errors.DeniedError: Errno.EPERM,
    errors.StateError: Errno.EPERM,
    errors.ConflictError: Errno.EPERM,
    errors.FencedError: Errno.ESHUTDOWN,
    errors.CancelledError: Errno.ESHUTDOWN,
    errors.UnavailableError: Errno.ESHUTDOWN,
    errors.CapacityError: Errno.ENOSPC,
    errors.UnsupportedError: Errno.ENOTSUP,
    errors.IntegrityError: Errno.EIO,
    errors.StorageFailedError: Errno.EIO,
    errors.OutcomeUnknownError: Errno.EIO,
}


def errno_of(error: HoldfastError) -> Errno:
    """Return what a client of NBD is told of an error."""
    return ERRNOS[type(error)]
