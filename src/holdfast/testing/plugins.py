"""What every plug-in for checkpoints must keep, to be run on one's own.

Subclass `PluginContract` in a test module, give `plugin`, `make_resource`, `read_back` and `hurt`
where there is something to hurt, and pytest runs the rest. No part of it knows how a plug-in works:
resources are protected into a simulated bank, verified, restored and compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.checkpoints.bank import Bank, BankIdentity, make_bank
from holdfast.checkpoints.cutting import Cutter
from holdfast.checkpoints.model import BankId, Resource, ResourceStatus
from holdfast.checkpoints.packing import ChunkWriter
from holdfast.checkpoints.plugins import (
    HookContext,
    OperationKind,
    Plugins,
    ProtectionPlugin,
)
from holdfast.checkpoints.reading import ResourceReader
from holdfast.checkpoints.running import Walk
from holdfast.checkpoints.sealing import Sealer
from holdfast.checkpoints.writing import Engine, ResourceWriter, Written
from holdfast.errors import HoldfastError
from holdfast.ports import Pace, ReadableDirectory, StartWorkers, Workers
from holdfast.testing.clock import SimClock, SimEntropy
from holdfast.testing.objects import SimObjectStore


class FreePace:
    """A pace without a limit."""

    def take(self, size_bytes: int) -> None:
        """See Pace."""

    def moved(self, size_bytes: int) -> None:
        """See Pace."""


class _Inline:
    def __init__(self, function: Any) -> None:
        self._function = function

    def run(self, items: Any, on_idle: Any) -> Iterator[Any]:
        """See Workers."""
        for item in items:
            yield self._function(item)
            on_idle()


def _start(function: Any, *, entries: int, size_bytes: int) -> Workers[Any, Any]:
    assert entries >= 0 <= size_bytes
    return _Inline(function)


@dataclass(slots=True)
class PluginBench:
    """A simulated bank, and what it takes to run a plug-in's operations on it."""

    plugin: ProtectionPlugin
    clock: SimClock = field(default_factory=SimClock)

    def protect(self, resource: Resource, parameters: Mapping[str, Any]) -> tuple[Bank, Written]:
        """Protect a resource; raises AssertionError with what the plug-in said if it fails."""
        store = SimObjectStore(self.clock)
        identity = BankIdentity(id=BankId("0" * 32), key_id="", created_ns=0)
        bank = Bank(store, make_bank(store, identity), self.clock)
        pace: Pace = FreePace()
        start: StartWorkers = _start
        engine = Engine(
            make_writer=lambda: ChunkWriter(
                store=store, sealer=Sealer(None, SimEntropy(1)), known=frozenset()
            ),
            cutter=Cutter.of_seed(b""),
            pace=pace,
            clock=self.clock,
            start_workers=start,
            open_source=_no_source,
            on_progress=lambda _entries, _bytes, _total: None,
            keep_lease=lambda: None,
        )
        context = HookContext(
            resource=resource,
            parameters=parameters,
            writer=ResourceWriter(engine=engine, previous={}),
        )
        self._walk(OperationKind.PROTECT, context)
        assert context.writer is not None
        return bank, context.writer.finish(resource, context.info)

    def run(
        self, kind: OperationKind, bank: Bank, written: Written, parameters: Mapping[str, Any]
    ) -> HookContext:
        """Run another operation on what was protected; AssertionError if the plug-in fails."""
        record = written.record
        context = HookContext(
            resource=record.resource,
            parameters=parameters,
            info=dict(record.info),
            reader=ResourceReader(
                bank=bank, sealer=Sealer(None, SimEntropy(2)), record=record, identity={}
            ),
        )
        self._walk(kind, context)
        return context

    def _walk(self, kind: OperationKind, context: HookContext) -> None:
        key = context.resource.key
        walk = Walk(plugins=Plugins([self.plugin]), kind=kind, contexts={key: context})
        walk.run([Resource(type=context.resource.type, id=context.resource.id)])
        assert not walk.failures, walk.failures[key]


def _no_source(root: bytes) -> ReadableDirectory:
    raise AssertionError(f"a plug-in contract opens no tree: {root!r}")


class PluginContract(ABC):
    """The suite; subclass it."""

    @abstractmethod
    def plugin(self) -> ProtectionPlugin:
        """Return the plug-in under test."""

    @abstractmethod
    def make_resource(self) -> Resource:
        """Make a real resource with something in it."""

    @abstractmethod
    def read_back(self, resource_id: str) -> object:
        """Return what a resource holds, to be compared."""

    def restore_parameters(self) -> Mapping[str, Any]:
        """Return what a restore needs, such as where to."""
        return {}

    def test_type_is_spelt_as_types_are(self) -> None:
        """`Vendor::Kind`, or with a third part."""
        parts = self.plugin().resource_type.split("::")
        assert len(parts) in (2, 3)
        assert all(part.isidentifier() for part in parts)

    def test_check_is_stable(self) -> None:
        """A resource that was checked is checked to the same one."""
        checked = self.plugin().check(self.make_resource())
        assert self.plugin().check(checked) == checked

    def test_unknown_resource_is_an_error_of_ours(self) -> None:
        """Not a crash and not a silent success."""
        resource = Resource(type=self.plugin().resource_type, id="no such thing \0 at all")
        try:
            checked = self.plugin().check(resource)
            PluginBench(self.plugin()).protect(checked, {})
        except (HoldfastError, AssertionError, ValueError):
            return
        raise AssertionError("a resource that does not exist was protected")

    def test_what_was_protected_is_restored(self) -> None:
        """The restored resource holds what the protected one held."""
        bench = PluginBench(self.plugin())
        resource = self.plugin().check(self.make_resource())
        before = self.read_back(resource.id)
        bank, written = bench.protect(resource, {})
        assert written.record.status is ResourceStatus.AVAILABLE
        assert written.record.entries > 0
        context = bench.run(OperationKind.RESTORE, bank, written, self.restore_parameters())
        restored_id = context.new_ids.get(resource.key, resource.id)
        assert self.read_back(restored_id) == before

    def test_verify_and_delete_pass_on_what_is_whole(self) -> None:
        """Both are optional; where there are hooks, they find nothing wrong."""
        bench = PluginBench(self.plugin())
        resource = self.plugin().check(self.make_resource())
        bank, written = bench.protect(resource, {})
        bench.run(OperationKind.VERIFY, bank, written, {})
        bench.run(OperationKind.DELETE, bank, written, {})

    def test_protecting_twice_stores_nothing_twice(self) -> None:
        """The same content gives the same chunks: what a plug-in writes does not vary by itself."""
        bench = PluginBench(self.plugin())
        resource = self.plugin().check(self.make_resource())
        _, first = bench.protect(resource, {})
        _, second = bench.protect(resource, {})
        assert set(first.segment_chunks.values()) == set(second.segment_chunks.values())
