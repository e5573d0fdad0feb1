"""The simulated tree behaves as the real one, whatever is asked of them.

Goal: a test that passes on SimDirectory says something about a real file system. Method: hypothesis
makes the same calls on both side by side; results, errors (class and code) and trees are the same.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    rule,
)

from holdfast.errors import HoldfastError
from holdfast.model.tree import ROOT_PATH, FileKind, Metadata, Stat
from holdfast.ports import Directory, WritableFile
from holdfast.stores.directories.posix import PosixDirectory
from holdfast.testing.directory import SimDirectory
from holdfast.testing.trees import Seen, read_file, tree_of

SET_BEFORE_NS = 1_600_000_000_000_000_000
"""Times set by the test lie before this; times of changes, simulated and real, after it."""

# Few and short, so that calls meet what earlier ones made.
names = st.sampled_from([b"a", b"A", b"\n%\xff"])
paths = st.one_of(names, st.lists(names, min_size=1, max_size=3).map(b"/".join))
offsets = st.one_of(st.integers(0, 20_000), st.sampled_from([0, 4095, 4096, 8192]))
contents = st.one_of(
    st.binary(max_size=10), st.integers(1, 9000).map(lambda size: b"0123456789" * (size // 10))
)
times = st.integers(0, SET_BEFORE_NS - 1)
file_pairs = Bundle("file_pairs")
FilePair = tuple[WritableFile, WritableFile]


def outcome_of(call: Callable[[], object]) -> object:
    """Return what a call returns, or class and code of what it raises."""
    try:
        return call()
    except HoldfastError as error:
        return type(error), error.code


def comparable(seen: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """Blank the times that nobody set."""
    return {
        path: replace(one, mtime_ns=one.mtime_ns if one.mtime_ns < SET_BEFORE_NS else -1)
        for path, one in seen.items()
    }


class DirectoryMachine(RuleBasedStateMachine):
    """Two trees and the same calls on both."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(prefix="directory-model-")
        self.sim: Directory = SimDirectory()
        self.posix: Directory = PosixDirectory(os.fsencode(self.root))
        self.open_pairs: list[FilePair] = []

    def same(self, call: Callable[[Directory], object]) -> None:
        """Make one call on both trees; the outcome must be the same."""
        simulated = outcome_of(lambda: call(self.sim))
        real = outcome_of(lambda: call(self.posix))
        assert simulated == real

    def metadata(self, tree: Directory, mode: int, mtime_ns: int) -> Metadata:
        """Return metadata with the tree's own owner."""
        root = tree.stat(ROOT_PATH)
        return Metadata(mode=mode, mtime_ns=mtime_ns, uid=root.uid, gid=root.gid)

    def kind(self, path: bytes) -> FileKind | None:
        """Return what stands at a path of the simulated tree."""
        found = outcome_of(lambda: self.sim.stat(path))
        return found.kind if isinstance(found, Stat) else None

    @rule(path=st.one_of(st.just(ROOT_PATH), paths))
    def list_names(self, path: bytes) -> None:
        self.same(lambda tree: sorted(tree.list_names(path)))

    @rule(path=paths)
    def look(self, path: bytes) -> None:
        self.same(lambda tree: tree.stat(path).kind)
        self.same(lambda tree: tree.read_link(path))
        self.same(lambda tree: tree.xattrs(path))
        self.same(lambda tree: read_file(tree, path))
        self.same(lambda tree: tree.flush_directory(path))

    @rule(path=paths)
    def make_directory(self, path: bytes) -> None:
        self.same(lambda tree: tree.make_directory(path))

    @rule(path=paths, leads_to=paths, mtime_ns=times)
    def make_symlink(self, path: bytes, leads_to: bytes, mtime_ns: int) -> None:
        self.same(
            lambda tree: tree.make_symlink(path, leads_to, self.metadata(tree, 0o777, mtime_ns))
        )

    @rule(existing=paths, path=paths)
    def make_hard_link(self, existing: bytes, path: bytes) -> None:
        # The port promises nothing for second names of anything but files.
        if self.kind(existing) in (FileKind.FILE, None):
            self.same(lambda tree: tree.make_hard_link(existing, path))

    @rule(path=paths, mode=st.sampled_from([0o700, 0o755, 0o1750]), mtime_ns=times)
    def set_metadata(self, path: bytes, mode: int, mtime_ns: int) -> None:
        kind = self.kind(path) or FileKind.FILE
        self.same(lambda tree: tree.set_metadata(path, kind, self.metadata(tree, mode, mtime_ns)))

    @rule(path=paths, new_path=paths)
    def rename(self, path: bytes, new_path: bytes) -> None:
        self.same(lambda tree: tree.rename(path, new_path))

    @rule(path=paths)
    def remove_file(self, path: bytes) -> None:
        self.same(lambda tree: tree.remove_file(path))

    @rule(path=paths)
    def remove_directory(self, path: bytes) -> None:
        self.same(lambda tree: tree.remove_directory(path))

    @rule(target=file_pairs, path=paths, resume=st.booleans())
    def create_file(self, path: bytes, resume: bool) -> object:
        made: list[WritableFile] = []

        def create(tree: Directory) -> None:
            made.append(tree.create_file(path, resume=resume))

        self.same(create)
        if not made:
            return multiple()
        pair = (made[0], made[1])
        self.open_pairs.append(pair)
        return pair

    @rule(pair=file_pairs, data=contents, offset=offsets)
    def write_at(self, pair: FilePair, data: bytes, offset: int) -> None:
        for file in pair:
            file.write_at(data, offset)

    @rule(pair=file_pairs, size=offsets)
    def truncate(self, pair: FilePair, size: int) -> None:
        for file in pair:
            file.truncate(size)

    @rule(pair=file_pairs, start=offsets, count=offsets)
    def punch(self, pair: FilePair, start: int, count: int) -> None:
        for file in pair:
            file.punch(start, start + count)

    @rule(pair=file_pairs, mode=st.sampled_from([0o600, 0o644]), mtime_ns=times)
    def set_file_metadata(self, pair: FilePair, mode: int, mtime_ns: int) -> None:
        for file, tree in zip(pair, (self.sim, self.posix), strict=True):
            assert file.set_metadata(self.metadata(tree, mode, mtime_ns)) == []

    @rule(pair=file_pairs, offset=offsets, size=offsets)
    def read_into(self, pair: FilePair, offset: int, size: int) -> None:
        buffers = [bytearray(size), bytearray(size)]
        counts = [f.read_into(memoryview(b), offset) for f, b in zip(pair, buffers, strict=True)]
        assert counts[0] == counts[1]
        assert buffers[0] == buffers[1]
        assert pair[0].size_bytes() == pair[1].size_bytes()

    @rule(pair=consumes(file_pairs))
    def close_file(self, pair: FilePair) -> None:
        self.close_pair(pair)

    @rule()
    def check_trees(self) -> None:
        """Compare all that a reader can see."""
        assert comparable(tree_of(self.sim)) == comparable(tree_of(self.posix))

    def teardown(self) -> None:
        try:
            self.check_trees()
        finally:
            for pair in list(self.open_pairs):
                self.close_pair(pair)
            self.posix.close()
            shutil.rmtree(self.root)

    def close_pair(self, pair: FilePair) -> None:
        """Close both; a pair is closed once."""
        self.open_pairs.remove(pair)
        for file in pair:
            file.close()


DirectoryMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestDirectoryModel = DirectoryMachine.TestCase
