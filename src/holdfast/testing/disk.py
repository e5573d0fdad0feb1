"""A simulated disk: files with a volatile cache that loses, tears and rots what it is told to.

1. What a flush that succeeded covered is there after a crash, whole and unchanged.
2. Of what was written since, a crash keeps any subset, sector (512 bytes) by sector: a sector has
   any of the contents it had since its last flush.
3. After a flush that failed, what it should have kept is in doubt for ever: a later flush that
   succeeds does not keep it.
4. The same calls, faults and seeds give the same bytes.
5. After the power is cut every call raises PowerCutError until `crash`.
6. Each call is one step, whichever threads make them.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from holdfast.errors import StorageFailedError
from holdfast.ports import Buffer
from holdfast.testing.faults import PowerCutError, disk_full, flush_failed

SECTOR_BYTES: Final = 512


@dataclass(slots=True, kw_only=True)
class DiskFaults:
    """A fault plan; the test may change it between calls. Numbers count from 1 over all files."""

    power_cut_at: int | None = None
    """At this write or flush the power fails; of a write, any sectors may survive."""
    full_from: int | None = None
    """From this write on, one that makes a file larger raises CapacityError."""
    write_fails_at: int | None = None
    """This write stores the first half of its sectors and raises StorageFailedError."""
    flush_fails_at: int | None = None
    read_fails: set[tuple[str, int]] = field(default_factory=set)
    """(file, number of sector) that cannot be read."""
    write_lost_at: int | None = None
    """This write is acknowledged and never stored."""
    write_misdirected_at: int | None = None
    """This write goes eight sectors further."""


class SimFile:
    """One file of a SimDisk; a BlockFile."""

    def __init__(self, disk: "SimDisk", name: str) -> None:
        self._disk = disk
        self.name = name
        self.now = bytearray()
        self.flushed = bytearray()
        self.versions: dict[int, list[bytes]] = {}
        """For each sector written since its flush, every content it has had, the oldest first."""
        self.doubtful: set[int] = set()

    def pread_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """See BlockFile.pread_into."""
        with self._disk.lock:
            self._disk.look(self.name, offset_bytes, offset_bytes + len(buffer))
            found = self.now[offset_bytes : offset_bytes + len(buffer)]
            buffer[: len(found)] = found
            buffer[len(found) :] = bytes(len(buffer) - len(found))

    def pwrite(self, data: Buffer, offset_bytes: int) -> None:
        """See BlockFile.pwrite."""
        with self._disk.lock:
            content = bytes(data)
            offset_bytes, kept = self._disk.write(self, offset_bytes, len(content))
            self.store(content[:kept], offset_bytes)
            self._disk.after_write(self, kept, len(content))

    def pwritev(self, parts: Sequence[Buffer], offset_bytes: int) -> None:
        """See BlockFile.pwritev."""
        self.pwrite(b"".join(bytes(part) for part in parts), offset_bytes)

    def store(self, content: bytes, offset_bytes: int) -> None:
        """Put bytes into the cache."""
        end = offset_bytes + len(content)
        self._grow(end)
        for sector in range(offset_bytes // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            if sector not in self.versions:
                self.versions[sector] = [_sector(self.flushed, sector)]
        self.now[offset_bytes:end] = content
        for sector in range(offset_bytes // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            self.versions[sector].append(_sector(self.now, sector))

    def fdatasync(self) -> None:
        """See BlockFile.fdatasync."""
        with self._disk.lock:
            if not self._disk.flush_succeeds():
                self.doubtful.update(self.versions)
                raise flush_failed(self.name.encode())
            for sector in [sector for sector in self.versions if sector not in self.doubtful]:
                self._settle(sector, self.versions.pop(sector)[-1])

    def punch(self, start: int, end: int) -> None:
        """See BlockFile.punch."""
        end = min(end, len(self.now))
        if end > start:
            self.pwrite(bytes(end - start), start)

    def allocate(self, start: int, end: int) -> None:
        """See BlockFile.allocate."""
        with self._disk.lock:
            _, kept = self._disk.write(self, start, end - start)
            self._disk.after_write(self, kept, end - start)

    def truncate(self, size_bytes: int) -> None:
        """See BlockFile.truncate. Growing only, and at once durable: what is new is zeros."""
        with self._disk.lock:
            assert size_bytes >= len(self.now)
            self._disk.write(self, size_bytes, 0)
            self._grow(size_bytes)

    def size_bytes(self) -> int:
        """See BlockFile.size_bytes."""
        return len(self.now)

    def close(self) -> None:
        """See BlockFile.close."""

    def crash(self, random: Random, keep: float) -> None:
        """Choose what survives; `keep` is the chance of a sector's newest content."""
        for sector in sorted(self.versions):
            versions = self.versions[sector]
            newest = random.random() < keep
            self._settle(sector, versions[-1] if newest else random.choice(versions))
        self.versions.clear()
        self.doubtful.clear()
        self.now = bytearray(self.flushed)

    def flip(self, offset_bytes: int, mask: int) -> None:
        """Change bits at rest; what is in the cache of this byte goes too."""
        with self._disk.lock:
            self.now[offset_bytes] ^= mask
            sector = offset_bytes // SECTOR_BYTES
            self.versions.pop(sector, None)
            self._settle(sector, _sector(self.now, sector))

    def _grow(self, size_bytes: int) -> None:
        for content in (self.now, self.flushed):
            if len(content) < size_bytes:
                content.extend(bytes(size_bytes - len(content)))

    def _settle(self, sector: int, content: bytes) -> None:
        at = sector * SECTOR_BYTES
        room = len(self.flushed) - at
        self.flushed[at : at + SECTOR_BYTES] = content[:room]


class SimDisk:
    """Files by name, one counter of operations and one plan of faults for all of them."""

    def __init__(self, faults: DiskFaults | None = None) -> None:
        self.faults = faults or DiskFaults()
        self.files: dict[str, SimFile] = {}
        self.lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        """`operations`, `writes`, `flushes`, `reads`, and writes of each file."""
        self.faulty_file = ""
        """That of the write which was lost or went astray."""
        self.is_off = False
        self.between: Callable[[], None] | None = None
        """Called before each write and flush, where another thread may run; not within itself."""

    def file(self, name: str) -> SimFile:
        """Return the file of this name, made empty if it was not there."""
        return self.files.setdefault(name, SimFile(self, name))

    def crash(self, seed: int, keep: float = 0.5) -> None:
        """Lose the power and get it back; faults to come are forgotten."""
        random = Random(seed)
        for name in sorted(self.files):
            self.files[name].crash(random, keep)
        self.faults = DiskFaults()
        self.is_off = False
        self.between = None

    def kill(self) -> None:
        """End the process but not the machine: everything written stays, flushed or not."""
        self.faults = DiskFaults()
        self.is_off = False
        self.between = None

    def write_back(self) -> None:
        """Store all that is cached, as an idle kernel does."""
        for file in self.files.values():
            file.crash(Random(0), 1.0)

    def image(self) -> dict[str, bytes]:
        """Return what is read from each file now."""
        return {name: bytes(file.now) for name, file in self.files.items()}

    def look(self, name: str, start: int, end: int) -> None:
        """Let a read through, or not."""
        self._check_power()
        self.counts["reads"] += 1
        if not self.faults.read_fails:
            return
        for sector in range(start // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            if (name, sector) in self.faults.read_fails:
                raise StorageFailedError(f"{name} cannot be read", code="read-failed")

    def write(self, file: SimFile, offset_bytes: int, size_bytes: int) -> tuple[int, int]:
        """Let a write through; return where it goes and how much of it is stored."""
        self._check_power()
        self._operate()
        faults = self.faults
        self.counts["writes"] += 1
        self.counts[file.name] += 1
        number = self.counts["writes"]
        grows = offset_bytes + size_bytes > file.size_bytes()
        if faults.full_from is not None and number >= faults.full_from and grows:
            raise disk_full(file.name.encode())
        if number == faults.write_fails_at:
            half = (offset_bytes + size_bytes // 2) // SECTOR_BYTES * SECTOR_BYTES
            return offset_bytes, max(0, half - offset_bytes)
        if number in (faults.write_lost_at, faults.write_misdirected_at):
            self.faulty_file = file.name
        if number == faults.write_lost_at:
            return offset_bytes, 0
        if number == faults.write_misdirected_at:
            return offset_bytes + 8 * SECTOR_BYTES, size_bytes
        return offset_bytes, size_bytes

    def after_write(self, file: SimFile, kept_bytes: int, size_bytes: int) -> None:
        """Fail a write that was stored in part, and cut the power if it is to be cut here."""
        if self.is_off:
            self._check_power()
        if kept_bytes < size_bytes and self.counts["writes"] != self.faults.write_lost_at:
            raise StorageFailedError(f"{file.name} cannot be written", code="write-failed")

    def flush_succeeds(self) -> bool:
        """Let a flush through; return whether it succeeds."""
        self._check_power()
        self._operate()
        self.counts["flushes"] += 1
        self._check_power()
        return self.counts["flushes"] != self.faults.flush_fails_at

    def _operate(self) -> None:
        between, self.between = self.between, None
        if between is not None:
            between()
            self.between = between
        self.counts["operations"] += 1
        if self.counts["operations"] == self.faults.power_cut_at:
            self.is_off = True

    def _check_power(self) -> None:
        if self.is_off:
            raise PowerCutError(f"no power since operation {self.counts['operations']}")


def _sector(content: bytearray, sector: int) -> bytes:
    at = sector * SECTOR_BYTES
    return bytes(content[at : at + SECTOR_BYTES])
