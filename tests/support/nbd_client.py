"""A client of NBD for tests: blocking, exact, and free to send what no proper client would."""

import socket
import ssl
import struct
from typing import NamedTuple

from holdfast.volumes.nbd import codec
from holdfast.volumes.nbd.codec import Command, Option, Request


class OptionAnswer(NamedTuple):
    """One reply to an option."""

    option: int
    kind: int
    payload: bytes


class Chunk(NamedTuple):
    """One reply, or one part of a structured one."""

    cookie: int
    errno: int
    kind: int | None
    """None for a simple reply."""
    is_last: bool
    payload: bytes


def option(number: int, payload: bytes = b"") -> bytes:
    """Return an option as a client sends it."""
    return codec.OPTION.pack(codec.OPTION_MAGIC, number, len(payload)) + payload


def go(name: str, *, informs: tuple[int, ...] = ()) -> bytes:
    """Return GO for an export."""
    asked = b"".join(codec.U16.pack(kind) for kind in informs)
    return option(Option.GO, codec.pack_string(name) + codec.U16.pack(len(informs)) + asked)


def set_contexts(name: str, *queries: str) -> bytes:
    """Return SET_META_CONTEXT."""
    asked = b"".join(codec.pack_string(query) for query in queries)
    payload = codec.pack_string(name) + codec.U32.pack(len(queries)) + asked
    return option(Option.SET_META_CONTEXT, payload)


def request(
    command: int, cookie: int, start: int = 0, size_bytes: int = 0, *, flags: int = 0
) -> bytes:
    """Return the header of a request."""
    return codec.pack_request(Request(flags, command, cookie.to_bytes(8, "big"), start, size_bytes))


def write(cookie: int, start: int, data: bytes, *, flags: int = 0) -> bytes:
    """Return a whole write."""
    return request(Command.WRITE, cookie, start, len(data), flags=flags) + data


def split_option_answers(data: bytes) -> list[OptionAnswer]:
    """Return all replies in what a server answered to options."""
    answers = []
    while data:
        magic, number, kind, size = codec.OPTION_REPLY.unpack_from(data)
        assert magic == codec.OPTION_REPLY_MAGIC
        end = codec.OPTION_REPLY.size + size
        answers.append(OptionAnswer(number, kind, data[codec.OPTION_REPLY.size : end]))
        data = data[end:]
    return answers


def split_replies(data: bytes, read_bytes: dict[int, int] | None = None) -> list[Chunk]:
    """Return all replies in what a server sent.

    Args:
        data: Whole replies.
        read_bytes: The size of each read, by cookie, for simple replies: they do not tell.
    """
    replies = []
    while data:
        (magic,) = codec.U32.unpack_from(data)
        if magic == codec.SIMPLE_REPLY_MAGIC:
            _, errno, cookie = codec.SIMPLE_REPLY.unpack_from(data)
            size = 0 if errno else (read_bytes or {}).get(_number(cookie), 0)
            end = codec.SIMPLE_REPLY.size + size
            payload = data[codec.SIMPLE_REPLY.size : end]
            replies.append(Chunk(_number(cookie), errno, None, True, payload))
        else:
            magic, flags, kind, cookie, size = codec.CHUNK.unpack_from(data)
            assert magic == codec.STRUCTURED_REPLY_MAGIC
            end = codec.CHUNK.size + size
            payload = data[codec.CHUNK.size : end]
            errno = codec.U32.unpack_from(payload)[0] if kind & 0x8000 else 0
            replies.append(Chunk(_number(cookie), errno, kind, bool(flags & 1), payload))
        assert len(payload) == size, "a reply is cut off"
        data = data[end:]
    return replies


def _number(cookie: bytes) -> int:
    return int.from_bytes(cookie, "big")


class NbdClient:
    """A connection to a server, from greeting on."""

    def __init__(self, address: str | tuple[str, int], *, timeout_s: float = 10.0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self.socket.connect(address)
        try:
            assert self.receive(18)[:16] == codec.SERVER_MAGIC + codec.OPTION_MAGIC
        except BaseException:
            self.close()
            raise
        self.is_structured = False
        self._cookie = 0

    def close(self) -> None:
        """Hang up without a word."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def receive(self, size_bytes: int) -> bytes:
        """Return exactly so many bytes; EOFError if the server hung up first."""
        data = bytearray()
        while len(data) < size_bytes:
            piece = self.socket.recv(size_bytes - len(data))
            if not piece:
                raise EOFError(bytes(data))
            data += piece
        return bytes(data)

    def is_hung_up(self) -> bool:
        """Whether the server sends nothing more and hangs up."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def flags(self) -> None:
        """Answer the greeting."""
        self.send(codec.CLIENT_FLAGS.pack(3))

    def ask(self, message: bytes) -> list[OptionAnswer]:
        """Send an option; return its replies."""
        self.send(message)
        answers: list[OptionAnswer] = []
        while not answers or answers[-1].kind in (2, 3, 4):
            head = self.receive(codec.OPTION_REPLY.size)
            _, number, kind, size = codec.OPTION_REPLY.unpack(head)
            answers.append(OptionAnswer(number, kind, self.receive(size)))
        return answers

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Ask for TLS and go on inside it."""
        assert self.ask(option(Option.STARTTLS))[-1].kind == 1
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def start(self, name: str, *contexts: str, structured: bool = False) -> None:
        """Negotiate all the way to transmission."""
        self.flags()
        if structured:
            assert self.ask(option(Option.STRUCTURED_REPLY))[-1].kind == 1
            self.is_structured = True
        if contexts:
            assert self.ask(set_contexts(name, *contexts))[-1].kind == 1
        assert self.ask(go(name))[-1].kind == 1

    def reply(self, read_bytes: int = 0) -> Chunk:
        """Return the next reply or part of one; simple ones carry `read_bytes`."""
        (magic,) = struct.unpack(">I", head := self.receive(4))
        if magic == codec.SIMPLE_REPLY_MAGIC:
            head += self.receive(codec.SIMPLE_REPLY.size - 4)
            _, errno, cookie = codec.SIMPLE_REPLY.unpack(head)
            return Chunk(
                _number(cookie), errno, None, True, self.receive(0 if errno else read_bytes)
            )
        head += self.receive(codec.CHUNK.size - 4)
        _, flags, kind, cookie, size = codec.CHUNK.unpack(head)
        payload = self.receive(size)
        errno = codec.U32.unpack_from(payload)[0] if kind & 0x8000 else 0
        return Chunk(_number(cookie), errno, kind, bool(flags & 1), payload)

    def do(self, command: int, start: int = 0, size_bytes: int = 0, *, flags: int = 0) -> Chunk:
        """Carry out one request without data to send; return its (only) reply."""
        self._cookie += 1
        self.send(request(command, self._cookie, start, size_bytes, flags=flags))
        answer = self.reply(size_bytes if command == Command.READ else 0)
        assert answer.cookie == self._cookie
        return answer

    def read(self, start: int, size_bytes: int) -> bytes:
        """Read; the connection is one with simple replies."""
        answer = self.do(Command.READ, start, size_bytes)
        assert not answer.errno
        return answer.payload

    def write(self, start: int, data: bytes, *, flags: int = 0) -> int:
        """Write; return the errno."""
        self._cookie += 1
        self.send(write(self._cookie, start, data, flags=flags))
        answer = self.reply()
        assert answer.cookie == self._cookie
        return answer.errno

    def flush(self) -> int:
        """Flush; return the errno."""
        return self.do(Command.FLUSH).errno
