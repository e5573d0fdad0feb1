"""The JSON of requests and answers: Sidecar's names and types, ours beside them.

Requests are decoded by these; answers that are built from other parts of holdfast are only
described by them, for /openapi.json. What the members mean stands in files/migration/model.py.
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from holdfast.errors import InvalidRequestError
from holdfast.files.model import CacheUse
from holdfast.model.limits import JOBS_MAX, MIGRATION_PASSES_MAX
from holdfast.proof.statement import VerificationMode

DIGEST_ALGORITHMS: Final = ("MD5", "XXHash32", "XXH3_128", "SHA256", "BLAKE3")

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
"""Whole numbers that every JSON reader keeps whole."""
Rate = Annotated[int, Meta(ge=1, le=1 << 53)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Word = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\S")]
DigestName = Annotated[Word, Meta(extra_json_schema={"enum": list(DIGEST_ALGORITHMS)})]
"""In any case; what other names there are is told by whoever parses it."""
CopyVerification = Annotated[Word, Meta(extra_json_schema={"enum": list(VerificationMode)})]
Mode = Annotated[
    Word, Meta(extra_json_schema={"enum": [m for m in VerificationMode if m != "none"]})
]
Cache = Annotated[Word, Meta(extra_json_schema={"enum": list(CacheUse)})]
Json = dict[str, Any]

BodyT = TypeVar("BodyT", bound=msgspec.Struct)


class CopyBody(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """What a POST of a data copy asks; the first three as in Sidecar."""

    max_iterations: Annotated[int, Meta(ge=1, le=MIGRATION_PASSES_MAX)]
    success_threshold: Annotated[float, Meta(ge=0, le=1)]
    max_concurrency: Annotated[int, Meta(ge=1, le=JOBS_MAX)]
    max_delete: Count | None = None
    max_delete_percent: Percent | None = None
    allow_emptied: Annotated[list[Word], Meta(max_length=256)] | None = None
    digest_algorithm: DigestName | None = None
    verify: CopyVerification | None = None
    rate_bytes_per_second: Rate | None = None


class VerificationBody(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """What a POST of a verification asks; the first three as in Sidecar."""

    max_concurrency: Annotated[int, Meta(ge=1, le=JOBS_MAX)]
    digest_algorithm: DigestName
    seed: Annotated[int, Meta(ge=-(1 << 31), le=(1 << 32) - 1)] | None = None
    continue_on_metadata_mismatch: bool | None = None
    mode: Mode | None = None
    sample_percent: Percent | None = None
    sample_bytes: Rate | None = None
    cache: Cache | None = None
    rate_bytes_per_second: Rate | None = None


class RepairBody(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """What a POST of a repair asks."""

    max_concurrency: Annotated[int, Meta(ge=1, le=JOBS_MAX)] | None = None
    rate_bytes_per_second: Rate | None = None


class TaskChangeBody(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """What a PATCH of a task changes; at least one of the two."""

    rate_bytes_per_second: Count | None = None
    """0 lifts the limit."""
    cancel: bool | None = None
    """True asks it to stop."""


class TaskCreated(msgspec.Struct, rename="camel"):
    """A task was admitted and runs."""

    task_id: str
    status_url: str


class FileEntry(msgspec.Struct, rename="camel", omit_defaults=True):
    """One entry of the list of files."""

    file_url: str
    size: int
    """-1 for a directory."""
    file_type: str
    """FILE or DIRECTORY."""
    last_modified_time: int
    """Milliseconds since the epoch of Unix."""
    name_base64: str | None = msgspec.field(default=None, name="nameBase64")
    """The path below its directory, where it is not UTF-8."""


class FileList(msgspec.Struct, rename="camel"):
    """All entries of all directories of an instance, the directories themselves left out."""

    files: list[FileEntry]
    total_size: int


class DigestAnswer(msgspec.Struct, rename="camel"):
    """The digest of one file."""

    digest: str
    digest_algorithm: str
    """As it was asked for."""


class StatusAnswer(msgspec.Struct, rename="camel"):
    """The completion latch."""

    state: str
    end_time: int | None


class Cleared(msgspec.Struct):
    """The latch was cleared."""

    status: str = "OK"


class IterationAnswer(msgspec.Struct, rename="camel"):
    """One pass of a data copy; -1 is not known yet."""

    iteration: int
    state: str
    total_size: int
    total_files: int
    bytes_to_download: int
    files_to_download: int
    files_downloaded: int
    download_failures: int
    bytes_downloaded: int


class CopyAnswer(msgspec.Struct, rename="camel"):
    """A data copy."""

    task_id: str
    source: str
    port: int
    max_iterations: int
    success_threshold: float
    max_concurrency: int
    status: list[IterationAnswer]
    progress: Json
    trend: Json | None
    reason: str | None


class VerificationAnswer(msgspec.Struct, rename="camel"):
    """A verification."""

    id: str
    digest_algorithm: str
    seed: int | None
    state: str
    source: str
    port: int
    files_not_found_at_source: int
    files_not_found_at_destination: int
    metadata_matched: int
    metadata_mismatches: int
    digest_mismatches: int
    digest_verification_failures: int
    files_matched: int
    progress: Json
    reason: str | None


class TaskAnswer(msgspec.Struct, rename="camel"):
    """A task as the journal has it."""

    id: str
    kind: str
    subject: str
    state: str
    stage: str
    attempt: int
    request: Json
    progress: Json
    detail: Json
    created_ns: int
    started_ns: int | None
    updated_ns: int
    ended_ns: int | None
    result: Json | None
    error: Json | None
    cancel_requested: bool
    rate_requested: int | None


class TaskPageAnswer(msgspec.Struct, rename="camel"):
    """Some tasks, newest first."""

    tasks: list[TaskAnswer]
    cursor_next: str | None


class EventAnswer(msgspec.Struct, rename="camel"):
    """Something that happened to a task."""

    sequence: int
    at_ns: int
    name: str
    data: Json


class EventPageAnswer(msgspec.Struct):
    """Events of a task, oldest first."""

    events: list[EventAnswer]


class ResultsPageAnswer(msgspec.Struct, rename="camel"):
    """What became of some entries."""

    entries: list[Json]
    cursor_next: str | None


class NodeAnswer(msgspec.Struct, rename="camel"):
    """What a node tells of itself."""

    name: str
    product: str
    version: str
    stream_port: int | None
    stream_tls: bool
    permissions: list[str]
    instances: list[Json]
    digest_algorithms: list[str]


def _as_whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 1 << 53:
        return int(value)
    return value


def decode_body(body: bytes, shape: type[BodyT], complaint: str) -> BodyT:
    """Return a body as `shape`, or raise InvalidRequestError (`bad-request-body`).

    A whole number may be spelt 4.0, as JSON knows one kind of number only and Sidecar takes it.

    Args:
        complaint: What Sidecar says of a body like that; what is wrong follows it.
    """
    try:
        given = msgspec.json.decode(body)
        if isinstance(given, dict):
            given = {name: _as_whole(value) for name, value in given.items()}
        return msgspec.convert(given, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"{complaint} {error}",
            code="bad-request-body",
            advice="correct it and send the request again",
        ) from error
    except RecursionError:
        raise InvalidRequestError(
            f"{complaint} It is nested too deeply.", code="bad-request-body"
        ) from None
