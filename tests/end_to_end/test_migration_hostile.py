"""Goal: whatever a source says, nothing outside the target is written, and the rest is copied.

Method: the product's own copy task from a source that speaks the stream protocol, written from its
documentation alone, and lies in one way at a time. Around the target lies a tree whose content and
times are compared afterwards; the error must name the entry.
"""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import HoldfastError, StateError
from holdfast.files.model import DeleteLimit
from holdfast.stores.nodes.connection import NodeAddress
from holdfast.stores.nodes.directory import open_node_directory
from holdfast.tasks.model import Task
from tests.support.hostile_stream import (
    BUNDLE,
    DATA,
    DIRECTORY,
    EXTENTS,
    FAILURE,
    FINISH,
    FINISHED,
    LIST,
    LISTING,
    MIB,
    OPEN,
    RANGES,
    READ,
    STATS,
    SYMLINK,
    WORKING,
    Frames,
    Hook,
    HostileSource,
    Node,
    bundle,
    directory,
    frame,
    listing,
    state,
)
from tests.support.migrations import COPY, Migration
from tests.support.stream import EXPORT, StreamServer
from tests.support.swapping import swapping
from tests.support.trees import Entry, make_tree, pattern, read_tree, write

GOOD = {b"a": b"first", b"z/y": b"last"}
"""What every tree here holds beside what is wrong with it."""
EVIL = Node(content=b"evil")


@dataclass(slots=True)
class Bench:
    """A migration whose source lies, in a place with a canary."""

    migration: Migration
    canary: Path
    before: dict[bytes, Entry]
    times: tuple[int, int]

    def copy(self, source: HostileSource, *, jobs: int = 1) -> Task | HoldfastError:
        """Copy with one pass that downloads; return the task, or what ended it."""

        def open_it(_: Migration) -> list[Any]:
            address = NodeAddress(host="127.0.0.1", port=source.port, export=EXPORT)
            return [open_node_directory(address, patience_s=2)]

        self.migration.sources = open_it
        try:
            return self.migration.copy(replace(COPY, max_iterations=1, max_concurrency=jobs))
        except HoldfastError as error:
            return error

    def arrived(self) -> dict[bytes, bytes]:
        """Return the contents of the files at the target."""
        root = self.migration.target()
        return {
            os.fsencode(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink() and ".holdfast" not in path.parts
        }

    def check_canary(self) -> None:
        """Nothing around the target was touched."""
        assert read_tree(self.canary) == self.before
        entry = self.canary.stat()
        assert (entry.st_mtime_ns, entry.st_ctime_ns) == self.times
        names = {path.name for path in self.migration.place.iterdir()}
        assert names <= {"source", "target", "state", "staging", "canary"}
        assert [path.name for path in (self.migration.place / "target").iterdir()] == ["data0"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An instance of one directory."""
    migration = Migration(place=tmp_path, names=(("data", 0),))
    canary = make_tree(tmp_path / "canary")
    found = canary.stat()
    made = Bench(migration, canary, read_tree(canary), (found.st_mtime_ns, found.st_ctime_ns))
    yield made
    made.check_canary()


def tree_with(*bad: tuple[bytes, Node]) -> Node:
    """Return a tree with what is good in it, and a directory `bad`."""
    return directory(
        (b"a", Node(content=b"first")),
        (b"bad", directory(*bad)),
        (b"z", directory((b"y", Node(content=b"last")))),
    )


def check_told(outcome: Task | HoldfastError, *words: str) -> None:
    """It failed, and says of what."""
    assert isinstance(outcome, StateError), outcome
    assert outcome.code == "passes-failed"
    for word in words:
        assert word in outcome.message, outcome.message


NAMES = {
    "up": (b"..",),
    "self": (b".",),
    "absolute": (b"/etc/passwd",),
    "down": (b"x/y",),
    "up and down": (b"../../canary/f",),
    "nul": (b"a\0b",),
    "empty": (b"",),
    "twice": (b"same", b"same"),
    "unsorted": (b"b", b"a"),
    "too long": (b"n" * 256,),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
def test_names_no_directory_can_have(bench: Bench, names: tuple[bytes, ...]) -> None:
    """The directory that lists them is left out and named; the rest is copied, nothing deleted."""
    write(bench.migration.target() / "bad" / "kept", "kept")
    with HostileSource(tree_with(*((name, EVIL) for name in names))) as source:
        outcome = bench.copy(source)

    check_told(outcome, "bad")
    assert bench.arrived() == GOOD | {b"bad/kept": b"kept"}


def test_hostile_names_at_the_root_write_nothing(bench: Bench) -> None:
    names = ((b"..", directory((b"canary", directory((b"evil", EVIL))))), (b"good", EVIL))
    with HostileSource(directory(*names)) as source:
        outcome = bench.copy(source)

    assert isinstance(outcome, HoldfastError)
    assert "'..'" in outcome.message
    assert bench.arrived() == {}


def test_names_that_are_one_by_normalisation_stay_two(bench: Bench) -> None:
    """Names are bytes: what another file system would take for one name is two here."""
    composed, decomposed = "é".encode(), "e\u0301".encode()
    cased = ((b"CASE", Node(content=b"1")), (b"case", Node(content=b"2")))
    names = (*cased, (decomposed, Node(content=b"3")), (composed, Node(content=b"4")))
    with HostileSource(tree_with(*names)) as source:
        outcome = bench.copy(source)

    assert isinstance(outcome, Task)
    wanted = {b"bad/" + name: node.content for name, node in names}
    assert bench.arrived() == GOOD | wanted


def test_a_symlink_to_the_outside_is_copied_and_never_followed(bench: Bench) -> None:
    """Listed once as a symlink and, in the next pass, as a directory with files in it."""
    link = Node(kind=SYMLINK, content=os.fsencode(bench.canary))
    with HostileSource(tree_with((b"way", link))) as source:
        assert isinstance(bench.copy(source), Task)
        assert (bench.migration.target() / "bad/way").is_symlink()
        source.root = tree_with((b"way", directory((b"d0", directory((b"f0000", EVIL))))))
        assert isinstance(bench.copy(source), Task)

    assert not (bench.migration.target() / "bad/way").is_symlink()
    assert bench.arrived() == GOOD | {b"bad/way/d0/f0000": b"evil"}


@pytest.mark.slow
def test_a_cycle_of_directories_ends(bench: Bench) -> None:
    """Every directory holds itself: the walk ends at the depth that paths can have."""

    def again(kind: int, number: int, fields: Any) -> Frames | None:
        if kind == LIST and fields[0].startswith(b"bad"):
            return [listing(number, [(b"loop", Node(kind=DIRECTORY))])]
        return None

    with HostileSource(tree_with(), again) as source:
        outcome = bench.copy(source)

    check_told(outcome, "loop", "nested too deeply")
    for path, content in GOOD.items():
        assert (bench.migration.target() / os.fsdecode(path)).read_bytes() == content
    subprocess.run(("rm", "-rf", bench.migration.target()), check=True)
    bench.migration.target().mkdir()


@pytest.mark.slow
def test_a_listing_without_end_is_cut_off(bench: Bench) -> None:
    """New names for ever: the directory is given up at the most that one may have."""
    states = state(EVIL) * 20_000

    def for_ever(kind: int, number: int, fields: Any) -> Frames | None:
        if kind != LIST or fields[0] != b"bad":
            return None
        return (
            frame(
                LISTING,
                number,
                [[b"%012d" % (at + n) for n in range(20_000)], states, [], []],
                is_last=False,
            )
            for at in itertools.count(step=20_000)
        )

    with HostileSource(tree_with(), for_ever) as source:
        outcome = bench.copy(source)

    check_told(outcome, "bad")
    assert bench.arrived() == GOOD


def lying_file(kind: int, answer: Hook) -> Hook:
    """Answer requests of a kind that are about the file `bad/file`."""
    handles: set[int] = set()

    def hook(asked: int, number: int, fields: Any) -> Frames | None:
        if asked == OPEN and fields[1] == b"bad/file":
            handles.add(fields[0])
        of_file = fields[0] in handles if isinstance(fields[0], int) else False
        of_paths = asked == BUNDLE and b"bad/file" in fields[0]
        return answer(asked, number, fields) if asked == kind and (of_file or of_paths) else None

    return hook


LARGE = Node(content=pattern(9 * MIB))
SMALL = Node(content=b"evil")


def short_body(_kind: int, number: int, fields: Any) -> Frames:
    return [frame(DATA, number, LARGE.content[fields[1] : fields[2]][:100])]


def endless_body(_kind: int, number: int, _fields: Any) -> Frames:
    return (frame(DATA, number, bytes(MIB), is_last=False) for _ in itertools.count())


def empty_frames(_kind: int, number: int, _fields: Any) -> Frames:
    return (frame(DATA, number, b"", is_last=False) for _ in itertools.count())


def always_at_work(_kind: int, number: int, _fields: Any) -> Frames:
    return (frame(WORKING, number, b"", is_last=False) for _ in itertools.count())


def wrong_digest(_kind: int, number: int, _fields: Any) -> Frames:
    return [frame(FINISHED, number, [state(LARGE), {}, bytes(32)])]


def other_size(_kind: int, number: int, _fields: Any) -> Frames:
    return [frame(FINISHED, number, [state(replace(LARGE, size_bytes=5)), {}, None])]


def huge_ranges(_kind: int, number: int, _fields: Any) -> Frames:
    return [frame(RANGES, number, [[[0, 1 << 62]]])]


def smaller_open(_kind: int, number: int, _fields: Any) -> Frames:
    return [frame(STATS, number, [state(replace(LARGE, size_bytes=1 << 50)), []])]


def bundled(sent: bytes, said_bytes: int, digest: bytes = b"") -> Hook:
    """Answer a bundle so that `bad/file` is a lie."""

    def answer(_kind: int, number: int, fields: Any) -> Frames:
        files: list[object] = []
        contents = b""
        for path in fields[0]:
            content = sent if path == b"bad/file" else GOOD.get(path, b"")
            said = said_bytes if path == b"bad/file" else len(content)
            told = state(SMALL if path == b"bad/file" else Node(content=content))
            files.append([[told, said, {}, True, digest if path == b"bad/file" else b""], None])
            contents += content
        return [bundle(number, files, contents)]

    return answer


def failing(kind: str, code: str) -> Hook:
    """Answer with an error."""
    return lambda _kind, number, _fields: [frame(FAILURE, number, [kind, code, "no", "", 0.0])]


LIES: dict[str, tuple[Node, Hook]] = {
    "short body": (LARGE, lying_file(READ, short_body)),
    "frames of nothing": (LARGE, lying_file(READ, empty_frames)),
    "at work for ever": (LARGE, lying_file(FINISH, always_at_work)),
    "wrong digest": (LARGE, lying_file(FINISH, wrong_digest)),
    "another size afterwards": (LARGE, lying_file(FINISH, other_size)),
    "huge size": (replace(LARGE, size_bytes=1 << 50), lying_file(0, short_body)),
    "huge size once open": (LARGE, lying_file(OPEN, smaller_open)),
    "less than its size": (replace(LARGE, size_bytes=10 * MIB), lying_file(0, short_body)),
    "data beyond its end": (replace(LARGE, is_sparse=True), lying_file(EXTENTS, huge_ranges)),
    "unreadable block": (LARGE, lying_file(READ, failing("storage-failed", "read-failed"))),
    "forbidden": (LARGE, lying_file(OPEN, failing("denied", "forbidden"))),
    "disk full, it says": (LARGE, lying_file(OPEN, failing("capacity", "disk-full"))),
    "wrong digest in a bundle": (SMALL, lying_file(BUNDLE, bundled(b"evil", 4, bytes(32)))),
    "longer in a bundle": (SMALL, lying_file(BUNDLE, bundled(b"evil and more", 13))),
}


def test_a_body_without_end_is_cut_at_its_size(bench: Bench) -> None:
    """Without a digest no byte can be told from another; but there are no more than were due."""
    files = [(b"file", LARGE), (b"small", SMALL)]
    with HostileSource(tree_with(*files), lying_file(READ, endless_body)) as source:
        bench.copy(source)

    arrived = bench.arrived()
    assert len(arrived.pop(b"bad/file", b"")) in (0, len(LARGE.content))
    assert arrived == GOOD | {b"bad/small": SMALL.content}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("node", "hook"), LIES.values(), ids=list(LIES))
def test_lies_about_a_file(bench: Bench, node: Node, hook: Hook) -> None:
    """The file never has its name unless it is what was listed; the rest arrives, or all is said
    to be impossible before the first byte."""
    files = [(b"file", node)] + [(b"small%d" % n, Node(content=b"%d" % n)) for n in range(8)]
    with HostileSource(tree_with(*files), hook) as source:
        outcome = bench.copy(source)

    arrived = bench.arrived()
    assert isinstance(outcome, HoldfastError)
    assert arrived.get(b"bad/file") is None
    if outcome.code != "disk-would-fill":
        told = outcome.message
        assert "data/0/bad/file" in told
        assert GOOD.items() <= arrived.items()


@pytest.mark.slow
@pytest.mark.parametrize("side", ["source", "target"])
def test_symlinks_swapped_in_while_it_runs(bench: Bench, side: str) -> None:
    """Directories become symlinks to the canary and back, all the time: on either side.

    Nothing comes from there and nothing goes there; once that is over, a copy makes all equal.
    """
    migration = bench.migration
    tree = make_tree(migration.source(), files=300)
    (bench.canary / "d1").mkdir(exist_ok=True)
    for name in ("f0001", "secret"):
        write(bench.canary / "d1" / name, "of the canary")
    found = bench.canary.stat()
    bench.before, bench.times = read_tree(bench.canary), (found.st_mtime_ns, found.st_ctime_ns)
    secret = bench.before[b"d1/secret"].content
    links = migration.place / "staging" / "links"
    links.mkdir(parents=True)
    (links / "d1").symlink_to(bench.canary / "d1")
    server = StreamServer(os.fsencode(tree)).start()
    migration.sources = lambda _: [server.open()]
    migration.copy()
    root = migration.source() if side == "source" else migration.target()
    try:
        with swapping(root / "d1", links / "d1", pause_s=0.0005):
            for number in range(8):
                for file in (tree / "d0").iterdir():
                    file.write_bytes(pattern(100 + number, number))
                if side == "target":
                    write(tree / "d1" / "f0004", pattern(200 + number, number))
                with contextlib.suppress(HoldfastError):
                    migration.copy(replace(COPY, max_iterations=1))
                if side == "source":
                    arrived = read_tree(migration.target()).values()
                    assert secret not in {entry.content for entry in arrived}
        bench.check_canary()
    finally:
        server.stop()
    if (root / "d1").is_symlink():
        os.unlink(root / "d1")
        os.rename(links / "d1", root / "d1")
    again = StreamServer(os.fsencode(tree)).start()
    migration.sources = lambda _: [again.open()]
    try:
        migration.copy(replace(COPY, max_iterations=5, delete_limit=DeleteLimit(percent=100.0)))
    finally:
        again.stop()
    assert read_tree(migration.target()) == read_tree(tree)
