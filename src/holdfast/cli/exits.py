"""The exit codes of the command line: one for each kind of error, and for the answers without one.

Append-only: a code, once given, keeps its meaning. A code a script does not know means failure.
docs/reference/errors.md is generated from here and from holdfast.errors.

Invariants:
1. The table is total: every kind of error has a code of its own.
2. Damage found is an answer (3), not an error; DONE says that nothing at all is wrong.
3. Of several results the worst is reported, in the order of SEVERITY.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from holdfast import errors


class Exit(IntEnum):
    """What a command tells the shell."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "Exit":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "Done, and nothing is wrong."
    BUG = 1, "A defect of holdfast itself; please report it."
    INVALID_REQUEST = 2, "The command line or the request is wrong."
    DAMAGED = 3, "Done, and the answer is bad: a verification found a difference."
    NOT_FOUND = 10, "Something named does not exist."
    CONFLICT = 11, "Someone else changed it or holds it."
    FENCED = 12, "A newer owner exists; stop."
    STATE = 13, "Not possible in the present state."
    UNAVAILABLE = 14, "Nothing happened; try again later."
    OUTCOME_UNKNOWN = 15, "It may have happened; read back first."
    CAPACITY = 16, "A limit or the disk is full."
    DENIED = 17, "Not allowed."
    UNSUPPORTED = 18, "This version, store or file system cannot."
    INTEGRITY = 20, "Stored bytes are not what was stored."
    STORAGE_FAILED = 21, "The medium refused to read, write or flush."
    INTERRUPTED = 130, "Stopped on request; the same command goes on from there."


EXITS: Final[dict[type[errors.HoldfastError], Exit]] = {
    errors.InvalidRequestError: Exit.INVALID_REQUEST,
    errors.DeniedError: Exit.DENIED,
    errors.NotFoundError: Exit.NOT_FOUND,
    errors.ConflictError: Exit.CONFLICT,
    errors.FencedError: Exit.FENCED,
    errors.StateError: Exit.STATE,
    errors.UnavailableError: Exit.UNAVAILABLE,
    errors.OutcomeUnknownError: Exit.OUTCOME_UNKNOWN,
    errors.CapacityError: Exit.CAPACITY,
    errors.UnsupportedError: Exit.UNSUPPORTED,
    errors.IntegrityError: Exit.INTEGRITY,
    errors.StorageFailedError: Exit.STORAGE_FAILED,
    errors.CancelledError: Exit.INTERRUPTED,
}

SEVERITY: Final = (
    Exit.BUG,
    Exit.STORAGE_FAILED,
    Exit.INTEGRITY,
    Exit.DAMAGED,
    Exit.OUTCOME_UNKNOWN,
    Exit.FENCED,
    Exit.CAPACITY,
    Exit.DENIED,
    Exit.CONFLICT,
    Exit.STATE,
    Exit.UNAVAILABLE,
    Exit.NOT_FOUND,
    Exit.UNSUPPORTED,
    Exit.INVALID_REQUEST,
    Exit.INTERRUPTED,
    Exit.DONE,
)
"""Worst first: what may have cost data, then what needs someone to act, then what only waits."""


def exit_code(error: BaseException) -> Exit:
    """Return the exit code of an error; BUG for anything that is not a kind of ours."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    for kind in type(error).__mro__:
        if kind in EXITS:
            return EXITS[kind]
    return Exit.BUG


def worst(exits: Iterable[Exit]) -> Exit:
    """Return the most severe of several; DONE of none."""
    return min(exits, key=SEVERITY.index, default=Exit.DONE)
