"""What the routes of a node are built on; the composition root makes one of these.

Values and callables only: the routes decide nothing that is not HTTP, and know no adapter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from starlette.requests import HTTPConnection

from holdfast.files.http.mounting import Mounted
from holdfast.files.http.permits import CLIENT_TIMEOUT_S
from holdfast.files.migration.model import Instance, MigrationKind
from holdfast.model.access import Permission
from holdfast.model.ids import TaskId
from holdfast.ports import Clock, ReadableDirectory
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task


class StartTask(Protocol):
    """Starts long work on an instance in a process of its own."""

    def __call__(
        self,
        kind: str,
        host: str,
        request: Mapping[str, object],
        *,
        idempotency_key: str | None,
    ) -> Task:
        """Admit and start a task; returns before the work is done. Blocking: call in a thread.

        Args:
            kind: `files.migrate`, `files.verify-migration` or `files.repair-migration`.
            host: The destination host the request was for: a key of `NodeServices.instances`.
            request: What was asked, as JSON. The task's own request has `instance`, `source`
                (host name), `port` and this, as `request`.
            idempotency_key: The same key with the same work gives the same task.

        Raises:
            ConflictError: `busy`, `idempotency-key-reused`.
            InvalidRequestError: The database of the instance runs (`database-running`).
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDescription:
    """What a node tells of itself at /api/v1/node."""

    name: str
    version: str
    stream_port: int | None
    """Where the stream server of the same host listens; None where there is none."""
    is_stream_tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeServices:
    """Everything a node's routes use."""

    node: NodeDescription
    clock: Clock
    migration_map: Mapping[str, str]
    """Source host name -> target host name; lower case."""
    instances: Mapping[str, Instance]
    """By the host name a request is made to (its Host header without port); lower case."""
    journal: TaskJournal
    start: StartTask
    cancel: Callable[[TaskId], Task]
    """Ask a task to stop soon; one that does not run is cancelled at once. Blocking. StateError
    (`task-finished`) if it had ended otherwise."""
    let_go: Callable[[Instance], None]
    """Remove what a migration that is complete replaced or deleted here; blocking, maybe long."""
    open_directory: Callable[[bytes], ReadableDirectory]
    """Open a root for reading; used in one thread at a time and closed there."""
    permissions_of: Callable[[HTTPConnection], frozenset[Permission]]
    """What the caller may do, by token or client certificate; DeniedError if it is nobody."""
    state: Path
    """Directory of journal and ledgers, which hold the results of tasks."""
    file_requests_max: int
    """File and digest requests served at once; also the most `maxConcurrency` of a request."""
    client_timeout_s: float = CLIENT_TIMEOUT_S
    """How long a client may take to send a body, or to take one piece of an answer."""
    check_ready: Callable[[], None]
    """Raise what keeps the node from working; blocking."""
    render_metrics: Callable[[], tuple[bytes, str]]
    """Return the metrics and their content type."""
    observe: Callable[[str, str, int, float], None]
    """Told of each answer: method, route template, status, seconds until its headers."""
    mounted: Mounted = field(default_factory=Mounted)
    """What other facets serve here."""
    verification_kinds: frozenset[str] = frozenset({MigrationKind.VERIFICATION})
    """Kinds of task that the permission VERIFY is enough to change."""
