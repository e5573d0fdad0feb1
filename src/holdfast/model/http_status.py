"""The HTTP status of each kind of error, for every face; what codes change is each face's own.

1. The table is total: every kind of error has a status.
"""

from typing import Final

from holdfast import errors

STATUS_OF_KIND: Final[dict[type[errors.HoldfastError], int]] = {
    errors.InvalidRequestError: 400,
    errors.DeniedError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.FencedError: 409,
    errors.StateError: 409,
    errors.UnavailableError: 503,
    errors.OutcomeUnknownError: 504,
    errors.CapacityError: 507,
    errors.UnsupportedError: 501,
    errors.IntegrityError: 500,
    errors.StorageFailedError: 500,
    errors.CancelledError: 503,
}


def status_of_kind(error: errors.HoldfastError) -> int:
    """Return the status of an error's kind."""
    return next(STATUS_OF_KIND[kind] for kind in type(error).__mro__ if kind in STATUS_OF_KIND)
