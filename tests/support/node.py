"""The routes of a node on a real server, journal, runner and directories, in this process.

The tasks are real processes with the real lock; what they do is node_task.py.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from holdfast.files.http.application import NodeApplication
from holdfast.files.http.permits import CLIENT_TIMEOUT_S
from holdfast.files.http.services import NodeDescription, NodeServices
from holdfast.files.migration.model import Instance, InstanceDirectory
from holdfast.files.migration.service import purge_quarantine, subject_of
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.server.local import open_target
from holdfast.server.serving import bind, make_server
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Runner
from tests.support.heads import Answer

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "source.test"
TARGET = "target.test"
TARGET_2 = "target-2.test"
"""The target of another source, which is not here."""
OTHER = "other.test"
"""In no migration map."""
LIVE_MIGRATION = "/api/v1/live-migration"


@dataclass(slots=True, kw_only=True)
class ServedNode:
    """A node's routes being served."""

    url: str
    state: Path
    application: NodeApplication
    services: NodeServices
    instances: Mapping[str, Instance]
    grants: dict[str, frozenset[Permission]]
    """By token; empty: everybody may do everything."""
    observed: list[tuple[str, str, int]] = field(default_factory=list)

    def root(self, host: str, kind: str = "data", index: int = 0) -> Path:
        """Return the directory of an instance."""
        for directory in self.instances[host].directories:
            if (directory.kind, directory.index) == (kind, index):
                return Path(os.fsdecode(directory.path))
        raise KeyError(kind, index)

    def ask(
        self,
        method: str,
        path: str,
        *,
        host: str = TARGET,
        body: bytes | Mapping[str, Any] | None = None,
        **headers: str,
    ) -> Answer:
        """Send one request; `idempotency_key="k"` becomes the header Idempotency-Key."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"Host": host}
        payload = json.dumps(body).encode() if isinstance(body, Mapping) else body
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.request(method, path, payload, sent)
            response = connection.getresponse()
            held = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, held, response.read())
        finally:
            connection.close()

    def finish_tasks(self, result: Mapping[str, object]) -> None:
        """Let the running task end with this result, which is its last detail too."""
        (self.state / "finish.json.new").write_text(json.dumps(result))
        (self.state / "finish.json.new").rename(self.state / "finish.json")

    def tell(self, detail: Mapping[str, object]) -> None:
        """Have the running task tell this."""
        (self.state / "detail.json.new").write_text(json.dumps(detail))
        (self.state / "detail.json.new").rename(self.state / "detail.json")


def make_instance(directory: Path, name: str, **patterns: tuple[str, ...]) -> Instance:
    """Make an instance with two data directories and one of another type."""
    directories = []
    for kind, index in (("data", 0), ("data", 1), ("hints", 0)):
        root = directory / name / f"{kind}{index}"
        root.mkdir(parents=True)
        directories.append(InstanceDirectory(kind=kind, index=index, path=os.fsencode(root)))
    staging = directory / name / "staging"
    staging.mkdir()
    return Instance(name=name, directories=tuple(directories), staging=staging, **patterns)


@contextmanager
def running_node(
    directory: Path,
    *,
    file_requests_max: int = 20,
    client_timeout_s: float = CLIENT_TIMEOUT_S,
    grants: dict[str, frozenset[Permission]] | None = None,
    exclude_files: tuple[str, ...] = (),
    exclude_directories: tuple[str, ...] = (),
) -> Iterator[ServedNode]:
    """Serve a node that is source, target and a host outside the map, by the Host header."""
    state = directory / "state"
    clock = SystemClock()
    journal = TaskJournal(state / "tasks.sqlite", clock, SystemEntropy())
    processes: list[subprocess.Popen[bytes]] = []
    instances = {
        host: make_instance(
            directory, host, exclude_files=exclude_files, exclude_directories=exclude_directories
        )
        for host in (SOURCE, TARGET, TARGET_2, OTHER)
    }
    start = _Start(Runner(journal, state / "locks", clock), instances, state, processes)
    known = grants or {}
    observed: list[tuple[str, str, int]] = []

    def permissions_of(connection: HTTPConnection) -> frozenset[Permission]:
        from holdfast.errors import DeniedError

        if not known:
            return ALL_PERMISSIONS
        token = connection.headers.get("authorization", "").removeprefix("Bearer ")
        if token in known:
            return known[token]
        raise DeniedError("the node does not know this caller", code="no-credentials")

    services = NodeServices(
        node=NodeDescription(name="test node", version="0", stream_port=None, is_stream_tls=False),
        clock=clock,
        migration_map={SOURCE: TARGET, "source-2.test": TARGET_2},
        instances=instances,
        journal=journal,
        start=start,
        cancel=journal.request_cancel,
        let_go=partial(purge_quarantine, open_target),
        open_directory=PosixReadableDirectory,
        permissions_of=permissions_of,
        state=state,
        file_requests_max=file_requests_max,
        client_timeout_s=client_timeout_s,
        check_ready=lambda: None,
        render_metrics=lambda: (b"# none\n", "text/plain; version=0.0.4; charset=utf-8"),
        observe=lambda method, route, status, _seconds: observed.append((method, route, status)),
    )
    application = NodeApplication(services)
    with _serving(application) as url:
        try:
            yield ServedNode(
                url=url,
                state=state,
                application=application,
                services=services,
                instances=instances,
                grants=known,
                observed=observed,
            )
        finally:
            for process in processes:
                process.kill()
                process.wait()
    journal.close()


class _Start:
    """StartTask with a small process in place of a migration's."""

    def __init__(
        self,
        runner: Runner,
        instances: Mapping[str, Instance],
        state: Path,
        processes: list["subprocess.Popen[bytes]"],
    ) -> None:
        self._runner = runner
        self._instances = instances
        self._state = state
        self._processes = processes

    def __call__(
        self,
        kind: str,
        host: str,
        request: Mapping[str, object],
        *,
        idempotency_key: str | None,
    ) -> Task:
        """See StartTask."""
        instance = self._instances[host]
        whole = {"instance": instance.name, "source": SOURCE, "port": 9043, "request": request}
        return self._runner.start(
            kind, subject_of(instance), whole, self._spawn, idempotency_key=idempotency_key
        )

    def _spawn(self, task: Task, lock: int) -> None:
        (self._state / "finish.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.support.node_task"]
        self._processes.append(
            subprocess.Popen(
                [*command, str(self._state), task.id, str(lock)], cwd=ROOT, pass_fds=(lock,)
            )
        )


@contextmanager
def _serving(application: NodeApplication) -> Iterator[str]:
    bound = bind("127.0.0.1", 0)
    server = make_server(application, None, finish_s=1)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
