"""Reads entries of either tree and says what was found; runs in worker processes.

Decides nothing: digests, signatures and attributes go back to the verification.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag
from typing import NamedTuple

from holdfast.errors import CancelledError, ConflictError, HoldfastError, NotFoundError
from holdfast.files.model import CacheUse
from holdfast.files.rules import attempts_for, is_racy
from holdfast.model.limits import BLOCK_BYTES
from holdfast.model.tree import Signature, digest_xattrs, signature_of
from holdfast.ports import Clock, Pace, ReadableDirectory, ReadableFile
from holdfast.proof.digests import Algorithm, digest_of, new_digest

_ZEROS = bytes(BLOCK_BYTES)
_RETRY_AFTER_S = 0.05


class Side(Flag):
    """Which of the two trees."""

    SOURCE = 1
    TARGET = 2


NO_SIDE = Side(0)


class HashItem(NamedTuple):
    """One entry to read."""

    number: int
    path: bytes
    sides: Side
    size_bytes: int


class Reading(NamedTuple):
    """What one side of an entry held: a digest, or a change, or an error; never two of them."""

    digest: bytes | None
    signature: Signature | None
    """None also where the entry may yet change without a trace."""
    xattrs: bytes
    """Digest of the extended attributes."""
    changed: bool
    """It changed while it was read, or was replaced or removed."""
    error_kind: str
    detail: str


class HashResult(NamedTuple):
    """What a worker read of one item."""

    number: int
    source: Reading | None
    target: Reading | None


@dataclass(slots=True, kw_only=True)
class Hasher:
    """Reads batches; one in each worker process."""

    source: ReadableDirectory | None
    target: ReadableDirectory
    algorithm: Algorithm
    cache: CacheUse
    pace: Pace
    clock: Clock
    _buffer: memoryview | None = None

    def read(self, batch: tuple[HashItem, ...]) -> list[HashResult]:
        """Read every item of a batch; raises CancelledError when asked to stop."""
        results = []
        for item in batch:
            source = target = None
            if item.sides & Side.SOURCE:
                assert self.source is not None
                source = self._read(self.source, item, drop_cache=False)
            if item.sides & Side.TARGET:
                drop_cache = self.cache is CacheUse.DROP
                target = self._read(self.target, item, drop_cache=drop_cache)
            results.append(HashResult(item.number, source, target))
        return results

    def _read(self, directory: ReadableDirectory, item: HashItem, *, drop_cache: bool) -> Reading:
        try:
            for attempt in range(attempts_for(item.size_bytes)):
                if attempt:
                    self.clock.sleep(_RETRY_AFTER_S * 2**attempt)
                reading = self._read_once(directory, item.path, drop_cache=drop_cache)
                if reading is not None:
                    return reading
        except CancelledError:
            raise
        except (NotFoundError, ConflictError):
            return Reading(None, None, b"", True, "", "replaced or removed while it was verified")
        except HoldfastError as error:
            return Reading(None, None, b"", False, error.kind, error.message)
        return Reading(None, None, b"", True, "", "changed while it was read")

    def _read_once(
        self, directory: ReadableDirectory, path: bytes, *, drop_cache: bool
    ) -> Reading | None:
        """Return what one reading gave, or None if the file changed meanwhile."""
        observed_ns = self.clock.now_ns()
        reader = directory.open_file(path)
        try:
            before = reader.stat()
            if drop_cache:
                reader.drop_cache()
            is_sparse = before.allocated_bytes < before.size_bytes
            digest = self._digest(reader, before.size_bytes, is_sparse=is_sparse)
            signature = signature_of(before)
            if reader.signature() != signature:
                return None
            trusted = None if is_racy(signature, observed_ns) else signature
            return Reading(digest, trusted, digest_xattrs(reader.xattrs()), False, "", "")
        finally:
            reader.close()

    def _digest(self, reader: ReadableFile, size_bytes: int, *, is_sparse: bool) -> bytes:
        if size_bytes <= BLOCK_BYTES:
            self.pace.take(size_bytes)
            block = self._block()[:size_bytes]
            done = reader.read_into(block, 0) if size_bytes else 0
            self.pace.moved(done)
            return digest_of(self.algorithm, block[:done])
        digest = new_digest(self.algorithm)
        extents = reader.data_extents(size_bytes) if is_sparse else iter([(0, size_bytes)])
        position = 0
        for start, end in extents:
            self._hash_zeros(digest.update, start - position)
            position = start
            while position < end:
                block = self._block()[: min(BLOCK_BYTES, end - position)]
                self.pace.take(len(block))
                done = reader.read_into(block, position)
                if not done:
                    return digest.digest()  # It shrank; its state after the reading tells.
                digest.update(block[:done])
                self.pace.moved(done)
                position += done
        self._hash_zeros(digest.update, size_bytes - position)
        return digest.digest()

    def _hash_zeros(self, update: Callable[[memoryview], object], size_bytes: int) -> None:
        for offset in range(0, size_bytes, BLOCK_BYTES):
            self.pace.take(0)
            update(memoryview(_ZEROS)[: size_bytes - offset])
        self.pace.moved(size_bytes)

    def _block(self) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BLOCK_BYTES))
        return self._buffer


def find_damage(
    source: ReadableFile, target: ReadableFile, size_bytes: int, pace: Pace
) -> list[tuple[int, int]]:
    """Return the (start, end) of runs of blocks in which two files of equal size differ."""
    left, right = memoryview(bytearray(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES))
    runs: list[tuple[int, int]] = []
    for start in range(0, size_bytes, BLOCK_BYTES):
        pace.take(0)
        wanted = min(BLOCK_BYTES, size_bytes - start)
        one = source.read_into(left[:wanted], start)
        two = target.read_into(right[:wanted], start)
        if one == two and left[:one] == right[:two]:
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + wanted)
        else:
            runs.append((start, start + wanted))
    return runs


def describe_damage(runs: list[tuple[int, int]]) -> str:
    """Say in words where two files differ."""
    blocks = sum(-(-(end - start) // BLOCK_BYTES) for start, end in runs)
    named = ", ".join(f"{start}-{end}" for start, end in runs[:8])
    more = ", ..." if len(runs) > 8 else ""
    what = "1 block differs" if blocks == 1 else f"{blocks} blocks differ"
    return f"{what}: bytes {named}{more}"
