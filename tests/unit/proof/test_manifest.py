"""Manifest: the Merkle root is RFC 6962's, leaves are unambiguous, order and members are kept.

Method: the roots of the Certificate Transparency reference test, one leaf spelled out byte by byte,
and one bad entry for each rule.
"""

from hashlib import sha256

import pytest

from holdfast.errors import InvalidRequestError
from holdfast.model.tree import FileKind
from holdfast.proof.digests import Algorithm
from holdfast.proof.manifest import (
    ManifestEntry,
    ManifestTally,
    MerkleRoot,
    check_entry,
    leaf_bytes,
    leaf_hash,
)

FILE = ManifestEntry(b"a/b", FileKind.FILE, 5, 0o644, None, bytes(range(4)))
DIRECTORY = ManifestEntry(b"a", FileKind.DIRECTORY, 0, 0o1777, None, None)
SYMLINK = ManifestEntry(b"a/c", FileKind.SYMLINK, 4, 0o777, b"../x", None)


def test_roots_of_the_certificate_transparency_reference() -> None:
    leaves = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    merkle = MerkleRoot()
    assert merkle.root() == sha256(b"").digest()
    for leaf, root in zip(leaves, roots, strict=True):
        merkle.add(sha256(b"\0" + bytes.fromhex(leaf)).digest())
        assert merkle.root().hex() == root


def test_leaf_byte_by_byte() -> None:
    expected = (
        b"\x01"  # file
        b"\0\0\0\0\0\0\0\x05"  # size
        b"\x01\xa4"  # mode 0644
        b"\0\x03\0\0"  # lengths of path and link target
        b"\x05\x04"  # lengths of algorithm name and digest
        b"a/bcrc32\0\1\2\3"
    )
    assert leaf_bytes(FILE, Algorithm.CRC32) == expected
    assert leaf_hash(FILE, Algorithm.CRC32) == sha256(b"\0" + expected).digest()


def test_leaf_depends_on_the_algorithm() -> None:
    assert leaf_bytes(FILE, Algorithm.CRC32) != leaf_bytes(FILE, Algorithm.XXH32)


@pytest.mark.parametrize("entry", [FILE, DIRECTORY, SYMLINK])
def test_good_entries_pass(entry: ManifestEntry) -> None:
    check_entry(entry, Algorithm.CRC32)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (FILE._replace(path=b""), "bad-path"),
        (FILE._replace(path=b"/etc"), "bad-path"),
        (FILE._replace(path=b"a/../b"), "bad-path"),
        (FILE._replace(digest=None), "bad-entry"),
        (FILE._replace(digest=bytes(5)), "bad-entry"),
        (FILE._replace(size_bytes=-1), "bad-entry"),
        (FILE._replace(size_bytes=1 << 63), "bad-entry"),
        (FILE._replace(mode=-1), "bad-entry"),
        (FILE._replace(mode=0o10000), "bad-entry"),
        (FILE._replace(link_target=b"x"), "bad-entry"),
        (DIRECTORY._replace(size_bytes=1), "bad-entry"),
        (DIRECTORY._replace(digest=bytes(4)), "bad-entry"),
        (DIRECTORY._replace(link_target=b"x"), "bad-entry"),
        (SYMLINK._replace(link_target=None), "bad-entry"),
        (SYMLINK._replace(link_target=b"", size_bytes=0), "bad-entry"),
        (SYMLINK._replace(link_target=b"a\0b/"), "bad-entry"),
        (SYMLINK._replace(size_bytes=5), "bad-entry"),
        (SYMLINK._replace(link_target=b"x" * 4096, size_bytes=4096), "bad-entry"),
        (SYMLINK._replace(digest=bytes(4)), "bad-entry"),
        (DIRECTORY._replace(kind=FileKind.FIFO), "bad-entry"),
        (DIRECTORY._replace(kind=FileKind.SOCKET), "bad-entry"),
        (DIRECTORY._replace(kind=FileKind.DEVICE), "bad-entry"),
    ],
)
def test_entries_that_cannot_be_are_refused(entry: ManifestEntry, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_entry(entry, Algorithm.CRC32)
    assert caught.value.code == code


def test_tally_counts_kinds_and_bytes_of_files_only() -> None:
    tally = ManifestTally(Algorithm.CRC32)
    for entry in (DIRECTORY, FILE, SYMLINK):
        tally.add(entry)
    assert tally.counts == {FileKind.FILE: 1, FileKind.DIRECTORY: 1, FileKind.SYMLINK: 1}
    assert tally.total_bytes == 5
    assert tally.entries_count() == 3


@pytest.mark.parametrize("path", [b"a/b", b"a/a", b"a", b"Z"])
def test_duplicate_and_disorder_are_refused_and_not_counted(path: bytes) -> None:
    tally = ManifestTally(Algorithm.CRC32)
    tally.add(FILE)
    root = tally.root_digest()
    with pytest.raises(InvalidRequestError) as caught:
        tally.add(FILE._replace(path=path))
    assert caught.value.code == "bad-entry-order"
    assert (tally.root_digest(), tally.entries_count()) == (root, 1)


def test_order_is_of_raw_bytes_and_not_of_components() -> None:
    tally = ManifestTally(Algorithm.CRC32)
    for path in (b"a", b"a.b", b"a/b", b"b", b"\xc3\xa9", b"\xff"):
        tally.add(DIRECTORY._replace(path=path))
    assert tally.entries_count() == 6
