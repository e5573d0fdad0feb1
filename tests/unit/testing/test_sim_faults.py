"""Faults of the simulated tree happen when planned, once each, and are counted.

Goal: tests of the product can put a fault at every point of a run and know where they are. Method:
short programs on SimDirectory with a plan.
"""

from collections.abc import Callable

import pytest

from holdfast.errors import CapacityError, DeniedError, StorageFailedError
from holdfast.model.limits import BLOCK_BYTES
from holdfast.model.tree import ROOT_PATH, FileKind, Metadata, MetadataLoss
from holdfast.testing.clock import SimClock
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import PowerCutError, SimFaults
from holdfast.testing.trees import put_file, read_file, tree_of

METADATA = Metadata(mode=0o4755, mtime_ns=5, uid=7, gid=7, xattrs={b"user.a": b"b"})


def run_program(tree: SimDirectory) -> None:
    """Replace `f` the right way, in six operations."""
    file = tree.create_file(b"new", resume=False)
    file.write_at(b"content", 0)
    file.set_metadata(METADATA)
    file.flush()
    file.close()
    tree.rename(b"new", b"f")
    tree.flush_directory(ROOT_PATH)


def test_power_is_cut_before_every_operation_in_turn() -> None:
    """Iterating n until the run finishes visits each operation once; the last n cuts nothing."""
    cuts = 0
    for number in range(1, 100):
        tree = SimDirectory(faults=SimFaults(power_cut_at=number))
        try:
            run_program(tree)
        except PowerCutError:
            cuts += 1
            assert tree.gate.operations_count == number
            assert tree_of(tree.power_cut(None)) == {}
            continue
        assert tree.gate.operations_count == number - 1
        assert read_file(tree.power_cut(None), b"f") == b"content"
        break
    assert cuts == 6


def test_nothing_answers_without_power() -> None:
    tree = SimDirectory()
    put_file(tree, b"f", b"x")
    file = tree.open_file(b"f")
    tree.gate.faults.power_cut_at = tree.gate.operations_count + 1
    calls: list[Callable[[], object]] = [
        lambda: tree.make_directory(b"d"),
        lambda: tree.stat(b"f"),
        lambda: tree.list_names(ROOT_PATH),
        lambda: file.read_into(memoryview(bytearray(1)), 0),
        lambda: tree.flush_all(),
        lambda: tree.space(),
    ]

    for call in calls:
        with pytest.raises(PowerCutError):
            call()
    file.close()
    tree.close()
    assert not issubclass(PowerCutError, Exception), "or a careless except goes on without power"


def test_disk_full_from_the_nth_write_on() -> None:
    """Half of it is written, which the program must not take for the whole; room may come back."""
    tree = SimDirectory(faults=SimFaults(disk_full_from=2))
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"first", 0)

    for _ in range(2):
        with pytest.raises(CapacityError) as raised:
            file.write_at(b"second", 5)
        assert raised.value.code == "disk-full"
    assert read_file(tree, b"f") == b"firstsec"
    tree.gate.faults.disk_full_from = None
    file.write_at(b"second", 5)
    assert read_file(tree, b"f") == b"firstsecond"


def test_unreadable_block_fails_and_its_neighbours_do_not() -> None:
    tree = SimDirectory()
    put_file(tree, b"f", b"x" * 3 * BLOCK_BYTES)
    tree.gate.faults.unreadable.add((b"f", 1))
    file = tree.open_file(b"f")
    buffer = memoryview(bytearray(BLOCK_BYTES))

    assert file.read_into(buffer, 0) == BLOCK_BYTES
    assert file.read_into(buffer, 2 * BLOCK_BYTES) == BLOCK_BYTES
    for offset in (1, BLOCK_BYTES, 2 * BLOCK_BYTES - 1):
        with pytest.raises(StorageFailedError) as raised:
            file.read_into(buffer, offset)
        assert raised.value.code == "read-failed"


def test_content_of_a_failed_flush_is_lost_though_the_next_flush_succeeds() -> None:
    """As on Linux: the pages look clean afterwards, and read well until power is lost."""
    tree = SimDirectory()
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"durable", 0)
    tree.flush_all()
    file.write_at(b"in doubt", 0)
    tree.gate.faults.flush_fails_at = tree.gate.flushes_count + 1

    with pytest.raises(StorageFailedError) as raised:
        file.flush()
    assert raised.value.code == "flush-failed"
    file.flush()

    assert read_file(tree, b"f") == b"in doubt"
    assert read_file(tree.power_cut(None), b"f")[:7] == b"durable"
    starts = {read_file(tree.power_cut(seed), b"f")[:7] for seed in range(50)}
    assert starts == {b"durable", b"in doub"}
    file.write_at(b"new data", 0)
    file.flush()
    for after in (tree.power_cut(None), tree.power_cut_names_first(zeros=True)):
        assert read_file(after, b"f") == b"new data"


def test_failed_flush_all_puts_every_file_in_doubt() -> None:
    tree = SimDirectory(faults=SimFaults(flush_fails_at=1))
    put_file(tree, b"f", b"x" * 10)
    put_file(tree, b"g", b"y" * 10)

    with pytest.raises(StorageFailedError):
        tree.flush_all()
    tree.flush_all()

    after = tree.power_cut(None)
    assert {path: read_file(after, path) for path in (b"f", b"g")} == {
        b"f": bytes(10),
        b"g": bytes(10),
    }


def test_failed_flush_of_a_directory_saves_no_name() -> None:
    tree = SimDirectory(faults=SimFaults(flush_fails_at=1))
    put_file(tree, b"f", b"x")

    with pytest.raises(StorageFailedError):
        tree.flush_directory(ROOT_PATH)

    assert tree_of(tree.power_cut(None)) == {}


def test_hooks_see_every_call_and_act_as_a_stranger() -> None:
    """What a hook does is neither counted nor hooked again, and faults do not hit it."""
    seen: list[tuple[int, str, bytes]] = []

    def meddle(number: int, name: str, path: bytes) -> None:
        seen.append((number, name, path))
        put_file(tree, b"stranger-%d" % number, b"was here")

    tree = SimDirectory(faults=SimFaults(on_operation=meddle, disk_full_from=1))
    tree.make_directory(b"d")
    tree.flush_all()

    assert seen == [(1, "make_directory", b"d"), (2, "flush_all", ROOT_PATH)]
    assert tree.gate.operations_count == 2
    assert not tree.gate.written_bytes
    assert read_file(tree, b"stranger-2") == b"was here"


def test_look_hook_changes_a_file_while_it_is_read() -> None:
    """A concurrent writer at the source: it strikes between two reads of one file."""
    tree = SimDirectory()
    put_file(tree, b"f", b"aa")
    file = tree.open_file(b"f")
    before = file.stat()
    buffer = bytearray(2)
    file.read_into(memoryview(buffer)[:1], 0)

    def strike(number: int, name: str, path: bytes) -> None:
        put_file(tree, path, b"bb")

    tree.gate.faults.on_look = strike
    file.read_into(memoryview(buffer)[1:], 1)
    tree.gate.faults.on_look = None

    assert buffer == b"ab"
    assert file.stat().ctime_ns > before.ctime_ns
    assert file.stat().mtime_ns > before.mtime_ns


def test_written_bytes_are_counted_by_path() -> None:
    tree = SimDirectory()
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"12345", 0)
    file.write_at(b"12345", 0)
    file.truncate(1 << 40)
    put_file(tree, b"g", b"123")

    assert tree.gate.written_bytes == {b"f": 10, b"g": 3}
    assert tree.gate.writes_count == 3


def test_forbidden_paths_can_be_seen_and_nothing_else() -> None:
    tree = SimDirectory()
    put_file(tree, b"f", b"x")
    tree.gate.faults.forbidden.add(b"f")

    assert tree.stat(b"f").size_bytes == 1
    for call in (tree.open_file, tree.remove_file):
        with pytest.raises(DeniedError):
            call(b"f")


def test_metadata_that_cannot_be_kept_is_reported() -> None:
    """Nobody's set-id bits come to stand on a file of somebody else."""
    tree = SimDirectory(faults=SimFaults(cannot_keep=frozenset(MetadataLoss)))
    put_file(tree, b"f", b"")

    losses = tree.set_metadata(b"f", FileKind.FILE, METADATA)

    assert sorted(losses) == sorted(MetadataLoss)
    stat = tree.stat(b"f")
    assert (stat.mode, stat.mtime_ns) == (0o755, METADATA.mtime_ns)
    assert stat.uid != METADATA.uid
    assert tree.xattrs(b"f") == {}


def test_a_tebibyte_of_hole_costs_nothing() -> None:
    """Pages are made by writing only; cutting and punching cost by pages that are there."""
    tree = SimDirectory()
    file = tree.create_file(b"f", resume=False)
    file.truncate(1 << 40)
    file.write_at(b"end", (1 << 40) - 3)
    file.punch(1 << 20, 1 << 39)
    file.flush()

    assert tree.stat(b"f").size_bytes == 1 << 40
    assert tree.stat(b"f").allocated_bytes == 4096
    assert list(file.data_extents(1 << 40)) == [((1 << 40) - 4096, 1 << 40)]
    file.truncate(0)
    assert tree.stat(b"f").allocated_bytes == 0
    file.write_at(b"not a whole page", 0)
    file.truncate(0)
    assert tree.stat(b"f").allocated_bytes == 0


def test_open_files_are_counted() -> None:
    tree = SimDirectory()
    file = tree.create_file(b"f", resume=False)
    reader = tree.open_file(b"f")
    assert tree.open_files_count == 2

    file.close()
    file.close()
    assert tree.open_files_count == 1
    reader.close()
    assert tree.open_files_count == 0
    with pytest.raises(AssertionError):
        reader.stat()


def test_time_comes_from_the_clock_and_always_moves() -> None:
    """Invariant 2 of the module: ctime grows with every change, though the clock stands still."""
    clock = SimClock()
    tree = SimDirectory(clock=clock)
    clock.sleep(60)
    file = tree.create_file(b"f", resume=False)
    ctimes = [file.stat().ctime_ns]
    for _ in range(3):
        file.write_at(b"x", 0)
        ctimes.append(file.stat().ctime_ns)
    file.set_metadata(METADATA)
    ctimes.append(file.stat().ctime_ns)
    tree.rename(b"f", b"g")
    ctimes.append(file.stat().ctime_ns)

    assert ctimes == sorted(set(ctimes))
    assert 0 <= ctimes[0] - clock.now_ns() < 1_000_000


def test_inode_numbers_are_never_used_twice() -> None:
    tree = SimDirectory()
    seen = set()
    for _ in range(5):
        put_file(tree, b"f", b"")
        seen.add(tree.stat(b"f").inode)
        tree.remove_file(b"f")

    assert len(seen) == 5
