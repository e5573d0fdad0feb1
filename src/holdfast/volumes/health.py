"""The health of a volume: one word and one number, a pure function of what its process says.

The number is how many bytes of what clients were told is stored are lost or may be, at most. A
write that no flush followed may be lost with the power; that is the contract of a write cache, and
counts only once a flush can no longer succeed.

Invariants:

1. Exactly one word holds of every status; the first rule that holds gives it.
2. HEALTHY says that a flush asked for now can be answered: nothing failed, nothing is known to be
   damaged, the volume may acknowledge, and the log has room.
3. The number is 0 unless the word is DAMAGED or UNSAFE.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from holdfast.volumes.control import VolumeStatus
from holdfast.volumes.model import VolumeState
from holdfast.volumes.rules import HARD_FRACTION


class HealthWord(StrEnum):
    """From best to worst."""

    HEALTHY = "healthy"
    STRAINED = "strained"
    """Clients wait: they write faster than the medium takes it."""
    DOWN = "down"
    """No process serves it, or it does not answer; nothing is lost by that."""
    FENCED = "fenced"
    """It may not acknowledge: another holds a newer epoch, or the lease ran out."""
    DAMAGED = "damaged"
    """Stored bytes are not what was stored; reading them fails, all others are right."""
    UNSAFE = "unsafe"
    """A write or flush of the medium failed: what was not flushed before may be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The word, the number, and the reason in a sentence."""

    word: HealthWord
    lost_bytes: int
    reason: str


DOWN: Final = Health(word=HealthWord.DOWN, lost_bytes=0, reason="no process serves it")


def health_of(status: VolumeStatus) -> Health:
    """Return the health of a volume whose process said this."""
    if status.state == VolumeState.POISONED:
        return Health(word=HealthWord.UNSAFE, lost_bytes=status.dirty_bytes, reason=status.reason)
    if status.state == VolumeState.DAMAGED or status.scrub.damaged_bytes:
        reason = status.reason or f"the scrub found {len(status.scrub.damage)} damaged ranges"
        return Health(word=HealthWord.DAMAGED, lost_bytes=status.scrub.damaged_bytes, reason=reason)
    if not status.may_acknowledge:
        return Health(
            word=HealthWord.FENCED,
            lost_bytes=0,
            reason=f"as {status.role} of epoch {status.epoch} it may not acknowledge now",
        )
    if status.is_stalled or status.log_used_bytes >= HARD_FRACTION * status.log_size_bytes:
        return Health(
            word=HealthWord.STRAINED,
            lost_bytes=0,
            reason="the log is full: writes wait for the checkpoint",
        )
    return Health(word=HealthWord.HEALTHY, lost_bytes=0, reason="")
