"""Takes what a plug-in protects and turns it into entries, chunks and segments of a bank.

Owned by the coordinator of a protect; heavy reading is done by workers (packing.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.checkpoints.cutting import Cutter
from holdfast.checkpoints.manifest import LEFT_OUT_MAX
from holdfast.checkpoints.model import (
    ChunkId,
    ChunkRef,
    Resource,
    ResourceRecord,
    ResourceStatus,
)
from holdfast.checkpoints.packing import ChunkWriter, FileItem, NewChunk, Packer, PackResult
from holdfast.checkpoints.segments import FILE, Entry, Part, chunks_of, encode_segments
from holdfast.errors import InvalidRequestError
from holdfast.model.limits import CHUNK_BYTES_MAX
from holdfast.model.tree import check_path, display_path
from holdfast.ports import Clock, Pace, ReadableDirectory, StartWorkers

MakeWriter = Callable[[frozenset[bytes]], ChunkWriter]


@dataclass(slots=True, kw_only=True)
class Engine:
    """What all resources of one protect share."""

    make_writer: Callable[[], ChunkWriter]
    """A writer for a process or thread of its own."""
    cutter: Cutter
    pace: Pace
    clock: Clock
    start_workers: StartWorkers
    open_source: Callable[[bytes], ReadableDirectory]
    on_progress: Callable[[int, int, int | None], None]
    """Told entries done, bytes done and bytes in all, where known; keeps the lease."""
    keep_lease: Callable[[], None]
    bad: frozenset[bytes] = frozenset()
    """Chunks of the bank known to be bad."""
    new: dict[bytes, NewChunk] = field(default_factory=dict)
    """Chunks stored by this protect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of one resource."""

    record: ResourceRecord
    segment_chunks: Mapping[bytes, frozenset[bytes]]
    """Which chunks each segment names."""


@dataclass(slots=True, kw_only=True)
class ResourceWriter:
    """Takes the entries of one resource."""

    engine: Engine
    previous: Mapping[bytes, Entry]
    """What the checkpoint before has of it, by path; without what needs reading again."""
    previous_info: Mapping[str, Any] = field(default_factory=dict)
    """What its plug-in kept there."""
    _entries: list[Entry] = field(default_factory=list)
    _left_out: list[tuple[str, str]] = field(default_factory=list)
    _left_out_count: int = 0
    _own: ChunkWriter | None = None
    _written_bytes: int = 0

    def add(self, entry: Entry) -> None:
        """Take an entry whose chunks are in the bank; each path once."""
        self._entries.append(entry)

    @property
    def left_out(self) -> tuple[str, str] | None:
        """The first entry that was left out, and why; None if none was."""
        return self._left_out[0] if self._left_out else None

    def leave_out(self, path: bytes, why: str) -> None:
        """Tell that an entry is not in the checkpoint, and why."""
        self._left_out_count += 1
        if len(self._left_out) < LEFT_OUT_MAX:
            self._left_out.append((display_path(path)[:1000], why[:500]))

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Keep a stream of bytes under a name, and return its length.

        For plug-ins that have no tree: the names of a resource are its entries. Raises what the
        blocks raise; InvalidRequestError (`bad-path`) for a name that cannot stand in a tree.
        """
        path = check_path(name.encode())
        if any(entry.path == path for entry in self._entries):
            raise InvalidRequestError(
                f"{name!r} is written twice", code="bad-path", advice="give every stream one name"
            )
        parts = tuple(self._cut(blocks))
        size_bytes = sum(part.size_bytes for part in parts)
        self.add(
            Entry(
                path=path, kind=FILE, size_bytes=size_bytes, mode=0o600, mtime_ns=0, uid=0, gid=0,
                ctime_ns=0, inode=0, parts=parts,
            )
        )  # fmt: skip
        return size_bytes

    def pack_files(
        self, source: ReadableDirectory, batches: list[tuple[FileItem, ...]], size_bytes: int
    ) -> Iterator[PackResult]:
        """Read files into the bank by workers, in batches, and yield what became of each."""
        engine = self.engine
        known_files = {
            entry.digest: entry.parts for entry in self.previous.values() if entry.digest
        }

        def pack(batch: tuple[FileItem, ...]) -> PackResult:
            packer = packers.get()
            return packer.pack(batch)

        packers = _EachProcess(
            lambda: Packer(
                source=source,
                writer=engine.make_writer(),
                cutter=engine.cutter,
                known_files=known_files,
                pace=engine.pace,
                clock=engine.clock,
            )
        )
        entries = sum(len(batch) for batch in batches)
        workers = engine.start_workers(pack, entries=entries, size_bytes=size_bytes)
        done_entries = done_bytes = 0

        def on_idle() -> None:
            engine.on_progress(done_entries, done_bytes, size_bytes)

        for result in workers.run(batches, on_idle):
            done_entries += len(result.files)
            done_bytes += result.read_bytes
            self._count(result.chunks)
            on_idle()
            yield result

    def finish(self, resource: Resource, info: Mapping[str, Any]) -> Written:
        """Store the segments and return the record; when this returns, all chunks are durable."""
        self._entries.sort(key=lambda entry: entry.path)
        writer = self._writer()
        segments: list[ChunkRef] = []
        uses: dict[bytes, frozenset[bytes]] = {}
        for data, listed in encode_segments(self._entries):
            chunk = writer.write(data)
            segments.append(ChunkRef(chunk, len(data)))
            uses[chunk] = frozenset(chunks_of(listed))
            self.engine.keep_lease()
        self._count(writer.settle())
        record = ResourceRecord(
            resource=resource,
            status=ResourceStatus.AVAILABLE,
            segments=tuple(segments),
            entries=len(self._entries),
            total_bytes=sum(e.size_bytes for e in self._entries if e.kind == FILE),
            left_out=tuple(self._left_out),
            left_out_count=self._left_out_count,
            info=dict(info),
        )
        return Written(record=record, segment_chunks=uses)

    def put_chunk(self, data: bytes) -> ChunkId:
        """Store one chunk at once and return its id; durable when this returns."""
        chunk = self._writer().write(data)
        self._count(self._writer().settle())
        return chunk

    def _writer(self) -> ChunkWriter:
        if self._own is None:
            self._own = self.engine.make_writer()
        return self._own

    def _count(self, chunks: list[NewChunk]) -> None:
        self.engine.new.update((chunk.id, chunk) for chunk in chunks)

    def _cut(self, blocks: Iterable[bytes]) -> Iterator[Part]:
        waiting = bytearray()
        for block in blocks:
            waiting += block
            yield from self._cut_off(waiting, leave_bytes=CHUNK_BYTES_MAX)
        yield from self._cut_off(waiting, leave_bytes=0)

    def _cut_off(self, waiting: bytearray, *, leave_bytes: int) -> Iterator[Part]:
        while len(waiting) > leave_bytes:
            end = self.engine.cutter.cut(waiting, 0, len(waiting))
            data = bytes(memoryview(waiting)[:end])
            yield Part(self._writer().write(data), 0, end)
            del waiting[:end]
            self._written_bytes += end
            self.engine.on_progress(len(self._entries), self._written_bytes, None)


class _EachProcess:
    """Makes a thing once in every process and thread that asks for it."""

    def __init__(self, make: Callable[[], Packer]) -> None:
        from threading import local

        self._make = make
        self._local = local()

    def get(self) -> Packer:
        """Return this thread's own."""
        packer: Packer | None = getattr(self._local, "packer", None)
        if packer is None:
            packer = self._make()
            self._local.packer = packer
        return packer
