"""Composition root of a node: HTTP, the stream beside it, tasks, access, metrics, signals.

Kinds of process: this one, which serves control over HTTP and owns the others; the stream server
(node_stream.py), which forks one for each client; one for each running task (task_process.py) and
each served volume (volume_process.py); and the one that runs schedules (node_scheduler.py). Bulk
bytes never go through this one.

Invariants, beside those of serving.py and node_tasks.py:

1. One node runs on a state directory.
2. SIGTERM: tasks are told to stop and are recorded as interrupted, requests under way are
   answered, volumes are stopped in order, then the stream ends; the next start goes on with all.
3. What dies is started again: the stream server and volumes on the ports they had.
4. Only hosts that are this node, by `node.names`, have an instance: a request that names another
   in its Host header finds none, whatever part the migration map gives that host.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast import __version__
from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from holdfast.files.http.application import NodeApplication
from holdfast.files.http.services import NodeDescription, NodeServices
from holdfast.files.migration.exclusions import exclusions_of
from holdfast.files.migration.model import MigrationKind
from holdfast.files.migration.service import purge_quarantine, subject_of
from holdfast.ports import ReadableDirectory
from holdfast.server.local import open_target
from holdfast.server.node_access import Access, source_peer
from holdfast.server.node_facets import NodeFacets
from holdfast.server.node_logs import node_log
from holdfast.server.node_metrics import NodeMetrics
from holdfast.server.node_processes import KeptProcess
from holdfast.server.node_settings import SETTINGS_BYTES_MAX, NodeSettings, parse_node_settings
from holdfast.server.node_stream import node_certificates, reload_all
from holdfast.server.node_tasks import TaskProcesses, TaskSurroundings
from holdfast.server.node_work import is_of_node, why_not_run
from holdfast.server.peer_http import tls_context
from holdfast.server.serving import bind, make_server, signals, stop_servers, url_of
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.locks import Locks
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Runner

DATABASE_S: Final = 2.0
"""How long a database may take to take a connection."""

_log = node_log("node")


def load_node_settings(path: Path) -> tuple[NodeSettings, str]:
    """Read a file of settings; return it with its text, for the node's other processes.

    Raises:
        NotFoundError: `no-conf`.
        InvalidRequestError: `bad-setting`.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(SETTINGS_BYTES_MAX + 1)
    except OSError as error:
        raise NotFoundError(
            f"the settings {path} cannot be read: {error.strerror}",
            code="no-conf",
            advice="name them with --config",
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is not text", code="bad-setting") from error
    return parse_node_settings(text), text


def check_node(settings: NodeSettings) -> None:
    """Read every file and pattern that a node or a migration would read later, to fail now.

    Raises:
        InvalidRequestError: `bad-certificate`, `bad-token-file`, `bad-pattern`.
    """
    node_certificates(settings)
    Access(settings)
    for instance in settings.instances.values():
        for directory in instance.directories:
            exclusions_of(instance, directory)
    for host, peer in settings.peers.items():
        tls_context(source_peer(host, peer).tls)


async def serve_node(settings: NodeSettings, text: str, announce: Callable[[str], None]) -> None:
    """Serve until told to stop by a signal.

    Args:
        text: What the settings were parsed from.
        announce: Told once, when both ports take connections: where they are.
    """
    check_node(settings)
    with _own_state(settings.state) as journal, contextlib.closing(journal):
        listening = bind(settings.listen.address, settings.listen.port)
        with listening:
            await _Node(settings, text, journal).run(listening, announce)


class _Node:
    """One node on its way from start to stop."""

    def __init__(self, settings: NodeSettings, text: str, journal: TaskJournal) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._journal = journal
        self._access = Access(settings)
        self._certificates = node_certificates(settings)
        self._metrics = NodeMetrics(journal)
        self._stopping = asyncio.Event()
        self._stream = KeptProcess(
            "stream",
            "holdfast.server.node_stream",
            text,
            self._metrics,
            port=settings.listen.stream_port,
        )
        runner = Runner(journal, settings.state / "locks", self._clock)
        self._tasks = TaskProcesses(
            TaskSurroundings(
                settings_text=text,
                journal=journal,
                runner=runner,
                clock=self._clock,
                observer=self._metrics,
                is_ours=lambda task: is_of_node(settings, task),
                crashes_max=settings.limits.task_crashes_max,
                stop_timeout_s=settings.limits.stop_timeout_s,
                why_not=lambda task: why_not_run(settings, task),
            )
        )
        self._facets = NodeFacets(settings, text, self._tasks, self._metrics)

    async def run(self, listening: socket.socket, announce: Callable[[str], None]) -> None:
        """Serve until a signal, then end everything in order."""
        port = await self._stream.start()
        routes = NodeApplication(self._services(port))
        permits, limits = routes.file_permits, self._settings.limits
        self._metrics.watch_permits(lambda: permits.in_use, limits.file_requests_max)
        server = make_server(
            _Ending(routes, self._stopping),
            self._certificates,
            finish_s=self._settings.limits.stop_timeout_s,
        )
        try:
            with signals(self._stopping.set, self._reload):
                watching = asyncio.create_task(self._stream.watch(self._stopping))
                serving = asyncio.create_task(server.serve([listening]))
                await self._tasks.resume_unfinished()
                keeping = await self._facets.start(self._stopping)
                purging = asyncio.create_task(asyncio.to_thread(self._let_go_completed))
                announce(f"{url_of(self._scheme(), listening)} stream {port}")
                _log.info("node serves", names=self._settings.identity.names)
                stopped = asyncio.create_task(self._stopping.wait())
                await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
                self._stopping.set()
                _log.info("node stops")
                await self._tasks.close()
                stop_servers([server])
                await serving
                await asyncio.gather(watching, keeping)
                await purging
        finally:
            await self._tasks.close()
            await self._facets.close()
            await self._stream.close()

    def _let_go_completed(self) -> None:
        """Go on with what a completion had still to remove when the node was stopped."""
        for host in self._settings.migration_map.values():
            if host in self._settings.instances:
                with contextlib.suppress(HoldfastError):
                    purge_quarantine(open_target, self._settings.instances[host])

    def _scheme(self) -> str:
        return "https" if self._certificates else "http"

    def _reload(self) -> None:
        reload_all(self._certificates, self._access)
        self._stream.reload()
        self._facets.reload()

    def _services(self, stream_port: int) -> NodeServices:
        settings = self._settings
        return NodeServices(
            node=NodeDescription(
                name=settings.identity.names[0],
                version=__version__,
                stream_port=stream_port,
                is_stream_tls=settings.is_tls,
            ),
            clock=self._clock,
            migration_map=settings.migration_map,
            instances=settings.instances,
            journal=self._journal,
            start=self._start,
            cancel=self._tasks.cancel,
            let_go=partial(purge_quarantine, open_target),
            open_directory=_open_directory,
            permissions_of=self._access.of_request,
            state=settings.state,
            file_requests_max=settings.limits.file_requests_max,
            check_ready=self._check_ready,
            render_metrics=self._render_metrics,
            observe=self._metrics.observe,
            mounted=self._facets.mounted(),
            verification_kinds=frozenset({MigrationKind.VERIFICATION, "checkpoints.verify"}),
        )

    def _start(
        self,
        kind: str,
        host: str,
        request: Mapping[str, object],
        *,
        idempotency_key: str | None,
    ) -> Task:
        """See StartTask."""
        settings = self._settings
        instance = settings.instances[host]
        source = next(s for s, target in settings.migration_map.items() if target == host)
        if kind != MigrationKind.VERIFICATION:
            _check_database_stopped(settings.database_addresses[instance.name])
        return self._tasks.start(
            kind,
            subject_of(instance),
            {
                "instance": instance.name,
                "source": source,
                "port": settings.peers[source].port,
                "request": dict(request),
            },
            idempotency_key=idempotency_key,
        )

    def _render_metrics(self) -> tuple[bytes, str]:
        own, content_type = self._metrics.render()
        return own + self._facets.render(), content_type

    def _check_ready(self) -> None:
        self._journal.list_tasks(limit=1)
        if not os.access(self._settings.state, os.W_OK):
            raise UnavailableError(f"{self._settings.state} cannot be written", code="state-denied")
        if self._stopping.is_set() or not self._stream.is_alive:
            raise UnavailableError(
                "the node stops, or its stream server has to start again",
                code="stopping",
                advice="ask again in a moment",
            )
        self._facets.check()


class _Ending:
    """Tells long answers that their client is gone once the node stops, and ends them."""

    def __init__(self, application: ASGIApp, stopping: asyncio.Event) -> None:
        self._application = application
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/events"):
            await self._application(scope, receive, send)
            return
        is_open = False

        async def receive_or_stop() -> Message:
            received = asyncio.ensure_future(receive())
            stopped = asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait({received, stopped}, return_when=asyncio.FIRST_COMPLETED)
                return received.result() if received.done() else {"type": "http.disconnect"}
            finally:
                received.cancel()
                stopped.cancel()

        async def noting_send(message: Message) -> None:
            nonlocal is_open
            is_start = message["type"] == "http.response.start"
            is_open = is_start or bool(message.get("more_body"))
            await send(message)

        await self._application(scope, receive_or_stop, noting_send)
        if is_open and self._stopping.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.contextmanager
def _own_state(state: Path) -> Iterator[TaskJournal]:
    """Hold a state directory, making it where it is missing, and open its journal."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DeniedError(
            f"cannot make the state directory {state}: {error.strerror}",
            code="state-denied",
            advice="set node.state to one that this user may write",
        ) from error
    with Locks(state / "locks").try_hold("node") as lock:
        if lock is None:
            raise ConflictError(
                f"another node runs on {state}",
                code="node-running",
                advice="stop it first, or give this one a state directory of its own",
            )
        yield TaskJournal(state / "tasks.sqlite", SystemClock(), SystemEntropy())


def _check_database_stopped(addresses: tuple[tuple[str, int], ...]) -> None:
    for address in addresses:
        try:
            socket.create_connection(address, DATABASE_S).close()
        except OSError:
            continue
        raise InvalidRequestError(
            f"the database answers at {address[0]} port {address[1]}",
            code="database-running",
            advice="stop it on this host before data is copied under it",
        )


def _open_directory(root: bytes) -> ReadableDirectory:
    return PosixReadableDirectory(root)
