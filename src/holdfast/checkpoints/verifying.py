"""One verification: of checkpoints, at a depth, within a budget.

What is needed is derived anew from the bank (manifest, body, segments), never from the catalogue,
which only remembers when each chunk was read last. A chunk that several share is read once.

Invariants:
1. A verdict is SUCCESS only if everything in scope was looked at at the depth asked for; skipped is
   not ok, and nothing examined is not success.
2. One bad resource hides no other: each is judged by itself, with a reason.
3. A checkpoint that was deleted meanwhile is told as gone, not as damaged.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holdfast.checkpoints.bank import Lease
from holdfast.checkpoints.drilling import throw_away_place
from holdfast.checkpoints.manifest import SignedStatement
from holdfast.checkpoints.model import (
    Budget,
    Checkpoint,
    ChunkId,
    ChunkMemory,
    ChunkResult,
    Depth,
    ResourceRecord,
    ResourceStatus,
    Verdict,
    Verified,
)
from holdfast.checkpoints.plugins import HookContext, OperationKind
from holdfast.checkpoints.reading import read_entries
from holdfast.checkpoints.rules import choose_chunks, judge, tells_more
from holdfast.checkpoints.running import Manner, OpenBank, Surroundings, Walk
from holdfast.checkpoints.sealing import Sealer
from holdfast.checkpoints.segments import Entry, chunks_of
from holdfast.checkpoints.verdicts import encode_verdict
from holdfast.errors import (
    CancelledError,
    CapacityError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    NotFoundError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.model.limits import MIB
from holdfast.model.tree import display_path
from holdfast.tasks.runner import TaskContext

FINDINGS_MAX = 25
_WORST_FIRST = (Verdict.FAIL.value, "gone", Verdict.PARTIAL.value, Verdict.SUCCESS.value)
_BATCH_BYTES = 32 * MIB
_NOT_WHOLE = (NotFoundError, IntegrityError, StorageFailedError, CapacityError)
"""Errors that tell of what was read; all others are about the bank, and end a verification."""
_NOT_OF_THE_CHECKPOINT = (CancelledError, CapacityError, DeniedError, UnavailableError)
"""Errors of a drill that say nothing of what was to be restored."""


class Check(NamedTuple):
    """What was found of one chunk."""

    chunk: bytes
    size_bytes: int
    result: ChunkResult
    why: str


@dataclass(slots=True, kw_only=True)
class Scope:
    """One resource of one checkpoint: what it needs, and what was found."""

    record: ResourceRecord
    needs: dict[bytes, int] = field(default_factory=dict)
    """Chunks, each with how long it must at least be."""
    reason: str = ""
    """Why it is bad; empty while it is not."""
    paths: list[str] = field(default_factory=list)
    """Some of the entries that bad chunks touch."""
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Examined:
    """One checkpoint under verification."""

    checkpoint: Checkpoint
    signed: SignedStatement | None = None
    scopes: dict[str, Scope] = field(default_factory=dict)
    reason: str = ""
    """Why the checkpoint as a whole is bad."""
    is_gone: bool = False


class VerifyRun:
    """One attempt of a verification of checkpoints in one bank; run it once."""

    def __init__(
        self,
        around: Surroundings,
        open_bank: OpenBank,
        *,
        depth: Depth,
        resource: str | None,
        budget: Budget,
        manner: Manner,
        context: TaskContext,
    ) -> None:
        self._around = around
        self._open = open_bank
        self._bank = open_bank.bank
        self._depth = depth
        self._resource = resource
        self._budget = budget
        self._manner = manner
        self._context = context
        self._checks: dict[bytes, Check] = {}

    def run(self, checkpoints: list[Checkpoint]) -> dict[str, object]:
        """Do it and return the result of the task."""
        self._context.enter("listing")
        examined = [self._prepare(each) for each in checkpoints]
        if all(not each.scopes and not each.reason for each in examined):
            raise NotFoundError(
                f"no resource {self._resource} is in any of these checkpoints",
                code="no-resource",
                advice="see 'holdfast checkpoints show'",
            )
        needs: dict[bytes, int] = {}
        for each in examined:
            for scope in each.scopes.values():
                for chunk, size_bytes in scope.needs.items():
                    needs[chunk] = max(needs.get(chunk, 0), size_bytes)
        self._check_presence(needs)
        if self._depth is not Depth.PRESENCE:
            self._check_digests(needs)
        for each in examined:
            self._ask_plugins(each)
            if self._depth is Depth.RESTORE:
                self._drill(each)
        self._quarantine()
        outcomes = [self._conclude(each, needs) for each in examined]
        outcomes.sort(key=lambda outcome: _WORST_FIRST.index(str(outcome["verdict"])))
        return self._result(outcomes, needs)

    def _prepare(self, checkpoint: Checkpoint) -> Examined:
        """Read manifest, body and segments; what is wrong with them is kept as a reason."""
        examined = Examined(checkpoint=checkpoint)
        try:
            signed, body = self._open.read_manifest(checkpoint.id)
        except _NOT_WHOLE as error:
            examined.reason = error.message
            return examined
        examined.signed = signed
        examined.reason = self._compare_with_memory(checkpoint, signed)
        for record in body.records:
            if self._resource in (None, record.resource.key):
                examined.scopes[record.resource.key] = self._scope(record)
        said = signed.statement
        for scope in examined.scopes.values():
            scope.needs.setdefault(said.body.id, said.body.size_bytes)
        return examined

    def _compare_with_memory(self, checkpoint: Checkpoint, signed: SignedStatement) -> str:
        if checkpoint.manifest_digest and signed.digest != checkpoint.manifest_digest:
            return f"the manifest of checkpoint {checkpoint.id} is not the one that was written"
        if checkpoint.signer and signed.signer != checkpoint.signer:
            return f"the manifest of checkpoint {checkpoint.id} is signed by another key"
        head = self._around.heads.read(checkpoint.plan_id)
        if head is not None and head[0] == checkpoint.id and head[1] != signed.digest:
            return (
                f"the manifest of checkpoint {checkpoint.id} is not the one its plan's head names"
            )
        return ""

    def _scope(self, record: ResourceRecord) -> Scope:
        scope = Scope(record=record)
        if record.status is ResourceStatus.ERROR:
            scope.reason = f"it was not protected: {record.reason}"
        for segment in record.segments:
            scope.needs[segment.id] = segment.size_bytes
        try:
            scope.needs.update(chunks_of(read_entries(self._bank, self._open.sealer, record)))
        except _NOT_WHOLE as error:
            scope.reason = error.message
        return scope

    def _check_presence(self, needs: Mapping[bytes, int]) -> None:
        present = {each.name.rpartition("/")[2] for each in self._bank.list_chunks()}
        damaged = self._around.catalogue.chunks.damaged(self._bank.identity.id)
        for chunk, size_bytes in needs.items():
            if chunk.hex() not in present:
                why = f"chunk {chunk.hex()} is missing"
                self._checks[chunk] = Check(chunk, size_bytes, ChunkResult.MISSING, why)
            elif self._depth is Depth.PRESENCE and chunk in damaged:
                why = f"chunk {chunk.hex()} was found damaged, and not stored anew since"
                self._checks[chunk] = Check(chunk, size_bytes, ChunkResult.DAMAGED, why)

    def _check_digests(self, needs: Mapping[bytes, int]) -> None:
        self._context.enter("reading")
        around = self._around
        wanted = {c: size for c, size in needs.items() if c not in self._checks}
        memory = around.catalogue.chunks.memory(self._bank.identity.id, wanted)
        chosen = choose_chunks(memory, self._budget, around.clock.now_ns())
        total_bytes = sum(each.size_bytes for each in chosen)
        pace = around.make_pace(self._manner.rate_bytes_per_s)
        self._context.follow_rate(pace.set_rate)
        bank, key, entropy = self._bank, self._open.key, around.entropy

        def examine(batch: tuple[ChunkMemory, ...]) -> list[Check]:
            sealer = Sealer(key, entropy)
            checks = []
            for each in batch:
                pace.take(each.size_bytes)
                result, why = bank.examine_chunk(sealer, each.id, each.size_bytes)
                checks.append(Check(each.id, each.size_bytes, result, why))
            return checks

        start = around.make_workers(pace, self._manner.jobs, bank.store.is_forkable)
        workers = start(examine, entries=len(chosen), size_bytes=total_bytes)
        done_entries = done_bytes = 0

        def on_idle() -> None:
            self._context.progress(
                entries_done=done_entries,
                entries_total=len(chosen),
                bytes_done=done_bytes,
                bytes_total=total_bytes,
            )

        for checks in workers.run(self._batches(chosen), on_idle):
            self._remember(checks)
            done_entries += len(checks)
            done_bytes += sum(check.size_bytes for check in checks)
            on_idle()

    def _batches(self, chosen: list[ChunkMemory]) -> Iterator[tuple[ChunkMemory, ...]]:
        """Yield batches until the time is up, the first one in any case."""
        clock, limit_s = self._around.clock, self._budget.duration_s
        deadline_ns = None if limit_s is None else clock.monotonic_ns() + int(limit_s * 1e9)
        batch: list[ChunkMemory] = []
        size_bytes = 0
        for each in chosen:
            batch.append(each)
            size_bytes += each.size_bytes
            if size_bytes >= _BATCH_BYTES:
                yield tuple(batch)
                batch, size_bytes = [], 0
                if deadline_ns is not None and clock.monotonic_ns() >= deadline_ns:
                    return
        if batch:
            yield tuple(batch)

    def _remember(self, checks: list[Check]) -> None:
        self._checks.update((check.chunk, check) for check in checks)
        told = [
            (check.chunk, check.size_bytes, check.result)
            for check in checks
            if check.result is not ChunkResult.UNREADABLE
        ]
        self._around.catalogue.chunks.remember(
            self._bank.identity.id, told, self._around.clock.now_ns()
        )

    def _ask_plugins(self, examined: Examined) -> None:
        contexts = {
            key: HookContext(
                resource=scope.record.resource,
                parameters=dict(scope.record.resource.parameters),
                info=dict(scope.record.info),
                reader=self._open.reader(scope.record, examined.checkpoint.id),
                report=scope.report,
            )
            for key, scope in examined.scopes.items()
        }
        resources = [scope.record.resource for scope in examined.scopes.values()]
        walk = Walk(plugins=self._around.plugins, kind=OperationKind.VERIFY, contexts=contexts)
        # Of a part of the graph what it depends on may not be here; each is then asked alone.
        for resource in resources:
            alone = resource.__class__(type=resource.type, id=resource.id)
            walk.run([alone])
        for key, why in walk.failures.items():
            examined.scopes[key].reason = examined.scopes[key].reason or why

    def _drill(self, examined: Examined) -> None:
        """Restore each resource into a throw-away place and compare."""
        for scope in examined.scopes.values():
            if scope.reason:
                continue
            self._context.enter("restoring")
            started_ns = self._around.clock.monotonic_ns()
            plugin = self._around.plugins.of(scope.record.resource)
            try:
                with throw_away_place(self._around, self._context.task.id) as target:
                    context = HookContext(
                        resource=scope.record.resource,
                        parameters={"target": str(target), "verify": "full"},
                        info=dict(scope.record.info),
                        reader=self._open.reader(scope.record, examined.checkpoint.id),
                    )
                    operation = plugin.operation(OperationKind.RESTORE)
                    if operation is None or operation.main is None:
                        scope.report["drill"] = "its plug-in restores nothing"
                        continue
                    operation.main(context)
                duration_s = (self._around.clock.monotonic_ns() - started_ns) / 1e9
                scope.report["drill"] = {"durationS": round(duration_s, 3), **context.report}
            except _NOT_OF_THE_CHECKPOINT:
                raise
            except HoldfastError as error:
                scope.reason = f"it could not be restored: {error.message}"

    def _quarantine(self) -> None:
        """Put damaged chunks aside; a bank that cannot be written keeps them where they are."""
        missing = [c for c in self._checks.values() if c.result is ChunkResult.MISSING]
        self._around.catalogue.chunks.remember(
            self._bank.identity.id,
            [(check.chunk, check.size_bytes, check.result) for check in missing],
            self._around.clock.now_ns(),
        )
        damaged = [c for c in self._checks.values() if c.result is ChunkResult.DAMAGED]
        if not damaged:
            return
        try:
            sweep = self._bank.begin_sweep(self._context.task.id, self._around.is_over)
            if sweep is None:
                # The next protect stores them anew where they are.
                self._context.event("not-quarantined", why="protects are at work")
                return
        except HoldfastError as error:
            self._context.event("not-quarantined", why=error.message)
            return
        try:
            for check in damaged:
                self._put_aside(check, sweep)
        finally:
            with contextlib.suppress(HoldfastError):
                sweep.release()

    def _put_aside(self, check: Check, sweep: Lease) -> None:
        try:
            sweep.keep()
            self._bank.quarantine(self._open.sealer, ChunkId(check.chunk))
        except HoldfastError as error:
            self._context.event("not-quarantined", chunk=check.chunk.hex(), why=error.message)

    def _conclude(self, examined: Examined, needs: Mapping[bytes, int]) -> dict[str, object]:
        checkpoint = examined.checkpoint
        bad_keys = self._judge_scopes(examined)
        if (bad_keys or examined.reason) and self._is_gone(checkpoint):
            return {"checkpoint": checkpoint.id, "verdict": "gone"}
        if examined.reason and not examined.scopes:
            known = self._around.catalogue.resource_keys(checkpoint.id)
            bad_keys = [key for key in known if self._resource in (None, key)] or [checkpoint.id]
        own = {c: needs[c] for scope in examined.scopes.values() for c in scope.needs}
        examined_bytes = sum(size for c, size in own.items() if self._is_examined(c))
        bad = len(bad_keys) + bool(examined.reason)
        verdict, coverage = judge(
            bad=bad, examined_bytes=examined_bytes, total_bytes=sum(own.values())
        )
        if not bad and not examined.scopes:
            return {"checkpoint": checkpoint.id, "verdict": Verdict.PARTIAL.value}
        if verdict is Verdict.SUCCESS and (self._resource is not None or not examined.scopes):
            verdict = Verdict.PARTIAL
        verified = Verified(
            at_ns=self._around.clock.now_ns(),
            depth=self._depth,
            verdict=verdict,
            coverage_percent=round(coverage, 3),
            task_id=self._context.task.id,
            bad=tuple(sorted(bad_keys)),
        )
        self._keep_verdict(checkpoint, verified)
        return {
            "checkpoint": checkpoint.id,
            "verdict": verdict.value,
            "coveragePercent": verified.coverage_percent,
            "reason": examined.reason,
            "resources": {
                key: (ResourceStatus.ERROR if scope.reason else ResourceStatus.AVAILABLE).value
                for key, scope in sorted(examined.scopes.items(), key=_bad_first)
            }
            or dict.fromkeys(bad_keys, ResourceStatus.ERROR.value),
            "reasons": {
                key: scope.reason for key, scope in examined.scopes.items() if scope.reason
            },
            "paths": {key: scope.paths for key, scope in examined.scopes.items() if scope.paths},
            "reports": {
                key: scope.report for key, scope in examined.scopes.items() if scope.report
            },
        }

    def _is_examined(self, chunk: bytes) -> bool:
        if self._depth is Depth.PRESENCE:
            return True
        check = self._checks.get(chunk)
        return check is not None and check.result is not ChunkResult.UNREADABLE

    def _judge_scopes(self, examined: Examined) -> list[str]:
        bad_keys = []
        for key, scope in examined.scopes.items():
            # What cannot be read cannot be restored, whatever is wrong with it.
            bad = {
                c
                for c in scope.needs
                if c in self._checks and self._checks[c].result is not ChunkResult.GOOD
            }
            if bad:
                first = self._checks[min(bad)]
                more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
                scope.reason = scope.reason or first.why + more
                scope.paths = self._touched(scope.record, bad)
            if scope.reason:
                bad_keys.append(key)
        return bad_keys

    def _touched(self, record: ResourceRecord, bad: set[bytes]) -> list[str]:
        paths: list[str] = []
        with contextlib.suppress(HoldfastError):
            for entry in read_entries(self._bank, self._open.sealer, record):
                if _needs_any(entry, bad):
                    paths.append(display_path(entry.path)[:1000])
                    if len(paths) == FINDINGS_MAX:
                        break
        return paths

    def _is_gone(self, checkpoint: Checkpoint) -> bool:
        """Say whether somebody deleted it on purpose while it was verified."""
        with contextlib.suppress(HoldfastError):
            state = self._around.catalogue.checkpoint(checkpoint.id).state
            return state.value in ("deleting", "deleted")
        return False

    def _keep_verdict(self, checkpoint: Checkpoint, verified: Verified) -> None:
        catalogue = self._around.catalogue
        if not tells_more(verified, catalogue.checkpoint(checkpoint.id).verified):
            return
        catalogue.set_verified(checkpoint.id, verified)
        document = encode_verdict(checkpoint.id, verified)
        try:
            self._bank.append_verdict(checkpoint.id, verified.task_id, document)
        except HoldfastError as error:
            self._context.event("verdict-not-kept", checkpoint=checkpoint.id, why=error.message)

    def _result(
        self, outcomes: list[dict[str, object]], needs: Mapping[bytes, int]
    ) -> dict[str, object]:
        read = [c for c in self._checks.values() if c.result is not ChunkResult.MISSING]
        bad = [c for c in self._checks.values() if c.result is not ChunkResult.GOOD]
        verdicts = {str(outcome["verdict"]) for outcome in outcomes}
        worst = next(
            (v.value for v in (Verdict.FAIL, Verdict.PARTIAL) if v.value in verdicts), None
        )
        return {
            "depth": self._depth.value,
            "verdict": worst or next(iter(verdicts & {Verdict.SUCCESS}), Verdict.PARTIAL.value),
            "checkpoints": outcomes[:FINDINGS_MAX],
            "checkpointsCount": len(outcomes),
            "chunks": len(needs),
            "totalBytes": sum(needs.values()),
            "readChunks": len(read),
            "readBytes": sum(check.size_bytes for check in read),
            "bad": [
                {
                    "chunk": check.chunk.hex(),
                    "result": check.result.value,
                    "why": check.why,
                    "sharedBy": [
                        list(each)
                        for each in self._around.catalogue.chunks.sharers(
                            self._bank.identity.id, check.chunk
                        )[:FINDINGS_MAX]
                    ],
                }
                for check in bad[:FINDINGS_MAX]
            ],
            "badCount": len(bad),
        }


def _bad_first(named: tuple[str, Scope]) -> bool:
    return not named[1].reason


def _needs_any(entry: Entry, chunks: set[bytes]) -> bool:
    return any(part.chunk in chunks for part in entry.parts)
