"""The contract of ReadableDirectory, continued: files told before, and digests taken elsewhere.

Goal: hints and the other side's digests change nothing of what is read, on every implementation.
Method: the same small trees read with them, in order and out of it.
"""

import hashlib
import os

import pytest

from holdfast.errors import ConflictError, NotFoundError
from holdfast.model.limits import MIB
from holdfast.model.tree import FileKind, Metadata
from holdfast.ports import Directory, ExpectedFile, FileDigest
from holdfast.testing.trees import put_file

METADATA = Metadata(mode=0o755, mtime_ns=1_500_000_000, uid=os.geteuid(), gid=os.getegid())


def test_files_told_before_are_read_as_others(tree: Directory) -> None:
    """In order, with some left out, one asked twice, one never told and one that is gone."""
    names = [b"f%02d" % number for number in range(40)]
    for name in names:
        put_file(tree, name, name * 50)
    tree.expect([ExpectedFile(name, 150) for name in names], "sha256")
    tree.remove_file(b"f20")
    buffer = memoryview(bytearray(4096))

    for name in [*names[:10], *names[12:20], b"f19", *names[21:], b"f11"]:
        small = tree.read_small(name, buffer)
        assert small is not None
        assert bytes(buffer[: small.size_bytes]) == name * 50
        assert small.is_steady
        assert small.stat == tree.stat(name)
        assert small.digest in (None, hashlib.sha256(name * 50).digest())
    with pytest.raises(NotFoundError):
        tree.read_small(b"f20", buffer)


def test_metadata_told_before_is_that_of_now(tree: Directory) -> None:
    """In order, with some left out, asked twice, never told, gone, or more than are asked ahead."""
    names = [b"d%03d" % number for number in range(400)]
    for name in names:
        tree.make_directory(name)
    tree.expect_metadata([*names, b"gone", b""])

    for name in [*names[:5], *names[7:], b"d000", b"d006", b""]:
        assert tree.stat(name).kind is FileKind.DIRECTORY
        assert tree.xattrs(name) == {}
    for ask in (tree.stat, tree.xattrs):
        with pytest.raises(NotFoundError):
            ask(b"gone")
    tree.expect_metadata([b"d003"])
    assert tree.stat(b"d003").mtime_ns != METADATA.mtime_ns
    tree.set_metadata(b"d003", FileKind.DIRECTORY, METADATA)
    assert tree.stat(b"d003").mtime_ns == METADATA.mtime_ns


def test_sparse_and_larger_files_are_not_read_as_small(tree: Directory) -> None:
    put_file(tree, b"large", b"x" * 5000)
    hole = tree.create_file(b"hole", resume=False)
    hole.truncate(1 << 20)
    hole.close()
    tree.expect([ExpectedFile(b"large", 5000), ExpectedFile(b"hole", 1 << 20)], "sha256")

    assert tree.read_small(b"large", memoryview(bytearray(4096))) is None
    assert tree.read_small(b"hole", memoryview(bytearray(1 << 20))) is None


def test_digests_taken_where_files_are(tree: Directory) -> None:
    """One answer for each path in order, errors among them; or the caller is to read."""
    large = bytes(range(256)) * (6 * MIB // 256)
    content = {b"a": b"one", b"empty": b"", b"large": large}
    for name, data in content.items():
        put_file(tree, name, data)
    tree.make_directory(b"d")
    answers = tree.digest_files(
        [b"a", b"gone", b"d", b"empty", b"large"], "sha256", drop_cache=True
    )
    if answers is None:
        return

    drawn = list(answers)
    found = [each for each in drawn if not isinstance(each, int)]
    assert sum(each for each in drawn if isinstance(each, int)) == 3 + len(large)
    assert [type(each) for each in found] == [
        FileDigest, NotFoundError, ConflictError, FileDigest, FileDigest,
    ]  # fmt: skip
    for name, each in zip(content, [found[0], found[3], found[4]], strict=True):
        assert isinstance(each, FileDigest)
        assert each.digest == hashlib.sha256(content[name]).digest()
        assert each.stat == tree.stat(name)
        assert each.is_steady
    assert list(tree.digest_files([], "sha256", drop_cache=False) or ()) == []


def test_a_given_digest_is_of_the_content(tree: Directory) -> None:
    """Read in order, in order behind a beginning that is digested there, or out of order."""
    data = bytes(range(256)) * (5 * MIB // 256) + b"tail"
    put_file(tree, b"f", data)
    buffer = memoryview(bytearray(len(data)))
    tree.expect([], "sha256")
    whole = hashlib.sha256(data).digest()

    for start in (0, MIB, 2 * MIB):
        reader = tree.open_file(b"f")
        if start:
            given = reader.digest_prefix(start)
            if given is None:
                reader.close()
                continue
            assert given == hashlib.sha256(data[:start]).digest()
        for at in range(start, len(data), MIB):
            assert reader.read_into(buffer[at : min(at + MIB, len(data))], at)
        assert buffer[start:] == data[start:]
        assert reader.given_digest() in (None, whole)
        reader.close()
    reader = tree.open_file(b"f")
    reader.read_into(buffer[:10], 100)
    reader.read_into(buffer[:10], 0)
    assert reader.given_digest() is None
    reader.close()
