"""Goal: every BlockFile keeps the port's contract.

Method: the same calls on each implementation, the simulated one included.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import ConflictError, NotFoundError, StorageFailedError
from holdfast.ports import BlockFile
from holdfast.stores.blocks.posix import PosixBlockFile, open_block_files
from holdfast.testing.disk import SimDisk


@pytest.fixture(params=["posix", "simulated"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockFile]:
    made: BlockFile
    if request.param == "posix":
        made = PosixBlockFile(tmp_path / "file", create=True)
    else:
        made = SimDisk().file("file")
    yield made
    made.close()


def content(file: BlockFile, start: int, size_bytes: int) -> bytes:
    buffer = bytearray(b"\xff" * size_bytes)
    file.pread_into(memoryview(buffer), start)
    return bytes(buffer)


def test_what_was_written_is_read_and_the_rest_is_zeros(file: BlockFile) -> None:
    file.pwrite(b"abc", 700)
    assert file.size_bytes() == 703
    assert content(file, 698, 10) == b"\0\0abc\0\0\0\0\0"
    assert content(file, 9000, 5) == bytes(5)


def test_a_long_write_arrives_whole_in_its_order(file: BlockFile) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(50_001))
    file.pwrite(memoryview(data)[1:], 4095)
    assert file.size_bytes() == 4095 + len(data) - 1
    assert content(file, 4094, len(data)) == b"\0" + data[1:]


def test_parts_are_written_one_after_the_other(file: BlockFile) -> None:
    file.pwritev([b"ab", memoryview(b"cde"), bytearray(b""), b"f"], 3)
    assert content(file, 0, 10) == b"\0\0\0abcdef\0"
    file.pwritev([bytes([n % 251]) * 100 for n in range(500)], 10)
    assert content(file, 10 + 49_900, 100) == bytes([499 % 251]) * 100


def test_punched_range_reads_as_zeros_and_keeps_its_neighbours(file: BlockFile) -> None:
    file.pwrite(b"x" * 20_000, 0)
    file.punch(5_000, 15_001)
    assert content(file, 0, 20_000) == b"x" * 5_000 + bytes(10_001) + b"x" * 4_999
    file.punch(30_000, 40_000)
    assert file.size_bytes() == 20_000


def test_reserved_range_reads_as_before(file: BlockFile) -> None:
    file.pwrite(b"x" * 100, 0)
    file.allocate(0, 8192)
    assert content(file, 0, 101) == b"x" * 100 + b"\0"


def test_growing_shows_zeros(file: BlockFile) -> None:
    file.pwrite(b"x", 0)
    file.truncate(10_000)
    assert file.size_bytes() == 10_000
    assert content(file, 0, 10_000) == b"x" + bytes(9_999)
    file.fdatasync()


def test_files_of_a_directory_are_one_process_alone(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_block_files(tmp_path, ["one", "two"])
    first = open_block_files(tmp_path, ["one", "two"], create=True)
    with pytest.raises(ConflictError, match="another process"):
        open_block_files(tmp_path, ["one", "two"])
    for file in first.values():
        file.close()
    open_block_files(tmp_path, ["one", "two"])["one"].close()


def test_whatever_the_kernel_says_to_a_flush_is_a_failed_flush_for_ever(tmp_path: Path) -> None:
    """A file that cannot be flushed, its descriptor is of a pipe; then it could be again."""
    file = PosixBlockFile(tmp_path / "file", create=True)
    good = os.dup(file.fileno())
    reading, writing = os.pipe()
    for descriptor in (writing, good):
        os.dup2(descriptor, file.fileno())
        with pytest.raises(StorageFailedError) as failed:
            file.fdatasync()
        assert failed.value.code == "flush-failed"
    for descriptor in (reading, writing, good):
        os.close(descriptor)
    file.close()
