"""What every operation on checkpoints shares: surroundings, an open bank, the walk over hooks."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from holdfast.checkpoints.bank import Bank, read_identity
from holdfast.checkpoints.catalogue import Catalogue
from holdfast.checkpoints.cutting import Cutter
from holdfast.checkpoints.manifest import Body, SignedStatement, decode_body, decode_manifest
from holdfast.checkpoints.model import (
    BankId,
    CheckpointId,
    ChunkRef,
    Resource,
    ResourceRecord,
)
from holdfast.checkpoints.plugins import HookContext, OperationKind, Plugins
from holdfast.checkpoints.reading import ResourceReader
from holdfast.checkpoints.rules import plan_walk
from holdfast.checkpoints.sealing import BankKey, Sealer
from holdfast.errors import CancelledError, ConflictError, HoldfastError, NotFoundError
from holdfast.ports import Clock, Entropy, ObjectStore, PaceControl, ReadableDirectory, StartWorkers
from holdfast.proof.signature import SigningKey
from holdfast.tasks.model import Task, TaskState
from holdfast.tasks.runner import Listener, Work

Parameters = Mapping[str, Mapping[str, Any]]
"""By type (`Holdfast::Directory`) or by key (`Holdfast::Directory#/srv`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to go about it: changes nothing of what is done, so it is no part of the request."""

    jobs: int
    rate_bytes_per_s: float | None = None
    listener: Listener = lambda _task: None
    idempotency_key: str | None = None
    """Of the one task that is asked for, not of those that follow on it."""


class TaskRunner(Protocol):
    """Runs work as durable tasks: here, or where its place is."""

    def run(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        work: Work,
        *,
        idempotency_key: str | None = None,
        listener: Listener,
    ) -> Task:
        """Do the work, or have it done; return its task, which has ended if it was done here.

        Whoever does it elsewhere finds the work again from kind and request: see resuming.py.
        """
        ...

    def settle(self) -> object:
        """Record tasks whose process died."""
        ...


class PlanHeads(Protocol):
    """The heads that name the current checkpoint of each plan."""

    def read(self, plan_id: str) -> tuple[str, str] | None:
        """Return (checkpoint, digest of its manifest); None if there is none yet."""
        ...

    def advance(self, plan_id: str, checkpoint_id: str, digest: str, task_id: str) -> None:
        """Make a checkpoint the current one; the same again changes nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the composition root provides."""

    state: Path
    runner: TaskRunner
    task_state: Callable[[str], TaskState | None]
    """Given a task's id; None if this machine does not know it."""
    clock: Clock
    entropy: Entropy
    catalogue: Catalogue
    heads: PlanHeads
    plugins: Plugins
    open_store: Callable[[str], ObjectStore]
    """Given a bank's URL."""
    load_bank_key: Callable[[str], BankKey | None]
    """Given a key id; None for the empty one. DeniedError (`key-missing`)."""
    load_key: Callable[[], SigningKey]
    open_source: Callable[[bytes], ReadableDirectory]
    make_pace: Callable[[float | None], PaceControl]
    make_workers: Callable[[PaceControl, int, bool], StartWorkers]
    """Given how many, and whether processes may be forked."""

    def is_over(self, task_id: str) -> bool:
        """Say whether a task of this machine is at work no more; False of another machine's."""
        if self.task_state(task_id) is TaskState.RUNNING:
            self.runner.settle()
        return self.task_state(task_id) not in (None, TaskState.PENDING, TaskState.RUNNING)


@dataclass(slots=True)
class OpenBank:
    """A bank with what it takes to read it."""

    bank: Bank
    key: BankKey | None
    sealer: Sealer
    cutter: Cutter

    def read_manifest(self, checkpoint_id: CheckpointId) -> tuple[SignedStatement, Body]:
        """Return a manifest and its body, both checked.

        Raises:
            NotFoundError: `no-object`: the bank has none.
            IntegrityError: `bad-manifest`, `chunk-damaged`.
        """
        data = self.bank.read_manifest(checkpoint_id)
        signed = decode_manifest(data, self.bank.identity.id, checkpoint_id)
        return signed, self.read_body(signed.statement.body)

    def read_body(self, body: ChunkRef) -> Body:
        """Return the body of a manifest, checked."""
        return decode_body(self.bank.read_chunk(self.sealer, body.id))

    def reader(self, record: ResourceRecord, checkpoint_id: str) -> ResourceReader:
        """Return what reads a resource of a checkpoint."""
        identity = {
            "bank": self.bank.identity.id,
            "checkpoint": checkpoint_id,
            "resource": record.resource.key,
        }
        return ResourceReader(bank=self.bank, sealer=self.sealer, record=record, identity=identity)


@contextmanager
def opened(around: Surroundings, url: str, expected: BankId | None = None) -> Iterator[OpenBank]:
    """Open a bank for as long as the block lasts.

    Raises:
        NotFoundError: `no-bank`. ConflictError: `other-bank`: another bank is there now.
        DeniedError: `key-missing`.
    """
    store = around.open_store(url)
    try:
        identity = read_identity(store)
        if identity is None:
            raise NotFoundError(
                f"there is no bank in {store.describe()}",
                code="no-bank",
                advice="check that it is mounted or reachable; 'plan' makes a new one",
            )
        if expected not in (None, identity.id):
            raise ConflictError(
                f"the bank in {store.describe()} is {identity.id}, not {expected}",
                code="other-bank",
                advice="something else is mounted there",
            )
        key = around.load_bank_key(identity.key_id)
        bank = Bank(store, identity, around.clock)
        cutter = Cutter.of_seed(key.naming if key else b"")
        yield OpenBank(bank, key, Sealer(key, around.entropy), cutter)
    finally:
        store.close()


@dataclass(slots=True, kw_only=True)
class Walk:
    """One walk over the hooks of resources; a failing resource never hides another."""

    plugins: Plugins
    kind: OperationKind
    contexts: Mapping[str, HookContext]
    """By key, of every resource that takes part."""
    on_fault: Callable[[HoldfastError], None] = lambda _error: None
    """Told of each failure; raises if it is not the resource's."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why, by key, of each resource that failed."""

    def run(self, resources: Sequence[Resource]) -> None:
        """Call every hook in its order."""
        for hook, key in plan_walk(resources):
            context = self.contexts.get(key)
            if context is None or key in self.failures:
                continue
            try:
                function = self.plugins.hook(context.resource, self.kind, hook)
                if function is not None:
                    function(context)
            except CancelledError:
                raise
            except HoldfastError as error:
                self.on_fault(error)
                self.failures[key] = error.message
            except Exception as error:  # noqa: BLE001 whatever a stranger's plug-in raises
                self.failures[key] = f"the plug-in failed: {type(error).__name__}: {error}"[:500]


def parameters_for(resource: Resource, given: Parameters) -> dict[str, Any]:
    """Return the parameters of a resource: its own over those of its type over its plan's."""
    merged: dict[str, Any] = dict(resource.parameters)
    merged |= given.get(resource.type, {})
    return merged | dict(given.get(resource.key, {}))


def plain_parameters(given: Parameters) -> dict[str, Any]:
    """Return parameters as JSON for a task's request."""
    told: dict[str, Any] = json.loads(json.dumps({k: dict(v) for k, v in given.items()}))
    return told
