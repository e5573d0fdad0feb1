"""Values of the files facet: what a plan says, what became of each entry, what a run reports.

Accounting is closed: every entry of a plan ends in exactly one CopyOutcome and every entry that is
verified in exactly one VerifyOutcome; the counts of a report sum to its total.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from holdfast.errors import HoldfastError
from holdfast.model.tree import Capabilities, FileKind, MetadataLoss, Signature
from holdfast.proof.digests import Algorithm
from holdfast.proof.statement import VerificationMode


class Action(StrEnum):
    """What a plan does with one entry."""

    KEEP = "keep"
    """Both sides agree as far as a listing shows; nothing to do. Counted, not stored."""
    MAKE_DIRECTORY = "make-directory"
    MAKE_SYMLINK = "make-symlink"
    FETCH = "fetch"
    RELINK = "relink"
    """Give the content of another entry of the same hard link group this name too."""
    SET_METADATA = "set-metadata"
    DELETE = "delete"
    SKIP = "skip"
    """Cannot be copied by kind: FIFO, socket, device."""
    REFUSE = "refuse"
    """Would destroy what the request does not allow to destroy."""


class Reason(StrEnum):
    """Why a plan does it."""

    SAME = "same"
    MISSING = "missing"
    SIZE = "size-differs"
    TIME = "mtime-differs"
    KIND = "kind-differs"
    LINK_TARGET = "link-target-differs"
    LINK_GROUP = "hard-link-group-differs"
    METADATA = "metadata-differs"
    EXTRA = "not-in-source"
    SPECIAL = "special-file"
    DAMAGED = "damaged"
    """Found by a verification, and to be fetched again whatever size and time say."""
    WOULD_DELETE_TREE = "would-delete-directory"


class Decision(NamedTuple):
    """What the rules say of one pair of entries."""

    action: Action
    reason: Reason
    displaces: FileKind | None = None
    """What stands at the target and goes to the quarantine first; None where nothing need go."""


class CopyOutcome(StrEnum):
    """What became of a planned entry."""

    SETTLED = "settled"
    """Durable at the target under its final name."""
    CHANGED = "changed"
    """The source would not hold still; the target keeps what it had."""
    VANISHED = "vanished"
    """It left the source after it was listed."""
    SKIPPED = "skipped"
    FAILED = "failed"


class VerifyOutcome(StrEnum):
    """What a verification found of one entry."""

    MATCHED = "matched"
    MISSING_AT_TARGET = "missing-at-target"
    MISSING_AT_SOURCE = "missing-at-source"
    METADATA_DIFFERS = "metadata-differs"
    DIGEST_DIFFERS = "digest-differs"
    SOURCE_DAMAGED = "source-damaged"
    """The source's content moved although nothing says it was written; the target did not."""
    CHANGED = "changed"
    """It changed while it was read; nothing can be said."""
    FAILED = "failed"
    """It could not be read."""
    EXTRA = "extra"
    """Only at the target, where that is allowed. Not an error, not proven."""
    SKIPPED = "skipped"
    """A kind that is not copied."""
    NOT_SAMPLED = "not-sampled"


DAMAGE = frozenset(
    {
        VerifyOutcome.MISSING_AT_TARGET,
        VerifyOutcome.MISSING_AT_SOURCE,
        VerifyOutcome.METADATA_DIFFERS,
        VerifyOutcome.DIGEST_DIFFERS,
        VerifyOutcome.SOURCE_DAMAGED,
    }
)
"""Outcomes that make a verdict `damaged`."""
OPEN = frozenset({VerifyOutcome.CHANGED, VerifyOutcome.FAILED})
"""Outcomes that leave a verdict open."""


class Verdict(StrEnum):
    """The end of a verification."""

    PROVEN = "proven"
    """Every entry was examined and equal."""
    SAMPLED = "sampled"
    """Every entry's metadata was examined, the content of a sample only; all of it equal."""
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    """No damage found, but not everything could be examined, or there was nothing to examine."""


class CacheUse(StrEnum):
    """Where a verification reads the target from."""

    DROP = "drop"
    """From the medium: the page cache of each file is dropped first."""
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteLimit:
    """How much a plan may delete; refused before anything is done when it would be more.

    With neither set, the larger of DELETE_COUNT_FLOOR and DELETE_PERCENT of the target's entries.
    """

    count: int | None = None
    percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """What was asked of a copy. All of it is part of the task's request."""

    delete: bool = False
    delete_limit: DeleteLimit = field(default_factory=DeleteLimit)
    exclude: tuple[str, ...] = ()
    """Patterns as in .gitignore, relative to the root."""
    algorithm: Algorithm = Algorithm.BLAKE3
    verify: VerificationMode = VerificationMode.INCREMENTAL
    cache: CacheUse = CacheUse.DROP


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What was asked of a verification."""

    mode: VerificationMode = VerificationMode.FULL
    one_way: bool = False
    """Entries only at the target are EXTRA, not MISSING_AT_SOURCE."""
    exclude: tuple[str, ...] = ()
    algorithm: Algorithm = Algorithm.BLAKE3
    cache: CacheUse = CacheUse.DROP
    sample_percent: float | None = None
    sample_bytes: int | None = None
    sample_seed: int = 0
    digest_seed: int = 0
    changed_after_ns: int = 0
    """What differs and was changed at the source from here on (wall clock) is CHANGED, not damage.
    A verification sets it to its own start, the one that closes a copy to the copy's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Which metadata the source can tell and the target has shown it can keep.

    The rest is not compared; what the target could not keep is counted.
    """

    owner: bool = True
    xattrs: bool = True
    set_id: bool = True
    mode: bool = True
    links: bool = True
    mtime_unit_ns: int = 1
    """Times are compared in these units."""
    directory_times: bool = True
    """Whether those of directories are compared at all."""

    @classmethod
    def after(cls, losses: Iterable[str]) -> "Fidelity":
        """Return what is left to compare after these MetadataLoss classes were met."""
        lost = set(losses)
        return cls(
            owner=MetadataLoss.OWNER not in lost,
            xattrs=MetadataLoss.XATTR not in lost,
            set_id=MetadataLoss.SET_ID not in lost,
        )

    def told_by(self, source: Capabilities) -> "Fidelity":
        """Return what is left to compare with a source that can tell just this."""
        return replace(
            self,
            owner=self.owner and source.owner,
            xattrs=self.xattrs and source.xattrs,
            mode=self.mode and source.mode,
            links=self.links and source.links,
            mtime_unit_ns=max(self.mtime_unit_ns, source.mtime_unit_ns),
        )


FULL_FIDELITY = Fidelity()


class PlanItem(NamedTuple):
    """One row of a plan that is to be carried out."""

    number: int
    path: bytes
    action: Action
    reason: Reason
    kind: FileKind
    size_bytes: int
    leader: bytes | None
    """RELINK: the entry whose content gets this name."""
    displaces: FileKind | None


class Pass(NamedTuple):
    """One finished copy of a pair, for comparing with the one before."""

    number: int
    """From 1."""
    began_ns: int
    planning_s: float
    copying_s: float
    files: int
    """Files fetched."""
    size_bytes: int
    """Bytes read for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What a pass says when it is compared with the one before."""

    number: int
    files: int
    size_bytes: int
    size_bytes_before: int | None
    """Of the pass before; None for the first."""
    final_pass_s: float | None
    """How long one more pass would take if the source stopped changing now; None if unknown."""


class SettleResult(NamedTuple):
    """What a worker did with one plan item."""

    number: int
    path: bytes
    outcome: CopyOutcome
    detail: str
    """Empty, or for people: what went wrong."""
    error_kind: str
    """The kind of error of a FAILED entry (HoldfastError.kind), else empty."""
    size_bytes: int
    written_bytes: int
    signature: Signature | None
    """Of the source as it was read; None where nothing was read."""
    digest: bytes | None
    xattrs: bytes
    """Digest of the extended attributes (model.tree.digest_xattrs)."""
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """A plan in figures: how many entries and bytes each action concerns."""

    counts: dict[Action, int]
    fetch_bytes: int
    """Logical bytes to read."""
    room_bytes: int
    """Bytes the target's file system must have free."""
    source_entries: int
    source_bytes: int
    target_entries: int
    goes_along: int
    """Entries that leave the target with a directory that something else takes the place of."""
    excluded: int
    listing_failures: int
    """Parts of the source that could not be listed; any of them forbids every deletion."""

    @property
    def is_empty(self) -> bool:
        """Whether carrying it out would change nothing."""
        return not any(n for action, n in self.counts.items() if action is not Action.KEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a transfer did: one count for each planned entry, and what it read and wrote."""

    counts: dict[CopyOutcome, int]
    files_read: int
    read_bytes: int
    written_bytes: int
    losses: dict[str, int]
    """Metadata the target could not keep, by class."""
    error_kinds: dict[str, int]
    duration_s: float
    deletions_withheld: int
    """Deletions not done because something failed or changed before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found. The counts sum to `entries`."""

    verdict: Verdict
    mode: VerificationMode
    counts: dict[VerifyOutcome, int]
    entries: int
    hashed_bytes: int
    """Read and hashed in this run, both sides together."""
    trusted: int
    """Entries whose digest was trusted from an earlier run."""
    cache_dropped: bool
    confidence: str
    """Of a sample: what it says, in words. Empty otherwise."""
    error_kinds: dict[str, int]
    duration_s: float
    root_digest: str | None = None
    """Hexadecimal; None until the entries are summed into a proof."""


class Finding(NamedTuple):
    """One entry that is not as it should be, for people and for `repair`."""

    path: bytes
    outcome: str
    detail: str


def failed_result(item: PlanItem, error: HoldfastError) -> SettleResult:
    """Return the result of an item that could not be settled."""
    return no_result(item, CopyOutcome.FAILED, error.message)._replace(error_kind=error.kind)


def no_result(item: PlanItem, outcome: CopyOutcome, detail: str = "") -> SettleResult:
    """Return the result of an item for which nothing was read."""
    return SettleResult(
        item.number, item.path, outcome, detail, "", item.size_bytes, 0, None, None, b"", ()
    )
