"""Nodes as processes, `holdfast node`, on loopback with free ports; and two of them as a pair.

The source is called 127.0.0.1 and the target localhost, so that each has a name of its own on one
machine and is reached by it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.command import Completed, Holdfast
from tests.support.heads import Answer, ask

SOURCE, TARGET = "127.0.0.1", "localhost"
COPIES = "/api/v1/live-migration/data-copy-tasks"
VERIFICATIONS = "/api/v1/live-migration/files-verification-tasks"
STATUS = "/api/v1/live-migration/status"
TASKS = "/api/v1/tasks"
WAIT_S = 60.0


@dataclass(slots=True, kw_only=True)
class NodeProcess:
    """One node and where it keeps everything; it may be stopped and started again."""

    name: str
    directory: Path
    more: str = ""
    """Settings beside names, state, ports and the data directory."""
    listen: str = ""
    """More of the table listen."""
    migration: tuple[str, str] = (SOURCE, TARGET)
    """The names of source and target in the migration map."""
    prefix: tuple[str, ...] = ()
    """What its command begins with."""
    ca: Path | None = None
    token: str = ""
    port: int = 0
    stream_port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"{'https' if self.ca else 'http'}://{self.name}:{self.port}"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.directory / "data"

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        lines = (self.directory / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def settings(self) -> str:
        """Its settings, with the ports it had before."""
        return (
            f'[node]\nnames = ["{self.name}"]\nstate = "{self.directory}/state"\n'
            f"[listen]\nport = {self.port}\nstream_port = {self.stream_port}\n{self.listen}"
            f'[migration_map]\n"{self.migration[0]}" = "{self.migration[1]}"\n'
            f'[instances.main]\ndirectories = {{ data = "{self.data}" }}\n{self.more}'
        )

    def start(self, settings: str = "") -> None:
        """Start it, and return once both of its ports take connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        config = self.directory / "node.toml"
        config.write_text(settings or self.settings)
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "holdfast", "node", "--config", config],
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | self.environment,
            )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().decode().split()
        self.process.stdout.close()
        assert words[:2] == ["holdfast", "node:"], (self.directory / "log").read_text()
        self.port, self.stream_port = int(words[2].rpartition(":")[2]), int(words[4])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        **headers: str,
    ) -> Answer:
        """Send one request; `idempotency_key="k"` becomes the header Idempotency-Key."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        raw = None if body is None else json.dumps(body).encode()
        return ask(self.url, method, path, headers=sent, body=raw, ca=self.ca)

    def start_copy(self, **more: object) -> str:
        """Start a copy as Sidecar's clients do; return its id."""
        request = {"maxIterations": 3, "successThreshold": 1.0, "maxConcurrency": 2, **more}
        answer = self.ask("POST", COPIES, request)
        assert answer.status == 202, answer
        return str(answer.json["taskId"])

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task as the journal has it."""
        answer = self.ask("GET", f"{TASKS}/{task_id}")
        assert answer.status == 200, answer
        return answer.json

    def wait_for(
        self, task_id: str, is_so: Callable[[dict[str, Any]], bool], within_s: float = WAIT_S
    ) -> dict[str, Any]:
        """Return a task once something is so of it."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            task = self.task(task_id)
            if is_so(task):
                return task
            time.sleep(0.05)
        raise AssertionError(f"not so after {within_s} s: {task}\n{self.log[-20:]}")

    def wait_until_ended(self, task_id: str, within_s: float = WAIT_S) -> dict[str, Any]:
        """Return a task once it has ended."""
        return self.wait_for(
            task_id, lambda task: task["state"] in ("completed", "failed", "cancelled"), within_s
        )

    def wait_until_moving(self, task_id: str) -> dict[str, Any]:
        """Return a task once it copies bytes."""
        return self.wait_for(
            task_id,
            lambda task: task["state"] == "running" and task["progress"]["bytesDone"] > 0,
        )

    def command(self, *arguments: str) -> Completed:
        """Run `holdfast files` against it."""
        holdfast = Holdfast(
            state=self.directory / "cli-state", environment={"HOLDFAST_TOKEN": self.token}
        )
        options = ["--node", self.url, *(["--ca", str(self.ca)] if self.ca else [])]
        return holdfast("files", *options, *arguments)


def children_of(process_id: int) -> list[int]:
    """Return the processes that a process has started and not yet waited for."""
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(word) for word in text.split()]


def is_running(process_id: int) -> bool:
    """Say whether a process lives; one that nobody waited for is dead too."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def child_named(node: NodeProcess, module: str) -> int:
    """Return the one child of a node that runs a module of ours."""
    assert node.process is not None
    found = [
        child
        for child in children_of(node.process.pid)
        if module.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    ]
    assert len(found) == 1, (module, found)
    return found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePair:
    """Two nodes of one migration map."""

    source: NodeProcess
    target: NodeProcess


@contextmanager
def running_pair(
    directory: Path, *, more: str = "", peer: str = "", ca: Path | None = None, token: str = ""
) -> Iterator[NodePair]:
    """Run both; the target knows where the source is.

    Args:
        more: Settings of both.
        peer: More of what the target knows of the source.
        ca: Who signed their certificates, if they speak TLS.
        token: What they are asked with.
    """
    source, target = (
        NodeProcess(name=name, directory=directory / part, more=more, ca=ca, token=token)
        for name, part in ((SOURCE, "source"), (TARGET, "target"))
    )
    pair = NodePair(source=source, target=target)
    try:
        source.start()
        target.more += f'[peers."{SOURCE}"]\nport = {source.port}\n{peer}'
        target.start()
        yield pair
    finally:
        for node in (target, source):
            if node.process is not None:
                node.stop(signal.SIGKILL)
