"""Short ways to fill a directory tree and to look at all of it, through the port alone."""

from dataclasses import dataclass

from holdfast.model.tree import ROOT_PATH, FileKind, Metadata, join_path
from holdfast.ports import Directory, ReadableDirectory

FILE_BYTES_MAX = 1 << 30
"""Largest file that is read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an entry is to a reader: equal for an original and a faithful copy."""

    kind: FileKind
    content: bytes
    """Of a file its bytes, of a symlink its target."""
    mode: int
    mtime_ns: int
    links_count: int
    """0 for directories: file systems count them differently."""
    xattrs: dict[bytes, bytes]


def put_file(
    directory: Directory, path: bytes, content: bytes, metadata: Metadata | None = None
) -> None:
    """Make a file or replace its content. Nothing is flushed."""
    file = directory.create_file(path, resume=False)
    file.write_at(content, 0)
    if metadata is not None:
        file.set_metadata(metadata)
    file.close()


def read_file(directory: ReadableDirectory, path: bytes) -> bytes:
    """Return the whole content of a regular file."""
    file = directory.open_file(path)
    try:
        size_bytes = file.stat().size_bytes
        assert size_bytes <= FILE_BYTES_MAX, "too large to read whole"
        content = bytearray(size_bytes)
        with memoryview(content) as view:
            count = file.read_into(view, 0)
        assert count == size_bytes
        return bytes(content)
    finally:
        file.close()


def tree_of(directory: ReadableDirectory) -> dict[bytes, Seen]:
    """Return every entry below the root, by path in order of bytes."""
    found: dict[bytes, Seen] = {}
    waiting = [ROOT_PATH]
    while waiting:
        parent = waiting.pop()
        for name, _ in directory.list_names(parent):
            path = join_path(parent, name)
            found[path] = seen = see(directory, path)
            if seen.kind is FileKind.DIRECTORY:
                waiting.append(path)
    return dict(sorted(found.items()))


def see(directory: ReadableDirectory, path: bytes) -> Seen:
    """Return one entry."""
    stat = directory.stat(path)
    content = b""
    if stat.kind is FileKind.FILE:
        content = read_file(directory, path)
    elif stat.kind is FileKind.SYMLINK:
        content = directory.read_link(path)
    return Seen(
        kind=stat.kind,
        content=content,
        mode=stat.mode,
        mtime_ns=stat.mtime_ns,
        links_count=0 if stat.kind is FileKind.DIRECTORY else stat.links_count,
        xattrs=directory.xattrs(path),
    )
