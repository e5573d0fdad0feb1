"""Values of a live migration: instances, peers, what is asked, and what is told of it.

The words of Sidecar's API (iteration, state names, counters) are kept where a value is told
through it; study: facts of that API are in docs/formats. Parsing stands in requests.py.

Invariants:
1. A directory of an instance is named `kind/index`, and no two have the same name.
2. The figures of an iteration are -1 until they are known, and only grow afterwards.
3. An iteration in an end state never changes again.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from holdfast.errors import InvalidRequestError
from holdfast.files.model import CacheUse, DeleteLimit
from holdfast.proof.digests import Algorithm
from holdfast.proof.statement import VerificationMode


class DirectoryKind(StrEnum):
    """The types of directory Cassandra has; a preset, others may be named freely."""

    CDC_RAW = "cdc_raw"
    COMMITLOG = "commitlog"
    DATA = "data"
    HINTS = "hints"
    LOCAL_SYSTEM_DATA = "local_system_data"
    SAVED_CACHES = "saved_caches"


DEFAULT_KIND: Final = DirectoryKind.DATA.value
_KIND: Final = re.compile("[a-z][a-z0-9_-]{0,63}")
_INDEX_MAX: Final = 4095


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDirectory:
    """One directory of an instance, on this host."""

    kind: str
    index: int
    path: bytes
    """Absolute."""

    @property
    def name(self) -> str:
        """What it is called on both hosts: `data/0`."""
        return f"{self.kind}/{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A database on this host, as the settings name it."""

    name: str
    directories: tuple[InstanceDirectory, ...]
    exclude_files: tuple[str, ...] = ()
    """Patterns as Sidecar's `files_to_exclude`: `glob:` or `regex:`, with placeholders."""
    exclude_directories: tuple[str, ...] = ()
    """Patterns as Sidecar's `dirs_to_exclude`; what lies below is excluded too."""
    staging: Path
    """Where the completion latch is kept."""


def check_instance(instance: Instance) -> Instance:
    """Return an instance whose directories can be told apart (invariant 1).

    Raises:
        InvalidRequestError: `bad-instance`.
    """
    names = [directory.name for directory in instance.directories]
    wrong = [
        d.name
        for d in instance.directories
        if not _KIND.fullmatch(d.kind) or not 0 <= d.index <= _INDEX_MAX or d.path[:1] != b"/"
    ]
    twice = [name for name in names if names.count(name) > 1]
    if names and not wrong and not twice:
        return instance
    raise InvalidRequestError(
        f"the directories of instance {instance.name!r} cannot be used: "
        f"{', '.join(wrong or twice) or 'there are none'}",
        code="bad-instance",
        advice="give each a type in lower case, an index from 0 and an absolute path, once",
    )


class SourceKind(StrEnum):
    """What serves the source."""

    HOLDFAST = "holdfast"
    SIDECAR = "sidecar"
    AUTO = "auto"
    """Ask it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTls:
    """How to speak TLS to a peer."""

    ca: Path | None = None
    """Certificates to trust, PEM; None for the system's."""
    certificate: Path | None = None
    """Our own certificate and its key, PEM, where the peer asks for one."""
    key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePeer:
    """The host an instance is pulled from; chosen by settings, never by a request."""

    host: str
    port: int
    kind: SourceKind = SourceKind.AUTO
    tls: PeerTls | None = None
    token: str | None = field(default=None, repr=False)


class MigrationKind(StrEnum):
    """The kinds of task, as the journal names them."""

    COPY = "files.migrate"
    VERIFICATION = "files.verify-migration"
    REPAIR = "files.repair-migration"


class IterationState(StrEnum):
    """Where one pass of a copy stands; Sidecar's names."""

    STARTING = "STARTING"
    CLEANING = "CLEANING"
    """Both sides are listed and compared. (Nothing is deleted yet: that comes last here.)"""
    PREPARING = "PREPARING"
    DOWNLOADING = "DOWNLOADING"
    DOWNLOAD_COMPLETE = "DOWNLOAD_COMPLETE"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ITERATION_ENDS: Final = frozenset(
    {
        IterationState.DOWNLOAD_COMPLETE,
        IterationState.SUCCESS,
        IterationState.FAILED,
        IterationState.CANCELLED,
    }
)


class VerificationState(StrEnum):
    """Where a verification stands; Sidecar's names."""

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One pass over all directories of an instance, in Sidecar's figures and some of ours."""

    iteration: int
    """From 0."""
    state: IterationState = IterationState.STARTING
    total_size: int = UNKNOWN
    """Bytes of all files at the source."""
    total_files: int = UNKNOWN
    """Entries at the source, directories included."""
    bytes_to_download: int = UNKNOWN
    files_to_download: int = UNKNOWN
    files_downloaded: int = 0
    download_failures: int = 0
    bytes_downloaded: int = 0
    """Bytes of whole entries only."""
    entries_changed: int = 0
    """Entries that moved or vanished while they were read; the next pass sees them again."""
    deleted: int = 0
    deletions_withheld: int = 0
    planning_s: float = 0.0
    copying_s: float = 0.0
    reason: str = ""
    """Why it failed, or is good enough; empty where there is nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Sidecar's counters of a verification."""

    files_not_found_at_source: int = 0
    files_not_found_at_destination: int = 0
    metadata_matched: int = 0
    metadata_mismatches: int = 0
    digest_mismatches: int = 0
    digest_verification_failures: int = 0
    files_matched: int = 0

    @property
    def is_good(self) -> bool:
        """Whether none of the five bad ones counted anything."""
        return not self.is_metadata_bad and not (
            self.digest_mismatches or self.digest_verification_failures
        )

    @property
    def is_metadata_bad(self) -> bool:
        """Whether a counter of the metadata stage says that something is wrong."""
        return bool(
            self.files_not_found_at_source
            or self.files_not_found_at_destination
            or self.metadata_mismatches
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """What is asked of a copy; the first three as in Sidecar's API."""

    max_iterations: int
    """At most so many passes that download, and one more that only looks."""
    success_threshold: float
    """Share of the source's bytes, 0 to 1, beyond which a pass has succeeded without the rest."""
    max_concurrency: int
    delete_limit: DeleteLimit = field(default_factory=DeleteLimit)
    allow_emptied: tuple[str, ...] = ()
    """Directories (`commitlog/0`) that may turn out empty at the source."""
    algorithm: Algorithm = Algorithm.BLAKE3
    verify: VerificationMode = VerificationMode.NONE
    """A verification right after success."""
    rate_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRequest:
    """What is asked of a verification; the first three as in Sidecar's API."""

    max_concurrency: int
    digest_algorithm: str
    """As it was spelt by whoever asked; `algorithm` is what it means."""
    seed: int | None = None
    """Of XXHash32; ignored by the others."""
    continue_on_metadata_mismatch: bool = False
    mode: VerificationMode = VerificationMode.FULL
    sample_percent: float | None = None
    sample_bytes: int | None = None
    cache: CacheUse = CacheUse.DROP
    rate_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRequest:
    """What is asked of a repair: of what a verification found, and nothing else."""

    verification_id: str
    max_concurrency: int
    rate_bytes_per_s: int | None = None


class LatchState(StrEnum):
    """Whether a migration was marked complete; Sidecar's names."""

    NOT_COMPLETED = "NOT_COMPLETED"
    COMPLETED = "COMPLETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatchStatus:
    """The latch as it is told."""

    state: LatchState
    end_time_ms: int | None
    """When it was marked, by this host's clock."""

    def as_json(self) -> dict[str, object]:
        """Return Sidecar's shape of it."""
        return {"state": self.state.value, "endTime": self.end_time_ms}
