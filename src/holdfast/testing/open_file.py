"""Open files of a simulated directory tree, and the disk all of them share."""

from collections.abc import Iterator

from holdfast.model.tree import FileKind, Metadata, MetadataLoss, Signature, Stat, signature_of
from holdfast.ports import Buffer, Clock
from holdfast.testing.faults import Gate, disk_full, flush_failed
from holdfast.testing.inodes import Attributes, Inode, born_inode

_SET_ID_BITS = 0o6000
_TICK_NS = 1_000
OWNER_ID = 1_000
"""User and group of all that is made in a simulated tree."""


class SimDisk:
    """What the open files of one tree share: the gate, time, numbers, what is not flushed."""

    def __init__(self, gate: Gate, clock: Clock | None, device: int) -> None:
        self.gate = gate
        self.clock = clock
        self.device = device
        self.open_files_count = 0
        self.inode_last = 1
        self.now_ns = 1_700_000_000_000_000_000
        self._unflushed: dict[int, Inode] = {}

    def tick(self) -> int:
        """Return a moment later than every one returned before."""
        self.now_ns += _TICK_NS
        if self.clock is not None:
            self.now_ns = max(self.now_ns, self.clock.now_ns())
        return self.now_ns

    def make_inode(self, kind: FileKind, mode: int) -> Inode:
        """Return an inode that no name leads to yet."""
        self.inode_last += 1
        now_ns = self.tick()
        attributes = Attributes(
            mode=mode, uid=OWNER_ID, gid=OWNER_ID, mtime_ns=now_ns, ctime_ns=now_ns
        )
        return born_inode(self.inode_last, kind, attributes)

    def changed(self, inode: Inode) -> None:
        """Record that content or names of an inode changed now."""
        inode.touch(self.tick())
        self._unflushed[inode.number] = inode

    def changed_metadata(self, inode: Inode) -> None:
        """Record that metadata of an inode changed now."""
        inode.now.attributes.ctime_ns = self.tick()
        self._unflushed[inode.number] = inode

    def set_metadata(self, inode: Inode, metadata: Metadata) -> list[MetadataLoss]:
        """Set what the fault plan lets be kept; return what it does not."""
        cannot_keep = self.gate.faults.cannot_keep
        attributes = inode.now.attributes
        losses: list[MetadataLoss] = []
        mode = metadata.mode
        if (attributes.uid, attributes.gid) != (metadata.uid, metadata.gid):
            if MetadataLoss.OWNER in cannot_keep:
                losses.append(MetadataLoss.OWNER)
                if mode & _SET_ID_BITS:
                    losses.append(MetadataLoss.SET_ID)
                    mode &= ~_SET_ID_BITS
            else:
                attributes.uid, attributes.gid = metadata.uid, metadata.gid
        if inode.kind is not FileKind.SYMLINK:
            attributes.mode = mode
            if MetadataLoss.XATTR not in cannot_keep:
                attributes.xattrs = dict(metadata.xattrs)
            elif attributes.xattrs != metadata.xattrs:
                losses.append(MetadataLoss.XATTR)
        attributes.mtime_ns = metadata.mtime_ns
        self.changed_metadata(inode)
        return losses

    def flush(self, inode: Inode, path: bytes) -> None:
        """Make one inode durable, or lose its pages and raise StorageFailedError."""
        if not self.gate.flush_succeeds():
            inode.fail_flush()
            raise flush_failed(path)
        inode.flush()
        self._unflushed.pop(inode.number, None)

    def flush_all(self) -> None:
        """Make every inode durable, or lose the pages of all and raise StorageFailedError."""
        succeeds = self.gate.flush_succeeds()
        for inode in self._unflushed.values():
            if succeeds:
                inode.flush()
            else:
                inode.fail_flush()
        if not succeeds:
            raise flush_failed(b"")
        self._unflushed.clear()


class SimFile:
    """An open regular file: ReadableFile and WritableFile of holdfast.ports.

    It stays open whatever happens to its name, as a descriptor does.
    """

    def __init__(self, disk: SimDisk, inode: Inode, path: bytes) -> None:
        self._disk = disk
        self._inode = inode
        self._path = path
        self._is_open = True
        disk.open_files_count += 1

    def stat(self) -> Stat:
        """See ReadableFile."""
        self._look("stat")
        return self._inode.stat(self._disk.device)

    def signature(self) -> Signature:
        """See ReadableFile."""
        self._look("stat")
        return signature_of(self._inode.stat(self._disk.device))

    def size_bytes(self) -> int:
        """See WritableFile."""
        self._look("stat")
        return self._inode.now.size_bytes

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """See ReadableFile."""
        self._look("read_into")
        end = min(offset_bytes + len(buffer), self._inode.now.size_bytes)
        self._disk.gate.check_readable(self._path, offset_bytes, end)
        return self._inode.read_into(buffer, offset_bytes)

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """See ReadableFile."""
        self._look("data_extents")
        return self._inode.data_extents(size_bytes)

    def xattrs(self) -> dict[bytes, bytes]:
        """See ReadableFile."""
        self._look("xattrs")
        return dict(self._inode.now.attributes.xattrs)

    def given_digest(self) -> None:
        """See ReadableFile."""

    def digest_prefix(self, end: int) -> None:
        """See ReadableFile."""

    def drop_cache(self) -> None:
        """See ReadableFile."""
        self._look("drop_cache")

    def write_at(self, data: Buffer, offset_bytes: int) -> None:
        """See WritableFile."""
        self._operation("write_at")
        view = memoryview(data).cast("B")
        taken = self._disk.gate.write(self._path, len(view))
        if taken:
            self._inode.write(view[:taken], offset_bytes)
            self._disk.changed(self._inode)
        if taken < len(view):
            raise disk_full(self._path)

    def truncate(self, size_bytes: int) -> None:
        """See WritableFile."""
        self._operation("truncate")
        self._inode.truncate(size_bytes)
        self._disk.changed(self._inode)

    def punch(self, start: int, end: int) -> None:
        """See WritableFile."""
        self._operation("punch")
        if start < min(end, self._inode.now.size_bytes):
            self._inode.punch(start, end)
            self._disk.changed(self._inode)

    def set_metadata(self, metadata: Metadata) -> list[MetadataLoss]:
        """See WritableFile."""
        self._operation("set_metadata")
        return self._disk.set_metadata(self._inode, metadata)

    def start_writeback(self, offset_bytes: int, size_bytes: int) -> None:  # noqa: ARG002
        """See WritableFile."""
        self._look("start_writeback")

    def flush(self) -> None:
        """See WritableFile."""
        self._operation("flush")
        self._disk.flush(self._inode, self._path)

    def close(self) -> None:
        """See ReadableFile."""
        if self._is_open:
            self._is_open = False
            self._disk.open_files_count -= 1

    def _look(self, name: str) -> None:
        assert self._is_open, "used after close"
        self._disk.gate.look(name, self._path)

    def _operation(self, name: str) -> None:
        assert self._is_open, "used after close"
        self._disk.gate.operation(name, self._path)
