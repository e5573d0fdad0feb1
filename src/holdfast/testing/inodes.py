"""Inodes of a simulated file system: contents by pages, metadata, and what of both is durable.

Only pages that were written exist, so a file of 1 TiB that is one hole costs nothing. Each inode
carries its durable image beside its state now. Not here: names, faults, power.

1. `image` changes only by `flush`: it is what a loss of power cannot take.
2. A page in `dirty` may differ from the image and the next flush saves it; one in `in_doubt` may
   differ and no flush will, because a flush of it failed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.model.tree import FileKind, Stat
from holdfast.ports import Buffer

PAGE_BYTES = 4096
Pages = dict[int, bytes]


@dataclass(slots=True, kw_only=True)
class Attributes:
    """Metadata of an inode that is lost or kept together."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def copy(self) -> "Attributes":
        """Return an equal one that shares nothing."""
        return Attributes(
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
            xattrs=dict(self.xattrs),
        )


@dataclass(slots=True, kw_only=True)
class Image:
    """State of one inode as it would be read back."""

    attributes: Attributes
    size_bytes: int = 0
    pages: Pages = field(default_factory=dict)

    def copy(self) -> "Image":
        """Return an equal one that shares nothing that changes."""
        return Image(
            attributes=self.attributes.copy(), size_bytes=self.size_bytes, pages=dict(self.pages)
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Inode:
    """One file, directory or other entry, whatever its names. Compared by identity."""

    number: int
    kind: FileKind
    now: Image
    image: Image
    target: bytes = b""
    names: dict[bytes, "Inode"] = field(default_factory=dict)
    """Entries of a directory."""
    parent: "Inode | None" = None
    """Of a directory; None for the root and for removed ones."""
    links_count: int = 0
    """Names of anything but a directory."""
    dirty: set[int] = field(default_factory=set)
    in_doubt: set[int] = field(default_factory=set)
    size_floor_bytes: int = 0
    """Smallest size since the last flush."""

    def stat(self, device: int) -> Stat:
        """Return what the port says of it."""
        is_directory = self.kind is FileKind.DIRECTORY
        subdirectories = sum(1 for i in self.names.values() if i.kind is FileKind.DIRECTORY)
        sizes = {FileKind.FILE: self.now.size_bytes, FileKind.SYMLINK: len(self.target)}
        attributes = self.now.attributes
        return Stat(
            kind=self.kind,
            size_bytes=sizes.get(self.kind, 0),
            mtime_ns=attributes.mtime_ns,
            ctime_ns=attributes.ctime_ns,
            inode=self.number,
            device=device,
            mode=attributes.mode,
            uid=attributes.uid,
            gid=attributes.gid,
            links_count=2 + subdirectories if is_directory else self.links_count,
            allocated_bytes=len(self.now.pages) * PAGE_BYTES,
        )

    def touch(self, now_ns: int) -> None:
        """Record that content or names changed at this moment."""
        self.now.attributes.mtime_ns = now_ns
        self.now.attributes.ctime_ns = now_ns

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """Fill `buffer` from `offset_bytes` as far as the file goes."""
        count = max(0, min(len(buffer), self.now.size_bytes - offset_bytes))
        for page, start, end in _pieces(offset_bytes, offset_bytes + count):
            data = self.now.pages.get(page)
            at = page * PAGE_BYTES + start - offset_bytes
            buffer[at : at + end - start] = data[start:end] if data else bytes(end - start)
        return count

    def write(self, data: Buffer, offset_bytes: int) -> None:
        """Store `data`, which must not be empty, growing the file where needed."""
        view = memoryview(data).cast("B")
        for page, start, end in _pieces(offset_bytes, offset_bytes + len(view)):
            at = page * PAGE_BYTES + start - offset_bytes
            self._put(page, start, bytes(view[at : at + end - start]))
        self.now.size_bytes = max(self.now.size_bytes, offset_bytes + len(view))

    def truncate(self, size_bytes: int) -> None:
        """Set the size; what is cut off is gone, what is new is a hole."""
        if size_bytes < self.now.size_bytes:
            self.punch(size_bytes, self.now.size_bytes)
        self.now.size_bytes = size_bytes
        self.size_floor_bytes = min(self.size_floor_bytes, size_bytes)

    def punch(self, start: int, end: int) -> None:
        """Make [start, end) a hole as far as the file goes. Costs by pages, not by size."""
        end = min(end, self.now.size_bytes)
        if start >= end:
            return
        whole_start, whole_end = -(-start // PAGE_BYTES), end // PAGE_BYTES
        if end == self.now.size_bytes:
            whole_end = -(-end // PAGE_BYTES)  # Past the end of the file there is nothing to keep.
        for page in [page for page in self.now.pages if whole_start <= page < whole_end]:
            del self.now.pages[page]
            self._mark(page)
        for page in {start // PAGE_BYTES, (end - 1) // PAGE_BYTES}:
            if page in self.now.pages:
                from_byte = max(0, start - page * PAGE_BYTES)
                to_byte = min(PAGE_BYTES, end - page * PAGE_BYTES)
                self._put(page, from_byte, bytes(to_byte - from_byte))

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the runs of pages below `size_bytes`."""
        limit = min(size_bytes, self.now.size_bytes)
        start = end = 0
        for page in sorted(self.now.pages):
            if page * PAGE_BYTES != end:
                if start < end:
                    yield start, min(end, limit)
                start = page * PAGE_BYTES
            if start >= limit:
                return
            end = (page + 1) * PAGE_BYTES
        if start < min(end, limit):
            yield start, min(end, limit)

    def flush(self) -> None:
        """Make content and metadata durable, but for what a failed flush put in doubt."""
        for page in self.dirty:
            _copy_page(self.now.pages, self.image.pages, page)
        for page in [page for page in self.image.pages if page * PAGE_BYTES >= self.now.size_bytes]:
            del self.image.pages[page]
        self.image.size_bytes = self.size_floor_bytes = self.now.size_bytes
        self.image.attributes = self.now.attributes.copy()
        self.dirty.clear()

    def rot(self, at_byte: int) -> None:
        """Flip a bit of a byte that was written, now and in the durable image; no time moves."""
        page, offset = divmod(at_byte, PAGE_BYTES)
        for image in (self.now, self.image):
            data = bytearray(image.pages[page])
            data[offset] ^= 1
            image.pages[page] = bytes(data)

    def fail_flush(self) -> None:
        """Lose the pages to be flushed: they look clean now, and no later flush writes them."""
        self.in_doubt |= self.dirty
        self.dirty.clear()

    def _put(self, page: int, start: int, data: bytes) -> None:
        if len(data) < PAGE_BYTES:
            old = self.now.pages.get(page) or bytes(PAGE_BYTES)
            data = old[:start] + data + old[start + len(data) :]
        self.now.pages[page] = data
        self._mark(page)

    def _mark(self, page: int) -> None:
        self.dirty.add(page)
        self.in_doubt.discard(page)


def born_inode(number: int, kind: FileKind, attributes: Attributes) -> Inode:
    """Return a new, empty inode, durable as such: a name that survives leads to this at least."""
    image = Image(attributes=attributes)
    return Inode(number=number, kind=kind, now=image.copy(), image=image)


def _pieces(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (page, first byte in it, byte after the last) of the pages [start, end) touches."""
    for page in range(start // PAGE_BYTES, -(-end // PAGE_BYTES) if end > start else 0):
        origin = page * PAGE_BYTES
        yield page, max(0, start - origin), min(PAGE_BYTES, end - origin)


def _copy_page(source: Pages, target: Pages, page: int) -> None:
    data = source.get(page)
    if data is None:
        target.pop(page, None)
    else:
        target[page] = data
