"""What a proof says of each entry of a tree, and the one digest that stands for all of them.

Not the file format (document.py), and no signature: only entries, their encoding, their order, and
a Merkle root over them in the shape of RFC 6962 section 2.1, computed as a stream.

1. Two different entries, or equal ones under different algorithms, have different leaf bytes.
2. Entries stand in strictly ascending order of raw path bytes; so a tree has exactly one root.
3. A leaf is never taken for an inner node: their hashes begin with different bytes.
4. Memory is O(log n) in the number of entries.
"""

import struct
from hashlib import sha256
from typing import Final, NamedTuple

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import SYMLINK_TARGET_BYTES_MAX
from holdfast.model.tree import FileKind, check_path, display_path
from holdfast.proof.digests import Algorithm, size_of

SIZE_BYTES_END: Final = 1 << 63
MODE_END: Final = 0o10000

_LEAF_PREFIX: Final = b"\x00"
_NODE_PREFIX: Final = b"\x01"

_LEAF_HEADER: Final = struct.Struct(">BQHHHBB")
"""Kind code, size, mode, then the lengths of path, link target, algorithm name and digest."""
assert _LEAF_HEADER.size == 17

KIND_CODES: Final = {FileKind.FILE: 1, FileKind.DIRECTORY: 2, FileKind.SYMLINK: 3}
"""The kinds a proof can speak of, and their codes in a leaf; append-only."""


class ManifestEntry(NamedTuple):
    """One entry of a proven tree; the root directory itself is not one.

    A named tuple, not a dataclass: a proof makes one for each entry. A file has a digest, a symlink
    a link target, and nothing else has either.
    """

    path: bytes
    kind: FileKind
    size_bytes: int
    """Of a file its length, of a symlink the length of its target, of a directory 0."""
    mode: int
    link_target: bytes | None
    digest: bytes | None


def check_entry(entry: ManifestEntry, algorithm: Algorithm) -> None:
    """Return if a proof can hold `entry`; else raise InvalidRequestError.

    Raises:
        InvalidRequestError: `bad-path`, or `bad-entry` for any other member.
    """
    check_path(entry.path)
    match entry:
        case (_, FileKind.FILE, size_bytes, mode, None, bytes(digest)):
            good = 0 <= size_bytes < SIZE_BYTES_END and len(digest) == size_of(algorithm)
        case (_, FileKind.DIRECTORY, 0, mode, None, None):
            good = True
        case (_, FileKind.SYMLINK, size_bytes, mode, bytes(target), None):
            good = 0 < len(target) == size_bytes <= SYMLINK_TARGET_BYTES_MAX
            good = good and b"\0" not in target
        case _:
            good, mode = False, 0
    if not (good and 0 <= mode < MODE_END):
        raise _bad_entry(entry, "has a size, mode, link target or digest that it cannot have")


def leaf_bytes(entry: ManifestEntry, algorithm: Algorithm) -> bytes:
    """Return the one encoding of a checked entry: a header of 17 bytes, then what it measures.

    The lengths stand before anything they measure, so no byte can move from one member to the next.
    """
    target = entry.link_target or b""
    digest = entry.digest or b""
    name = algorithm.encode("ascii")
    header = _LEAF_HEADER.pack(
        KIND_CODES[entry.kind],
        entry.size_bytes,
        entry.mode,
        len(entry.path),
        len(target),
        len(name),
        len(digest),
    )
    return header + entry.path + target + name + digest


def leaf_hash(entry: ManifestEntry, algorithm: Algorithm) -> bytes:
    """Return the hash of a checked entry as a leaf of the tree, 32 bytes."""
    return sha256(_LEAF_PREFIX + leaf_bytes(entry, algorithm)).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE_PREFIX + left + right).digest()


class MerkleRoot:
    """Computes the Merkle tree hash of RFC 6962 over leaves that come one after the other.

    Holds the roots of the full subtrees the leaves so far make: one for each bit set in their
    count, the largest first.
    """

    __slots__ = ("_count", "_subtrees")

    def __init__(self) -> None:
        self._count = 0
        self._subtrees: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Take the hash of the next leaf."""
        assert len(leaf) == 32
        carry = self._count
        while carry & 1:
            leaf = _node_hash(self._subtrees.pop(), leaf)
            carry >>= 1
        self._subtrees.append(leaf)
        self._count += 1

    def root(self) -> bytes:
        """Return the root over the leaves so far; over none, the SHA-256 of no bytes."""
        if not self._subtrees:
            return sha256(b"").digest()
        root = self._subtrees[-1]
        for left in reversed(self._subtrees[:-1]):
            root = _node_hash(left, root)
        return root


class ManifestTally:
    """What entries in order amount to: root digest, counts by kind, total bytes of files."""

    __slots__ = ("_merkle", "_path_last", "algorithm", "counts", "total_bytes")

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self.counts: dict[FileKind, int] = dict.fromkeys(KIND_CODES, 0)
        self.total_bytes = 0
        self._merkle = MerkleRoot()
        self._path_last = b""

    def add(self, entry: ManifestEntry) -> None:
        """Count the next entry; after an error nothing of it is counted.

        Raises:
            InvalidRequestError: `bad-path`, `bad-entry`; `bad-entry-order` when its path is not
                above the one before.
        """
        check_entry(entry, self.algorithm)
        if entry.path <= self._path_last:
            raise InvalidRequestError(
                f"{display_path(entry.path)} comes after {display_path(self._path_last)},"
                " but paths must ascend as raw bytes, each once",
                code="bad-entry-order",
                advice="whoever made this list is broken or hostile; list the tree again",
                path=entry.path,
            )
        self._path_last = entry.path
        self._merkle.add(leaf_hash(entry, self.algorithm))
        self.counts[entry.kind] += 1
        if entry.kind is FileKind.FILE:
            self.total_bytes += entry.size_bytes

    def root_digest(self) -> bytes:
        """Return the root over the entries so far, 32 bytes."""
        return self._merkle.root()

    def entries_count(self) -> int:
        """Return how many entries there were."""
        return sum(self.counts.values())


def _bad_entry(entry: ManifestEntry, flaw: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{entry.kind} {display_path(entry.path)} {flaw}",
        code="bad-entry",
        advice="whoever made this list is broken or hostile; list the tree again",
        path=entry.path,
    )
