"""Deletes checkpoints, sweeps chunks, compares catalogue and bank, heals: upkeep of a bank.

Order of writes of a deletion, and the crash each survives:
    1. The catalogue says DELETING. Cut off here, the same command goes on.
    2. The manifest is deleted: from now on nothing of it is live. Cut off here, `doctor` and the
       same command find it gone.
    3. Its verdicts and the trace of a hold, then the catalogue says DELETED.
Chunks are not touched: a sweep takes what no manifest names (bank.py, invariant 1).
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from holdfast.checkpoints.bank import Bank, Lease, chunk_name, stage_chunk
from holdfast.checkpoints.holds import list_holds, read_hold, write_hold
from holdfast.checkpoints.model import (
    Checkpoint,
    CheckpointId,
    CheckpointState,
    ChunkId,
    ChunkResult,
    Plan,
)
from holdfast.checkpoints.reading import read_entries
from holdfast.checkpoints.rules import check_deletable
from holdfast.checkpoints.running import OpenBank, Surroundings
from holdfast.checkpoints.segments import chunks_of
from holdfast.checkpoints.verdicts import decode_verdict
from holdfast.errors import (
    CapacityError,
    HoldfastError,
    IntegrityError,
    NotFoundError,
    StateError,
    UnsupportedError,
)
from holdfast.tasks.runner import TaskContext

NAMED_MAX = 25
QUARANTINE_NS = 30 * 86_400 * 10**9
"""Damaged chunks are kept so long, to be looked at, and then swept."""
_UNREADABLE = (IntegrityError, NotFoundError, CapacityError, UnsupportedError)
"""What one manifest may be, and must not keep the others from being read."""
PUT_NS = 3600 * 10**9
"""A put that began so long ago was cut off: verifications put beside a sweep."""


@dataclass(slots=True, kw_only=True)
class Live:
    """What the manifests of a bank name."""

    manifests: frozenset[CheckpointId] = frozenset()
    chunks: set[bytes] = field(default_factory=set)
    unreadable: dict[CheckpointId, str] = field(default_factory=dict)
    """Manifests of which it cannot be told what they name, and why."""


def delete_checkpoint(
    around: Surroundings, bank: Bank, checkpoint: Checkpoint
) -> dict[str, object]:
    """Delete a checkpoint for good, unless it is held; its chunks stay until a sweep."""
    catalogue = around.catalogue
    _take_hold(around, bank, checkpoint.id)
    check_deletable(catalogue.checkpoint(checkpoint.id), around.clock.now_ns())
    catalogue.set_state(checkpoint.id, CheckpointState.DELETING)
    try:
        bank.delete_manifest(checkpoint.id)
        bank.delete_verdicts(checkpoint.id)
        write_hold(bank.store, checkpoint.id, is_protected=False, locked_until_ns=0)
    except HoldfastError as error:
        catalogue.set_state(checkpoint.id, CheckpointState.ERROR_DELETING, error.message)
        raise
    catalogue.set_state(checkpoint.id, CheckpointState.DELETED)
    return {"checkpoint": checkpoint.id, "state": CheckpointState.DELETED.value}


def _take_hold(around: Surroundings, bank: Bank, checkpoint_id: CheckpointId) -> None:
    """Write into the catalogue what any machine has said of holding a checkpoint."""
    is_protected, locked_until_ns = read_hold(bank.store, checkpoint_id)
    around.catalogue.set_protection(
        checkpoint_id, is_protected=is_protected or None, locked_until_ns=locked_until_ns
    )


def read_live(open_bank: OpenBank, context: TaskContext, keep: Callable[[], None]) -> Live:
    """Read every manifest of a bank and gather what it names; `keep` keeps the lease meanwhile."""
    live = Live()
    manifests = open_bank.bank.list_manifests()
    live.manifests = frozenset(manifests)
    seen: set[bytes] = set()
    for number, checkpoint_id in enumerate(manifests):
        keep()
        try:
            signed, body = open_bank.read_manifest(checkpoint_id)
            live.chunks.add(signed.statement.body.id)
            for record in body.records:
                new = [segment for segment in record.segments if segment.id not in seen]
                if not new:
                    continue
                live.chunks |= {segment.id for segment in record.segments}
                entries = read_entries(open_bank.bank, open_bank.sealer, record, keep)
                live.chunks |= set(chunks_of(entries))
                seen |= {segment.id for segment in record.segments}
        except (IntegrityError, NotFoundError) as error:
            live.unreadable[checkpoint_id] = error.message
        context.progress(entries_done=number + 1, entries_total=len(manifests), bytes_done=0)
    return live


def _lost_manifests(around: Surroundings, bank: Bank, live: Live) -> dict[CheckpointId, str]:
    """Return the checkpoints that had a manifest, were not deleted, and have none in the bank."""
    return {
        each.id: f"checkpoint {each.id} has no manifest in the bank any more"
        for each in around.catalogue.list_checkpoints(bank_id=bank.identity.id)
        if each.manifest_digest
        and each.id not in live.manifests
        and each.state in (CheckpointState.AVAILABLE, CheckpointState.ERROR)
    }


def sweep_bank(
    around: Surroundings, open_bank: OpenBank, grace_s: float, context: TaskContext
) -> dict[str, object]:
    """Delete chunks that no manifest names and that are older than the grace.

    Raises:
        StateError: `sweep-unsafe`: a manifest cannot be read, so what it names is not known.
    """
    bank, clock = open_bank.bank, around.clock
    context.enter("sweeping")
    lease = bank.begin_sweep(context.task.id, around.is_over)
    if lease is None:
        return {"deferred": True, "why": "protects are at work", "deleted": 0, "deletedBytes": 0}
    try:
        live = read_live(open_bank, context, lease.keep)
        live.unreadable |= _lost_manifests(around, bank, live)
        if live.unreadable:
            raise StateError(
                "what must be kept is not known: " + "; ".join(list(live.unreadable.values())[:5]),
                code="sweep-unsafe",
                advice="bring manifests back from a copy of the bank, or delete these checkpoints",
            )
        oldest_ns = clock.now_ns() - int(grace_s * 1e9)
        deleted, kept_young, deleted_bytes = [], 0, 0
        for found in bank.list_chunks():
            # Also sees that this process was not stopped so long that others went on.
            lease.keep()
            chunk = _chunk_of(found.name)
            if chunk is None or chunk in live.chunks:
                continue
            if found.modified_ns > oldest_ns:
                kept_young += 1
                continue
            bank.store.delete(found.name)
            deleted.append(chunk)
            deleted_bytes += found.size_bytes
            context.progress(entries_done=len(deleted), bytes_done=deleted_bytes)
        around.catalogue.chunks.forget(bank.identity.id, deleted)
        _sweep_old(bank, lease, "quarantine/", min(oldest_ns, clock.now_ns() - QUARANTINE_NS))
        _sweep_old(bank, lease, "probe/", clock.now_ns() - PUT_NS)
        bank.store.tidy(min(oldest_ns, clock.now_ns() - PUT_NS))
        return {
            "deferred": False,
            "deleted": len(deleted),
            "deletedBytes": deleted_bytes,
            "keptYoung": kept_young,
        }
    finally:
        with contextlib.suppress(HoldfastError):
            lease.release()


def _sweep_old(bank: Bank, lease: Lease, prefix: str, before_ns: int) -> None:
    for found in list(bank.store.list(prefix)):
        if found.modified_ns <= before_ns:
            lease.keep()
            bank.store.delete(found.name)


def examine_bank(
    around: Surroundings, open_bank: OpenBank, signers: frozenset[str], context: TaskContext
) -> dict[str, object]:
    """Compare catalogue and bank in both directions, and make the catalogue say what the bank has.

    Args:
        around: The surroundings.
        open_bank: The bank.
        signers: Fingerprints of keys whose manifests are taken into the catalogue.
        context: Of the task.
    """
    bank, catalogue = open_bank.bank, around.catalogue
    bank_id = bank.identity.id
    context.enter("examining")
    # In this order: whatever was AVAILABLE before the listing has a manifest in it.
    known = {c.id: c for c in catalogue.list_checkpoints(bank_id=bank_id)}
    in_bank = bank.list_manifests()
    recovered: list[str] = []
    strangers: dict[str, str] = {}
    damaged: dict[str, str] = {}
    live: set[bytes] = set()
    for number, checkpoint_id in enumerate(in_bank):
        try:
            needs = _recover(open_bank, around, checkpoint_id, known, signers)
        except _UNREADABLE as error:
            damaged[checkpoint_id] = error.message
            continue
        except StateError as error:
            strangers[checkpoint_id] = error.message
            continue
        live |= needs
        if checkpoint_id not in known or not known[checkpoint_id].manifest_digest:
            recovered.append(checkpoint_id)
        context.progress(entries_done=number + 1, entries_total=len(in_bank), bytes_done=0)
    for held in list_holds(bank.store):
        _take_hold(around, bank, held)
    missing_manifests = _missing_manifests(around, known, frozenset(in_bank))
    present = {found.name: found.size_bytes for found in bank.list_chunks()}
    missing = sorted(chunk for chunk in live if chunk_name(chunk) not in present)
    if missing:
        catalogue.chunks.remember(
            bank_id, [(c, 0, ChunkResult.MISSING) for c in missing], around.clock.now_ns()
        )
    orphans = set(present) - {chunk_name(chunk) for chunk in live}
    bad = sorted(catalogue.chunks.bad(bank_id))
    return {
        "bank": bank_id,
        "checkpoints": len(in_bank),
        "chunks": len(present),
        "storedBytes": sum(present.values()),
        "onlyInBank": recovered,
        "onlyInCatalogue": missing_manifests,
        "damagedManifests": damaged,
        "unknownSigners": strangers,
        "missingChunks": len(missing),
        "orphanChunks": len(orphans) if not damaged and not strangers else None,
        "orphanBytes": sum(present[name] for name in orphans),
        "bad": [
            {"chunk": c.hex(), "sharedBy": [list(s) for s in catalogue.chunks.sharers(bank_id, c)]}
            for c in bad[:NAMED_MAX]
        ],
        "badCount": len(bad),
    }


def _recover(
    open_bank: OpenBank,
    around: Surroundings,
    checkpoint_id: CheckpointId,
    known: Mapping[CheckpointId, Checkpoint],
    signers: frozenset[str],
) -> set[bytes]:
    """Write what a manifest says into the catalogue and return the chunks that it names."""
    bank, catalogue = open_bank.bank, around.catalogue
    signed, body = open_bank.read_manifest(checkpoint_id)
    remembered = known.get(checkpoint_id)
    if remembered is not None and remembered.manifest_digest not in ("", signed.digest):
        raise IntegrityError(
            f"the manifest of checkpoint {checkpoint_id} is not the one that was written",
            code="bad-manifest",
        )
    if signed.signer not in signers:
        raise StateError(
            f"the manifest of checkpoint {checkpoint_id} is signed by {signed.signer}, "
            "whom this machine does not know",
            code="unknown-signer",
            advice="if that key is one of yours, name it with --signer",
        )
    said = signed.statement
    uses: dict[bytes, frozenset[bytes]] = {}
    sizes: dict[bytes, int] = {said.body.id: said.body.size_bytes}
    for record in body.records:
        after = record
        for segment in after.segments:
            sizes[segment.id] = segment.size_bytes
            uses[segment.id] = frozenset()
        entries = read_entries(bank, open_bank.sealer, record)
        needs = chunks_of(entries)
        for chunk, size_bytes in needs.items():
            sizes[chunk] = max(sizes.get(chunk, 0), size_bytes)
        if record.segments:
            # Which of a resource's segments names a chunk is not needed to find who shares it.
            first = record.segments[0].id
            uses[first] = uses[first] | frozenset(needs)
    if remembered is not None and _is_being_deleted(around, remembered):
        return set(sizes)
    catalogue.record(signed, body, uses, sizes)
    if remembered is None or remembered.verified is None:
        verdict = bank.read_last_verdict(checkpoint_id)
        verified = None if verdict is None else decode_verdict(verdict)
        if verified is not None:
            catalogue.set_verified(checkpoint_id, verified)
    return set(sizes)


def _is_being_deleted(around: Surroundings, remembered: Checkpoint) -> bool:
    """Say whether somebody has begun to delete a checkpoint since it was looked up."""
    now = around.catalogue.checkpoint(remembered.id).state
    deleting = (CheckpointState.DELETING, CheckpointState.DELETED)
    return now is not remembered.state and now in deleting


def _missing_manifests(
    around: Surroundings, known: Mapping[CheckpointId, Checkpoint], in_bank: frozenset[str]
) -> list[str]:
    missing = []
    for checkpoint in known.values():
        if checkpoint.id in in_bank or not checkpoint.manifest_digest:
            continue
        if checkpoint.state in (CheckpointState.DELETING, CheckpointState.ERROR_DELETING):
            around.catalogue.set_state(checkpoint.id, CheckpointState.DELETED)
            continue
        if _is_being_deleted(around, checkpoint):
            continue
        missing.append(str(checkpoint.id))
        why = "its manifest is not in the bank"
        around.catalogue.set_state(
            checkpoint.id, CheckpointState.ERROR, why, only_from=checkpoint.state
        )
    return missing


def heal_bank(
    around: Surroundings, hurt: OpenBank, other: OpenBank, context: TaskContext
) -> dict[str, object]:
    """Store anew, from another bank, every chunk known to be bad; each is read back.

    The other bank must name chunks alike: not encrypted, or with the same key. Under a lease: what
    is stored must not be put away by a verification that saw what was there before.
    """
    context.enter("healing")
    bank_id = hurt.bank.identity.id
    lease = hurt.bank.take_lease(context.task.id, around.is_over)
    try:
        bad = sorted(around.catalogue.chunks.bad(bank_id))
        healed, not_healed = _heal(hurt, other, bad, lease, context)
    finally:
        with contextlib.suppress(HoldfastError):
            lease.release()
    around.catalogue.chunks.remember(
        bank_id, [(c, 0, ChunkResult.GOOD) for c in healed], around.clock.now_ns()
    )
    affected = {
        checkpoint_id
        for chunk in healed
        for checkpoint_id, _ in around.catalogue.chunks.sharers(bank_id, chunk)
    }
    return {
        "healed": [chunk.hex() for chunk in healed[:NAMED_MAX]],
        "healedCount": len(healed),
        "notHealed": dict(list(not_healed.items())[:NAMED_MAX]),
        "notHealedCount": len(not_healed),
        "affected": sorted(affected),
    }


def _heal(
    hurt: OpenBank, other: OpenBank, bad: list[bytes], lease: Lease, context: TaskContext
) -> tuple[list[bytes], dict[str, str]]:
    """Return the chunks that are good again, and why others are not."""
    healed: list[bytes] = []
    not_healed: dict[str, str] = {}
    for number, chunk in enumerate(bad):
        one = ChunkId(chunk)
        lease.keep()
        try:
            data = other.bank.read_chunk(other.sealer, one)
            stage_chunk(hurt.bank.store, one, hurt.sealer.seal(one, data))
            hurt.bank.store.settle()
            hurt.bank.read_chunk(hurt.sealer, one)
            healed.append(chunk)
        except (NotFoundError, IntegrityError) as error:
            not_healed[chunk.hex()] = error.message
        context.progress(entries_done=number + 1, entries_total=len(bad), bytes_done=0)
    return healed, not_healed


def _chunk_of(name: str) -> bytes | None:
    """Return the chunk an object is named after; None for something else, which is left alone."""
    with contextlib.suppress(ValueError):
        chunk = bytes.fromhex(name.rpartition("/")[2])
        if chunk_name(chunk) == name and len(chunk) == 32:
            return chunk
    return None


def recover_plans(around: Surroundings, open_bank: OpenBank, url: str) -> None:
    """Make plans known of which only the bank tells: as their newest checkpoint has them."""
    identity, catalogue = open_bank.bank.identity, around.catalogue
    known = {plan.id for plan in catalogue.plans()}
    names = {plan.name for plan in catalogue.plans()}
    for checkpoint in catalogue.list_checkpoints(bank_id=identity.id):
        if checkpoint.plan_id in known or not checkpoint.manifest_digest:
            continue
        try:
            signed, body = open_bank.read_manifest(checkpoint.id)
        except _UNREADABLE:
            continue  # Another of its checkpoints may tell.
        name = body.plan_name
        if name in names:
            name = f"{name} {checkpoint.plan_id[:8]}"
        catalogue.put_plan(
            Plan(
                id=checkpoint.plan_id,
                name=name,
                bank_url=url,
                bank_id=identity.id,
                key_id=identity.key_id,
                resources=body.plan_resources,
                retention=body.retention,
                created_ns=signed.statement.created_ns,
            )
        )
        if around.heads.read(checkpoint.plan_id) is None:
            around.heads.advance(
                checkpoint.plan_id, checkpoint.id, signed.digest, checkpoint.task_id
            )
        known.add(checkpoint.plan_id)
        names.add(name)
