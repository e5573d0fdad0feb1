"""Goal: one subject has one lock, whatever becomes of its file, and files do not pile up.

Method: real locks in tmp_path; two openings exclude each other within a process as between two.
"""

import os
import threading
from pathlib import Path

from holdfast.tasks.locks import Locks


def test_a_held_subject_cannot_be_had_and_is_free_afterwards(tmp_path: Path) -> None:
    locks = Locks(tmp_path / "locks")
    with locks.try_hold("a") as first, locks.try_hold("a") as second, locks.try_hold("b") as other:
        assert first is not None
        assert second is None
        assert other is not None
    with locks.try_hold("a") as again:
        assert again is not None


def test_a_lock_on_a_file_that_lost_its_name_does_not_count(tmp_path: Path) -> None:
    """Invariant 1 of locks.py."""
    locks = Locks(tmp_path)
    with locks.try_hold("a") as first:
        (path,) = tmp_path.iterdir()
        path.unlink()
        with locks.try_hold("a") as second:
            assert first is not None
            assert second is not None
            assert os.fstat(second).st_ino == path.stat().st_ino


def test_a_lock_lives_as_long_as_any_descriptor_of_its_opening(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with locks.try_hold("a") as lock:
        assert lock is not None
        handed_over = os.dup(lock)
    with locks.try_hold("a") as other:
        assert other is None
    with locks.inherited("a", handed_over) as is_held:
        assert is_held
        assert not os.get_inheritable(handed_over)
    with locks.try_hold("a") as other:
        assert other is not None


def test_a_descriptor_of_another_opening_or_file_holds_nothing(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with locks.try_hold("a") as first, locks.try_hold("b") as other:
        assert first is not None
        assert other is not None
        path = next(p for p in tmp_path.iterdir() if p.stat().st_ino == os.fstat(first).st_ino)
        with locks.inherited("a", os.open(path, os.O_RDWR)) as is_held:
            assert not is_held
        with locks.inherited("a", os.dup(other)) as is_held:
            assert not is_held


def test_two_never_hold_a_subject_while_its_file_is_removed_again_and_again(
    tmp_path: Path,
) -> None:
    """Invariants 1 and 2 of locks.py. Threads: flock excludes them as it does processes."""
    locks, sweeping = Locks(tmp_path), Locks(tmp_path, files_max=1)
    holders: list[int] = []
    most = 0
    stopped = threading.Event()

    def hold(number: int) -> None:
        nonlocal most
        while not stopped.is_set():
            with locks.try_hold("a") as lock:
                if lock is not None:
                    holders.append(number)
                    most = max(most, len(holders))
                    os.stat(tmp_path)
                    holders.remove(number)

    def sweep() -> None:
        while not stopped.is_set():
            with sweeping.try_hold("other"):
                pass

    workers = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    workers.append(threading.Thread(target=sweep))
    for worker in workers:
        worker.start()
    stopped.wait(0.7)
    stopped.set()
    for worker in workers:
        worker.join()
    assert most == 1


def test_files_that_nobody_holds_are_removed_beyond_the_limit(tmp_path: Path) -> None:
    """Invariants 2 and 3 of locks.py."""
    locks = Locks(tmp_path, files_max=8)
    with locks.try_hold("held") as held:
        assert held is not None
        for number in range(50):
            with locks.try_hold(f"subject-{number}") as lock:
                assert lock is not None
            assert len(list(tmp_path.iterdir())) <= 9
        with locks.try_hold("held") as second:
            assert second is None
