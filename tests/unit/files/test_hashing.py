"""What is read of an entry: digests with and without holes, changes, errors, damaged blocks."""

import pytest

from holdfast.errors import CancelledError
from holdfast.files.hashing import (
    Hasher,
    HashItem,
    Reading,
    Side,
    describe_damage,
    find_damage,
)
from holdfast.files.model import CacheUse
from holdfast.model.limits import BLOCK_BYTES
from holdfast.model.tree import signature_of
from holdfast.proof.digests import Algorithm, digest_of
from holdfast.testing.clock import SimClock
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.pace import SimPace
from holdfast.testing.trees import put_file, read_file


class Bench:
    """A tree, and a hasher that reads it as the target."""

    def __init__(self, pace: SimPace | None = None) -> None:
        self.clock = SimClock()
        self.pace = pace or SimPace()
        self.faults = SimFaults()
        self.tree = SimDirectory(clock=self.clock, faults=self.faults)
        self.hasher = Hasher(
            source=None,
            target=self.tree,
            algorithm=Algorithm.BLAKE3,
            cache=CacheUse.DROP,
            pace=self.pace,
            clock=self.clock,
        )

    def read(self, path: bytes) -> Reading:
        [result] = self.hasher.read((HashItem(1, path, Side.TARGET, 0),))
        assert result.source is None
        assert result.target is not None
        return result.target


@pytest.mark.parametrize(
    "size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES]
)
def test_digest_is_that_of_the_content(size_bytes: int) -> None:
    bench = Bench()
    put_file(bench.tree, b"f", b"x" * size_bytes)
    bench.clock.sleep(60)
    found = bench.read(b"f")
    assert found.digest == digest_of(Algorithm.BLAKE3, b"x" * size_bytes)
    assert found.signature == signature_of(bench.tree.stat(b"f"))
    assert bench.pace.moved_bytes() == size_bytes
    assert bench.tree.open_files_count == 0


@pytest.mark.parametrize("data", [[], [0], [2], [0, 3], [1, 4]])
def test_digest_of_a_sparse_file_is_that_of_its_zeros(data: list[int]) -> None:
    bench = Bench()
    size_bytes = 4 * BLOCK_BYTES + 5000
    file = bench.tree.create_file(b"f", resume=False)
    file.truncate(size_bytes)
    for block in data:
        file.write_at(b"data", block * BLOCK_BYTES + 100)
    file.close()
    expected = digest_of(Algorithm.BLAKE3, read_file(bench.tree, b"f"))
    assert bench.read(b"f").digest == expected
    assert bench.pace.moved_bytes() == size_bytes


def test_young_signature_is_not_returned() -> None:
    """Invariant 5 of rules.py."""
    bench = Bench()
    put_file(bench.tree, b"f", b"x")
    assert bench.read(b"f").signature is None


def test_change_under_the_reading_is_told_after_some_attempts() -> None:
    bench = Bench()
    put_file(bench.tree, b"f", b"x")
    attempts = []

    def write(number: int, name: str, path: bytes) -> None:
        if name == "read_into":
            attempts.append(path)
            put_file(bench.tree, b"f", b"y%d" % number)

    bench.tree.gate.faults = SimFaults(on_look=write)
    found = bench.read(b"f")
    assert (found.changed, found.digest) == (True, None)
    assert len(attempts) == 3


def test_change_during_the_first_attempt_only_is_read_again() -> None:
    bench = Bench()
    put_file(bench.tree, b"f", b"x")

    def write(number: int, name: str, path: bytes) -> None:
        if name == "read_into":
            bench.tree.gate.faults = SimFaults()
            put_file(bench.tree, b"f", b"new")

    bench.tree.gate.faults = SimFaults(on_look=write)
    assert bench.read(b"f").digest == digest_of(Algorithm.BLAKE3, b"new")


def test_missing_and_replaced_entries_are_changes_and_a_bad_block_is_an_error() -> None:
    bench = Bench()
    put_file(bench.tree, b"bad", b"x")
    bench.tree.make_directory(b"d")
    bench.tree.gate.faults.unreadable.add((b"bad", 0))
    assert bench.read(b"none").changed
    assert bench.read(b"d").changed
    found = bench.read(b"bad")
    assert (found.changed, found.error_kind) == (False, "storage-failed")


def test_stop_is_heard_inside_a_file() -> None:
    bench = Bench(SimPace(stop_at=3))
    put_file(bench.tree, b"f", b"x" * 4 * BLOCK_BYTES)
    with pytest.raises(CancelledError):
        bench.read(b"f")
    assert bench.tree.open_files_count == 0


def damage(left: bytes, right: bytes) -> list[tuple[int, int]]:
    tree = SimDirectory()
    put_file(tree, b"l", left)
    put_file(tree, b"r", right)
    return find_damage(tree.open_file(b"l"), tree.open_file(b"r"), len(left), SimPace())


def altered(content: bytes, *places: int) -> bytes:
    changed = bytearray(content)
    for place in places:
        changed[place] ^= 1
    return bytes(changed)


def test_damage_is_found_by_block_and_neighbours_are_joined() -> None:
    content = b"x" * (4 * BLOCK_BYTES + 10)
    assert damage(content, content) == []
    assert damage(content, altered(content, 0)) == [(0, BLOCK_BYTES)]
    joined = altered(content, BLOCK_BYTES, 2 * BLOCK_BYTES + 5)
    assert damage(content, joined) == [(BLOCK_BYTES, 3 * BLOCK_BYTES)]
    last = altered(content, 5, len(content) - 1)
    assert damage(content, last) == [(0, BLOCK_BYTES), (4 * BLOCK_BYTES, len(content))]


def test_damage_in_words() -> None:
    assert describe_damage([(0, 10)]) == "1 block differs: bytes 0-10"
    runs = [(n * 4 * BLOCK_BYTES, n * 4 * BLOCK_BYTES + 2 * BLOCK_BYTES) for n in range(9)]
    said = describe_damage(runs)
    assert said.startswith("18 blocks differ: bytes 0-2097152, 4194304-6291456")
    assert said.endswith(", ...")


def test_small_files_are_asked_of_the_medium_before_one_is_read() -> None:
    """One after the other, each would wait for it; every file is asked for once all the same."""
    bench = Bench()
    names = [b"f%03d" % number for number in range(100)]
    for name in names:
        put_file(bench.tree, name, name * 10)
    put_file(bench.tree, b"large", b"x" * (BLOCK_BYTES + 1))
    looks: list[tuple[str, bytes]] = []
    bench.faults.on_look = lambda _number, call, path: looks.append((call, path))
    batch = [*names, b"gone", b"large"]

    results = bench.hasher.read(
        tuple(
            HashItem(at, name, Side.TARGET, BLOCK_BYTES + 1 if name == b"large" else 10)
            for at, name in enumerate(batch)
        )
    )

    found = [result.target.digest if result.target else None for result in results]
    wanted = [digest_of(Algorithm.BLAKE3, name * 10) for name in names]
    assert found == [*wanted, None, digest_of(Algorithm.BLAKE3, b"x" * (BLOCK_BYTES + 1))]
    dropped = [path for call, path in looks if call == "drop_cache"]
    assert dropped == [*names, b"large"]
    first_read = next(at for at, (call, _) in enumerate(looks) if call == "read_into")
    assert sum(call == "drop_cache" for call, _ in looks[:first_read]) == 64
    assert bench.tree.open_files_count == 0
