"""Commands as real processes that begin in a moment, and die at the write they are told to.

Each is forked from the test's process, in a session of its own, so that nothing is imported again;
it runs the whole command line. An audit hook of the interpreter sees every change to names below
some roots (made, linked, renamed, removed) before it happens, in workers too, and kills the whole
session with SIGKILL at the one of the number asked for.
"""

import json
import mmap
import os
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import typer.main

import holdfast.checkpoints.scheduling
import holdfast.cli.demo
import holdfast.server.checkpoints
import holdfast.stores.registers.sqlite  # noqa: F401 loaded here, so that no fork has to
from holdfast.cli.main import app, main

_GROUP = typer.main.get_group(app)
for _name in _GROUP.list_commands(typer.Context(_GROUP)):
    _GROUP.get_command(typer.Context(_GROUP), _name)

_CHANGES: Final = frozenset(
    {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate"}
)
_MADE: Final = os.O_CREAT | os.O_TRUNC
KILLED: Final = -signal.SIGKILL


class Ended(NamedTuple):
    """How a command ended: its exit status, or minus the signal that killed it."""

    exit: int
    stdout: str
    stderr: str
    writes_count: int
    """Changes to names below the roots that were begun."""

    @property
    def json(self) -> dict[str, Any]:
        """The last JSON object on stdout; empty if there is none."""
        lines = self.stdout.splitlines()
        told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return told


@dataclass(slots=True, kw_only=True)
class Running:
    """A command under way; whoever started it waits for it."""

    pid: int
    place: Path
    counter: mmap.mmap

    def kill(self) -> Ended:
        """Kill it and its workers, and wait."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.wait()

    def wait(self) -> Ended:
        """Wait until it has ended."""
        _, status = os.waitpid(self.pid, 0)
        (count,) = struct.unpack_from("q", self.counter)
        return Ended(
            os.waitstatus_to_exitcode(status),
            (self.place / "stdout").read_text(),
            (self.place / "stderr").read_text(),
            count,
        )


@dataclass(slots=True, kw_only=True)
class Forked:
    """Starts commands with a state directory of their own."""

    state: Path
    place: Path
    """For what they say."""
    roots: tuple[Path, ...]
    """Below which writes count."""
    _started: int = 0

    def __call__(self, *words: str, kill_at: int = 0) -> Ended:
        """Run a command to its end, or until it dies at the write of that number."""
        return self.start(*words, kill_at=kill_at).wait()

    def start(self, *words: str, kill_at: int = 0) -> Running:
        """Start a command."""
        self._started += 1
        place = self.place / f"{self._started}"
        place.mkdir(parents=True)
        counter = mmap.mmap(-1, mmap.PAGESIZE)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(words, place, _Killer(counter, self.roots, kill_at))
        return Running(pid=pid, place=place, counter=counter)

    def _become(self, words: tuple[str, ...], place: Path, killer: "_Killer") -> NoReturn:
        code = 70
        try:
            os.setsid()
            signal.alarm(0)
            for number, name in enumerate(("stdout", "stderr"), start=1):
                descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT)
                os.dup2(descriptor, number)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            os.environ["HOLDFAST_STATE"] = str(self.state)
            sys.argv = ["holdfast", *words]
            sys.addaudithook(killer.see)
            try:
                main()
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


class _Killer:
    """Counts writes below some roots in memory that forks share; kills at one of them."""

    def __init__(self, counter: mmap.mmap, roots: tuple[Path, ...], kill_at: int) -> None:
        self._counter = counter
        self._roots = tuple(os.fsencode(root) + b"/" for root in roots)
        self._kill_at = kill_at

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of something that is about to happen."""
        if event == "open":
            is_write = isinstance(arguments[2], int) and arguments[2] & _MADE
        else:
            is_write = event in _CHANGES
        if not is_write or not any(self._is_below(each) for each in arguments[:2]):
            return
        (count,) = struct.unpack_from("q", self._counter)
        struct.pack_into("q", self._counter, 0, count + 1)
        if count + 1 == self._kill_at:
            os.killpg(0, signal.SIGKILL)

    def _is_below(self, path: object) -> bool:
        if not isinstance(path, str | bytes | Path):
            return False
        # Of a name relative to an open directory nobody hears where that is: it counts.
        raw = os.fsencode(path)
        return not raw.startswith(b"/") or raw.startswith(self._roots)
