"""`holdfast volumes serve` as a process of its own, and third-party NBD programs beside it."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Holdfast

ENVIRONMENT = os.environ | {"LC_ALL": "C.UTF-8", "PATH": f"/usr/bin:{os.environ['PATH']}"}
"""Programs of the distribution first: nbdsh is a script that wants the distribution's python."""


def need(*programs: str) -> None:
    """Skip the test if one of these programs is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; see tools/deps")


def run(*command: str | Path, timeout_s: float = 60.0) -> str:
    """Run a program to its end, which must be good, and return what it said."""
    ended = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s
    )
    assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
    return ended.stdout


@dataclass(slots=True, kw_only=True)
class Serving:
    """`holdfast volumes serve`, running."""

    process: "subprocess.Popen[bytes]"
    listening: dict[str, list[str]]
    """URIs of each volume."""
    log: list[str] = field(default_factory=list)

    def uri(self, name: str) -> str:
        """Return the URI of a volume's unix socket."""
        return self.listening[name][0]

    def hang_up(self, told: str) -> None:
        """Send SIGHUP and wait until a data process says so in the log."""
        os.kill(self.process.pid, signal.SIGHUP)
        deadline_s = time.monotonic() + 20
        while not any(told in line for line in self.log):
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(timeout=60)


@contextmanager
def serving(holdfast: Holdfast, *arguments: str, volumes_count: int = 1) -> Iterator[Serving]:
    """Serve volumes, and return once so many are; kill it at the end."""
    process = holdfast.start("volumes", "serve", "--json", *arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    served = Serving(process=process, listening={})
    try:
        for _ in range(volumes_count):
            line = process.stdout.readline()
            if b'"listening"' not in line:
                raise AssertionError(f"not served: {line!r} {process.stderr.read().decode()}")
            told: dict[str, Any] = json.loads(line)
            served.listening[told["name"]] = told["listening"]
        reader = threading.Thread(target=_collect, args=(process.stderr, served.log), daemon=True)
        reader.start()
        yield served
    finally:
        served.stop(signal.SIGKILL)
        process.stdout.close()


def _collect(stream: Any, into: list[str]) -> None:
    with stream:
        into.extend(line.decode() for line in stream)


def data_process_id(holdfast: Holdfast, name: str) -> int:
    """Return the process id of a volume's data process."""
    shown = holdfast("volumes", "show", name, "--json").json
    return int(shown["serving"]["pid"])


def create(holdfast: Holdfast, name: str, size: str, *options: str) -> None:
    """Create a volume."""
    created = holdfast("volumes", "create", name, "--size", size, *options)
    assert created.exit == 0, created
