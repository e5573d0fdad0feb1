"""The built-in plug-in `Holdfast::Directory`: protects and restores a directory tree.

Parameters of a resource: `exclude`, patterns as in .gitignore. Of a restore: `target`, where to;
without it the tree goes to where it was.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from holdfast.checkpoints.model import Resource
from holdfast.checkpoints.packing import FileItem, Packed
from holdfast.checkpoints.plugins import HookContext, Operation, OperationKind
from holdfast.checkpoints.segments import CODES, FILE, Entry, Part
from holdfast.checkpoints.tree import CheckpointTree
from holdfast.checkpoints.writing import ResourceWriter
from holdfast.errors import (
    ConflictError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    StateError,
)
from holdfast.files.listing import Exclusions, Walk
from holdfast.model.limits import BANK_BATCH_BYTES, BATCH_FILES_MAX, FILE_BYTES_LARGE
from holdfast.model.tree import ROOT_PATH, FileKind, Stat
from holdfast.ports import ReadableDirectory

TYPE: Final = "Holdfast::Directory"
_PROGRESS_ENTRIES: Final = 1024

RestoreTree = Callable[[CheckpointTree, bytes, HookContext], Mapping[str, Any]]
"""Copies a tree of a checkpoint to a place on this machine and returns what to tell of it."""


class DirectoryPlugin:
    """ProtectionPlugin of directory trees on this machine."""

    resource_type = TYPE

    def __init__(self, restore_tree: RestoreTree) -> None:
        self._restore_tree = restore_tree

    def check(self, resource: Resource) -> Resource:
        """See ProtectionPlugin: the id is an absolute path."""
        path = os.path.realpath(resource.id)
        if not resource.id or not os.path.isdir(path):
            raise NotFoundError(
                f"{resource.id!r} is not a directory",
                code="no-root",
                advice="name a directory that exists",
            )
        Exclusions(_patterns(resource))
        return replace(resource, id=path, name=resource.name or os.path.basename(path))

    def operation(self, kind: OperationKind) -> Operation | None:
        """See ProtectionPlugin."""
        match kind:
            case OperationKind.PROTECT:
                return Operation(main=self._protect)
            case OperationKind.RESTORE:
                return Operation(main=self._restore)
            case _:
                return None

    def _protect(self, context: HookContext) -> None:
        assert context.writer is not None
        writer = context.writer
        source = writer.engine.open_source(os.fsencode(context.resource.id))
        try:
            context.info["source"] = source.describe()
            _Protection(source, writer, _patterns(context.resource)).run()
        finally:
            source.close()

    def _restore(self, context: HookContext) -> None:
        assert context.reader is not None
        target = str(context.parameters.get("target") or context.resource.id)
        context.new_ids[context.resource.key] = target
        place = os.fsencode(target)
        told = self._restore_tree(context.reader.tree(), place, context)
        context.report |= told


def _patterns(resource: Resource) -> tuple[str, ...]:
    patterns = resource.parameters.get("exclude", [])
    if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
        raise InvalidRequestError(
            "exclude must be a list of patterns", code="bad-pattern", advice="see the guide"
        )
    return tuple(patterns)


@dataclass(slots=True)
class _Protection:
    """One protect of one tree."""

    source: ReadableDirectory
    writer: ResourceWriter
    exclude: tuple[str, ...]

    def run(self) -> None:
        """List, reuse what is unchanged, read what is not.

        Raises:
            StateError: `source-unlisted`, `source-empty`: what is there is no state of the tree.
        """
        listed = self._list()
        if len(listed) == 1:
            self._refuse_nothing()
        to_read: list[int] = []
        leaders: dict[tuple[int, int], int] = {}
        """First name of each file that has several, by device and inode."""
        followers: list[tuple[int, int]] = []
        reused: dict[int, Entry] = {}
        for number, (path, stat) in enumerate(listed):
            match stat.kind:
                case FileKind.FILE:
                    first = number
                    if stat.links_count > 1:
                        first = leaders.setdefault((stat.device, stat.inode), number)
                    if first != number:
                        followers.append((number, first))
                    elif (known := self._known(path, stat)) is not None:
                        reused[number] = known
                    else:
                        to_read.append(number)
                case FileKind.DIRECTORY | FileKind.SYMLINK:
                    self._add_other(path, stat)
                case _:
                    self.writer.leave_out(path, f"skipped: it is a {stat.kind}")
        read = self._read(listed, to_read)
        for number in sorted(reused | read):
            path, stat = listed[number]
            packed = read.get(number)
            self.writer.add(reused[number] if packed is None else _entry_of(path, packed))
        for number, first in followers:
            self._add_follower(listed, number, first, reused, read)

    def _refuse_nothing(self) -> None:
        """Return if there being nothing is what the tree has come to."""
        left_out = self.writer.left_out
        if left_out is not None:
            raise StateError(
                f"nothing of it could be listed: {left_out[1]}",
                code="source-unlisted",
                advice="look at its owner, mode and file system, then run it again",
            )
        before, now = self.writer.previous_info.get("source"), self.source.describe()
        was_here = isinstance(before, Mapping) and before.get("inode") == now.get("inode")
        if not was_here and any(path != ROOT_PATH for path in self.writer.previous):
            raise StateError(
                f"{now.get('path')} is empty, is another directory than before, and was not empty",
                code="source-empty",
                advice="check that it is mounted; if it is to be empty, make another plan of it",
            )

    def _list(self) -> list[tuple[bytes, Stat]]:
        listed: list[tuple[bytes, Stat]] = [(ROOT_PATH, self.source.stat(ROOT_PATH))]
        walk = Walk(
            directory=self.source,
            exclusions=Exclusions(self.exclude),
            on_failure=lambda path, error: self.writer.leave_out(path, error.message),
        )
        for path, stat in walk:
            listed.append((path, stat))
            if len(listed) % _PROGRESS_ENTRIES == 0:
                self.writer.engine.on_progress(len(listed), 0, None)
        return listed

    def _known(self, path: bytes, stat: Stat) -> Entry | None:
        """Return what the checkpoint before has of a file, if nothing of it can have changed."""
        known = self.writer.previous.get(path)
        if (
            known is None
            or known.kind != FILE
            or not known.ctime_ns
            or known.leader
            or known.ctime_ns != stat.ctime_ns
            or known.inode != stat.inode
            or known.size_bytes != stat.size_bytes
            or known.mtime_ns != stat.mtime_ns
        ):
            return None
        # Mode, owner and attributes cannot have changed either: that would have moved the ctime.
        return known

    def _read(self, listed: list[tuple[bytes, Stat]], numbers: list[int]) -> dict[int, Packed]:
        sizes = [listed[number][1].size_bytes for number in numbers]
        items = [
            FileItem(number, listed[number][0], size_bytes)
            for number, size_bytes in zip(numbers, sizes, strict=True)
        ]
        read: dict[int, Packed] = {}
        if not items:
            return read
        for result in self.writer.pack_files(self.source, plan_batches(items), sum(sizes)):
            for packed in result.files:
                if packed.stat is None:
                    self.writer.leave_out(listed[packed.number][0], packed.why)
                else:
                    read[packed.number] = packed
        return read

    def _add_other(self, path: bytes, stat: Stat) -> None:
        try:
            target, xattrs = b"", {}
            if stat.kind is FileKind.SYMLINK:
                target = self.source.read_link(path)
            else:
                xattrs = self.source.xattrs(path)
        except (NotFoundError, ConflictError):
            self.writer.leave_out(path, "changed")
            return
        except HoldfastError as error:
            self.writer.leave_out(path, error.message)
            return
        self.writer.add(_entry(path, stat, xattrs=xattrs, link_target=target))

    def _add_follower(
        self,
        listed: list[tuple[bytes, Stat]],
        number: int,
        first: int,
        reused: dict[int, Entry],
        read: dict[int, Packed],
    ) -> None:
        path = listed[number][0]
        leader = reused.get(first)
        if leader is None and first in read:
            leader = _entry_of(listed[first][0], read[first])
        if leader is None:
            self.writer.leave_out(path, "another name of a file that was left out")
            return
        self.writer.add(
            Entry(
                path=path, kind=FILE, size_bytes=leader.size_bytes, mode=leader.mode,
                mtime_ns=leader.mtime_ns, uid=leader.uid, gid=leader.gid,
                ctime_ns=leader.ctime_ns, inode=leader.inode, leader=leader.path,
                xattrs=leader.xattrs,
            )
        )  # fmt: skip


def plan_batches(items: list[FileItem]) -> list[tuple[FileItem, ...]]:
    """Split files into what a worker reads between two flushes, the largest batches first."""
    batches: list[tuple[int, tuple[FileItem, ...]]] = []
    batch: list[FileItem] = []
    size_bytes = 0
    for item in items:
        if item.size_bytes >= FILE_BYTES_LARGE:
            batches.append((item.size_bytes, (item,)))
            continue
        batch.append(item)
        size_bytes += item.size_bytes
        if size_bytes >= BANK_BATCH_BYTES // 2 or len(batch) >= BATCH_FILES_MAX:
            batches.append((size_bytes, tuple(batch)))
            batch, size_bytes = [], 0
    if batch:
        batches.append((size_bytes, tuple(batch)))
    # The largest last would keep one worker busy alone.
    batches.sort(key=lambda each: -each[0])
    return [files for _, files in batches]


def _entry_of(path: bytes, packed: Packed) -> Entry:
    assert packed.stat is not None
    return _entry(
        path,
        packed.stat,
        xattrs=packed.xattrs,
        digest=packed.digest,
        parts=packed.parts,
        is_racy=packed.is_racy,
    )


def _entry(
    path: bytes,
    stat: Stat,
    *,
    xattrs: dict[bytes, bytes],
    link_target: bytes = b"",
    digest: bytes = b"",
    parts: tuple[Part, ...] = (),
    is_racy: bool = False,
) -> Entry:
    is_file = stat.kind is FileKind.FILE
    return Entry(
        path=path,
        kind=CODES[stat.kind],
        size_bytes=0 if stat.kind is FileKind.DIRECTORY else stat.size_bytes,
        mode=stat.mode,
        mtime_ns=stat.mtime_ns,
        uid=stat.uid,
        gid=stat.gid,
        # Only of files: of a directory they would tell nothing of what is in it.
        ctime_ns=stat.ctime_ns if is_file and not is_racy else 0,
        inode=stat.inode if is_file else 0,
        link_target=link_target,
        xattrs=xattrs,
        digest=digest,
        parts=parts,
    )
