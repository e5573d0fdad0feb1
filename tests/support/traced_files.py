"""What a traced process did to files, replayed up to any moment, as a loss of power may leave them.

Reads the log of `strace -f -xx -y`: writes, truncations and flushes of files below a directory, and
lines on the standard output. A write is taken at its call, a flush at its return, and it covers
what was called before it was: the least that the system promises.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

STRACE = (
    *("strace", "-f", "-qq", "-xx", "-y", "-s", "200000", "-e", "signal=none"),
    *("-e", "trace=write,pwrite64,ftruncate,fdatasync,fsync,unlink,unlinkat"),
)
_CALL = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<arguments>.*)")
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<name>\w+) resumed>.*= (?P<result>-?\d+)")
_FILE = re.compile(r"(?P<number>\d+)<(?P<path>[^>]*)>")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(?P<cut>\.\.\.)?(?:, \d+, (?P<offset>\d+))?')
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    kind: str
    """`write`, `truncate`, `flush` (its return), `line` or `remove`."""
    path: str = ""
    offset: int = 0
    data: bytes = b""
    covers: int = 0
    """Of a flush: how many events had happened when it was called."""


def read_events(log: Path, directory: Path) -> list[Event]:
    """Return what happened to files in this directory, and the lines, in order."""
    events: list[Event] = []
    pending: dict[str, Event] = {}
    for line in log.read_text().splitlines():
        resumed = _RESUMED.match(line)
        if resumed:
            flush = pending.pop(resumed["thread"], None)
            if flush and resumed["result"] == "0":
                events.append(flush)
            continue
        call = _CALL.match(line)
        if not call:
            continue
        for event in _events_of(call["name"], call["arguments"], directory, len(events)):
            if event.kind != "flush":
                events.append(event)
            elif "<unfinished" in line:
                pending[call["thread"]] = event
            elif line.rstrip().endswith("= 0"):
                events.append(event)
    return events


def _events_of(name: str, arguments: str, directory: Path, number: int) -> Iterator[Event]:
    file = _FILE.match(arguments)
    path = _unescaped(file["path"]).decode() if file else ""
    found = _BYTES.search(arguments)
    if file and file["number"] == "1" and name == "write" and found:
        for text in _unescaped(found[1]).splitlines():
            yield Event(kind="line", data=text)
    elif name.startswith("unlink") and found:
        yield Event(kind="remove", path=Path(_unescaped(found[1]).decode()).name)
    elif path.startswith(str(directory) + "/"):
        local = path.removeprefix(str(directory) + "/")
        if name == "pwrite64" and found:
            assert not found["cut"], "strace cut a write short"
            data = _unescaped(found[1])
            yield Event(kind="write", path=local, offset=int(found["offset"]), data=data)
        elif name == "ftruncate":
            size = int(arguments.partition(", ")[2].split(")")[0])
            yield Event(kind="truncate", path=local, offset=size)
        elif name in ("fdatasync", "fsync"):
            yield Event(kind="flush", path=local, covers=number)


def _unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if "\\x" in text else text.encode()


@dataclass(slots=True)
class Disk:
    """Files after the loss of power at one moment."""

    files: dict[str, bytearray] = field(default_factory=dict)

    def apply(self, event: Event, *, torn_at: int | None = None) -> None:
        """Let one write or truncation happen, or its beginning."""
        content = self.files.setdefault(event.path, bytearray())
        if event.kind == "truncate":
            del content[event.offset :]
            content.extend(bytes(max(0, event.offset - len(content))))
            return
        data = event.data[:torn_at]
        content.extend(bytes(max(0, event.offset - len(content))))
        content[event.offset : event.offset + len(data)] = data

    def save(self, directory: Path) -> None:
        """Write the files into an empty directory."""
        directory.mkdir()
        for path, content in self.files.items():
            (directory / path).write_bytes(content)


def disk_after(events: list[Event], moment: int, chance: random.Random) -> Disk:
    """Return what a disk may hold if power is lost after the first `moment` events.

    What was flushed is there; of the rest, some of it, each write whole, absent or torn at a
    sector; in one case of four nothing of it, in one of four all. Removals always survive: a test
    must see to it that none matters.
    """
    flushed_until: dict[str, int] = {}
    for event in events[:moment]:
        if event.kind == "flush":
            flushed_until[event.path] = event.covers
    survival = chance.choice([0.0, 1.0, 0.5, 0.5])
    disk = Disk()
    for number, event in enumerate(events[:moment]):
        if event.kind == "remove":
            disk.files.pop(event.path, None)
        if event.kind not in ("write", "truncate"):
            continue
        if number < flushed_until.get(event.path, 0):
            disk.apply(event)
        elif chance.random() < survival:
            is_torn = survival < 1 and chance.random() < 0.2
            sectors = len(event.data) // SECTOR_BYTES
            disk.apply(
                event, torn_at=chance.randint(0, sectors) * SECTOR_BYTES if is_torn else None
            )
    return disk
