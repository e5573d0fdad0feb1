"""A bank: which objects it has in its store, and who may delete while others write.

    bank.json                      identity; written once
    chunks/AB/ABCD...              immutable, named by the digest of what they hold
    manifests/CHECKPOINT           immutable, signed; what makes its chunks live
    verdicts/CHECKPOINT/TIME-TASK  appended, never changed
    quarantine/TIME-ABCD...        chunks found damaged, as they were
    holds/CHECKPOINT               small and mutable: it may not be deleted, or not before a moment
    leases/TASK, sweeps/TASK       small and mutable: who stores chunks or removes them

Not what is in a manifest (manifest.py) or chunk (sealing.py), nor what is read when.

Invariants:
1. A chunk is deleted only by a sweep that saw no lease after it had said that it sweeps, and only
   if no manifest names it and it is older than the grace, or if it is damaged. A protect (and a
   healing) says that it is at work before it looks for a sweep, and writes its manifest only under
   a lease that has not run out. So whichever of two comes second sees the first, and no chunk a
   manifest names, and no chunk stored anew, is deleted.
2. A manifest is written after every chunk that it names is durable, and deleted before any.
3. An object under a name of its own is written at most once with one content.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.checkpoints.manifest import MALFORMED
from holdfast.checkpoints.model import BankId, CheckpointId, ChunkId, ChunkResult
from holdfast.checkpoints.sealing import Sealer
from holdfast.errors import (
    CapacityError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    StateError,
    StorageFailedError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.limits import MANIFEST_BYTES_MAX, MIB, OBJECT_BYTES_MAX
from holdfast.ports import Buffer, Clock, ObjectInfo, ObjectStore, StorePromises
from holdfast.proof.statement import canonical_json

IsOver = Callable[[str], bool]
"""Says of a task's id whether it is known to be at work no more; False where nobody knows."""

IDENTITY: Final = "bank.json"
LEASE_S: Final = 600.0
SWEEP_S: Final = 600.0
SWEEP_WAIT_S: Final = 30.0
_MARGIN_NS: Final = 60_000_000_000
"""Left of a lease for what is done right after it was checked."""
_LEASES: Final = "leases/"
_SWEEPS: Final = "sweeps/"
_FORMAT: Final = "holdfast-bank"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BankIdentity:
    """What a bank says of itself."""

    id: BankId
    key_id: str
    """Empty where it is not encrypted."""
    created_ns: int


def chunk_name(chunk: bytes) -> str:
    """Return the name of a chunk's object."""
    text = chunk.hex()
    return f"chunks/{text[:2]}/{text}"


def manifest_name(checkpoint_id: CheckpointId) -> str:
    """Return the name of a manifest's object."""
    return f"manifests/{checkpoint_id}"


def refuse_unfit(promises: StorePromises, place: str) -> StorePromises:
    """Return the promises of a store that may hold a bank.

    Raises:
        UnsupportedError: `store-not-consistent`: protects and sweeps would not see each other.
    """
    if promises.reads_own_writes:
        return promises
    raise UnsupportedError(
        f"the store {place} does not show at once what was put or deleted",
        code="store-not-consistent",
        advice="use one that does, or its setting for strong consistency",
    )


def measured(
    measure: Callable[[ObjectStore], StorePromises], store: ObjectStore
) -> StorePromises | None:
    """Return what a store keeps; None where nothing can be written, and so nothing measured."""
    try:
        return measure(store)
    except (DeniedError, CapacityError, StorageFailedError):
        return None


def make_bank(store: ObjectStore, identity: BankIdentity) -> BankIdentity:
    """Make a bank where there is none, and return the one that is there."""
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "id": identity.id,
        "key": identity.key_id,
        "createdNs": identity.created_ns,
    }
    store.create(IDENTITY, canonical_json(document) + b"\n")
    found = read_identity(store)
    assert found is not None
    return found


def read_identity(store: ObjectStore) -> BankIdentity | None:
    """Return what the bank in a store says of itself; None if there is none.

    Raises:
        IntegrityError: `bad-bank`. UnsupportedError: `format-newer`.
    """
    try:
        document = json.loads(store.get(IDENTITY, MIB))
        version = document["version"]
        identity = BankIdentity(
            id=BankId(str(document["id"])),
            key_id=str(document["key"]),
            created_ns=int(document["createdNs"]),
        )
    except NotFoundError:
        return None
    except MALFORMED as error:
        raise IntegrityError(
            f"{IDENTITY} in {store.describe()} is damaged",
            code="bad-bank",
            advice="bring it back from a copy of the bank; its chunks and manifests are untouched",
        ) from error
    if version != _VERSION:
        raise UnsupportedError(
            f"the bank in {store.describe()} has format {version}",
            code="format-newer",
            advice="use the newer holdfast that wrote it",
        )
    return identity


class Bank:
    """One bank in one store; as the store, for one process and, unless that allows, one thread."""

    def __init__(self, store: ObjectStore, identity: BankIdentity, clock: Clock) -> None:
        self.store = store
        self.identity = identity
        self._clock = clock

    def read_chunk(self, sealer: Sealer, chunk: ChunkId) -> bytes:
        """Return a chunk's bytes, checked; NotFoundError, IntegrityError (`chunk-damaged`)."""
        return sealer.open(chunk, self.store.get(chunk_name(chunk), OBJECT_BYTES_MAX))

    def examine_chunk(
        self, sealer: Sealer, chunk: ChunkId, size_bytes_min: int
    ) -> tuple[ChunkResult, str]:
        """Read a chunk and say what is found, and why where that is not good.

        Raises:
            UnavailableError, DeniedError, UnsupportedError: Nothing can be said of any chunk.
        """
        try:
            data = self.read_chunk(sealer, chunk)
        except NotFoundError as error:
            return ChunkResult.MISSING, error.message
        except (IntegrityError, CapacityError) as error:
            return ChunkResult.DAMAGED, error.message
        except StorageFailedError as error:
            return ChunkResult.UNREADABLE, error.message
        if len(data) < size_bytes_min:
            return ChunkResult.DAMAGED, f"chunk {chunk.hex()} is shorter than its manifest says"
        return ChunkResult.GOOD, ""

    def list_chunks(self) -> Iterator[ObjectInfo]:
        """Yield the objects of all chunks."""
        return self.store.list("chunks/")

    def quarantine(self, sealer: Sealer, chunk: ChunkId) -> None:
        """Move a damaged chunk out of the way, so that the next protect stores it anew.

        It is looked at again: another may have stored it anew, or only its transfer went wrong. For
        whoever holds a sweep: nobody stores it anew between the look and the removal.
        """
        try:
            sealed = self.store.get(chunk_name(chunk), OBJECT_BYTES_MAX)
            sealer.open(chunk, sealed)
        except NotFoundError:
            return
        except IntegrityError:
            self.store.put(f"quarantine/{self._clock.now_ns()}-{chunk.hex()}", sealed)
            self.store.delete(chunk_name(chunk))

    def write_manifest(self, checkpoint_id: CheckpointId, data: bytes) -> None:
        """Write a manifest; the same again is no error, for a reply may have been lost.

        Raises:
            ConflictError: `manifest-exists`: another one has this name.
        """
        name = manifest_name(checkpoint_id)
        self.store.create(name, data)
        if self.store.get(name, MANIFEST_BYTES_MAX) != data:
            raise ConflictError(
                f"there is another manifest of checkpoint {checkpoint_id}",
                code="manifest-exists",
                advice="run it again: a new checkpoint is made",
            )

    def read_manifest(self, checkpoint_id: CheckpointId) -> bytes:
        """Return the bytes of a manifest; NotFoundError (`no-object`)."""
        return self.store.get(manifest_name(checkpoint_id), MANIFEST_BYTES_MAX)

    def delete_manifest(self, checkpoint_id: CheckpointId) -> None:
        """Remove a manifest: from now on its chunks may be swept."""
        self.store.delete(manifest_name(checkpoint_id))

    def list_manifests(self) -> list[CheckpointId]:
        """Return the checkpoints that have a manifest."""
        found = self.store.list("manifests/")
        return [CheckpointId(each.name.rpartition("/")[2]) for each in found]

    def append_verdict(self, checkpoint_id: CheckpointId, task_id: str, document: bytes) -> None:
        """Keep the result of a verification beside what it is about."""
        name = f"verdicts/{checkpoint_id}/{self._clock.now_ns():020}-{task_id}"
        self.store.put(name, document)

    def read_last_verdict(self, checkpoint_id: CheckpointId) -> bytes | None:
        """Return the newest verdict kept of a checkpoint."""
        names = [each.name for each in self.store.list(f"verdicts/{checkpoint_id}/")]
        return self.store.get(names[-1], MIB) if names else None

    def delete_verdicts(self, checkpoint_id: CheckpointId) -> None:
        """Remove the verdicts on a checkpoint that is no more."""
        for each in list(self.store.list(f"verdicts/{checkpoint_id}/")):
            self.store.delete(each.name)

    def take_lease(self, task_id: str, is_over: IsOver) -> "Lease":
        """Say that a protect is at work, and wait out sweeps.

        Raises:
            UnavailableError: `bank-sweeping`: a sweep did not end in time.
        """
        lease = Lease(self.store, self._clock, _LEASES + task_id)
        lease.renew()
        deadline_ns = self._clock.monotonic_ns() + int(SWEEP_WAIT_S * 1e9)
        while self._is_held(_SWEEPS, is_over):
            if self._clock.monotonic_ns() > deadline_ns:
                lease.release()
                raise UnavailableError(
                    f"the bank {self.identity.id} is being swept",
                    code="bank-sweeping",
                    advice="try again in some minutes; if it lasts and nobody sweeps, remove what "
                    "is left below sweeps/ in the bank",
                )
            self._clock.sleep(0.1)
        return lease

    def begin_sweep(self, task_id: str, is_over: IsOver) -> "Lease | None":
        """Say that a sweep is at work; None if there are protects, which go first.

        Several sweeps may be at work at once: a protect waits for the last of them.
        """
        sweep = Lease(self.store, self._clock, _SWEEPS + task_id, duration_s=SWEEP_S)
        sweep.renew()
        if self._is_held(_LEASES, is_over):
            sweep.release()
            return None
        return sweep

    def end_lease(self, task_id: str) -> None:
        """Remove the lease of an earlier attempt of a task that this process now runs."""
        self.store.delete(_LEASES + task_id)

    def _is_held(self, prefix: str, is_over: IsOver) -> bool:
        """Say whether anybody is at work; the leases of those who are not are removed.

        Whoever is not dead after all sees that its lease is gone before it does what counts.
        """
        for each in list(self.store.list(prefix)):
            is_valid = _expiry(self.store, each.name) > self._clock.now_ns()
            if is_valid and not is_over(each.name.removeprefix(prefix)):
                return True
            self.store.delete(each.name)
        return False


class Lease:
    """A small object that says until when somebody is at work."""

    def __init__(
        self, store: ObjectStore, clock: Clock, name: str, *, duration_s: float = LEASE_S
    ) -> None:
        self._store = store
        self._clock = clock
        self._name = name
        self._duration_ns = int(duration_s * 1e9)
        self._expires_ns = 0
        self._renewed_ns = 0
        """By the monotonic clock: the wall clock may be set back, and stand for longer."""

    def renew(self) -> None:
        """Extend it from now."""
        self._renewed_ns = self._clock.monotonic_ns()
        self._expires_ns = self._clock.now_ns() + self._duration_ns
        self._store.put(self._name, canonical_json({"expiresNs": self._expires_ns}) + b"\n")

    def keep(self) -> None:
        """Extend it if a good part of it is over; cheap.

        Raises:
            StateError: `lease-lost`: it ran out, or was taken away, before.
        """
        if self._left_ns() < self._duration_ns * 3 // 4:
            self.check()
            self.renew()

    def check(self) -> None:
        """Return if nobody can have thought this work over.

        Raises:
            StateError: `lease-lost`.
        """
        is_there = _expiry(self._store, self._name) == self._expires_ns
        if not is_there or self._left_ns() <= _MARGIN_NS:
            raise StateError(
                "this process was stopped for too long: others may have gone on without it",
                code="lease-lost",
                advice="run it again; what was stored is found and not stored twice",
            )

    def release(self) -> None:
        """Say that the work is over."""
        self._store.delete(self._name)

    def _left_ns(self) -> int:
        by_wall_ns = self._expires_ns - self._clock.now_ns()
        return min(by_wall_ns, self._renewed_ns + self._duration_ns - self._clock.monotonic_ns())


def _expiry(store: ObjectStore, name: str) -> int:
    """Return until when a lease holds; 0 if there is none."""
    try:
        return int(json.loads(store.get(name, MIB))["expiresNs"])
    except NotFoundError:
        return 0
    except MALFORMED:
        # Unreadable: whose it was cannot be told, so it is waited for by its age alone.
        found = store.head(name)
        return 0 if found is None else found.modified_ns + int(LEASE_S * 1e9)


def stage_chunk(store: ObjectStore, chunk: ChunkId, sealed: Buffer) -> None:
    """Stage a chunk's object."""
    store.stage(chunk_name(chunk), sealed)
