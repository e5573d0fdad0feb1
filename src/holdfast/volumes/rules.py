"""Decisions about a volume: pressure of its log, when to checkpoint, how long a lease holds.

Pure: values in, values out. Numbers are those of study of the field's defaults.

1. Below HARD every change that fits is admitted; from SOFT on, callers are asked to pause, the
   longer the fuller the log is, never longer than PAUSE_MAX_S.
2. A lease ends for its holder before it can end for whoever granted it, if no clock runs faster or
   slower than CLOCK_RATE_ERROR.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import MIB
from holdfast.volumes.model import Preset

SOFT_FRACTION: Final = 0.7
HARD_FRACTION: Final = 0.9
PAUSE_MAX_S: Final = 0.005
STALL_DEADLINE_S: Final = 5.0
"""A change that is stalled this long fails with `log-full`, and nothing of it has happened."""
CLOCK_RATE_ERROR: Final = 0.001
"""The monotonic clocks of two machines run apart by less than this fraction."""
CHECKPOINT_FRACTION: Final = 0.8
"""Of the active half of the log: from here on a checkpoint is urgent."""

PRESETS: Final = {
    preset.name: preset
    for preset in (
        Preset(
            name="general",
            log_bytes=64 * MIB,
            checkpoint_interval_ms=100,
            durability="best_effort",
            copies_count=2,
            front_end="iscsi",
        ),
        Preset(
            name="database",
            log_bytes=128 * MIB,
            checkpoint_interval_ms=100,
            durability="sync_all",
            copies_count=2,
            front_end="nvme",
        ),
        Preset(
            name="throughput",
            log_bytes=128 * MIB,
            checkpoint_interval_ms=100,
            durability="best_effort",
            copies_count=2,
            front_end="iscsi",
        ),
    )
}


def parse_preset(name: str) -> Preset:
    """Return a preset, or raise InvalidRequestError (`bad-preset`)."""
    if name not in PRESETS:
        raise InvalidRequestError(
            f"there is no preset {name[:64]!r}",
            code="bad-preset",
            advice=f"take one of {', '.join(sorted(PRESETS))}",
        )
    return PRESETS[name]


class PressureWord(StrEnum):
    """How full the log is."""

    NORMAL = "normal"
    SOFT = "soft"
    HARD = "hard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How full the log is and how long a connection should pause before its next writes."""

    word: PressureWord
    pause_s: float


_NORMAL: Final = Pressure(word=PressureWord.NORMAL, pause_s=0.0)
_HARD: Final = Pressure(word=PressureWord.HARD, pause_s=PAUSE_MAX_S)


def pressure(used_fraction: float) -> Pressure:
    """Return the pressure of a log that is this full."""
    if used_fraction < SOFT_FRACTION:
        return _NORMAL
    if used_fraction >= HARD_FRACTION:
        return _HARD
    share = (used_fraction - SOFT_FRACTION) / (HARD_FRACTION - SOFT_FRACTION)
    return Pressure(word=PressureWord.SOFT, pause_s=PAUSE_MAX_S * share)


def wants_checkpoint(active_fraction: float, *, idle_ns: int, interval_ns: int) -> bool:
    """Return whether to begin a checkpoint, given how full the active half of the log is.

    While changes come, only fullness counts: each checkpoint costs the same flushes and pages of
    maps however little it carries, and every 100 ms they took half of a data process.
    """
    if active_fraction >= CHECKPOINT_FRACTION:
        return True
    return active_fraction > 0 and idle_ns >= interval_ns


def lease_end_ns(sent_ns: int, ttl_ns: int) -> int:
    """Return when a lease asked for at `sent_ns`, of the holder's clock, ends for its holder."""
    return sent_ns + int(ttl_ns * (1 - 2 * CLOCK_RATE_ERROR))
