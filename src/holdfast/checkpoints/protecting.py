"""One protect: resources into chunks, chunks into a manifest, the manifest into the plan's head.

Order of writes, and the crash each survives:
    1. The lease, and the checkpoint as PROTECTING. Cut off here, the lease runs out, and the next
       attempt of the task goes on.
    2. Chunks, durable batch by batch. Cut off here, they are found by the next attempt; without one
       they are garbage that a sweep takes after the grace.
    3. The manifest, under a lease that was checked before, and is again after. Cut off after it,
       the next attempt, or `doctor`, finds it whole and goes on from there.
    4. The catalogue: AVAILABLE. 5. The head of the plan. 6. The lease is given back.

Invariants:
1. The id of the checkpoint is that of the task: however often a task is resumed, it makes one.
2. A resource that failed is named in the manifest with its reason; the others are whole.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from holdfast.checkpoints.bank import Lease
from holdfast.checkpoints.manifest import (
    LEFT_OUT_MAX,
    Body,
    Statement,
    decode_manifest,
    encode_body,
)
from holdfast.checkpoints.manifest import encode_manifest as encode
from holdfast.checkpoints.model import (
    Checkpoint,
    CheckpointId,
    CheckpointState,
    ChunkRef,
    ChunkResult,
    Plan,
    Resource,
    ResourceRecord,
    ResourceStatus,
    uuid_text,
)
from holdfast.checkpoints.packing import ChunkWriter
from holdfast.checkpoints.plugins import HookContext, OperationKind
from holdfast.checkpoints.reading import read_entries
from holdfast.checkpoints.running import (
    Manner,
    OpenBank,
    Parameters,
    Surroundings,
    Walk,
    parameters_for,
)
from holdfast.checkpoints.sealing import Sealer
from holdfast.checkpoints.segments import Entry, chunks_of
from holdfast.checkpoints.writing import Engine, ResourceWriter, Written
from holdfast.errors import (
    CapacityError,
    HoldfastError,
    IntegrityError,
    NotFoundError,
    StateError,
)
from holdfast.model.limits import CHUNK_BYTES_MAX
from holdfast.ports import ObjectStore
from holdfast.tasks.runner import TaskContext

FINDINGS_MAX = 25


def checkpoint_of_task(task_id: str) -> CheckpointId:
    """Return the id of the checkpoint that a task makes."""
    return CheckpointId(uuid_text(task_id.removeprefix("task-")))


class ProtectRun:
    """One attempt of a protect; run it once."""

    def __init__(
        self,
        around: Surroundings,
        open_bank: OpenBank,
        plan: Plan,
        *,
        parameters: Parameters,
        manner: Manner,
        context: TaskContext,
    ) -> None:
        self._around = around
        self._open = open_bank
        self._bank = open_bank.bank
        self._plan = plan
        self._parameters = parameters
        self._manner = manner
        self._context = context
        self._catalogue = around.catalogue
        self._id = checkpoint_of_task(context.task.id)
        self._bad = self._catalogue.chunks.bad(plan.bank_id)
        self._known: frozenset[bytes] = frozenset()
        self._lease: Lease | None = None

    def run(self) -> dict[str, object]:
        """Do it and return the result of the task."""
        plan = self._plan
        self._catalogue.begin(
            Checkpoint(
                id=self._id,
                plan_id=plan.id,
                plan_name=plan.name,
                bank_id=plan.bank_id,
                created_ns=self._context.task.created_ns,
                state=CheckpointState.PROTECTING,
                task_id=self._context.task.id,
            )
        )
        try:
            if self._context.is_resumed and (found := self._find_manifest()) is not None:
                with contextlib.suppress(HoldfastError):
                    self._bank.end_lease(self._context.task.id)
                return found
            self._lease = self._bank.take_lease(self._context.task.id, self._around.is_over)
            try:
                return self._protect(self._lease)
            finally:
                # An exception that is on its way tells more than a lease that cannot be given back.
                with contextlib.suppress(HoldfastError):
                    self._lease.release()
        except Exception as error:
            # What fails once the manifest is there and recorded unmakes no checkpoint.
            self._catalogue.set_state(
                self._id,
                CheckpointState.ERROR,
                str(error)[:1000],
                only_from=CheckpointState.PROTECTING,
            )
            raise

    def _protect(self, lease: Lease) -> dict[str, object]:
        self._context.enter("protecting")
        engine = self._engine(lease)
        before = self._checkpoint_before()
        previous = {} if before is None else self._records_of(before)
        contexts = {
            each.key: HookContext(
                resource=each,
                parameters=parameters_for(each, self._parameters),
                on_progress=engine.on_progress,
                writer=self._writer(engine, previous.get(each.key)),
            )
            for each in self._plan.resources
        }
        walk = Walk(
            plugins=self._around.plugins,
            kind=OperationKind.PROTECT,
            contexts=contexts,
            on_fault=lambda error: _blame(error, lease),
        )
        walk.run(self._plan.resources)
        written = {
            key: context.writer.finish(context.resource, context.info)
            for key, context in contexts.items()
            if context.writer is not None and key not in walk.failures
        }
        if not written:
            raise StateError(
                f"nothing of plan {self._plan.name} could be protected: "
                + "; ".join(f"{key}: {why}" for key, why in walk.failures.items())[:800],
                code="nothing-protected",
                advice="look at each resource, then run it again",
            )
        return self._conclude(engine, lease, before, self._records(written, walk.failures), written)

    def _conclude(
        self,
        engine: Engine,
        lease: Lease,
        before: Checkpoint | None,
        records: tuple[ResourceRecord, ...],
        written: Mapping[str, Written],
    ) -> dict[str, object]:
        self._context.enter("settling")
        body = Body(
            plan_name=self._plan.name,
            retention=self._plan.retention,
            plan_resources=self._plan.resources,
            records=records,
        )
        body, data = _encode_fitting(body)
        writer = engine.make_writer()
        body_chunk = ChunkRef(writer.write(data), len(data))
        engine.new.update((chunk.id, chunk) for chunk in writer.settle())
        statement = Statement(
            bank_id=self._plan.bank_id,
            checkpoint_id=self._id,
            plan_id=self._plan.id,
            created_ns=self._context.task.created_ns,
            task_id=self._context.task.id,
            key_id=self._plan.key_id,
            body=body_chunk,
            previous=before.manifest_digest if before else "",
            total_bytes=sum(record.total_bytes for record in records),
            added_bytes=sum(chunk.stored_bytes for chunk in engine.new.values()),
            entries=sum(record.entries for record in records),
            left_out_count=sum(record.left_out_count for record in records),
        )
        manifest = encode(statement, self._around.load_key())
        self._write_manifest(manifest, lease)
        uses = {s: chunks for each in written.values() for s, chunks in each.segment_chunks.items()}
        self._record(manifest, body, uses, {k: c.size_bytes for k, c in engine.new.items()})
        healed = self._healed(frozenset(engine.new))
        return self._result(statement, records) | {"healed": [each.hex() for each in healed]}

    def _write_manifest(self, manifest: bytes, lease: Lease) -> None:
        lease.check()
        self._bank.write_manifest(self._id, manifest)
        try:
            lease.check()
        except StateError:
            # Stopped in between: a sweep may have taken what this names.
            self._bank.delete_manifest(self._id)
            raise

    def _record(
        self,
        manifest: bytes,
        body: Body,
        uses: Mapping[bytes, frozenset[bytes]],
        new: Mapping[bytes, int],
    ) -> None:
        signed = decode_manifest(manifest, self._plan.bank_id, self._id)
        sizes: dict[bytes, int] = {c: 0 for chunks in uses.values() for c in chunks}
        for record in body.records:
            sizes |= {segment.id: segment.size_bytes for segment in record.segments}
        sizes |= {signed.statement.body.id: signed.statement.body.size_bytes, **new}
        self._catalogue.record(signed, body, uses, sizes)
        self._around.heads.advance(self._plan.id, self._id, signed.digest, self._context.task.id)

    def _find_manifest(self) -> dict[str, object] | None:
        """Return the result of an attempt that was cut off after it had written the manifest."""
        try:
            data = self._bank.read_manifest(self._id)
        except NotFoundError:
            return None
        signed, body = self._open.read_manifest(self._id)
        uses: dict[bytes, frozenset[bytes]] = {}
        for record in body.records:
            for segment in record.segments:
                one = replace(record, segments=(segment,))
                entries = read_entries(self._bank, self._open.sealer, one)
                uses[segment.id] = frozenset(chunks_of(entries))
        self._record(data, body, uses, {})
        return self._result(signed.statement, body.records)

    def _writer(self, engine: Engine, previous: ResourceRecord | None) -> ResourceWriter:
        info = {} if previous is None else previous.info
        return ResourceWriter(
            engine=engine, previous=self._entries_of(previous), previous_info=info
        )

    def _engine(self, lease: Lease) -> Engine:
        around, manner = self._around, self._manner
        pace = around.make_pace(manner.rate_bytes_per_s)
        self._context.follow_rate(pace.set_rate)
        store: ObjectStore = self._bank.store

        def on_progress(entries: int, size_bytes: int, total_bytes: int | None) -> None:
            lease.keep()
            self._context.progress(
                entries_done=entries, bytes_done=size_bytes, bytes_total=total_bytes
            )

        def make_writer() -> ChunkWriter:
            return ChunkWriter(
                store=store,
                sealer=Sealer(self._open.key, around.entropy),
                known=self._known,
                bad=self._bad,
            )

        return Engine(
            make_writer=make_writer,
            cutter=self._open.cutter,
            pace=pace,
            clock=around.clock,
            start_workers=around.make_workers(pace, manner.jobs, store.is_forkable),
            open_source=around.open_source,
            on_progress=on_progress,
            keep_lease=lease.keep,
            bad=self._bad,
        )

    def _checkpoint_before(self) -> Checkpoint | None:
        found = self._catalogue.list_checkpoints(
            plan_id=self._plan.id, bank_id=self._plan.bank_id, state=CheckpointState.AVAILABLE
        )
        return next((each for each in found if each.id != self._id), None)

    def _records_of(self, checkpoint: Checkpoint) -> dict[str, ResourceRecord]:
        """Return what the checkpoint before has; nothing where that cannot be read."""
        try:
            _, body = self._open.read_manifest(checkpoint.id)
        except (NotFoundError, IntegrityError) as error:
            self._context.event("previous-unreadable", checkpoint=checkpoint.id, why=error.message)
            return {}
        return {record.resource.key: record for record in body.records}

    def _entries_of(self, record: ResourceRecord | None) -> dict[bytes, Entry]:
        """Return what need not be read again, by path."""
        if record is None:
            return {}
        try:
            assert self._lease is not None
            entries = list(read_entries(self._bank, self._open.sealer, record, self._lease.keep))
        except (NotFoundError, IntegrityError) as error:
            self._context.event(
                "previous-unreadable", resource=record.resource.key, why=error.message
            )
            return {}
        # Its manifest was just read under our lease: no sweep takes what it names.
        named = {*chunks_of(entries), *(segment.id for segment in record.segments)}
        self._known |= named - self._bad
        return {
            entry.path: entry
            for entry in entries
            if not self._bad or all(part.chunk not in self._bad for part in entry.parts)
        }

    def _records(
        self, written: Mapping[str, Written], failures: Mapping[str, str]
    ) -> tuple[ResourceRecord, ...]:
        return tuple(
            written[each.key].record if each.key in written else _failed(each, failures[each.key])
            for each in self._plan.resources
        )

    def _healed(self, new: frozenset[bytes]) -> list[bytes]:
        """Read back what was known to be bad and is stored anew."""
        healed = [
            chunk
            for chunk in sorted(new & self._bad)
            if self._bank.examine_chunk(self._open.sealer, chunk, 0)[0] is ChunkResult.GOOD  # type: ignore[arg-type]
        ]
        if healed:
            self._catalogue.chunks.remember(
                self._plan.bank_id,
                [(chunk, 0, ChunkResult.GOOD) for chunk in healed],
                self._around.clock.now_ns(),
            )
        return healed

    def _result(
        self, statement: Statement, records: tuple[ResourceRecord, ...]
    ) -> dict[str, object]:
        left_out = [
            {"resource": record.resource.key, "path": path, "why": why}
            for record in records
            for path, why in record.left_out
        ]
        return {
            "checkpoint": self._id,
            "plan": self._plan.name,
            "entries": statement.entries,
            "totalBytes": statement.total_bytes,
            "addedBytes": statement.added_bytes,
            "leftOutCount": statement.left_out_count,
            "leftOut": left_out[:FINDINGS_MAX],
            "resources": {r.resource.key: r.status.value for r in records},
            "reasons": {r.resource.key: r.reason for r in records if r.reason},
        }


def _encode_fitting(body: Body) -> tuple[Body, bytes]:
    """Return a body that fits into a chunk: of what was left out fewer are named, all counted.

    Raises:
        CapacityError: `plan-too-large`.
    """
    for most in (LEFT_OUT_MAX, 10, 1, 0):
        records = tuple(replace(each, left_out=each.left_out[:most]) for each in body.records)
        fitting = replace(body, records=records)
        data = encode_body(fitting)
        if len(data) <= CHUNK_BYTES_MAX:
            return fitting, data
    raise CapacityError(
        f"what plan {body.plan_name} holds is too much to tell in one manifest",
        code="plan-too-large",
        advice="make several plans of fewer resources",
    )


def _blame(error: HoldfastError, lease: Lease) -> None:
    """Return if it can have been the resource that failed; raise if it was the bank or the lease.

    Never only renewed: a lease that ran out must stay lost, for a sweep may have been there.
    """
    if "bank" in error.context:
        raise error
    lease.check()
    lease.renew()


def _failed(resource: Resource, why: str) -> ResourceRecord:
    return ResourceRecord(resource=resource, status=ResourceStatus.ERROR, reason=why)
