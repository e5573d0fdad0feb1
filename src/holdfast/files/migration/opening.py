"""The directories of an instance and their source, opened for one pass."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import ConflictError, StateError
from holdfast.files.ledger import Ledger
from holdfast.files.migration.exclusions import exclusions_of, kept_patterns
from holdfast.files.migration.latch import Latch
from holdfast.files.migration.model import Instance, InstanceDirectory, LatchState, SourcePeer
from holdfast.files.model import Finding
from holdfast.files.pair import Manner, Means, Pair, ledger_path
from holdfast.files.watching import TaskWatch
from holdfast.model.ids import TaskId
from holdfast.ports import Directory, Entropy, ReadableDirectory
from holdfast.proof.digests import Algorithm
from holdfast.tasks.runner import TaskContext

OpenSources = Callable[[SourcePeer, Instance], Sequence[ReadableDirectory]]
"""Opens the source's side of every directory of an instance, in their order, for one pass.

Raises StateError (`source-completed`) if the source says that its migration is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSurroundings(Means):
    """What the composition root provides."""

    entropy: Entropy
    open_sources: OpenSources
    open_target: Callable[[bytes, bool], Directory]
    """Given the root and whether to make it if it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDirectory:
    """One directory of an instance in the middle of a task."""

    directory: InstanceDirectory
    pair: Pair
    target: Directory
    exclude: tuple[str, ...]
    """As they are told in a proof."""

    def named(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return findings by their place in the instance."""
        prefix = self.directory.name.encode() + b"/"
        return [found._replace(path=prefix + found.path) for found in findings]

    def recognise_source(self, task_id: TaskId) -> None:
        """Keep which tree the source is, or compare it with what this task kept before.

        Raises:
            ConflictError: `source-replaced`: an earlier pass or attempt copied from another tree.
        """
        assert self.pair.source is not None
        found = json.dumps([task_id, self.pair.source.describe()], sort_keys=True)
        known = self.pair.ledger.get("copied from") or found
        if known != found and json.loads(known)[0] == task_id:
            raise ConflictError(
                f"the source of {self.directory.name} is not the tree it was: "
                f"{json.loads(known)[1]} before, {json.loads(found)[1]} now",
                code="source-replaced",
                advice="check that the source serves the right directories, then copy again",
            )
        self.pair.ledger.set("copied from", found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How the directories of a task are opened."""

    surroundings: MigrationSurroundings
    instance: Instance
    source: SourcePeer
    context: TaskContext
    rate_bytes_per_s: int | None
    jobs: int
    make_roots: bool

    @contextmanager
    def all(
        self,
        watches: Sequence[TaskWatch],
        open_ledger: Callable[[Path], Ledger],
        *,
        prove: bool = True,
    ) -> Iterator[list[OpenDirectory]]:
        """Open both sides of every directory; closed on leaving, whatever happened."""
        opened: list[OpenDirectory] = []
        # One for each time: workers that end in an error leave theirs stopped.
        pace = self.surroundings.make_pace(self.rate_bytes_per_s)
        self.context.follow_rate(pace.set_rate)
        with ExitStack() as stack:
            sources = self.surroundings.open_sources(self.source, self.instance)
            for source in sources:
                stack.callback(source.close)
            for at, directory in enumerate(self.instance.directories):
                ledger = open_ledger(self.ledger_path(directory))
                stack.callback(ledger.close)
                target = self.surroundings.open_target(directory.path, self.make_roots)
                stack.callback(target.close)
                pair = Pair(
                    self.surroundings,
                    sources[at],
                    target,
                    ledger,
                    manner=self._manner(directory, prove=prove),
                    context=watches[at],
                    pace=pace,
                    exclusions=exclusions_of(self.instance, directory),
                    verify_directory_times=False,  # As Sidecar: a pair of directories matches.
                )
                exclude = kept_patterns(self.instance, directory)
                opened.append(
                    OpenDirectory(directory=directory, pair=pair, target=target, exclude=exclude)
                )
            yield opened

    def ledger_path(self, directory: InstanceDirectory) -> Path:
        """Return where the memory of a directory and its source is."""
        return migration_ledger_path(self.surroundings.state, self.source.host, directory)

    def _manner(self, directory: InstanceDirectory, *, prove: bool) -> Manner:
        proofs = self.surroundings.state / "proofs"
        proofs.mkdir(mode=0o700, exist_ok=True)
        name = f"{self.context.task.id}-{directory.kind}-{directory.index}.jsonl"
        return Manner(jobs=self.jobs, prove=prove, proof_path=proofs / name)


def migration_ledger_path(state: Path, source_host: str, directory: InstanceDirectory) -> Path:
    """Return where the memory of a directory and its source is."""
    source = f"migration from {source_host}: {directory.name}".encode()
    return ledger_path(state, source, directory.path)


def open_ledger_as_it_is(path: Path) -> Ledger:
    """Open a ledger with the algorithm its digests are of."""
    return Ledger(path, Algorithm.BLAKE3, keep=True)


def latch_of(instance: Instance) -> Latch:
    """Return the latch of an instance that is copied to."""
    return Latch(instance.staging, [directory.path for directory in instance.directories])


def refuse_completed(instance: Instance) -> None:
    """Raise StateError (`migration-completed`) if nothing may be copied here any more."""
    if latch_of(instance).read().state is LatchState.COMPLETED:
        raise StateError(
            f"the migration of instance {instance.name!r} is marked complete; "
            "a copy would put old data over new",
            code="migration-completed",
            advice="delete the status first if the database here has not been started",
        )
