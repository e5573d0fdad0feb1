"""The implementations every contract runs on, each with what a test needs beside its port."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.model.tree import ROOT_PATH, FileKind, Metadata
from holdfast.ports import Directory, ReadableDirectory
from holdfast.stores.directories.posix import PosixDirectory
from holdfast.testing.directory import SimDirectory
from tests.support.stream import StreamServer

MTIME_NS = 1_234_567_890_987_654_321
"""Long ago, and not a round number."""


class SimWorld:
    """An empty simulated tree."""

    name = "sim"

    def __init__(self) -> None:
        self.sim = SimDirectory()
        self.tree: Directory = self.sim

    def make_special(self, path: bytes, kind: FileKind) -> None:
        """Put a FIFO or socket there."""
        self.sim.make_special(path, kind)

    def forbid(self, path: bytes) -> None:
        """Take every permission away from this process."""
        self.sim.gate.faults.forbidden.add(path)

    def close(self) -> None:
        """Release it."""
        self.tree.close()


class PosixWorld:
    """An empty directory of a real file system."""

    name = "posix"

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.tree: Directory = PosixDirectory(self.root)
        self._lowered_from: int | None = None

    def make_special(self, path: bytes, kind: FileKind) -> None:
        """Put a FIFO or socket there."""
        where = os.path.join(self.root, path)
        if kind is FileKind.FIFO:
            os.mkfifo(where)
            return
        # Bound from inside its directory: the address of a socket has room for 107 bytes only.
        before = os.getcwd()
        os.chdir(os.path.dirname(where))
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(os.path.basename(where))
        finally:
            os.chdir(before)

    def forbid(self, path: bytes) -> None:
        """Take every permission away from this process, root or not."""
        os.chmod(os.path.join(self.root, path), 0)
        if os.geteuid() == 0:
            self._lowered_from = 0
            os.seteuid(65534)

    def close(self) -> None:
        """Release it."""
        if self._lowered_from is not None:
            os.seteuid(self._lowered_from)
        self.tree.close()


class NodeTree:
    """A directory that is written here and read through a stream server."""

    def __init__(self, root: bytes) -> None:
        self._server = StreamServer(root).start()
        self._read = self._server.open()
        self._written = PosixDirectory(root)

    def __getattr__(self, name: str) -> Any:
        """Return a method of the half it belongs to."""
        return getattr(self._read if name in vars(ReadableDirectory) else self._written, name)

    def close(self) -> None:
        """Release both ends."""
        self._read.close()
        self._written.close()
        self._server.stop()


class NodeWorld(PosixWorld):
    """An empty directory of a real file system, read over a real socket."""

    name = "node"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tree.close()
        self.tree = cast(Directory, NodeTree(self.root))

    def forbid(self, path: bytes) -> None:
        """Take every permission away from the server, which runs as who runs the tests."""
        if os.geteuid() == 0:
            pytest.skip("a server run by root is forbidden nothing")
        super().forbid(path)


World = SimWorld | PosixWorld


@pytest.fixture(params=["sim", "posix", "node"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """One implementation of the port, empty."""
    root = tmp_path / "root"
    root.mkdir()
    made: World
    match request.param:
        case "sim":
            made = SimWorld()
        case "posix":
            made = PosixWorld(root)
        case _:
            made = NodeWorld(root)
    yield made
    made.close()


@pytest.fixture
def tree(world: World) -> Directory:
    """Return the tree of the world."""
    return world.tree


def metadata_for(tree: Directory, mode: int, xattrs: dict[bytes, bytes] | None = None) -> Metadata:
    """Return metadata with MTIME_NS and the owner that the root of the tree has."""
    root = tree.stat(ROOT_PATH)
    return Metadata(mode=mode, mtime_ns=MTIME_NS, uid=root.uid, gid=root.gid, xattrs=xattrs or {})
