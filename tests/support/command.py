"""The `holdfast` command as a process of its own: start it, wait for it, read what it said."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.preloaded import Interpreter, as_user, run_preloaded

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
TIMEOUT_S = 180.0

Argument = str | bytes | Path


class Completed(NamedTuple):
    """How a command ended and what it said."""

    exit: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.stdout.splitlines()
        value = json.loads(line)
        assert isinstance(value, dict)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdfast:
    """Runs the command with a state directory of its own."""

    state: Path
    interpreter: str = sys.executable
    user: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: Argument, timeout_s: float = TIMEOUT_S) -> Completed:
        """Run it to its end, forked where it is loaded already."""
        environment = self._environment()
        interpreter = Interpreter(self.interpreter, environment.get("PYTHONPATH", ""), self.user)
        words = [os.fsdecode(argument) for argument in arguments]
        code, stdout, stderr = run_preloaded(interpreter, words, environment, timeout_s)
        return Completed(code, _text(stdout), _text(stderr))

    def start(self, *arguments: Argument) -> "subprocess.Popen[bytes]":
        """Start it in a process group of its own; whoever starts it ends it."""
        return subprocess.Popen(
            [self.interpreter, "-m", "holdfast", *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **as_user(self.user),
        )

    def copy(self, source: Argument, target: Argument, *options: Argument) -> Completed:
        """Run `holdfast copy --json`."""
        return self("copy", source, target, "--json", *options)

    def verify(self, source: Argument, target: Argument, *options: Argument) -> Completed:
        """Run `holdfast verify --json`."""
        return self("verify", source, target, "--json", *options)

    def tasks(self) -> list[dict[str, Any]]:
        """Return the tasks in the journal, newest first."""
        listed = self("tasks", "list", "--json", "--limit", "100")
        assert listed.exit == 0, listed
        return [json.loads(line) for line in listed.stdout.splitlines()]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        kept["LC_ALL"] = "C.UTF-8"
        return kept | {"HOLDFAST_STATE": str(self.state)} | self.environment


def _text(raw: bytes) -> str:
    # Strict: what the command prints is UTF-8, whatever the names of files are.
    return raw.decode("utf-8")


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a command and its workers, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


def unprivileged(state: Path) -> Holdfast | str:
    """Return the command as a user without privileges, or why that cannot be had here.

    The interpreter of the tests may be out of that user's reach; the system's then has to do.
    """
    if os.geteuid() != 0:
        return Holdfast(state=state)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{packages}"}
    for interpreter in (sys.executable, f"/usr/bin/{version}"):
        command = Holdfast(
            state=state, interpreter=interpreter, user=NOBODY, environment=environment
        )
        try:
            if command("--version").exit == 0:
                return command
        except OSError:
            continue
    return f"no {version} with holdfast's packages that user {NOBODY} may run"
