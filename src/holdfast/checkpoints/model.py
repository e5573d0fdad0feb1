"""Values of the checkpoints facet: plans, resources, checkpoints, verdicts, budgets, retention.

Words are Karbor's where it has one (plan, checkpoint, resource, bank, protect, verify, restore).
Nothing here decides; rules.py does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, NewType

from holdfast.errors import InvalidRequestError

CheckpointId = NewType("CheckpointId", str)
"""A UUID, dashed, in lower case."""
PlanId = NewType("PlanId", str)
"""A UUID likewise."""
BankId = NewType("BankId", str)
"""32 hexadecimal digits."""
ChunkId = NewType("ChunkId", bytes)
"""BLAKE3 of a chunk's plain bytes, keyed where the bank is encrypted; 32 bytes."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def parse_checkpoint_id(text: str) -> CheckpointId:
    """Return `text` as a checkpoint id, or raise InvalidRequestError (`bad-checkpoint-id`)."""
    lower = text.lower()
    if re.fullmatch(r"[0-9a-f]{32}", lower):
        lower = uuid_text(lower)
    if _UUID.fullmatch(lower):
        return CheckpointId(lower)
    raise InvalidRequestError(
        f"{text[:60]!r} is not a checkpoint id",
        code="bad-checkpoint-id",
        advice="see 'holdfast checkpoints list'",
    )


def uuid_text(digits: str) -> str:
    """Spell 32 hexadecimal digits as a UUID."""
    parts = digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]
    return "-".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something a plug-in can protect."""

    type: str
    """Such as `Holdfast::Directory`."""
    id: str
    """Of the resource itself, in its plug-in's spelling, such as a path."""
    name: str = ""
    depends_on: tuple[str, ...] = ()
    """Keys of the resources below it."""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """How it is named: `Type#id`."""
        return f"{self.type}#{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which checkpoints of a plan are kept; 0 asks for nothing."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    days: int = 0
    """Keep what is younger than so many days."""
    max_backups: int = 0
    """Keep at most so many, the newest."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for: then everything is kept."""
        return self == Retention()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is protected, and where to."""

    id: PlanId
    name: str
    bank_url: str
    bank_id: BankId
    key_id: str
    """Of the key its chunks are encrypted with; empty for none."""
    resources: tuple[Resource, ...]
    retention: Retention
    created_ns: int


class CheckpointState(StrEnum):
    """Where a checkpoint stands; Karbor's words."""

    PROTECTING = "protecting"
    AVAILABLE = "available"
    ERROR = "error"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR_DELETING = "error-deleting"


class Depth(StrEnum):
    """How deeply a verification looks; each includes those above it."""

    PRESENCE = "presence"
    """Manifest, catalogue and bank agree that everything is there."""
    DIGEST = "digest"
    """Every byte is read, decoded and compared with the signed manifest."""
    RESTORE = "restore"
    """Restored into a throw-away place and compared."""


class Verdict(StrEnum):
    """How a verification ended; Karbor's words, and one that it lacks."""

    SUCCESS = "success"
    FAIL = "fail"
    PARTIAL = "partial"
    """Nothing bad was found, but not everything was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The last verification of a checkpoint."""

    at_ns: int
    depth: Depth
    verdict: Verdict
    coverage_percent: float
    task_id: str
    bad: tuple[str, ...] = ()
    """Keys of the resources in which something bad was found."""


class ResourceStatus(StrEnum):
    """What became of one resource in an operation; Karbor's words."""

    AVAILABLE = "available"
    ERROR = "error"


class ChunkRef(NamedTuple):
    """A chunk and the length of its plain bytes."""

    id: ChunkId
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRecord:
    """What a manifest says of one resource."""

    resource: Resource
    status: ResourceStatus
    reason: str = ""
    segments: tuple[ChunkRef, ...] = ()
    """Chunks that list its entries, in order of paths."""
    entries: int = 0
    total_bytes: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    """Entries that are not in the checkpoint and why; the first of them."""
    left_out_count: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the plug-in wants to find again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint as the catalogue has it."""

    id: CheckpointId
    plan_id: PlanId
    plan_name: str
    bank_id: BankId
    created_ns: int
    state: CheckpointState
    task_id: str
    manifest_digest: str = ""
    """BLAKE3 of the manifest's bytes, in hex."""
    signer: str = ""
    """Fingerprint of the key that signed it."""
    total_bytes: int = 0
    added_bytes: int = 0
    """Stored anew for it; what it shares with others is not counted."""
    entries: int = 0
    left_out_count: int = 0
    is_protected: bool = False
    """Never deleted until this is taken away."""
    locked_until_ns: int = 0
    error: str = ""
    verified: Verified | None = None


class ChunkResult(StrEnum):
    """What was last found of a chunk."""

    GOOD = "good"
    MISSING = "missing"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    """The store would not give it; nothing is known of its bytes."""


class ChunkMemory(NamedTuple):
    """What is remembered of one chunk."""

    id: ChunkId
    size_bytes: int
    checked_ns: int
    """0: never."""
    result: ChunkResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a verification may read; nothing given is everything."""

    size_bytes: int | None = None
    percent: float | None = None
    duration_s: float | None = None
    slice: tuple[int, int] | None = None
    """(n, t): the n-th, from 1, of t parts, the same ones each time."""
    skip_younger_s: float | None = None
    """Leave out chunks found good so recently."""
