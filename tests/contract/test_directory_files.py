"""The contract of the Directory port, continued: open files, sparse content, metadata.

Goal: every sentence of ReadableFile and WritableFile holds for every implementation. Method: each
test writes through one handle and looks through another, or at the entry.
"""

import pytest

from holdfast.model.limits import GIB, MIB
from holdfast.model.tree import ROOT_PATH, FileKind, Metadata
from holdfast.ports import Directory, ReadableFile, WritableFile
from holdfast.testing.trees import put_file, read_file

from .conftest import MTIME_NS, metadata_for


def read_at(file: ReadableFile | WritableFile, offset_bytes: int, size_bytes: int) -> bytes:
    """Return what one read gives; the buffer is full of ones before."""
    buffer = bytearray(b"\xff" * size_bytes)
    count = file.read_into(memoryview(buffer), offset_bytes)
    assert buffer[count:] == b"\xff" * (size_bytes - count), "bytes past the end were touched"
    return bytes(buffer[:count])


def test_new_file_is_empty_and_private(tree: Directory) -> None:
    tree.create_file(b"f", resume=False).close()
    tree.create_file(b"g", resume=True).close()

    for path in (b"f", b"g"):
        stat = tree.stat(path)
        assert (stat.kind, stat.size_bytes, stat.mode) == (FileKind.FILE, 0, 0o600)
        assert stat.links_count == 1


def test_create_empties_and_resume_keeps(tree: Directory) -> None:
    put_file(tree, b"f", b"content")
    inode = tree.stat(b"f").inode

    resumed = tree.create_file(b"f", resume=True)
    assert resumed.size_bytes() == 7
    assert read_at(resumed, 0, 100) == b"content"
    resumed.write_at(b"ers", 7)
    resumed.close()
    assert read_file(tree, b"f") == b"contenters"

    tree.create_file(b"f", resume=False).close()
    assert read_file(tree, b"f") == b""
    assert tree.stat(b"f").inode == inode


def test_reads_are_short_only_at_the_end(tree: Directory) -> None:
    content = bytes(range(256)) * 64
    put_file(tree, b"f", content)
    file = tree.open_file(b"f")

    for start, size in ((0, 1), (1, 4095), (4095, 2), (4096, 4096), (100, 16_000)):
        assert read_at(file, start, size) == content[start : start + size]
    assert read_at(file, len(content) - 3, 10) == content[-3:]
    assert read_at(file, len(content), 10) == b""
    assert read_at(file, len(content) + 5000, 10) == b""
    file.close()


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_write_at_any_offset(tree: Directory, wrap: type) -> None:
    """Writes overlap, cross pages and leave gaps, which read as zeros."""
    file = tree.create_file(b"f", resume=False)
    expected = bytearray(20_000)
    for offset, data in ((19_990, b"e" * 10), (0, b"abc"), (4090, b"x" * 5000), (4095, b"yy")):
        file.write_at(wrap(data), offset)
        expected[offset : offset + len(data)] = data
    file.write_at(b"", 50_000)

    assert file.size_bytes() == 20_000
    assert read_at(file, 0, 30_000) == expected
    file.close()
    assert read_file(tree, b"f") == expected


def test_truncate_cuts_and_grows_by_a_hole(tree: Directory) -> None:
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"a" * 10_000, 0)

    file.truncate(5_000)
    assert file.size_bytes() == 5_000
    file.truncate(12_000)

    assert read_at(file, 0, 20_000) == b"a" * 5_000 + bytes(7_000)
    file.close()


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 4096),
        (4096, 8192),
        (1, 4095),
        (100, 9000),
        (4000, 20_000),
        (8192, 8192),
        (30_000, 40_000),
    ],
)
def test_punched_range_reads_as_zeros(tree: Directory, start: int, end: int) -> None:
    """The size stays, also where the range goes past the end."""
    file = tree.create_file(b"f", resume=False)
    expected = bytearray(b"a" * 16_000)
    file.write_at(expected, 0)

    file.punch(start, end)

    expected[start:end] = bytes(max(0, min(end, 16_000) - start))
    assert file.size_bytes() == 16_000
    assert read_at(file, 0, 20_000) == expected[:16_000]
    file.truncate(20_000)
    assert read_at(file, 16_000, 4_000) == bytes(4_000)
    file.close()


def test_punching_gives_blocks_back(tree: Directory) -> None:
    """Every file system of Linux that a copy is likely to meet can."""
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"a" * MIB, 0)
    file.flush()
    before = tree.stat(b"f").allocated_bytes
    assert before >= MIB

    file.punch(0, MIB // 2)
    file.flush()

    assert tree.stat(b"f").allocated_bytes <= before - MIB // 2
    file.close()


def test_extents_cover_all_data_in_order(tree: Directory) -> None:
    """What lies between extents is zeros; one extent of everything is a right answer."""
    size = 8 * MIB + 5
    file = tree.create_file(b"f", resume=False)
    file.truncate(size)
    for offset in (MIB, 5 * MIB, 5 * MIB + 65_536, size - 1):
        file.write_at(b"data", offset)
    size += 3
    file.flush()
    file.close()

    reader = tree.open_file(b"f")
    for limit in (size, 5 * MIB + 10, MIB, 100, 0):
        extents = list(reader.data_extents(limit))
        flat = [edge for extent in extents for edge in extent]
        assert flat == sorted(flat)
        assert all(start < end <= limit for start, end in extents)
        rebuilt = bytearray(limit)
        for start, end in extents:
            rebuilt[start:end] = read_at(reader, start, end - start)
        assert rebuilt == read_at(reader, 0, limit)
    reader.close()


def test_extents_of_an_empty_file_and_of_one_hole(tree: Directory) -> None:
    file = tree.create_file(b"f", resume=False)
    reader = tree.open_file(b"f")
    assert list(reader.data_extents(0)) == []
    file.truncate(3 * GIB)

    extents = list(reader.data_extents(3 * GIB))

    assert extents in ([], [(0, 3 * GIB)])
    assert read_at(reader, 2 * GIB, 100) == bytes(100)
    assert tree.stat(b"f").size_bytes == 3 * GIB
    assert tree.stat(b"f").allocated_bytes < MIB
    reader.close()
    file.close()


def test_a_handle_stays_with_its_file(tree: Directory) -> None:
    """Renamed, replaced and removed: the handle reads and writes what it opened."""
    put_file(tree, b"f", b"mine")
    reader = tree.open_file(b"f")
    writer = tree.create_file(b"f", resume=True)
    inode = reader.stat().inode

    tree.rename(b"f", b"g")
    put_file(tree, b"f", b"another")
    tree.rename(b"f", b"g")
    writer.write_at(b"!", 4)

    assert read_at(reader, 0, 10) == b"mine!"
    assert reader.stat().inode == inode
    assert reader.stat().links_count == 0
    writer.flush()
    assert read_file(tree, b"g") == b"another"
    reader.close()
    writer.close()


def test_writing_moves_mtime_and_ctime_and_reading_does_not(tree: Directory) -> None:
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"x", 0)
    file.set_metadata(metadata_for(tree, 0o600))
    before = tree.stat(b"f")
    assert before.mtime_ns == MTIME_NS

    read_at(file, 0, 1)
    file.flush()
    assert tree.stat(b"f") == before

    file.write_at(b"y", 0)
    after = tree.stat(b"f")
    assert after.mtime_ns > MTIME_NS
    assert after.ctime_ns >= before.ctime_ns
    file.close()


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444, 0o000, 0o6755, 0o1777, 0o2640])
def test_file_metadata_is_kept_exactly(tree: Directory, mode: int) -> None:
    """Times come last: nothing set before them moves mtime off its nanosecond."""
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"content", 0)

    assert file.set_metadata(metadata_for(tree, mode)) == []
    file.flush()
    file.close()

    stat = tree.stat(b"f")
    assert (stat.mode, stat.mtime_ns) == (mode, MTIME_NS)


@pytest.mark.parametrize("mtime_ns", [0, 1, -1_000_000_001, 2**31 * 10**9 + 7])
def test_odd_times_are_kept(tree: Directory, mtime_ns: int) -> None:
    """Before 1970, and after 2038."""
    root = tree.stat(ROOT_PATH)
    put_file(tree, b"f", b"")
    odd = Metadata(mode=0o600, mtime_ns=mtime_ns, uid=root.uid, gid=root.gid)

    tree.set_metadata(b"f", FileKind.FILE, odd)

    assert tree.stat(b"f").mtime_ns == mtime_ns


def test_metadata_by_path_for_every_kind(tree: Directory) -> None:
    tree.make_directory(b"d")
    put_file(tree, b"f", b"")
    tree.make_symlink(b"s", b"d", metadata_for(tree, 0o777))
    later = Metadata(
        mode=0o750, mtime_ns=MTIME_NS + 1, uid=tree.stat(b"f").uid, gid=tree.stat(b"f").gid
    )

    for path, kind in (
        (b"d", FileKind.DIRECTORY),
        (b"f", FileKind.FILE),
        (b"s", FileKind.SYMLINK),
    ):
        assert tree.set_metadata(path, kind, later) == []
        assert tree.stat(path).mtime_ns == MTIME_NS + 1
    assert tree.stat(b"f").mode == 0o750
    assert tree.stat(b"d").mode == 0o750


def test_metadata_of_the_root(tree: Directory) -> None:
    tree.set_metadata(ROOT_PATH, FileKind.DIRECTORY, metadata_for(tree, 0o711))

    assert tree.stat(ROOT_PATH).mode == 0o711
    assert tree.stat(ROOT_PATH).mtime_ns == MTIME_NS


def test_metadata_reaches_every_name_of_a_file(tree: Directory) -> None:
    put_file(tree, b"a", b"x")
    tree.make_hard_link(b"a", b"b")

    tree.set_metadata(b"a", FileKind.FILE, metadata_for(tree, 0o640))

    assert tree.stat(b"b") == tree.stat(b"a")
    assert tree.stat(b"b").mode == 0o640


def test_user_xattrs_become_exactly_what_is_set(tree: Directory) -> None:
    """New ones are made, others replaced, those not named removed; mtime is set after them."""
    file = tree.create_file(b"f", resume=False)
    tree.make_directory(b"d")
    wanted = {b"user.one": b"\x00binary\xff", b"user.empty": b""}
    if file.set_metadata(metadata_for(tree, 0o600, wanted)):
        pytest.skip("this file system has no user. extended attributes")

    assert tree.xattrs(b"f") == wanted
    reader = tree.open_file(b"f")
    assert reader.xattrs() == wanted
    reader.close()
    assert tree.set_metadata(b"d", FileKind.DIRECTORY, metadata_for(tree, 0o700, wanted)) == []
    assert tree.xattrs(b"d") == wanted

    fewer = {b"user.one": b"new"}
    assert file.set_metadata(metadata_for(tree, 0o600, fewer)) == []
    assert tree.xattrs(b"f") == fewer
    assert tree.stat(b"f").mtime_ns == MTIME_NS
    assert file.set_metadata(metadata_for(tree, 0o600)) == []
    assert tree.xattrs(b"f") == {}
    file.close()


def test_no_xattrs_is_an_empty_answer(tree: Directory) -> None:
    put_file(tree, b"f", b"")
    tree.make_directory(b"d")

    assert tree.xattrs(b"f") == {}
    assert tree.xattrs(b"d") == {}


def test_hints_change_nothing(tree: Directory) -> None:
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"x" * 10_000, 0)
    file.start_writeback(0, 10_000)
    reader = tree.open_file(b"f")
    reader.drop_cache()

    assert read_at(reader, 0, 10_000) == b"x" * 10_000
    reader.close()
    file.close()
