"""A head: the small value that names what is current, its states, and how one advance is decided.

Decides from values alone whether an advance is made; it stores nothing. What a key's history may
contain in order is decided in heads/advance.py, on top of this.

Invariants, held by every register:

1. Revisions of a key only grow; revision 0 means that the key was never written.
2. Epochs of a key never fall: whoever writes with a smaller one is fenced.
3. A state is never forgotten by deleting it: a tombstone with a revision of its own stays.
4. At most one advance succeeds from one revision of a key.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import HEAD_KEY_BYTES_MAX, HEAD_VALUE_BYTES_MAX, WRITE_ID_BYTES_MAX

Epoch = NewType("Epoch", int)
"""Grows with each change of who may write."""
Revision = NewType("Revision", int)
"""Grows with each state of a key; what it grows by means nothing."""

NEVER_WRITTEN = Revision(0)
NUMBER_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadState:
    """One state of one key."""

    value: bytes | None
    """None: a tombstone, or never written."""
    revision: Revision
    epoch: Epoch
    is_tombstone: bool
    write_id: str
    """Names the advance that made this state; empty if never written."""


ABSENT = HeadState(
    value=None, revision=NEVER_WRITTEN, epoch=Epoch(0), is_tombstone=False, write_id=""
)


class RefusalReason(StrEnum):
    """Why an advance was refused."""

    REVISION = "revision"
    """The key is not at the expected revision: somebody else was first."""
    EPOCH = "epoch"
    """A newer epoch has written: stop, do not retry."""
    FORK = "fork"
    """Neither value descends from the other: two writers."""
    BEHIND = "behind"
    """The proposed value is an ancestor of the current one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """It is done and durable; `state` is what this very advance made, be it superseded or not."""

    state: HeadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing was changed by this call; `current` is why."""

    current: HeadState
    reason: RefusalReason
    proposed: bytes | None = None
    """Of a fork, the value that was refused: evidence together with the current one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """It may have happened, or may still; the same call with the same arguments will tell."""

    write_id: str


AdvanceOutcome = Advanced | Refused | Unknown


def check_key(key: str) -> None:
    """Refuse a key that is empty, too long, or cannot be stored everywhere."""
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        size_bytes = 0
    if not 0 < size_bytes <= HEAD_KEY_BYTES_MAX or "\0" in key:
        raise InvalidRequestError(
            f"{key[:40]!r} cannot be the key of a head",
            code="bad-head-key",
            advice=f"use 1 to {HEAD_KEY_BYTES_MAX} bytes of UTF-8 without NUL",
        )


def check_advance(
    key: str, *, expected: Revision, value: bytes | None, epoch: Epoch, write_id: str
) -> None:
    """Refuse arguments of an advance that no register takes."""
    check_key(key)
    if value is not None and len(value) > HEAD_VALUE_BYTES_MAX:
        raise InvalidRequestError(
            f"the head's value has {len(value)} bytes; {HEAD_VALUE_BYTES_MAX} are the limit",
            code="head-value-too-large",
            advice="store the data elsewhere and its name here",
            limit_bytes=HEAD_VALUE_BYTES_MAX,
        )
    if not 0 <= epoch <= NUMBER_MAX or not 0 <= expected <= NUMBER_MAX:
        raise InvalidRequestError(
            "epoch and expected revision are whole numbers from 0 to 2^63 - 1",
            code="bad-head-number",
        )
    if not (write_id.isascii() and write_id.isprintable()) or not (
        0 < len(write_id) <= WRITE_ID_BYTES_MAX
    ):
        raise InvalidRequestError(
            f"{write_id[:40]!r} is not a write id",
            code="bad-write-id",
            advice=f"use 1 to {WRITE_ID_BYTES_MAX} printable ASCII characters",
        )


def decide_advance(
    current: HeadState,
    follower: HeadState | None,
    *,
    expected: Revision,
    epoch: Epoch,
    write_id: str,
) -> Advanced | Refused | None:
    """Answer an advance from what is stored; None: nothing speaks against making it.

    Args:
        follower: The oldest kept state after `expected`, if any: what a repeat of the advance that
            made it is answered with.
    """
    for state in (current, follower):
        if state is not None and state.revision > expected and state.write_id == write_id:
            return Advanced(state=state)
    if epoch < current.epoch:
        return Refused(current=current, reason=RefusalReason.EPOCH)
    if expected != current.revision:
        return Refused(current=current, reason=RefusalReason.REVISION)
    return None
