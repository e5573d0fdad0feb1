"""One pair of simulated trees with the real files facet between them, on a real state directory.

What runs is what a user runs: Files, Planner, Copying, Transfer, Verifying, the ledger and the task
journal. Simulated are the two trees, time, and the pace; workers run in this process.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from holdfast.files.ledger import Ledger
from holdfast.files.model import Action, CopyOptions, CopyOutcome, VerifyOptions
from holdfast.files.pair import Manner, ledger_path
from holdfast.files.running import Surroundings
from holdfast.files.service import Files
from holdfast.model.limits import MIB
from holdfast.model.tree import ROOT_PATH, SIDE_DIRECTORY, FileKind, Metadata, Stat, join_path
from holdfast.ports import Directory, PaceControl, ReadableDirectory, StartWorkers, Workers
from holdfast.proof.digests import Algorithm
from holdfast.proof.signature import SigningKey
from holdfast.stores.processes import InlineWorkers
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Runner
from holdfast.testing.clock import SimClock, SimEntropy
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.pace import SimPace
from holdfast.testing.trees import Seen, put_file, see, tree_of

SOURCE = b"/source"
TARGET = b"/target"
HOUR_S = 3600.0
"""Long enough for no timestamp before it to be taken for a recent one."""

_CHUNK_BYTES = 64 << 10

InT = TypeVar("InT")
OutT = TypeVar("OutT")


@dataclass(slots=True, kw_only=True)
class World:
    """Two trees and what remembers them. `state` is on the real disk."""

    state: Path
    clock: SimClock
    source: SimDirectory
    target: SimDirectory
    pace: Callable[[], SimPace] = SimPace
    attempts: int = 0
    paces: list[SimPace] = field(default_factory=list)

    def copy(self, options: CopyOptions) -> dict[str, object]:
        """Run `holdfast copy`; return the task's result."""
        return self._run(lambda files, manner: files.copy(SOURCE, TARGET, options, manner))

    def verify(self, options: VerifyOptions) -> dict[str, object]:
        """Run `holdfast verify`; return the task's result."""
        return self._run(lambda files, manner: files.verify(SOURCE, TARGET, options, manner))

    def repair(self, options: VerifyOptions) -> dict[str, object]:
        """Run `holdfast repair`; return the task's result."""
        return self._run(lambda files, manner: files.repair(SOURCE, TARGET, options, manner))

    def verify_proof(self, proof: Path, options: VerifyOptions) -> dict[str, object]:
        """Run `holdfast proof check PROOF TREE`; return the task's result."""
        return self._run(lambda files, manner: files.verify_proof(proof, TARGET, options, manner))

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the memory of the pair beside whoever else has it open."""
        ledger = Ledger(ledger_path(self.state, SOURCE, TARGET), Algorithm.BLAKE3)
        try:
            yield ledger
        finally:
            ledger.close()

    def outcomes(self) -> dict[bytes, tuple[Action, CopyOutcome]]:
        """Return what the last run recorded of its plan, by path."""
        with self.ledger() as ledger:
            rows = ledger.connection.execute(
                "SELECT path, action, outcome FROM plan WHERE outcome IS NOT NULL ORDER BY number"
            ).fetchall()
        return {path: (Action(action), CopyOutcome(outcome)) for path, action, outcome in rows}

    def with_target(self, state: Path, target: SimDirectory) -> "World":
        """Return a world that goes on from here with another target and a copy of the memory."""
        shutil.copytree(self.state, state)
        return World(
            state=state,
            clock=self.clock,
            source=self.source,
            target=target,
            attempts=self.attempts,
        )

    def copied_to(self, state: Path) -> "World":
        """Return an independent equal world, at the same moment."""
        world = self.with_target(state, clone(self.target))
        world.source = clone(self.source)
        world.clock = SimClock(now_ns=self.clock.now_ns())
        return world

    def _run(self, do: Callable[[Files, Manner], Task]) -> dict[str, object]:
        self.attempts += 1
        entropy = SimEntropy(self.attempts)
        (self.state / "locks").mkdir(parents=True, exist_ok=True)
        journal = TaskJournal(self.state / "tasks.sqlite", self.clock, entropy)
        try:
            surroundings = Surroundings(
                state=self.state,
                runner=Runner(journal, self.state / "locks", self.clock),
                clock=self.clock,
                open_source=self._open,
                open_target=self._open_target,
                make_pace=self._make_pace,
                make_workers=make_workers,
                run_beside=iter,
                load_key=lambda: SigningKey.from_seed(bytes(32)),
            )
            task = do(Files(surroundings), Manner(jobs=1))
        finally:
            journal.close()
        return dict(task.result or {})

    def _open(self, root: bytes) -> ReadableDirectory:
        return {SOURCE: self.source, TARGET: self.target}[root]

    def _open_target(self, root: bytes, make: bool) -> Directory:
        assert root == TARGET
        return self.target

    def _make_pace(self, rate_bytes_per_s: float | None) -> SimPace:
        self.paces.append(self.pace())
        return self.paces[-1]


def make_workers(pace: PaceControl, jobs: int) -> StartWorkers:
    """Return workers in this process, whatever the work."""

    def start(
        function: Callable[[InT], OutT], *, entries: int, size_bytes: int
    ) -> Workers[InT, OutT]:
        return InlineWorkers(function)

    return start


def make_world(state: Path, clock: SimClock | None = None) -> World:
    """Return two empty trees of one clock."""
    clock = clock or SimClock()
    source = SimDirectory(clock=clock, device=1)
    target = SimDirectory(clock=clock, device=2)
    return World(state=state, clock=clock, source=source, target=target)


def metadata(number: int, mode: int = 0o644) -> Metadata:
    """Return metadata that differs from that of every other number."""
    return Metadata(mode=mode, mtime_ns=1_500_000_000_000_000_000 + number, uid=1000, gid=1000)


def put(tree: SimDirectory, path: bytes, content: bytes, number: int, mode: int = 0o644) -> None:
    """Put a file with metadata of this number."""
    put_file(tree, path, content, metadata(number, mode))


def put_directory(tree: SimDirectory, path: bytes, number: int, mode: int = 0o755) -> None:
    """Make a directory; call `settle_directories` when all is in it, for its time to stay."""
    tree.make_directory(path)
    tree.set_metadata(path, FileKind.DIRECTORY, metadata(number, mode))


def settle(tree: SimDirectory, number: int = 900) -> None:
    """Give every directory a time of its own and make the whole tree durable."""
    for path, seen in tree_of(tree).items():
        if seen.kind is FileKind.DIRECTORY:
            number += 1
            tree.set_metadata(path, FileKind.DIRECTORY, metadata(number, seen.mode))
    tree.set_metadata(b"", FileKind.DIRECTORY, metadata(number + 1, 0o755))
    tree.flush_all()


def clone(tree: SimDirectory, faults: SimFaults | None = None) -> SimDirectory:
    """Return an independent equal tree, of which everything was flushed."""
    return tree.power_cut(None, faults=faults)


def look(tree: SimDirectory) -> dict[bytes, Seen]:
    """Return every entry as `tree_of` does, of large files only a digest, and that quickly."""
    found: dict[bytes, Seen] = {}
    waiting = [ROOT_PATH]
    while waiting:
        parent = waiting.pop()
        for name, is_directory in tree.list_names(parent):
            path = join_path(parent, name)
            stat = tree.stat(path)
            if is_directory:
                waiting.append(path)
            if stat.kind is FileKind.FILE and stat.size_bytes > MIB:
                found[path] = _see_large(tree, path, stat)
            else:
                found[path] = see(tree, path)
    return dict(sorted(found.items()))


def _see_large(tree: SimDirectory, path: bytes, stat: Stat) -> Seen:
    """Look at the parts of a file that are not zero, wherever its holes are."""
    digest = blake2b(b"%d" % stat.size_bytes)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    file = tree.open_file(path)
    for start, end in file.data_extents(stat.size_bytes):
        for at in range(start - start % _CHUNK_BYTES, end, _CHUNK_BYTES):
            data = bytes(buffer[: file.read_into(buffer, at)])
            if data.strip(b"\0"):
                digest.update(b"%d:" % at + data)
    file.close()
    return Seen(
        kind=stat.kind,
        content=digest.digest(),
        mode=stat.mode,
        mtime_ns=stat.mtime_ns,
        links_count=stat.links_count,
        xattrs=tree.xattrs(path),
    )


def is_aside(path: bytes) -> bool:
    """Say whether a path is the side directory or in it."""
    return path == SIDE_DIRECTORY or path.startswith(SIDE_DIRECTORY + b"/")


def same_content(seen: Seen | None, other: Seen | None) -> bool:
    """Say whether both are there and agree in kind and content."""
    if seen is None or other is None:
        return False
    return (seen.kind, seen.content) == (other.kind, other.content)
