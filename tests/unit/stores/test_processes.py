"""Workers in forked processes, and here.

Goal: every item gives one result; an error of an item reaches the caller as it is; a worker that is
killed ends the run with an error and without waiting; stopping early stops the workers; no worker
outlives its parent. Method: real processes, which tell of themselves in files.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from holdfast.errors import CancelledError, CapacityError, UnavailableError
from holdfast.stores.pace import SharedPace
from holdfast.stores.processes import InlineWorkers, ProcessWorkers, run_beside
from holdfast.stores.system import SystemClock

PATIENCE_S = 20.0


def ignore() -> None:
    pass


def make_pace() -> SharedPace:
    return SharedPace(SystemClock(), None)


def square(number: int) -> int:
    return number * number


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_item_gives_one_result_in_any_order(jobs: int) -> None:
    workers = ProcessWorkers(square, make_pace(), jobs=jobs)
    assert sorted(workers.run(range(100), ignore)) == [n * n for n in range(100)]


def test_inline_workers_do_the_same() -> None:
    idles: list[int] = []
    results = InlineWorkers(square).run(range(5), lambda: idles.append(1))
    assert list(results) == [0, 1, 4, 9, 16]
    assert len(idles) == 5


def test_no_items() -> None:
    assert list(ProcessWorkers(square, make_pace(), jobs=2).run([], ignore)) == []


def test_items_are_drawn_only_as_workers_are_free() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield number

    results = ProcessWorkers(square, make_pace(), jobs=2).run(items(), ignore)
    next(results)
    assert drawn <= 2 * 2 + 2
    assert len(list(results)) == 999


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise CapacityError("no room", code="disk-full", advice="make some", path=b"x")
    return number


def test_error_of_an_item_reaches_the_caller_whole() -> None:
    workers = ProcessWorkers(fail_at_seven, make_pace(), jobs=2)
    with pytest.raises(CapacityError) as caught:
        list(workers.run(range(50), ignore))
    assert (caught.value.code, caught.value.context) == ("disk-full", {"path": b"x"})


def kill_itself(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_killed_worker_ends_the_run_with_an_error() -> None:
    """As the out-of-memory killer does; the test's own time limit would show a hang."""
    pace = make_pace()
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        list(ProcessWorkers(kill_itself, pace, jobs=2).run(range(50), ignore))
    assert caught.value.code == "worker-died"
    assert time.monotonic() - began < PATIENCE_S
    with pytest.raises(CancelledError):
        pace.take(0)  # The others were told to stop.


def test_worker_killed_from_outside_while_it_works(tmp_path: Path) -> None:
    def work(number: int) -> int:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)
        return number

    def kill_one() -> None:
        for path in tmp_path.iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)

    with pytest.raises(UnavailableError):
        list(ProcessWorkers(work, make_pace(), jobs=2).run(range(10), kill_one))


@pytest.mark.slow
def test_workers_that_come_to_no_block_are_killed(tmp_path: Path) -> None:
    """As one that waits for a source which is away: whoever cancelled does not wait with it."""

    def work(number: int) -> int:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(600 * number)
        return number

    results = ProcessWorkers(work, make_pace(), jobs=2).run(range(10), ignore)
    assert next(results) == 0
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]

    assert time.monotonic() - began < PATIENCE_S
    assert not any(is_alive(int(path.name)) for path in tmp_path.iterdir())


def test_stopping_early_stops_the_workers(tmp_path: Path) -> None:
    """The consumer goes away; workers hear it at their next block and end."""
    pace = make_pace()

    def work(number: int) -> int:
        (tmp_path / str(os.getpid())).touch()
        while number:
            pace.take(0)
            time.sleep(0.001)
        return number

    results = ProcessWorkers(work, pace, jobs=2).run(range(10), ignore)
    assert next(results) == 0
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    results.close()  # type: ignore[attr-defined]
    assert not any(is_alive(int(path.name)) for path in tmp_path.iterdir())


PARENT = """
import sys, time
from pathlib import Path
from holdfast.stores.pace import SharedPace
from holdfast.stores.processes import ProcessWorkers
from holdfast.stores.system import SystemClock
import os

def work(number):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

workers = ProcessWorkers(work, SharedPace(SystemClock(), None), jobs=3)
list(workers.run(range(10), lambda: None))
"""


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    """kill -9: within two seconds all are gone, without anybody to tell them."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, os.fspath(tmp_path)])
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3)
    finally:
        parent.kill()
        parent.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 2
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(is_alive(pid) for pid in workers)


def test_pages_from_beside_come_in_order_and_whole() -> None:
    pages = [b"%d" % number * 3000 for number in range(100)] + [b""]
    assert list(run_beside(iter(pages))) == pages


def test_what_goes_wrong_beside_is_raised_here_after_what_came_before() -> None:
    def pages() -> Iterator[bytes]:
        yield b"first"
        raise CapacityError("no room", code="disk-full", path=b"x")

    coming = run_beside(pages())
    assert next(coming) == b"first"
    with pytest.raises(CapacityError, match="no room"):
        next(coming)


def test_process_beside_that_is_killed_is_told() -> None:
    def pages() -> Iterator[bytes]:
        yield b"%d" % os.getpid()
        os.kill(os.getpid(), signal.SIGKILL)

    coming = run_beside(pages())
    assert int(next(coming)) != os.getpid()
    with pytest.raises(UnavailableError, match="killed"):
        next(coming)


def test_process_beside_ends_with_the_iteration() -> None:
    def pages() -> Iterator[bytes]:
        while True:
            yield b"%d" % os.getpid()

    coming = run_beside(pages())
    pid = int(next(coming))
    assert isinstance(coming, Generator)
    coming.close()
    assert not is_alive(pid)
