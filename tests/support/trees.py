"""Trees on a real file system: made for a test, and compared without the product's own code."""

import hashlib
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

SIDE_DIRECTORY = b".holdfast"


class Entry(NamedTuple):
    """Everything a copy is to keep of one entry."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    content: bytes
    """Digest of a file, target of a symlink."""
    size_bytes: int
    xattrs: tuple[tuple[str, bytes], ...]


def read_tree(root: Path | bytes) -> dict[bytes, Entry]:
    """Return every entry below a root by its relative path, the side directory apart."""
    top = os.fsencode(root)
    return {path: read_entry(os.path.join(top, path)) for path in list_paths(top)}


def list_paths(root: Path | bytes) -> list[bytes]:
    """Return the relative paths of all entries; works at any depth, and follows nothing."""
    top = os.fsencode(root)
    found: list[bytes] = []
    for directory, directories, files in os.walk(top):
        if directory == top and SIDE_DIRECTORY in directories:
            directories.remove(SIDE_DIRECTORY)
        found += [os.path.relpath(os.path.join(directory, n), top) for n in directories + files]
    return sorted(found)


def read_entry(path: bytes) -> Entry:
    """Return one entry as it is."""
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    content = b""
    size_bytes = 0
    xattrs: list[tuple[str, bytes]] = []
    if kind == stat.S_IFREG:
        content, size_bytes = digest_file(path), found.st_size
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        xattrs = [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
    # The mode of a symlink means nothing.
    mode = 0 if kind == stat.S_IFLNK else stat.S_IMODE(found.st_mode)
    owner = (found.st_uid, found.st_gid)
    return Entry(kind, mode, owner, found.st_mtime_ns, content, size_bytes, tuple(xattrs))


def digest_file(path: bytes | Path) -> bytes:
    """Return a digest of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()


def hard_links(root: Path) -> set[frozenset[bytes]]:
    """Return the groups of names that share an inode."""
    groups: dict[int, set[bytes]] = defaultdict(set)
    for path in list_paths(root):
        found = os.lstat(os.path.join(os.fsencode(root), path))
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            groups[found.st_ino].add(path)
    return {frozenset(group) for group in groups.values()}


def write(path: Path, content: bytes | str = b"content") -> Path:
    """Write a file, making the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    """Return bytes without repetition in them, the same for the same seed."""
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(size_bytes)


def make_tree(root: Path, *, files: int = 10, seed: int = 0) -> Path:
    """Make a small tree of files, directories and a symlink, with times long ago."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        write(root / f"d{number % 3}" / f"f{number:04}", pattern(37 * number, seed + number))
    (root / "empty").mkdir(exist_ok=True)
    if not (root / "link").is_symlink():
        (root / "link").symlink_to("d0/f0000")
    age(root)
    return root


def age(root: Path, mtime_ns: int = 1_234_567_890_987_654_321) -> None:
    """Give every entry a modification time long ago, and not a round one."""
    for path in reversed(list_paths(root)):
        os.utime(os.path.join(os.fsencode(root), path), ns=(mtime_ns,) * 2, follow_symlinks=False)
    os.utime(root, ns=(mtime_ns, mtime_ns))
