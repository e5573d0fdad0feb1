"""Reads files and puts their contents into a bank as chunks; runs in worker processes.

Small files are packed, many into one chunk, in order of paths; larger ones are cut. Decides nothing
about what is read. Every result is told after its chunks are durable.

Invariants:
1. What is told of a file was read between two equal looks at its state: contents of two moments are
   never mixed. A file that would not hold still is told as changed.
2. A chunk that the bank is known to have is neither compressed nor written again.
3. What goes wrong with the bank ends the work, and is never told of a file: of what was staged
   before, nothing may be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3

from holdfast.checkpoints.bank import chunk_name, stage_chunk
from holdfast.checkpoints.cutting import Cutter
from holdfast.checkpoints.model import ChunkId
from holdfast.checkpoints.sealing import HEADER_BYTES, Sealer
from holdfast.checkpoints.segments import Part
from holdfast.errors import CancelledError, ConflictError, HoldfastError, StorageFailedError
from holdfast.files.rules import attempts_for, is_racy
from holdfast.model.limits import (
    BANK_BATCH_BYTES,
    BLOCK_BYTES,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    MIB,
    PACK_FILES_MAX,
)
from holdfast.model.tree import Stat, signature_of
from holdfast.ports import Buffer, Clock, ObjectStore, Pace, ReadableDirectory, ReadableFile

_RETRY_AFTER_S: Final = 0.05
_FRESH_WAITS_MAX: Final = 4
_TICK_NS: Final = 250_000_000
"""Longer than the tick of today's file systems, and than a write is held up while it copies."""
_COARSE_TICK_NS: Final = 2_000_000_000
_WINDOW_BYTES: Final = 32 * MIB
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES_MAX))


class FileItem(NamedTuple):
    """A file to read."""

    number: int
    path: bytes
    size_bytes: int


class Packed(NamedTuple):
    """What was read of one file, or why it was not."""

    number: int
    stat: Stat | None
    """None where it was not read."""
    is_racy: bool
    """It may change yet without a trace: read it again the next time."""
    digest: bytes
    parts: tuple[Part, ...]
    xattrs: dict[bytes, bytes]
    why: str
    """Empty, `changed`, `vanished`, or what went wrong."""


class NewChunk(NamedTuple):
    """A chunk that no manifest was known to name."""

    id: ChunkId
    size_bytes: int
    stored_bytes: int
    """0: the bank had it already."""


class PackResult(NamedTuple):
    """What became of a batch."""

    files: list[Packed]
    chunks: list[NewChunk]
    read_bytes: int


@dataclass(slots=True, kw_only=True)
class ChunkWriter:
    """Puts chunks into a bank once each; one for each process or thread."""

    store: ObjectStore
    sealer: Sealer
    known: frozenset[bytes]
    """Chunks that a manifest in the bank names and that are not known to be bad. Of others the bank
    is asked: it may have them from elsewhere, or from a protect that was cut off."""
    bad: frozenset[bytes] = frozenset()
    """Chunks known to be bad: stored again whatever is there."""
    new: list[NewChunk] = field(default_factory=list)
    is_broken: bool = False
    """The bank failed: nothing more can be written, and nothing is known of what was staged."""
    _written: set[bytes] = field(default_factory=set)
    _staged_bytes: int = 0

    def write(self, data: Buffer) -> ChunkId:
        """Stage a chunk, if the bank lacks it, and return its id."""
        chunk = self.sealer.name(data)
        if chunk in self.known or chunk in self._written:
            return chunk
        try:
            self._store(chunk, data)
        except HoldfastError as error:
            raise self._broken_by(error) from error
        self._written.add(chunk)
        return chunk

    def _store(self, chunk: ChunkId, data: Buffer) -> None:
        if chunk not in self.bad:
            found = self.store.head(chunk_name(chunk))
            if found is not None and found.size_bytes >= HEADER_BYTES:
                self.new.append(NewChunk(chunk, len(data), 0))
                return
        sealed = self.sealer.seal(chunk, data)
        stage_chunk(self.store, chunk, sealed)
        self.new.append(NewChunk(chunk, len(data), len(sealed)))
        self._staged_bytes += len(sealed)
        if self._staged_bytes >= BANK_BATCH_BYTES:
            self.store.settle()
            self._staged_bytes = 0

    def settle(self) -> list[NewChunk]:
        """Make durable what was staged; return what is new since the last time."""
        if self.is_broken:
            raise StorageFailedError(
                "the bank failed before", code="flush-failed", advice="run it again"
            )
        try:
            self.store.settle()
        except HoldfastError as error:
            raise self._broken_by(error) from error
        self._staged_bytes = 0
        new, self.new = self.new, []
        return new

    def _broken_by(self, error: HoldfastError) -> HoldfastError:
        """Return the error, saying that it is the bank's and not the resource's."""
        self.is_broken = True
        context = {**error.context, "bank": self.store.describe()}
        return type(error)(error.message, code=error.code, advice=error.advice, **context)


class _ChangedError(Exception):
    """The file would not hold still."""


class _FreshError(Exception):
    """It changed so lately that a change under the reading might leave no trace."""


def is_fresh(stat: Stat, observed_ns: int) -> bool:
    """Say whether a write after `observed_ns` (wall clock) might leave the state as it is.

    File systems stamp a write with a clock that ticks every few milliseconds, some every second or
    two: a write in the tick of the one before moves nothing. And a write is stamped as it begins,
    so that its bytes may still come. A single write that is held up for longer than this is not
    seen. Only the ctime counts, which nobody can set.
    """
    tick_ns = _TICK_NS if stat.ctime_ns % 10**9 else _COARSE_TICK_NS
    return abs(observed_ns - stat.ctime_ns) < tick_ns


@dataclass(slots=True, kw_only=True)
class Packer:
    """Reads batches of files; one for each process or thread."""

    source: ReadableDirectory
    writer: ChunkWriter
    cutter: Cutter
    known_files: Mapping[bytes, tuple[Part, ...]]
    """Contents that the bank has, by digest."""
    pace: Pace
    clock: Clock
    _pack: bytearray | None = None
    _pack_bytes: int = 0
    _waiting: list[tuple[Packed, int, int]] = field(default_factory=list)
    """Files in the pack, with where each begins and its length."""
    _packed: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Contents in the pack, by digest."""
    _window: bytearray | None = None

    def pack(self, batch: tuple[FileItem, ...]) -> PackResult:
        """Read every file of a batch; when this returns, its chunks are durable."""
        files: list[Packed] = []
        read_bytes = 0
        try:
            for item in batch:
                packed = self._read(item, files)
                if packed is not None:
                    files.append(packed)
                read_bytes += item.size_bytes
            self._flush_pack(files)
        except BaseException:
            self._pack_bytes = 0
            self._waiting, self._packed = [], {}
            raise
        return PackResult(files, self.writer.settle(), read_bytes)

    def _read(self, item: FileItem, files: list[Packed]) -> Packed | None:
        """Read one file; None where it waits in the pack."""
        attempts = attempts_for(item.size_bytes)
        waits = 0
        try:
            while attempts and waits <= _FRESH_WAITS_MAX:
                try:
                    if item.size_bytes < CHUNK_BYTES_MIN and self._read_small(item, files):
                        return None
                    return self._read_large(item)
                except _FreshError:
                    waits += 1
                    self.clock.sleep(_TICK_NS / 1e9)
                except _ChangedError:
                    attempts -= 1
                    self.clock.sleep(_RETRY_AFTER_S)
        except CancelledError:
            raise
        except HoldfastError as error:
            if self.writer.is_broken:
                raise
            return _unread(item, _why_unread(error))
        return _unread(item, "changed")

    def _read_small(self, item: FileItem, files: list[Packed]) -> bool:
        """Read a file into the pack; False if it is sparse or has grown."""
        if self._pack is None:
            self._pack = bytearray(CHUNK_BYTES_MAX)
        is_full = self._pack_bytes + item.size_bytes > CHUNK_BYTES_MAX
        if is_full or len(self._waiting) >= PACK_FILES_MAX:
            self._flush_pack(files)
        observed_ns = self.clock.now_ns()
        start = self._pack_bytes
        with memoryview(self._pack) as whole:
            room = whole[start : min(CHUNK_BYTES_MAX, start + CHUNK_BYTES_MIN)]
            small = self.source.read_small(item.path, room)
            if small is None:
                return False
            if not small.is_steady or small.size_bytes != small.stat.size_bytes:
                raise _ChangedError
            if is_fresh(small.stat, observed_ns):
                raise _FreshError
            self.pace.take(small.size_bytes)
            digest = blake3(room[: small.size_bytes]).digest()
        racy = is_racy(signature_of(small.stat), observed_ns)
        packed = Packed(item.number, small.stat, racy, digest, (), small.xattrs, "")
        known = self.known_files.get(digest)
        if not small.size_bytes or known is not None:
            files.append(packed._replace(parts=known or ()))
            return True
        place = self._packed.setdefault(digest, (start, small.size_bytes))
        if place[0] == start:
            self._pack_bytes += small.size_bytes
        self._waiting.append((packed, *place))
        return True

    def _flush_pack(self, files: list[Packed]) -> None:
        if not self._waiting:
            return
        assert self._pack is not None
        with memoryview(self._pack) as whole:
            chunk = self.writer.write(whole[: self._pack_bytes])
        for packed, start, size_bytes in self._waiting:
            files.append(packed._replace(parts=(Part(chunk, start, size_bytes),)))
        self._pack_bytes = 0
        self._waiting, self._packed = [], {}

    def _read_large(self, item: FileItem) -> Packed:
        observed_ns = self.clock.now_ns()
        reader = self.source.open_file(item.path)
        try:
            before = reader.stat()
            if is_fresh(before, observed_ns):
                raise _FreshError
            parts = self._cut(reader, before)
            xattrs = reader.xattrs()
            if reader.signature() != signature_of(before):
                raise _ChangedError
            racy = is_racy(signature_of(before), observed_ns)
            return Packed(item.number, before, racy, b"", tuple(parts), xattrs, "")
        finally:
            reader.close()

    def _cut(self, reader: ReadableFile, stat: Stat) -> list[Part]:
        parts: list[Part] = []
        position = 0
        is_sparse = stat.allocated_bytes < stat.size_bytes
        whole = iter([(0, stat.size_bytes)])
        for start, end in reader.data_extents(stat.size_bytes) if is_sparse else whole:
            _add_zeros(parts, start - position)
            self._cut_extent(reader, start, end, parts)
            position = end
        _add_zeros(parts, stat.size_bytes - position)
        return parts

    def _cut_extent(self, reader: ReadableFile, start: int, end: int, parts: list[Part]) -> None:
        if self._window is None:
            self._window = bytearray(_WINDOW_BYTES)
        window = self._window
        filled = 0
        with memoryview(window) as view:
            while start < end or filled:
                wanted = min(len(view) - filled, end - start)
                while wanted:
                    block = view[filled : filled + min(BLOCK_BYTES, wanted)]
                    self.pace.take(len(block))
                    done = reader.read_into(block, start)
                    if not done:
                        raise _ChangedError  # It shrank.
                    filled, start, wanted = filled + done, start + done, wanted - done
                at = 0
                while filled - at > CHUNK_BYTES_MAX or (start == end and at < filled):
                    cut = self.cutter.cut(window, at, filled)
                    self._add_chunk(view[at:cut], parts)
                    at = cut
                view[: filled - at] = bytes(view[at:filled])
                filled -= at

    def _add_chunk(self, data: memoryview, parts: list[Part]) -> None:
        if data == _ZEROS[: len(data)]:
            _add_zeros(parts, len(data))
        else:
            parts.append(Part(self.writer.write(data), 0, len(data)))


def _add_zeros(parts: list[Part], size_bytes: int) -> None:
    if size_bytes <= 0:
        return
    if parts and not parts[-1].chunk:
        parts[-1] = Part(b"", 0, parts[-1].size_bytes + size_bytes)
    else:
        parts.append(Part(b"", 0, size_bytes))


def _why_unread(error: HoldfastError) -> str:
    if isinstance(error, ConflictError):
        return "changed"
    return "vanished" if error.code == "no-entry" else error.message


def _unread(item: FileItem, why: str) -> Packed:
    return Packed(item.number, None, True, b"", (), {}, why)
