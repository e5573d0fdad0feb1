"""The kinds of error: one class for each thing a caller should do next.

A class exists only where a caller would act differently; finer differences are `code`s, kebab-case
and append-only. The message is for people, says what happened and to which thing, and is not API;
`advice` says what to do next; values go in `context`. Each face of the product (HTTP, CLI, NBD,
SCSI) owns one total table from these classes to its own numbers, and a test fails on a hole.

Damage found by a verification is a verdict, not an error. Losing a compare-and-set is an outcome.
"""

from typing import ClassVar


class HoldfastError(Exception):
    """What every error of holdfast is; never raised itself.

    Args:
        message: For people: what happened, to which thing. Lower case, no full stop.
        code: For machines: kebab-case, stable for ever.
        advice: For people: what to do next. Empty where nothing can be said.
        context: Values a machine may want, such as the path or the limit.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str, advice: str = "", **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.advice = advice
        self.context = context

    def as_problem(self) -> dict[str, object]:
        """Return the members every face shows: kind, code, message, advice and context."""
        return {
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "advice": self.advice,
            "context": {name: _plain(value) for name, value in self.context.items()},
        }

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickles only args; an error must cross a process boundary whole.
        return _rebuild, (type(self), self.message, self.code, self.advice, self.context)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _rebuild(
    kind: type[HoldfastError], message: str, code: str, advice: str, context: dict[str, object]
) -> HoldfastError:
    return kind(message, code=code, advice=advice, **context)


class InvalidRequestError(HoldfastError):
    """The request is wrong; change it."""

    kind = "invalid-request"


class DeniedError(HoldfastError):
    """Not allowed; ask an owner."""

    kind = "denied"


class NotFoundError(HoldfastError):
    """No such thing."""

    kind = "not-found"


class ConflictError(HoldfastError):
    """Someone else changed it or holds it; look again and decide."""

    kind = "conflict"


class FencedError(HoldfastError):
    """A newer epoch exists; stop, do not retry."""

    kind = "fenced"


class StateError(HoldfastError):
    """Legal, but not now; read the state."""

    kind = "state"


class UnavailableError(HoldfastError):
    """Nothing happened; retry the same request later."""

    kind = "unavailable"


class OutcomeUnknownError(HoldfastError):
    """It may have happened; read back by request id before anything else."""

    kind = "outcome-unknown"


class CapacityError(HoldfastError):
    """A limit or the disk is full; free some or raise it."""

    kind = "capacity"


class UnsupportedError(HoldfastError):
    """This version, store or file system cannot do it."""

    kind = "unsupported"


class IntegrityError(HoldfastError):
    """Stored bytes are not what was stored; quarantine, repair, never overwrite."""

    kind = "integrity"


class StorageFailedError(HoldfastError):
    """The medium refused. A flush that failed is never retried on the same file."""

    kind = "storage-failed"


class CancelledError(HoldfastError):
    """Someone asked for the work to stop, and it stopped; the same request goes on from there."""

    kind = "cancelled"
