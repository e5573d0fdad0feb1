"""The table of all routes: what each is called, needs, refuses and answers. Data only.

The routes are made from it, and so is /openapi.json; so neither can have what the other has not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from holdfast.files.http import shapes
from holdfast.files.http.names import FILES, LIVE_MIGRATION
from holdfast.files.http.queries import PAGE_DEFAULT
from holdfast.files.migration.results import OUTCOMES
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.tasks.history import PAGE_MAX
from holdfast.tasks.model import TaskState

COPIES: Final = f"{LIVE_MIGRATION}/data-copy-tasks"
VERIFICATIONS: Final = f"{LIVE_MIGRATION}/files-verification-tasks"
TASKS: Final = "/api/v1/tasks"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"
OCTETS: Final = "application/octet-stream"
TEXT: Final = "text/plain"


class Parameter(NamedTuple):
    """What may be given beside path and body."""

    meaning: str
    schema: Mapping[str, object]


class Face(StrEnum):
    """Whose shapes errors have."""

    SIDECAR = "sidecar"
    OURS = "ours"


class Guard(StrEnum):
    """What a host must be, or not be, for a request to be let through."""

    SOURCE = "isSource"
    DESTINATION = "isDestination"
    EITHER = "isSourceOrDestination"
    NEITHER = "neitherSourceNorDestination"
    NOT_COMPLETE = "allowIfMigrationNotComplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    face: Face = Face.SIDECAR
    permissions: frozenset[Permission] = ALL_PERMISSIONS
    """Any of these is enough; none: everybody may."""
    guards: tuple[Guard, ...] = ()
    """In the order in which they are asked."""
    body: type[msgspec.Struct] | None = None
    is_body_optional: bool = False
    query: Mapping[str, Parameter] = field(default_factory=dict)
    """Parameters by name."""
    headers: Mapping[str, Parameter] = field(default_factory=dict)
    """Headers it looks at."""
    answers: Mapping[int, object] = field(default_factory=dict)
    """By status: a type as JSON, or a media type, or None for an empty body."""
    others: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By status: further media types, had by Accept or by a parameter."""
    refusals: tuple[int, ...] = ()
    """Statuses of errors, beside those of its guards and permissions."""


_COPY: Final = frozenset({Permission.COPY})
_VERIFY: Final = frozenset({Permission.VERIFY})
_EITHER: Final = frozenset({Permission.COPY, Permission.VERIFY})
_TEXT_SCHEMA: Final = {"type": "string"}
_KEY: Final = {
    "Idempotency-Key": Parameter(
        "The same key with the same request gives the same answer.",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    )
}
_SEQUENCE: Final = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_AT_DESTINATION: Final = (Guard.DESTINATION,)
_MAY_WRITE: Final = (Guard.DESTINATION, Guard.NOT_COMPLETE)
_PAGE: Final = {
    "limit": Parameter(
        f"Entries of a page; {PAGE_DEFAULT} where it is left out.",
        {"type": "integer", "minimum": 1, "maximum": PAGE_MAX},
    ),
    "cursor": Parameter(
        "cursorNext of the page before.", {"type": "string", "pattern": "^[0-9A-Za-z_=-]+$"}
    ),
}
_RESULTS: Final = _PAGE | {
    "outcome": Parameter(
        "Only entries of this outcome.", {"type": "string", "enum": sorted(OUTCOMES)}
    )
}

SIDECAR_OPERATIONS: Final = (
    Operation(
        id="start_copy",
        method="POST",
        path=COPIES,
        summary="Start a data copy at the destination.",
        permissions=_COPY,
        guards=_MAY_WRITE,
        body=shapes.CopyBody,
        headers=_KEY,
        answers={202: shapes.TaskCreated},
        refusals=(400, 408, 409, 413),
    ),
    Operation(
        id="list_copies",
        method="GET",
        path=COPIES,
        summary="List the last task of the instance, if it is a data copy.",
        guards=_AT_DESTINATION,
        answers={200: list[shapes.CopyAnswer]},
    ),
    Operation(
        id="show_copy",
        method="GET",
        path=COPIES + "/{taskId}",
        summary="Show a data copy, also one that ended long ago.",
        guards=_AT_DESTINATION,
        answers={200: shapes.CopyAnswer},
    ),
    Operation(
        id="cancel_copy",
        method="PATCH",
        path=COPIES + "/{taskId}",
        summary="Cancel a data copy.",
        permissions=_COPY,
        guards=_AT_DESTINATION,
        answers={200: shapes.CopyAnswer},
    ),
    Operation(
        id="start_verification",
        method="POST",
        path=VERIFICATIONS,
        summary="Start a verification at the destination.",
        permissions=_VERIFY,
        guards=_MAY_WRITE,
        body=shapes.VerificationBody,
        headers=_KEY,
        answers={202: shapes.TaskCreated},
        refusals=(400, 408, 409, 413),
    ),
    Operation(
        id="list_verifications",
        method="GET",
        path=VERIFICATIONS,
        summary="List the last task of the instance, if it is a verification.",
        guards=_AT_DESTINATION,
        answers={200: list[shapes.VerificationAnswer]},
    ),
    Operation(
        id="show_verification",
        method="GET",
        path=VERIFICATIONS + "/{taskId}",
        summary="Show a verification, also one that ended long ago.",
        guards=_AT_DESTINATION,
        answers={200: shapes.VerificationAnswer},
    ),
    Operation(
        id="cancel_verification",
        method="PATCH",
        path=VERIFICATIONS + "/{taskId}",
        summary="Cancel a verification.",
        permissions=_VERIFY,
        guards=_AT_DESTINATION,
        answers={200: shapes.VerificationAnswer},
    ),
    Operation(
        id="list_files",
        method="GET",
        path=FILES,
        summary="List all files of an instance; one JSON document, made as it is sent.",
        permissions=_EITHER,
        guards=(Guard.EITHER,),
        answers={200: shapes.FileList},
        refusals=(503,),
    ),
    Operation(
        id="get_file",
        method="GET",
        path=FILES + "/{dirType}/{dirIndex}/{path}",
        summary="Read a file or a range of it, or ask for its digest.",
        permissions=_EITHER,
        guards=(Guard.SOURCE, Guard.NOT_COMPLETE),
        query={
            "digestAlgorithm": Parameter(
                "Answer the digest instead; in any case.",
                {"type": "string", "enum": list(shapes.DIGEST_ALGORITHMS)},
            ),
            "seed": Parameter(
                "Of XXHash32; 0 where it is left out.",
                {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1},
            ),
        },
        headers={
            "Range": Parameter(
                "One range of bytes: bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT.", _TEXT_SCHEMA
            ),
            "If-Range": Parameter(
                "The ETag of an earlier answer: the whole file if it has changed.", _TEXT_SCHEMA
            ),
        },
        answers={200: OCTETS, 206: OCTETS},
        others={200: ("application/json",)},
        refusals=(400, 403, 404, 416, 503),
    ),
    Operation(
        id="show_status",
        method="GET",
        path=LIVE_MIGRATION + "/status",
        summary="Say whether the migration of an instance is marked complete.",
        answers={200: shapes.StatusAnswer},
        refusals=(404,),
    ),
    Operation(
        id="mark_complete",
        method="POST",
        path=LIVE_MIGRATION + "/status",
        summary="Mark the migration of an instance complete: nothing is copied any more.",
        permissions=_COPY,
        guards=(Guard.EITHER,),
        headers=_KEY,
        answers={200: shapes.StatusAnswer},
        refusals=(400, 409),
    ),
    Operation(
        id="clear_status",
        method="DELETE",
        path=LIVE_MIGRATION + "/status",
        summary="Forget the mark, once the host has left the migration map.",
        permissions=_COPY,
        guards=(Guard.NEITHER,),
        answers={200: shapes.Cleared},
        refusals=(400, 404),
    ),
)

OUR_OPERATIONS: Final = (
    Operation(
        id="copy_results",
        face=Face.OURS,
        method="GET",
        path=COPIES + "/{taskId}/results",
        summary="Page through what became of each entry of a data copy, or have all as JSON lines.",
        guards=_AT_DESTINATION,
        query=_RESULTS,
        answers={200: shapes.ResultsPageAnswer},
        others={200: (NDJSON,)},
        refusals=(400, 409),
    ),
    Operation(
        id="verification_results",
        face=Face.OURS,
        method="GET",
        path=VERIFICATIONS + "/{taskId}/results",
        summary="Page through what a verification found of each entry, or have all as JSON lines.",
        guards=_AT_DESTINATION,
        query=_RESULTS,
        answers={200: shapes.ResultsPageAnswer},
        others={200: (NDJSON,)},
        refusals=(400, 409),
    ),
    Operation(
        id="start_repair",
        face=Face.OURS,
        method="POST",
        path=VERIFICATIONS + "/{taskId}/repair",
        summary="Copy again only what a verification found wrong, and verify only that.",
        permissions=_COPY,
        guards=_MAY_WRITE,
        body=shapes.RepairBody,
        is_body_optional=True,
        headers=_KEY,
        answers={202: shapes.TaskCreated},
        refusals=(400, 408, 409, 413),
    ),
    Operation(
        id="list_tasks",
        face=Face.OURS,
        method="GET",
        path=TASKS,
        summary="Page through all tasks of the node, newest first.",
        query=_PAGE
        | {
            "kind": Parameter("Only tasks of this kind.", _TEXT_SCHEMA),
            "state": Parameter(
                "Only tasks that stand like this.", {"type": "string", "enum": list(TaskState)}
            ),
            "cursor": Parameter(
                "cursorNext of the page before.", {"type": "string", "pattern": "^[0-9]{1,18}$"}
            ),
        },
        answers={200: shapes.TaskPageAnswer},
        refusals=(400,),
    ),
    Operation(
        id="show_task",
        face=Face.OURS,
        method="GET",
        path=TASKS + "/{taskId}",
        summary="Show a task.",
        answers={200: shapes.TaskAnswer},
    ),
    Operation(
        id="change_task",
        face=Face.OURS,
        method="PATCH",
        path=TASKS + "/{taskId}",
        summary="Change the rate limit of a running task, or cancel a task.",
        permissions=_EITHER,
        body=shapes.TaskChangeBody,
        answers={200: shapes.TaskAnswer},
        refusals=(400, 408, 409, 413),
    ),
    Operation(
        id="follow_task",
        face=Face.OURS,
        method="GET",
        path=TASKS + "/{taskId}/events",
        summary="Page through the events of a task, or follow them as server-sent events.",
        query={
            "after": Parameter("Only events with a greater sequence.", _SEQUENCE),
            "limit": _PAGE["limit"],
        },
        headers={
            "Last-Event-ID": Parameter(
                "Of server-sent events: go on after this sequence.", _SEQUENCE
            )
        },
        answers={200: shapes.EventPageAnswer, 204: None},
        others={200: (EVENT_STREAM,)},
        refusals=(400, 503),
    ),
    Operation(
        id="show_node",
        face=Face.OURS,
        method="GET",
        path="/api/v1/node",
        summary="Say what this node is, serves, and lets its caller do.",
        answers={200: shapes.NodeAnswer},
    ),
    Operation(
        id="show_metrics",
        face=Face.OURS,
        method="GET",
        path="/metrics",
        summary="Metrics for Prometheus.",
        answers={200: TEXT},
    ),
    Operation(
        id="show_health",
        face=Face.OURS,
        method="GET",
        path="/healthz",
        summary="Say that the process answers.",
        permissions=frozenset(),
        answers={200: TEXT},
    ),
    Operation(
        id="show_readiness",
        face=Face.OURS,
        method="GET",
        path="/readyz",
        summary="Say whether tasks can be started now.",
        permissions=frozenset(),
        answers={200: TEXT},
        refusals=(503,),
    ),
    Operation(
        id="show_openapi",
        face=Face.OURS,
        method="GET",
        path="/openapi.json",
        summary="This description.",
        permissions=frozenset(),
        answers={200: shapes.Json},
    ),
)

OPERATIONS: Final = SIDECAR_OPERATIONS + OUR_OPERATIONS
