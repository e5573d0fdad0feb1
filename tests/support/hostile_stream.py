"""A source that speaks the stream protocol, written from docs/formats/stream.md alone, and lies.

Nothing of the product is used. It serves a tree that exists nowhere, kept as listings and contents;
what it does wrong is chosen by the test: the tree itself may be impossible, and a hook may answer
any request in the place of the honest answer.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec

HELLO, LIST, STAT, READ_LINK, XATTRS, OPEN, READ, EXTENTS, FINISH = range(1, 10)
DROP_CACHE, CLOSE, BUNDLE, DIGEST, CONTINUE, HASH = range(10, 16)
WELCOME, FAILURE, LISTING, STATS, LINK, ATTRIBUTES, RANGES, FINISHED = range(64, 72)
DATA, FILES, DIGESTS, DONE, HASHED, WORKING = range(72, 78)
FILE, DIRECTORY, SYMLINK = 1, 2, 3
MTIME_NS = 1_600_000_000_123_456_789
MIB = 1 << 20

Frames = Iterable[bytes]
Hook = Callable[[int, int, Any], Frames | None]
"""Given kind, number and fields of a request: the frames to answer with, or None for the truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry of the tree."""

    kind: int = FILE
    content: bytes = b""
    """Of a file; the target of a symlink."""
    size_bytes: int | None = None
    """What is said of its size, if it is a lie."""
    is_sparse: bool = False
    """Whether it says that it has holes."""
    names: tuple[tuple[bytes, "Node"], ...] = ()
    """Of a directory, in the order in which they are listed."""


def directory(*names: tuple[bytes, Node]) -> Node:
    """Return a directory."""
    return Node(kind=DIRECTORY, names=names)


def frame(kind: int, number: int, fields: object, *, is_last: bool = True) -> bytes:
    """Return a whole frame; fields that are bytes are sent as they are."""
    payload = fields if isinstance(fields, bytes) else msgspec.msgpack.encode(fields)
    return struct.pack("!IIBB2x", len(payload), number, kind, is_last) + payload


def state(node: Node, inode: int = 7) -> bytes:
    """Return what is said of an entry."""
    size = len(node.content) if node.size_bytes is None else node.size_bytes
    mode = 0o755 if node.kind == DIRECTORY else 0o644
    links = 2 if node.kind == DIRECTORY else 1
    times = (MTIME_NS, MTIME_NS)
    allocated = 0 if node.is_sparse else (size + 4095) // 4096 * 4096
    return struct.pack(
        "!BxHIIIqqqqQQ", node.kind, mode, 0, 0, links, size, allocated, *times, inode, 1
    )


@dataclass(slots=True)
class HostileSource:
    """Serves one tree to everybody, in threads of the test's own process."""

    root: Node
    hook: Hook = lambda _kind, _number, _fields: None
    port: int = 0
    served: list[tuple[int, Any]] = field(default_factory=list)
    """Kind and fields of every request."""
    _listener: socket.socket = field(init=False)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def find(self, path: bytes) -> Node | None:
        """Return the entry at a path; the last of that name."""
        found = self.root
        for name in path.split(b"/") if path else ():
            below = dict(found.names)
            if name not in below:
                return None
            found = below[name]
        return found

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        opened: dict[int, Node] = {}
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while head := stream.read(12):
                size_bytes, number, kind, _ = struct.unpack("!IIBB2x", head)
                fields = msgspec.msgpack.decode(stream.read(size_bytes))
                self.served.append((kind, fields))
                for each in self.hook(kind, number, fields) or self._truth(
                    kind, number, fields, opened
                ):
                    connection.sendall(each)

    def _truth(self, kind: int, number: int, fields: Any, opened: dict[int, Node]) -> Frames:
        if kind == HELLO:
            welcome = [1, "liar", "/liar", 1, 2, ["blake3", "md5", "xxh3-128", "sha256"], MTIME_NS]
            return [frame(WELCOME, number, welcome)]
        if kind == CONTINUE:
            return []
        if kind in (STAT, LIST, READ_LINK, XATTRS):
            return self._tell(kind, number, fields)
        if kind == BUNDLE:
            return [self._bundle(number, fields[0])]
        if kind == DIGEST:
            return [self._digests(number, fields[0])]
        if kind == OPEN:
            node = self.find(fields[1])
            if node is None or node.kind != FILE:
                return [frame(FAILURE, number, _absent(fields[1]))]
            opened[fields[0]] = node
            return [frame(STATS, number, [state(node), []])]
        return self._of_file(kind, number, fields, opened)

    def _tell(self, kind: int, number: int, fields: Any) -> Frames:
        if kind == STAT:
            return [frame(STATS, number, self._states(fields[0]))]
        node = self.find(fields[0])
        if node is None:
            return [frame(FAILURE, number, _absent(fields[0]))]
        match kind:
            case 2:
                return [listing(number, node.names)]
            case 4:
                return [frame(LINK, number, [node.content])]
            case _:
                return [frame(ATTRIBUTES, number, [{}])]

    def _states(self, paths: list[bytes]) -> list[object]:
        found = [self.find(path) for path in paths]
        failures = [[at, _absent(paths[at])] for at, node in enumerate(found) if node is None]
        return [b"".join(bytes(64) if node is None else state(node) for node in found), failures]

    def _bundle(self, number: int, paths: list[bytes]) -> bytes:
        files: list[object] = []
        contents = b""
        for path in paths:
            node = self.find(path)
            if node is None or node.kind != FILE:
                files.append([None, _absent(path)])
            elif len(node.content) > MIB:
                files.append([None, None])
            else:
                # No digest is no statement about the content.
                files.append([[state(node), len(node.content), {}, True, b""], None])
                contents += node.content
        return bundle(number, files, contents)

    def _digests(self, number: int, paths: list[bytes]) -> bytes:
        """Say of every file that it was moving: then the client reads it."""
        results: list[object] = []
        for path in paths:
            node = self.find(path)
            told = None if node is None else [state(node), bytes(32), b"", False]
            results.append([told, None if told else _absent(path)])
        return frame(DIGESTS, number, [0, results])

    def _of_file(self, kind: int, number: int, fields: Any, opened: dict[int, Node]) -> Frames:
        node = opened.get(fields[0])
        if node is None:
            return [frame(FAILURE, number, _absent(b"handle"))]
        if kind == READ:
            data = node.content[fields[1] : fields[2]]
            if not data:
                return [frame(DATA, number, b"")]
            return [
                frame(DATA, number, data[at : at + MIB], is_last=at + MIB >= len(data))
                for at in range(0, len(data), MIB)
            ]
        answers: dict[int, tuple[int, object]] = {
            EXTENTS: (RANGES, [[[0, fields[-1]]]]),
            FINISH: (FINISHED, [state(node), {}, None]),
            HASH: (FAILURE, ["unsupported", "no-digest", "no", "", 0.0]),
        }
        return [frame(*_with_number(answers.get(kind, (DONE, None)), number))]


def listing(number: int, names: Iterable[tuple[bytes, Node]], *, is_last: bool = True) -> bytes:
    """Return a page of a directory."""
    names = list(names)
    links = [node.content for _, node in names if node.kind == SYMLINK]
    states = b"".join(state(node, inode) for inode, (_, node) in enumerate(names, 10))
    columns = [[name for name, _ in names], states, links, []]
    return frame(LISTING, number, columns, is_last=is_last)


def bundle(number: int, files: list[object], contents: bytes) -> bytes:
    """Return a FILES frame."""
    columns = msgspec.msgpack.encode([files])
    return frame(FILES, number, struct.pack("!I", len(columns)) + columns + contents)


def _with_number(answer: tuple[int, object], number: int) -> tuple[int, int, object]:
    return answer[0], number, answer[1]


def _absent(path: bytes) -> list[object]:
    return ["not-found", "no-entry", f"{path!r} is not there", "", 0.0]
