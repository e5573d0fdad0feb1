"""What a checkpoint holds of a resource, as a directory tree that can be read.

Behind the port ReadableDirectory: whatever copies, verifies and proves trees does so with what lies
in a bank. Every byte read from it was checked against the digest of its chunk. Holds the listing in
memory, and the chunks used last up to a limit.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from holdfast.checkpoints.segments import DIRECTORY, FILE, KINDS, SYMLINK, Entry, Part
from holdfast.errors import ConflictError, HoldfastError, NotFoundError
from holdfast.model.limits import CHUNK_BYTES_MAX
from holdfast.model.tree import (
    FULL_CAPABILITIES,
    ROOT_PATH,
    Capabilities,
    Signature,
    Stat,
    display_path,
    join_path,
    signature_of,
)
from holdfast.ports import ExpectedFile, SmallFile

ReadChunk = Callable[[bytes], bytes]

_CACHE_BYTES: Final = 4 * CHUNK_BYTES_MAX


class ChunkCache:
    """Chunks read last; owned by one process."""

    def __init__(self, read: ReadChunk) -> None:
        self._read = read
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept_bytes = 0

    def read(self, chunk: bytes) -> bytes:
        """Return a chunk's bytes; raises what reading it raises."""
        data = self._kept.get(chunk)
        if data is not None:
            self._kept.move_to_end(chunk)
            return data
        data = self._read(chunk)
        self._kept[chunk] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > _CACHE_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return data


class CheckpointTree:
    """ReadableDirectory over the entries of one resource."""

    def __init__(
        self,
        entries: Iterable[Entry],
        read_chunk: ReadChunk,
        identity: Mapping[str, object],
        *,
        is_forkable: bool,
    ) -> None:
        self.is_forkable = is_forkable
        """Whether a process forked from this one may read on."""
        self._identity = dict(identity)
        self._cache = ChunkCache(read_chunk)
        self._entries: dict[bytes, Entry] = {}
        self._names: dict[bytes, list[tuple[bytes, bool]]] = {ROOT_PATH: []}
        self._inodes: dict[bytes, int] = {}
        self._links: dict[bytes, int] = {}
        """How many names the file has whose first name this is."""
        for number, entry in enumerate(entries, start=1):
            self._entries[entry.path] = entry
            self._inodes[entry.path] = number
            if entry.kind == DIRECTORY:
                self._names.setdefault(entry.path, [])
            if entry.leader:
                self._links[entry.leader] = self._links.get(entry.leader, 1) + 1
            if entry.path:
                directory, _, name = entry.path.rpartition(b"/")
                self._names.setdefault(directory, []).append((name, entry.kind == DIRECTORY))

    def describe(self) -> dict[str, object]:
        """See ReadableDirectory."""
        return dict(self._identity)

    def capabilities(self) -> Capabilities:
        """See ReadableDirectory. Nothing in a checkpoint ever changes."""
        return FULL_CAPABILITIES

    def expect_directories(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory. The listing is here already."""

    def expect_metadata(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory; nothing is far away here."""

    def expect(self, files: Sequence[ExpectedFile], algorithm: str) -> None:
        """See ReadableDirectory."""

    def digest_files(self, paths: Sequence[bytes], algorithm: str, *, drop_cache: bool) -> None:
        """See ReadableDirectory. The bank knows digests of chunks alone: the caller reads."""

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        """See ReadableDirectory."""
        if path not in self._names:
            self._entry(path)
            raise _conflict(path, "not-a-directory", "not a directory")
        return list(self._names[path])

    def stat(self, path: bytes) -> Stat:
        """See ReadableDirectory."""
        entry = self._entry(path)
        content = self._entries.get(entry.leader, entry) if entry.leader else entry
        size_bytes = entry.size_bytes if entry.kind != DIRECTORY else 0
        leader = entry.leader or path
        return Stat(
            kind=KINDS[entry.kind],
            size_bytes=size_bytes,
            mtime_ns=entry.mtime_ns,
            ctime_ns=entry.mtime_ns,
            inode=self._inodes.get(leader, 0),
            device=1,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            links_count=self._links.get(leader, 1) if entry.kind == FILE else 1,
            allocated_bytes=sum(p.size_bytes for p in content.parts if p.chunk),
        )

    def stat_names(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        """See ReadableDirectory."""
        found: list[Stat | HoldfastError] = []
        for name in names:
            try:
                found.append(self.stat(join_path(path, name)))
            except HoldfastError as error:
                found.append(error)
        return found

    def read_link(self, path: bytes) -> bytes:
        """See ReadableDirectory."""
        entry = self._entry(path)
        if entry.kind != SYMLINK:
            raise _conflict(path, "not-a-symlink", "not a symlink")
        return entry.link_target

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ReadableDirectory."""
        return dict(self._entry(path).xattrs)

    def open_file(self, path: bytes) -> "CheckpointFile":
        """See ReadableDirectory."""
        entry = self._entry(path)
        if entry.kind != FILE:
            raise _conflict(path, "not-a-file", "not a regular file")
        content = self._entry(entry.leader) if entry.leader else entry
        return CheckpointFile(self.stat(path), dict(entry.xattrs), content.parts, self._cache)

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """See ReadableDirectory."""
        file = self.open_file(path)
        stat = file.stat()
        if stat.size_bytes > len(buffer) or stat.allocated_bytes < stat.size_bytes:
            return None
        done = file.read_into(buffer[: stat.size_bytes], 0)
        return SmallFile(stat, done, file.xattrs(), True)

    def close(self) -> None:
        """See ReadableDirectory."""

    def _entry(self, path: bytes) -> Entry:
        entry = self._entries.get(path)
        if entry is not None:
            return entry
        if path == ROOT_PATH:
            return _ROOT
        raise NotFoundError(f"{display_path(path)}: no such entry", code="no-entry", path=path)


_ROOT: Final = Entry(
    path=ROOT_PATH, kind=DIRECTORY, size_bytes=0, mode=0o755, mtime_ns=0, uid=0, gid=0,
    ctime_ns=0, inode=0,
)  # fmt: skip
"""Of what a plug-in wrote that knows no directories."""


class CheckpointFile:
    """ReadableFile over the parts of one file."""

    def __init__(
        self, stat: Stat, xattrs: dict[bytes, bytes], parts: tuple[Part, ...], cache: ChunkCache
    ) -> None:
        self._stat = stat
        self._xattrs = xattrs
        self._parts = parts
        self._cache = cache
        self._at = (0, 0)
        """The part read last, and where it begins in the file."""

    def stat(self) -> Stat:
        """See ReadableFile."""
        return self._stat

    def signature(self) -> Signature:
        """See ReadableFile."""
        return signature_of(self._stat)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """See ReadableFile; IntegrityError (`chunk-damaged`) if the bank's bytes are not right."""
        done = 0
        number, begins = self._at if self._at[1] <= offset_bytes else (0, 0)
        while number < len(self._parts) and done < len(buffer):
            chunk, start, size_bytes = self._parts[number]
            skip = offset_bytes + done - begins
            if skip < size_bytes:
                self._at = (number, begins)
                count = min(size_bytes - skip, len(buffer) - done)
                if chunk:
                    data = memoryview(self._cache.read(chunk))
                    buffer[done : done + count] = data[start + skip : start + skip + count]
                else:
                    buffer[done : done + count] = bytes(count)
                done += count
            begins += size_bytes
            number += 1
        return done

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """See ReadableFile."""
        start = end = 0
        for chunk, _, length in self._parts:
            if chunk:
                end += length
                continue
            if end > start:
                yield start, min(end, size_bytes)
            start = end = end + length
        if end > start:
            yield start, min(end, size_bytes)

    def xattrs(self) -> dict[bytes, bytes]:
        """See ReadableFile."""
        return dict(self._xattrs)

    def given_digest(self) -> None:
        """See ReadableFile."""

    def digest_prefix(self, end: int) -> None:
        """See ReadableFile."""

    def drop_cache(self) -> None:
        """See ReadableFile: chunks are checked when they are read, from wherever they come."""

    def close(self) -> None:
        """See ReadableFile."""


def _conflict(path: bytes, code: str, what: str) -> ConflictError:
    return ConflictError(f"{display_path(path)}: {what}", code=code, path=path)
