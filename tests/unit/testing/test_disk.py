"""Goal: the simulated disk loses what it may lose, keeps what it must, and repeats itself.

Method: its invariants 1 to 5, one by one, over many seeds.
"""

import pytest

from holdfast.errors import CapacityError, StorageFailedError
from holdfast.testing.disk import SECTOR_BYTES, SimDisk, SimFile
from holdfast.testing.faults import PowerCutError


def sectors(file: SimFile) -> list[int]:
    """Return the first byte of each sector."""
    return list(file.now[::SECTOR_BYTES])


def fill(file: SimFile, value: int, count: int = 8) -> None:
    file.pwrite(bytes([value]) * (count * SECTOR_BYTES), 0)


def test_flushed_survives_and_unflushed_survives_in_any_subset() -> None:
    seen = set()
    for seed in range(200):
        disk = SimDisk()
        file = disk.file("a")
        fill(file, 1, 2)
        file.fdatasync()
        fill(file, 2, 2)
        fill(file, 3, 2)
        disk.crash(seed)
        seen.add(tuple(sectors(file)))
        assert all(len(set(file.now[at : at + 512])) == 1 for at in (0, 512)), "a sector is whole"
    assert seen == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}


def test_extremes_keep_all_or_nothing_new() -> None:
    disk = SimDisk()
    file = disk.file("a")
    fill(file, 1)
    disk.crash(0, keep=1.0)
    assert sectors(file) == [1] * 8


def test_failed_flush_is_not_saved_by_a_later_one() -> None:
    lost = False
    for seed in range(20):
        disk = SimDisk()
        file = disk.file("a")
        fill(file, 1)
        disk.faults.flush_fails_at = 1
        with pytest.raises(StorageFailedError):
            file.fdatasync()
        file.fdatasync()
        disk.crash(seed)
        lost |= sectors(file) != [1] * 8
    assert lost


def test_same_seed_gives_the_same_bytes() -> None:
    images = []
    for _ in range(2):
        disk = SimDisk()
        for value in range(1, 20):
            fill(disk.file(f"f{value % 3}"), value)
        disk.crash(77)
        images.append(disk.image())
    assert images[0] == images[1]


def test_nothing_runs_without_power() -> None:
    disk = SimDisk()
    file = disk.file("a")
    disk.faults.power_cut_at = 2
    fill(file, 1)
    for call in (file.fdatasync, file.fdatasync, lambda: fill(file, 2)):
        with pytest.raises(PowerCutError):
            call()
    disk.crash(1)
    fill(file, 2)
    assert sectors(file) == [2] * 8


def test_faults_hit_the_write_they_name() -> None:
    disk = SimDisk()
    file = disk.file("a")
    fill(file, 1)
    disk.faults.write_fails_at, disk.faults.write_lost_at = 2, 3
    with pytest.raises(StorageFailedError):
        fill(file, 2)
    assert sectors(file) == [2] * 4 + [1] * 4
    fill(file, 3)
    assert sectors(file) == [2] * 4 + [1] * 4
    disk.faults.full_from = 1
    fill(file, 4)
    with pytest.raises(CapacityError):
        fill(file, 4, 9)
    disk.faults.full_from = None
    disk.faults.write_misdirected_at = disk.counts["writes"] + 1
    fill(file, 5)
    assert sectors(file) == [4] * 8 + [5] * 8


def test_flip_changes_one_bit_at_rest() -> None:
    disk = SimDisk()
    file = disk.file("a")
    fill(file, 1)
    file.flip(600, 2)
    disk.crash(0, keep=1.0)
    assert [at for at, byte in enumerate(file.now) if byte != 1] == [600]
    assert file.now[600] == 3


def test_unreadable_sector_is_an_error() -> None:
    disk = SimDisk()
    file = disk.file("a")
    fill(file, 1)
    disk.faults.read_fails.add(("a", 3))
    with pytest.raises(StorageFailedError):
        file.pread_into(memoryview(bytearray(4096)), 0)
    file.pread_into(memoryview(bytearray(1536)), 0)
