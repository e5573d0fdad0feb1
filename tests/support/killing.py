"""A copy that is killed again and again, and what must hold at every such moment.

The source changes whenever a copy got through, so that there is always something to lose: each
file under a final name must then be whole, as it is in the source or as the last copy left it.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.cli.exits import Exit
from tests.support.command import Completed, Holdfast
from tests.support.trees import digest_file, list_paths, pattern, read_tree, write

MIB = 1 << 20
SMALL_FILES = 320
SMALL_BYTES_MAX = 20_000
LARGE_BYTES = (20 * MIB + 1, 30 * MIB, 60 * MIB + 4097)
JOBS = 2
OPTIONS = ("--jobs", str(JOBS), "--bwlimit", "120M", "--delete")

WINDOW_BYTES = MIB + 2 * 128 * SMALL_BYTES_MAX // 2
"""What one worker may lose: the block in hand, or a batch of small files not yet named, which is up
to twice the least, for it ends with a directory."""
BOOKS_BYTES = MIB // 2
"""What one run writes beside the data: ledger, journal, pipes to the workers, proof."""


@dataclass(slots=True, kw_only=True)
class KilledCopy:
    """One pair of trees, and the copy of it that is killed."""

    holdfast: Holdfast
    source: Path
    target: Path
    seed: int
    group: bool
    """Kill the workers too; else only the process that was started."""
    kills: int = 0
    kills_at_work: int = 0
    """Those after the first and before the last change to the target."""
    generation: int = 0
    written_bytes: int = 0
    due_bytes: int = 0
    _startup_s: float = 0.0
    _chance: random.Random = field(default_factory=random.Random)
    _allowed: dict[bytes, set[bytes]] = field(default_factory=dict)
    _seen: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._new_generation()
        began = time.monotonic()
        started = self.holdfast.start("--version")
        started.communicate()
        assert started.returncode == 0
        self._startup_s = time.monotonic() - began

    def kill(self, times: int) -> None:
        """Kill copies until that many died in the middle of their work."""
        while self.kills < times:
            longest_s = 0.2 + 1.2 * self._chance.random() ** 2
            if self._run_for(self._startup_s + self._chance.uniform(0, longest_s)):
                self.check_equal()
                self._new_generation()
            else:
                self.kills += 1
                self.check_whole()
                if (self.target / ".holdfast").exists():
                    self.kills_at_work += 1
                elif self._has_all():
                    self._new_generation()

    def finish(self) -> Completed:
        """Let the copy come to its end."""
        while True:
            done = self.holdfast.copy(self.source, self.target, *OPTIONS)
            if done.exit != Exit.CONFLICT:
                break
        assert (done.exit, done.json["verdict"]) == (0, "proven"), done
        self.written_bytes += done.json["copy"]["writtenBytes"]
        self.check_equal()
        return done

    def check_whole(self) -> None:
        """Nothing under a final name is anything but a whole file, old or new."""
        for path in list_paths(self.target) if self.target.exists() else []:
            whole = os.path.join(os.fsencode(self.target), path)
            if not os.path.isfile(whole):
                continue
            found = os.stat(whole)
            key = (found.st_ino, found.st_size, found.st_ctime_ns)
            if self._seen.get(path) != key:
                assert digest_file(whole) in self._allowed[path], (self.seed, self.kills, path)
                self._seen[path] = key

    def check_equal(self) -> None:
        """Trees are equal and nothing is left beside them."""
        assert read_tree(self.target) == read_tree(self.source), self.seed
        assert not (self.target / ".holdfast").exists(), self.seed

    def check_written(self) -> None:
        """No block was written twice but those in flight when a run was killed."""
        lost = self.kills * (JOBS * WINDOW_BYTES + BOOKS_BYTES)
        figures = (self.seed, self.due_bytes, self.written_bytes, lost)
        assert self.written_bytes <= self.due_bytes + lost, figures
        if self.group:
            # Else workers may write a little more, unseen, before they die after their coordinator.
            # A call under way is counted as it ends, which may be after the look at the count.
            unseen = self.kills * JOBS * MIB
            assert self.due_bytes <= self.written_bytes + unseen, figures

    def _has_all(self) -> bool:
        """Say whether a copy that was killed had already copied everything."""
        if not self.target.exists():
            return False
        wanted, found = read_tree(self.source), read_tree(self.target)
        return {path: entry.content for path, entry in wanted.items()} == {
            path: entry.content for path, entry in found.items()
        }

    def _new_generation(self) -> None:
        """Change every third small file, and all large ones; what stood before may stay."""
        for path in list_paths(self.source) if self.generation else []:
            whole = os.path.join(os.fsencode(self.source), path)
            if os.path.isfile(whole):
                self._allowed[path] = {digest_file(whole)}
        for number in range(SMALL_FILES):
            if self.generation == 0 or number % 3 == self.generation % 3:
                size_bytes = self._chance.randrange(SMALL_BYTES_MAX)
                self._write(f"d{number % 7}/s{number}", size_bytes)
        for number, size_bytes in enumerate(LARGE_BYTES):
            self._write(f"large{number}", size_bytes + self.generation)
        self.generation += 1

    def _write(self, name: str, size_bytes: int) -> None:
        content = pattern(4096, self._chance.getrandbits(60)) * (size_bytes // 4096 + 1)
        path = write(self.source / name, content[:size_bytes])
        self._allowed.setdefault(os.fsencode(name), set()).add(digest_file(path))
        self.due_bytes += size_bytes

    def _run_for(self, delay_s: float) -> bool:
        """Run the copy and kill it after a while; return whether it came to its end before."""
        process = self.holdfast.start("copy", self.source, self.target, "--json", *OPTIONS)
        written = 0
        end = time.monotonic() + delay_s
        while process.poll() is None and time.monotonic() < end:
            time.sleep(min(0.02, max(0.0, end - time.monotonic())))
            written = max(written, _written(process.pid))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGSTOP)
            written = max(written, _written(process.pid))
            self._kill(process)
        stdout, stderr = process.communicate()
        if process.returncode == Exit.CONFLICT:
            return self._run_for(delay_s)  # A worker of the run before still lived.
        if process.returncode < 0:
            self.written_bytes += written
            return False
        done = Completed(process.returncode, stdout.decode(), stderr.decode())
        assert done.exit == 0, (self.seed, done)
        self.written_bytes += done.json["copy"]["writtenBytes"]
        return True

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        if self.group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
            try:
                os.killpg(process.pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


def _written(group: int) -> int:
    """Return what a process and all below it have written, by the kernel's count.

    What a child wrote is added to its parent's count once it has been waited for.
    """
    written = 0
    for pid in _members(group):
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except OSError:
            continue
        written += int(lines[1].removeprefix("wchar: "))
    return written


def _members(group: int) -> Iterator[int]:
    pending = [group]
    while pending:
        pid = pending.pop()
        yield pid
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
            for task in tasks:
                children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                pending += map(int, children.split())
        except OSError:
            continue
