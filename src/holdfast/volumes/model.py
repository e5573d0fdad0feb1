"""Values of a volume that its engine, its front ends and its control share.

Not here: decisions (rules.py), bytes on the medium (engine/formats.py).
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple, NewType

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import GIB, KIB, MIB

Lsn = NewType("Lsn", int)
"""Number of a change, from 1 without gaps; 0 is the empty volume."""

BLOCK_BYTES: Final = 4 * KIB
"""Unit of atomicity, of checks at rest and of the maps."""
VOLUME_BYTES_MAX: Final = 4096 * GIB
SLOT_BYTES: Final = 64 * KIB
SEGMENT_BYTES_MAX: Final = 512 * MIB
REQUEST_BYTES_MAX: Final = 32 * MIB
"""Largest write; one of this size is one record."""


class VolumeState(StrEnum):
    """What an open volume is fit for."""

    HEALTHY = "healthy"
    DAMAGED = "damaged"
    """Durable changes are missing from the log: nothing is written, reads are refused."""
    POISONED = "poisoned"
    """A write or flush of the medium failed: nothing is written or acknowledged until reopened."""
    CLOSED = "closed"


class Role(IntEnum):
    """What a copy of a volume may do. Only a primary acknowledges."""

    PRIMARY = 1
    REPLICA = 2
    STALE = 3
    REBUILDING = 4


class StallReason(StrEnum):
    """What a stalled change waits for; a checkpoint brings all of it."""

    LOG_FULL = "log-full"
    SLOTS_FULL = "slots-full"
    MAP_FULL = "map-full"


class Stalled(NamedTuple):
    """Not done, and nothing changed: the same call again after a checkpoint."""

    reason: StallReason


class Extent(NamedTuple):
    """A run of bytes of one kind, as `allocation` tells it."""

    size_bytes: int
    is_hole: bool
    is_zero: bool


class ChangedExtent(NamedTuple):
    """A run of bytes, and whether it may have changed since the LSN asked about."""

    size_bytes: int
    is_changed: bool


class Request(NamedTuple):
    """One write of a run: where its 28 bytes for a header and its data lie in the buffer."""

    header_at: int
    data_at: int
    start: int
    size_bytes: int


class WriteRun(NamedTuple):
    """Writes that lie one after the other in a receive buffer, each behind 28 bytes of header.

    The engine writes over the headers. All of it happens, or nothing.
    """

    buffer: memoryview
    requests: list[Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes of a volume. All but `size_bytes` are fixed when it is made.

    `slot_bytes` is the unit in which space is taken and given back, and from which on a write's
    data is stored once, outside the log; `segment_bytes` is half the log.
    """

    size_bytes: int
    block_bytes: int = BLOCK_BYTES
    slot_bytes: int = SLOT_BYTES
    segment_bytes: int = 32 * MIB

    def __post_init__(self) -> None:
        if not 0 < self.size_bytes <= VOLUME_BYTES_MAX or self.size_bytes % BLOCK_BYTES:
            raise InvalidRequestError(
                f"a volume cannot have {self.size_bytes} bytes",
                code="bad-volume-size",
                advice=f"take a multiple of {BLOCK_BYTES}, at most {VOLUME_BYTES_MAX}",
            )
        assert self.block_bytes == BLOCK_BYTES, "other block sizes are not written"
        if self.slot_bytes not in SLOTS_BYTES_ALLOWED:
            raise InvalidRequestError(
                f"slots cannot have {self.slot_bytes} bytes", code="bad-slot-size"
            )
        if not 3 * self.slot_bytes <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise InvalidRequestError(
                f"a log cannot have {2 * self.segment_bytes} bytes",
                code="bad-log-size",
                advice=f"take {6 * self.slot_bytes} to {2 * SEGMENT_BYTES_MAX}",
            )
        if self.segment_bytes % BLOCK_BYTES:
            raise InvalidRequestError("half a log is whole blocks", code="bad-log-size")

    @property
    def slots_count(self) -> int:
        """How many slots the visible size needs."""
        return -(-self.size_bytes // self.slot_bytes)

    @property
    def slot_blocks(self) -> int:
        """Blocks of a slot."""
        return self.slot_bytes // BLOCK_BYTES


SLOTS_BYTES_ALLOWED: Final = (8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """What a volume is made with."""

    geometry: Geometry
    flags: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings that belong together. All of them are applied.

    Times are milliseconds. `durability` and `copies_count` are what replication will ask for.
    """

    name: str
    log_bytes: int
    checkpoint_interval_ms: int
    durability: str
    copies_count: int
    front_end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Who may acknowledge: the epoch and role of this copy and the end of its lease.

    `lease_end_ns` is of the monotonic clock; None: the authority is local and needs no lease.
    """

    epoch: int
    role: Role
    lease_end_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRange:
    """Changes that were durable and are no more: [first, last]."""

    first: Lsn
    last: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something stored is not what was stored.

    `place` is `extent`, `log`, `slots` or `superblock`; [start, end) are bytes of the volume for an
    extent, of the file otherwise.
    """

    place: str
    start: int
    end: int
    detail: str
