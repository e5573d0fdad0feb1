"""Reads entries of either tree and says what was found; runs in worker processes.

Decides nothing: digests, signatures and attributes go back to the verification.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Flag
from typing import NamedTuple, Protocol

from holdfast.errors import CancelledError, ConflictError, HoldfastError, NotFoundError
from holdfast.files.model import CacheUse
from holdfast.files.rules import attempts_for, ends_run, is_racy
from holdfast.model.limits import BLOCK_BYTES
from holdfast.model.tree import Signature, Stat, digest_xattrs, signature_of
from holdfast.ports import Clock, FileDigest, Pace, ReadableDirectory, ReadableFile
from holdfast.proof.digests import Algorithm, Digest, digest_of, new_digest

_ZEROS = bytes(BLOCK_BYTES)
_RETRY_AFTER_S = 0.05
_AHEAD_FILES = 64
"""Small files that are fetched from a medium at once: one after the other, each waits for it."""

Digests = Iterator[int | FileDigest | HoldfastError]


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
    seed: int = 0
    """Of the digests. With one, the source is read here: it would take its own without."""
    _buffer: memoryview | None = None

    def read(self, batch: tuple[HashItem, ...]) -> list[HashResult]:
        """Read every item of a batch; raises CancelledError when asked to stop."""
        wanted = [item for item in batch if item.sides & Side.SOURCE]
        observed_ns = self.clock.now_ns()
        remote = self._ask_source(wanted)
        targets = self._read_targets([item for item in batch if item.sides & Side.TARGET])
        sources = self._read_source(wanted, remote, observed_ns)
        return [
            HashResult(item.number, sources.get(item.number), targets.get(item.number))
            for item in batch
        ]

    def _read_targets(self, items: list[HashItem]) -> dict[int, Reading]:
        """Return what the target holds; from its medium many small files come at once."""
        found: dict[int, Reading] = {}
        drop_cache = self.cache is CacheUse.DROP
        is_here = self.target.digest_files([], self.algorithm, drop_cache=drop_cache) is None
        for at in range(0, len(items), _AHEAD_FILES):
            page = items[at : at + _AHEAD_FILES]
            begun = {item.number for item in page if drop_cache and is_here and self._begin(item)}
            for item in page:
                is_due = drop_cache and item.number not in begun
                found[item.number] = self._read(self.target, item, drop_cache=is_due)
        return found

    def _begin(self, item: HashItem) -> bool:
        """Have a small file read from the medium soon, whoever waits for another; say if so."""
        if item.size_bytes > BLOCK_BYTES:
            return False
        try:
            reader = self.target.open_file(item.path)
        except HoldfastError:
            return False  # Whoever reads it then meets that, too.
        try:
            reader.drop_cache()
        finally:
            reader.close()
        return True

    def _ask_source(self, items: list[HashItem]) -> Digests | None:
        """Have the source begin to digest what it can digest itself."""
        if not items or self.seed:
            return None
        assert self.source is not None
        paths = [item.path for item in items]
        return self.source.digest_files(paths, self.algorithm, drop_cache=False)

    def _read_source(
        self, items: list[HashItem], remote: Digests | None, observed_ns: int
    ) -> dict[int, Reading]:
        """Return what the source holds, by its own word or by reading it here."""
        found: dict[int, Reading] = {}
        if remote is not None:
            due = iter(items)
            for answer in self._paced(remote):
                item = next(due)
                reading = self._reading_of(answer, observed_ns)
                if reading is not None:
                    found[item.number] = reading
        for item in items:
            if item.number not in found:
                assert self.source is not None
                found[item.number] = self._read(self.source, item, drop_cache=False)
        return found

    def _paced(self, remote: Digests) -> Iterator[FileDigest | HoldfastError]:
        for answer in remote:
            if isinstance(answer, int):
                self.pace.take(answer)
                self.pace.moved(answer)
            else:
                yield answer

    def _reading_of(self, answer: FileDigest | HoldfastError, observed_ns: int) -> Reading | None:
        """Return what the source said as a reading; None if it is to be read again."""
        if isinstance(answer, FileDigest):
            assert self.source is not None
            return _reading(self.source, answer, observed_ns) if answer.is_steady else None
        if ends_run(answer):
            raise answer
        return _failed(answer)

    def _read(self, directory: ReadableDirectory, item: HashItem, *, drop_cache: bool) -> Reading:
        try:
            for attempt in range(attempts_for(item.size_bytes)):
                if attempt:
                    self.clock.sleep(_RETRY_AFTER_S * 2**attempt)
                observed_ns = self.clock.now_ns()
                found = self._read_once(directory, item.path, drop_cache=drop_cache)
                if found.is_steady:
                    return _reading(directory, found, observed_ns)
        except CancelledError:
            raise
        except HoldfastError as error:
            if ends_run(error):
                raise
            return _failed(error)
        return Reading(None, None, b"", True, "", "changed while it was read")

    def _read_once(
        self, directory: ReadableDirectory, path: bytes, *, drop_cache: bool
    ) -> FileDigest:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BLOCK_BYTES))
        remote = None
        if not self.seed:
            remote = directory.digest_files([path], self.algorithm, drop_cache=drop_cache)
        if remote is None:
            return read_digest(
                directory,
                path,
                self.algorithm,
                seed=self.seed,
                pace=self.pace,
                buffer=self._buffer,
                drop_cache=drop_cache,
            )
        answer = next(self._paced(remote))
        if isinstance(answer, HoldfastError):
            raise answer
        return answer


def _reading(directory: ReadableDirectory, found: FileDigest, observed_ns: int) -> Reading:
    """Return a digest as a reading, trusted later only if a write must have left a trace by now.

    Args:
        directory: Whose clock stamped the file.
        found: The digest.
        observed_ns: When it was asked for, by this machine's clock.
    """
    signature = signature_of(found.stat)
    racy = is_racy(signature, observed_ns + directory.capabilities().clock_ahead_ns)
    return Reading(found.digest, None if racy else signature, found.xattrs, False, "", "")


def _failed(error: HoldfastError) -> Reading:
    if isinstance(error, NotFoundError | ConflictError):
        return Reading(None, None, b"", True, "", "replaced or removed while it was verified")
    return Reading(None, None, b"", False, error.kind, error.message)


class Opens(Protocol):
    """What read_digest needs of a tree."""

    def open_file(self, path: bytes) -> ReadableFile:
        """As ReadableDirectory."""
        ...


def read_digest(
    directory: Opens,
    path: bytes,
    algorithm: Algorithm,
    *,
    seed: int = 0,
    pace: Pace,
    buffer: memoryview,
    drop_cache: bool,
) -> FileDigest:
    """Open a file, read it once and return its digest, holes as the zeros they read as."""
    reader = directory.open_file(path)
    try:
        before = reader.stat()
        if drop_cache:
            reader.drop_cache()
        if seed or before.size_bytes > BLOCK_BYTES:
            digest = _digest(reader, before, new_digest(algorithm, seed), pace, buffer)
        else:
            digest = _digest_small(reader, before.size_bytes, algorithm, pace, buffer)
        is_steady = reader.signature() == signature_of(before)
        return FileDigest(before, digest, digest_xattrs(reader.xattrs()), is_steady)
    finally:
        reader.close()


def _digest_small(
    reader: ReadableFile, size_bytes: int, algorithm: Algorithm, pace: Pace, buffer: memoryview
) -> bytes:
    pace.take(size_bytes)
    block = buffer[:size_bytes]
    done = reader.read_into(block, 0) if size_bytes else 0
    pace.moved(done)
    return digest_of(algorithm, block[:done])


def _digest(
    reader: ReadableFile, stat: Stat, digest: Digest, pace: Pace, buffer: memoryview
) -> bytes:
    size_bytes = stat.size_bytes
    is_sparse = stat.allocated_bytes < size_bytes
    extents = reader.data_extents(size_bytes) if is_sparse else iter([(0, size_bytes)])
    position = 0
    for start, end in extents:
        _hash_zeros(digest.update, start - position, pace)
        position = start
        while position < end:
            block = buffer[: min(BLOCK_BYTES, end - position)]
            pace.take(len(block))
            done = reader.read_into(block, position)
            if not done:
                return digest.digest()  # It shrank; its state after the reading tells.
            digest.update(block[:done])
            pace.moved(done)
            position += done
    _hash_zeros(digest.update, size_bytes - position, pace)
    return digest.digest()


def _hash_zeros(update: Callable[[memoryview], object], size_bytes: int, pace: Pace) -> None:
    for offset in range(0, size_bytes, BLOCK_BYTES):
        pace.take(0)
        block = memoryview(_ZEROS)[: size_bytes - offset]
        update(block)
        # One by one: whoever waits for a digest of a large hole is told that it goes on.
        pace.moved(len(block))


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
