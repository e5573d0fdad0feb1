"""Runs one script and tells what it took: wall time, CPU time and peak memory of its whole tree."""

import mmap
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.model import Sample

_SAMPLE_INTERVAL_S = 0.02
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class RunFailedError(Exception):
    """A script ended with something but 0, or took too long."""


def run_script(
    script: str,
    environment: Mapping[str, str],
    *,
    timeout_s: float,
    samples_memory: bool = False,
) -> Sample:
    """Run a bash script in a session of its own and wait for all of it.

    A script that writes a number of seconds into the file $SAMPLE has measured itself: that is its
    wall time, start of the interpreter and the like left out. It may add what it measured of CPU
    time, in seconds, and of memory, in bytes, for what it measures may be one process of several.

    Raises:
        RunFailedError: With the end of what it wrote to stderr.
    """
    # Popen.wait(timeout) would poll in steps of 50 ms; wait4 also returns the times of the tree.
    start_s = time.perf_counter()
    with subprocess.Popen(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(log := _open_log(environment)),
        start_new_session=True,
    ) as process:
        timer = threading.Timer(timeout_s, _kill_session, [process.pid])
        timer.daemon = True
        timer.start()
        memory = _MemorySampler(process.pid) if samples_memory else None
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start_s
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    rss_bytes_max = memory.stop() if memory else 0
    with os.fdopen(log, "r+b") as file:
        file.seek(0)
        said = file.read()[-2000:].decode("utf-8", "replace").strip()
    if process.returncode != 0:
        raise RunFailedError(f"exit {process.returncode} after {wall_s:.1f} s: {said}")
    figures = [wall_s, usage.ru_utime + usage.ru_stime, float(rss_bytes_max)]
    if "SAMPLE" in environment and os.path.exists(environment["SAMPLE"]):
        told = [float(word) for word in Path(environment["SAMPLE"]).read_text().split()]
        figures[: len(told)] = told
    return Sample(wall_s=figures[0], cpu_s=figures[1], rss_bytes_max=int(figures[2]))


def warm_memory(size_bytes: int) -> None:
    """Touch as much memory as a run will need, and give it back.

    A virtual machine may hand free memory to its host, and pays for every page it takes again:
    whoever ran after a pause would pay, and not whoever is slow.
    """
    page_bytes = mmap.PAGESIZE
    with mmap.mmap(-1, size_bytes) as memory:
        for offset in range(0, size_bytes, page_bytes):
            memory[offset] = 1


def _open_log(environment: Mapping[str, str]) -> int:
    return os.open(environment["WORK"], os.O_TMPFILE | os.O_RDWR, 0o600)


def _kill_session(session: int) -> None:
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        pass


class _MemorySampler:
    """Sums the resident memory of a session again and again, in a thread, keeping the highest.

    Pages shared after a fork count once for each process: it errs on the high side.
    """

    def __init__(self, session: int) -> None:
        self._session = str(session)
        self._highest_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the highest sum seen."""
        self._stopped.set()
        self._thread.join()
        return self._highest_bytes

    def _run(self) -> None:
        while True:
            self._highest_bytes = max(self._highest_bytes, self._sum_bytes())
            if self._stopped.wait(_SAMPLE_INTERVAL_S):
                return

    def _sum_bytes(self) -> int:
        total = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                # After the name in parentheses: state, parent, group, session, ...
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended meanwhile.
            if fields[3] == self._session:
                total += int(fields[21]) * _PAGE_BYTES
        return total
