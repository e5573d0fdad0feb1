"""An instance migrated between trees of this machine: real directories, ledgers, journal, workers.

Only the way to the source is short: its directories are opened as local ones.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdfast.files.migration.model import (
    CopyRequest,
    Instance,
    InstanceDirectory,
    MigrationKind,
    RepairRequest,
    SourcePeer,
    VerificationRequest,
)
from holdfast.files.migration.opening import MigrationSurroundings
from holdfast.files.migration.requests import (
    copy_request_as_json,
    repair_request_as_json,
    verification_request_as_json,
)
from holdfast.files.migration.service import run_copy, run_repair, run_verification, subject_of
from holdfast.ports import ReadableDirectory
from holdfast.server.local import load_key, make_workers, open_source, open_target
from holdfast.stores.pace import SharedPace
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Runner, TaskContext
from tests.support.clocks import QuickClock

PEER = SourcePeer(host="source.example", port=9043)
COPY = CopyRequest(max_iterations=3, success_threshold=1.0, max_concurrency=1)
VERIFICATION = VerificationRequest(max_concurrency=1, digest_algorithm="MD5")


@dataclass(slots=True, kw_only=True)
class Migration:
    """One instance with directories `data/0`, `data/1` and `commitlog/0` on both sides."""

    place: Path
    names: tuple[tuple[str, int], ...] = (("data", 0), ("data", 1), ("commitlog", 0))
    exclude_files: tuple[str, ...] = ()
    exclude_directories: tuple[str, ...] = ()
    on_open: Callable[["Migration", int], None] = lambda _migration, _times: None
    """Called as the source is opened for a pass, with how often it was before."""
    clock: SystemClock = field(default_factory=QuickClock)
    opened: int = 0
    sources: Callable[["Migration"], Sequence[ReadableDirectory]] | None = None

    def __post_init__(self) -> None:
        for kind, index in self.names:
            for side in ("source", "target"):
                (self.place / side / f"{kind}{index}").mkdir(parents=True, exist_ok=True)
        (self.place / "state").mkdir(exist_ok=True)

    def source(self, name: str = "data0") -> Path:
        """Return a directory of the source."""
        return self.place / "source" / name

    def target(self, name: str = "data0") -> Path:
        """Return a directory of the target."""
        return self.place / "target" / name

    @property
    def state(self) -> Path:
        """The state directory of the destination."""
        return self.place / "state"

    @property
    def instance(self) -> Instance:
        """The instance at the destination."""
        return Instance(
            name="db",
            directories=tuple(
                InstanceDirectory(
                    kind=kind, index=index, path=str(self.target(f"{kind}{index}")).encode()
                )
                for kind, index in self.names
            ),
            exclude_files=self.exclude_files,
            exclude_directories=self.exclude_directories,
            staging=self.place / "staging",
        )

    def copy(self, request: CopyRequest = COPY) -> Task:
        """Run a copy as a task."""
        return self._run(MigrationKind.COPY, copy_request_as_json(request), request)

    def verify(self, request: VerificationRequest = VERIFICATION) -> Task:
        """Run a verification as a task."""
        asked = verification_request_as_json(request)
        return self._run(MigrationKind.VERIFICATION, asked, request)

    def repair(self, verification: Task) -> Task:
        """Repair what a verification found."""
        request = RepairRequest(verification_id=verification.id, max_concurrency=1)
        return self._run(MigrationKind.REPAIR, repair_request_as_json(request), request)

    def last_task(self) -> Task:
        """Return the newest task as the journal has it."""
        journal = TaskJournal(self.state / "tasks.sqlite", self.clock, SystemEntropy())
        try:
            return journal.list_tasks(limit=1).tasks[0]
        finally:
            journal.close()

    def surroundings(self) -> MigrationSurroundings:
        """Return what the work is given."""
        return MigrationSurroundings(
            state=self.state,
            clock=self.clock,
            entropy=SystemEntropy(),
            open_sources=self._open_sources,
            open_target=open_target,
            make_pace=lambda rate: SharedPace(self.clock, rate),
            make_workers=make_workers,
            run_beside=iter,
            load_key=lambda: load_key(self.state / "keys" / "ed25519.pem", SystemEntropy()),
        )

    def _open_sources(self, _peer: SourcePeer, _instance: Instance) -> Sequence[ReadableDirectory]:
        self.opened += 1
        self.on_open(self, self.opened - 1)
        if self.sources is not None:
            return self.sources(self)
        return [
            open_source(str(self.source(f"{kind}{index}")).encode()) for kind, index in self.names
        ]

    def _run(
        self,
        kind: MigrationKind,
        asked: Mapping[str, object],
        request: CopyRequest | VerificationRequest | RepairRequest,
    ) -> Task:
        journal = TaskJournal(self.state / "tasks.sqlite", self.clock, SystemEntropy())
        try:
            runner = Runner(journal, self.state / "locks", self.clock)
            whole = {
                "instance": "db",
                "source": PEER.host,
                "port": PEER.port,
                "request": asked,
            }

            def work(context: TaskContext) -> Mapping[str, object]:
                around = self.surroundings()
                match request:
                    case CopyRequest():
                        return run_copy(around, self.instance, PEER, request, context)
                    case VerificationRequest():
                        return run_verification(around, self.instance, PEER, request, context)
                    case RepairRequest():
                        return run_repair(around, self.instance, PEER, request, context)

            return runner.run(kind, subject_of(self.instance), whole, work)
        finally:
            journal.close()


def iterations(task: Task) -> list[Mapping[str, object]]:
    """Return the passes a task told of."""
    told = task.detail["iterations"]
    assert isinstance(told, list)
    return told


def main(arguments: list[str]) -> None:
    """Copy the instance at a place in two workers, at so many bytes a second, to be killed."""
    place, rate_bytes_per_s = Path(arguments[0]), int(arguments[1])
    migration = Migration(place=place, clock=SystemClock())
    task = migration.copy(
        replace(COPY, max_concurrency=2, rate_bytes_per_s=rate_bytes_per_s, max_iterations=20)
    )
    print(task.attempt, len(iterations(task)))


if __name__ == "__main__":
    main(sys.argv[1:])
