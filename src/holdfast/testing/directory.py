"""A directory tree in memory behind the Directory port, with loss of power and faults on plan.

It is what tests run the product on. What a running program sees is a POSIX file system; beside it
stands the durable state, to which the flushes move exactly what the port promises and no more:
`WritableFile.flush` one inode's content and metadata, not its name; `flush_directory` the names in
a directory, not what they lead to, nor the metadata of the directory itself; `flush_all` all.
An inode is born durable as it was made: empty, and of a symlink with its target and metadata.

1. The same calls, plan and seed give the same results.
2. Inode numbers are never used twice; ctime grows with every change.
3. After PowerCutError nothing answers any more but `power_cut` and `power_cut_names_first`.

Not thread-safe. Faults are in `faults`, what power leaves in `power`.
"""

from collections.abc import Sequence
from contextlib import closing
from random import Random

from holdfast.errors import ConflictError, HoldfastError, InvalidRequestError, NotFoundError
from holdfast.model.limits import GIB, NAME_BYTES_MAX
from holdfast.model.tree import (
    FULL_CAPABILITIES,
    ROOT_PATH,
    Capabilities,
    FileKind,
    Metadata,
    MetadataLoss,
    Space,
    Stat,
    display_path,
    join_path,
    signature_of,
)
from holdfast.ports import Buffer, Clock, ExpectedFile, SmallFile
from holdfast.testing.faults import Gate, SimFaults, flush_failed
from holdfast.testing.inodes import Inode
from holdfast.testing.names import DurableNames, NameChange, NameJournal
from holdfast.testing.open_file import SimDisk, SimFile
from holdfast.testing.power import (
    Recovery,
    emptied,
    flushed_only,
    random_recovery,
    recover_tree,
    zero_filled,
)

_SPACE = Space(free_bytes=1024 * GIB, free_files=None, block_bytes=4096)


class SimDirectory:
    """Directory in memory; see the module for what survives a loss of power."""

    def __init__(
        self,
        *,
        faults: SimFaults | None = None,
        clock: Clock | None = None,
        device: int = 1,
        space: Space = _SPACE,
    ) -> None:
        """Make an empty tree.

        Args:
            clock: Source of mtime and ctime; without one, time advances by 1 us a change.
            space: What `space` answers; nothing enforces it, see SimFaults.disk_full_from.
        """
        self.gate = Gate(faults or SimFaults())
        self._disk = SimDisk(self.gate, clock, device)
        self._space = space
        self._root = self._disk.make_inode(FileKind.DIRECTORY, 0o755)
        self._journal = NameJournal(self._root)

    @property
    def open_files_count(self) -> int:
        """Files opened or created and not closed."""
        return self._disk.open_files_count

    def describe(self) -> dict[str, object]:
        """See ReadableDirectory."""
        device = self._disk.device
        return {"path": "/sim", "host": "sim", "device": device, "inode": self._root.number}

    def capabilities(self) -> Capabilities:
        """See ReadableDirectory."""
        return FULL_CAPABILITIES

    def expect_directories(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory."""

    def expect_metadata(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory."""

    def expect(self, files: Sequence[ExpectedFile], algorithm: str) -> None:
        """See ReadableDirectory."""

    def digest_files(self, paths: Sequence[bytes], algorithm: str, *, drop_cache: bool) -> None:
        """See ReadableDirectory."""

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        """See ReadableDirectory."""
        self.gate.look("list_names", path)
        names = self._directory(path).names
        return [(name, inode.kind is FileKind.DIRECTORY) for name, inode in names.items()]

    def stat(self, path: bytes) -> Stat:
        """See ReadableDirectory."""
        self.gate.look("stat", path)
        return self._entry(path).stat(self._disk.device)

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
        self.gate.look("read_link", path)
        inode = self._entry(path)
        if inode.kind is not FileKind.SYMLINK:
            raise _conflict(path, "not-a-symlink")
        return inode.target

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ReadableDirectory."""
        self.gate.look("xattrs", path)
        return dict(self._entry(path).now.attributes.xattrs)

    def open_file(self, path: bytes) -> SimFile:
        """See ReadableDirectory."""
        self.gate.look("open_file", path)
        return SimFile(self._disk, self._regular(path), path)

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """See ReadableDirectory."""
        with closing(self.open_file(path)) as reader:
            before = reader.stat()
            if before.size_bytes > len(buffer) or before.allocated_bytes < before.size_bytes:
                return None
            done = reader.read_into(buffer[: before.size_bytes], 0)
            xattrs = reader.xattrs()
            is_steady = reader.signature() == signature_of(before)
            return SmallFile(before, done, xattrs, is_steady)

    def write_small(self, path: bytes, data: Buffer, metadata: Metadata) -> list[MetadataLoss]:
        """See Directory."""
        with closing(self.create_file(path, resume=False, mode=metadata.mode & 0o777)) as writer:
            if len(data):
                writer.write_at(data, 0)
            return writer.set_metadata(metadata)

    def create_file(self, path: bytes, *, resume: bool, mode: int = 0o600) -> SimFile:
        """See Directory."""
        self.gate.operation("create_file", path)
        directory, name = self._place(path)
        if name not in directory.names:
            self._add(directory, name, self._disk.make_inode(FileKind.FILE, mode))
        inode = self._regular(path)
        if not resume:
            inode.truncate(0)
            self._disk.changed(inode)
        return SimFile(self._disk, inode, path)

    def make_directory(self, path: bytes) -> None:
        """See Directory."""
        self.gate.operation("make_directory", path)
        self._make(path, self._disk.make_inode(FileKind.DIRECTORY, 0o700))

    def make_symlink(self, path: bytes, target: bytes, metadata: Metadata) -> list[MetadataLoss]:
        """See Directory."""
        self.gate.operation("make_symlink", path)
        inode = self._disk.make_inode(FileKind.SYMLINK, 0o777)
        inode.target = target
        self._make(path, inode)
        losses = self._disk.set_metadata(inode, metadata)
        inode.flush()  # It is born so: nobody can flush a symlink by itself.
        return losses

    def make_hard_link(self, existing: bytes, path: bytes) -> None:
        """See Directory."""
        self.gate.operation("make_hard_link", path)
        self._place(existing)
        self._place(path)
        inode = self._regular(existing)
        self._make(path, inode)
        self._disk.changed_metadata(inode)

    def make_special(self, path: bytes, kind: FileKind) -> None:
        """Set up a FIFO, socket or device, which the port cannot make."""
        self._make(path, self._disk.make_inode(kind, 0o600))

    def set_metadata(self, path: bytes, kind: FileKind, metadata: Metadata) -> list[MetadataLoss]:
        """See Directory."""
        self.gate.operation("set_metadata", path)
        inode = self._entry(path)
        if inode.kind is not kind:
            raise _conflict(path, "kind-changed")
        return self._disk.set_metadata(inode, metadata)

    def rename(self, path: bytes, new_path: bytes) -> None:
        """See Directory."""
        self.gate.operation("rename", path)
        directory, name = self._place(path)
        new_directory, new_name = self._place(new_path)
        inode = self._entry(path)
        replaced = new_directory.names.get(new_name)
        if replaced is inode:
            return  # POSIX: two names of one file, and both stay.
        _check_replaceable(inode, directory, new_directory, replaced, new_path)
        removed = replaced if replaced and replaced.kind is FileKind.DIRECTORY else None
        if replaced is not None:
            self._unlink(replaced)
        del directory.names[name]
        new_directory.names[new_name] = inode
        if inode.kind is FileKind.DIRECTORY:
            inode.parent = new_directory
        self._journal.record(
            NameChange(directory, name, None),
            NameChange(new_directory, new_name, inode),
            removed=removed,
        )
        self._disk.changed(directory)
        self._disk.changed(new_directory)
        self._disk.changed_metadata(inode)

    def remove_file(self, path: bytes) -> None:
        """See Directory."""
        self.gate.operation("remove_file", path)
        inode = self._entry(path)
        if inode.kind is FileKind.DIRECTORY:
            raise _conflict(path, "is-a-directory")
        self._remove(path, inode)

    def remove_directory(self, path: bytes) -> None:
        """See Directory."""
        self.gate.operation("remove_directory", path)
        inode = self._directory(path)
        if inode.names:
            raise _conflict(path, "not-empty")
        self._remove(path, inode)

    def flush_directory(self, path: bytes) -> None:
        """See Directory. One that fails makes no name durable; a later one may."""
        self.gate.operation("flush_directory", path)
        inode = self._directory(path)
        if not self.gate.flush_succeeds():
            raise flush_failed(path)
        self._journal.flush(inode)

    def flush_all(self) -> None:
        """See Directory."""
        self.gate.operation("flush_all", ROOT_PATH)
        self._disk.flush_all()
        self._journal.flush_all()

    def space(self) -> Space:
        """See Directory."""
        self.gate.look("space", ROOT_PATH)
        return self._space

    def close(self) -> None:
        """See ReadableDirectory."""

    def rot(self, path: bytes, at_byte: int) -> None:
        """Flip a bit of a regular file as a failing medium does: nothing says it was written."""
        self._regular(path).rot(at_byte)

    def power_cut(self, seed: int | None, *, faults: SimFaults | None = None) -> "SimDirectory":
        """Return the tree as it may be when power is back; this one stays as it is.

        Args:
            seed: None: nothing survives that was not flushed. A number: a random part of it does,
                the same one for the same number.
            faults: The plan of the new tree.
        """
        if seed is None:
            return self._after_power_cut(self._journal.durable, flushed_only, faults)
        random = Random(seed)
        names = self._journal.survivors(lambda: random.random() < 0.5)
        return self._after_power_cut(names, random_recovery(random), faults)

    def power_cut_names_first(
        self, *, zeros: bool = False, faults: SimFaults | None = None
    ) -> "SimDirectory":
        """As `power_cut`, where all names and metadata survive but no content not flushed does.

        Args:
            zeros: Files have their new size, filled with zeros; else they have their old content,
                which is none for a new one.
        """
        names = self._journal.survivors(lambda: True)
        return self._after_power_cut(names, zero_filled if zeros else emptied, faults)

    def _after_power_cut(
        self, names: DurableNames, recover: Recovery, faults: SimFaults | None
    ) -> "SimDirectory":
        after = SimDirectory(
            faults=faults, clock=self._disk.clock, device=self._disk.device, space=self._space
        )
        after._root, after._journal = recover_tree(self._root, names, recover)
        after._disk.inode_last = self._disk.inode_last
        after._disk.now_ns = self._disk.now_ns
        return after

    def _entry(self, path: bytes) -> Inode:
        """Return what stands at `path`, every component on the way being a directory."""
        if path == ROOT_PATH:
            return self._root
        directory, name = self._place(path)
        inode = directory.names.get(name)
        if inode is None:
            raise NotFoundError(f"{display_path(path)}: no such entry", code="no-entry", path=path)
        return inode

    def _place(self, path: bytes) -> tuple[Inode, bytes]:
        """Return the directory and the name of a path whose last component may be missing."""
        assert path, "the root has no name"
        directory, at = self._root, ROOT_PATH
        *way, last = path.split(b"/")
        for name in [*way, last]:
            if len(name) > NAME_BYTES_MAX:
                raise InvalidRequestError(
                    f"{display_path(path)}: name too long", code="name-too-long", path=path
                )
        for name in way:
            at = join_path(at, name)
            inode = directory.names.get(name)
            if inode is None:
                raise NotFoundError(f"{display_path(at)}: no such entry", code="no-entry", path=at)
            if inode.kind is not FileKind.DIRECTORY:
                raise _conflict(at, "not-a-directory")
            directory = inode
        return directory, last

    def _directory(self, path: bytes) -> Inode:
        inode = self._entry(path)
        if inode.kind is not FileKind.DIRECTORY:
            raise _conflict(path, "not-a-directory")
        return inode

    def _regular(self, path: bytes) -> Inode:
        inode = self._entry(path)
        if inode.kind is not FileKind.FILE:
            raise _conflict(path, "not-a-file")
        return inode

    def _make(self, path: bytes, inode: Inode) -> None:
        directory, name = self._place(path)
        if name in directory.names:
            raise _conflict(path, "exists")
        self._add(directory, name, inode)

    def _add(self, directory: Inode, name: bytes, inode: Inode) -> None:
        directory.names[name] = inode
        inode.links_count += 1
        if inode.kind is FileKind.DIRECTORY:
            inode.parent = directory
        self._journal.record(NameChange(directory, name, inode))
        self._disk.changed(directory)

    def _remove(self, path: bytes, inode: Inode) -> None:
        directory, name = self._place(path)
        del directory.names[name]
        self._unlink(inode)
        removed = inode if inode.kind is FileKind.DIRECTORY else None
        self._journal.record(NameChange(directory, name, None), removed=removed)
        self._disk.changed(directory)

    def _unlink(self, inode: Inode) -> None:
        inode.links_count -= 1
        inode.parent = None
        self._disk.changed_metadata(inode)


def _check_replaceable(
    inode: Inode,
    directory: Inode,
    new_directory: Inode,
    replaced: Inode | None,
    new_path: bytes,
) -> None:
    """Raise what rename raises where `inode`, in `directory`, may not become `new_path`."""
    if inode in _line_of(new_directory):
        raise InvalidRequestError(
            f"{display_path(new_path)}: a directory cannot be moved into itself",
            code="bad-name",
            path=new_path,
        )
    if replaced is None:
        return
    if replaced in _line_of(directory):
        raise _conflict(new_path, "not-empty")
    if inode.kind is not FileKind.DIRECTORY:
        if replaced.kind is FileKind.DIRECTORY:
            raise _conflict(new_path, "is-a-directory")
    elif replaced.kind is not FileKind.DIRECTORY:
        raise _conflict(new_path, "not-a-directory")
    elif replaced.names:
        raise _conflict(new_path, "not-empty")


def _line_of(directory: Inode) -> list[Inode]:
    """Return a directory and all that it lies in."""
    line = [directory]
    while line[-1].parent is not None:
        line.append(line[-1].parent)
    return line


def _conflict(path: bytes, code: str) -> ConflictError:
    text = code.replace("-", " ")
    return ConflictError(f"{display_path(path)}: {text}", code=code, path=path)
