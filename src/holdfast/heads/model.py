"""Values of the heads facet: transactions, what became of them, and what a caller is told.

Nothing here decides; rules.py does.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from holdfast.model.head import Epoch, HeadState, Revision

TRANSACTION_ID_BYTES_MAX: Final = 1024
TOKEN_BYTES_MAX: Final = 8192


class Operation(StrEnum):
    """What a transaction does to its key."""

    PUT = "put"
    DELETE = "delete"


class Fate(StrEnum):
    """What has become of a transaction; the words of the HTTP API."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"
    """It did not happen and never will."""
    UNKNOWN = "unknown"
    """Never heard of, forgotten, or begun and its outcome not yet seen."""


class GoneReason(StrEnum):
    """Why there is nothing to commit."""

    NEVER_PREPARED = "never-prepared"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    REVISION = "revision"
    """The head has moved from the revision that If-Match named."""
    FENCED = "fenced"
    FORK = "fork"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a PUT or DELETE asks for."""

    id: str
    operation: Operation
    value: bytes | None
    """None exactly when `operation` is DELETE."""
    if_revision: Revision | None
    """Only from this revision (If-Match); None: from whichever is current."""
    write_id: str
    """Fresh: never used before, and used for this transaction alone if it becomes one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A prepared change of one key, waiting for its POST."""

    id: str
    operation: Operation
    value: bytes | None
    expected: Revision
    """The revision that was current when it was prepared."""
    is_conditional: bool
    epoch: Epoch
    write_id: str
    expires_ns: int
    """Monotonic; from this moment on it cannot commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The transaction waits for its POST, or is already done (a repeat)."""

    revision: Revision
    """Of the head now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatched:
    """If-Match does not name the current revision; nothing was prepared."""

    current: HeadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """Too many transactions are pending; nothing was prepared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The transaction has committed, now or earlier, and made this revision."""

    revision: Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """There is nothing to commit under this id; it did not happen and never will."""

    reason: GoneReason
    evidence: tuple[bytes | None, bytes | None] | None = None
    """Of a fork or a step back: the current value and the proposed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """It may have happened or may still; POST again tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FateReport:
    """The answer to: what became of this transaction?"""

    fate: Fate
    revision: Revision | None = None
    reason: str = ""
