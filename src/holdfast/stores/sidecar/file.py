"""A file behind a Sidecar, open for reading; and how a Sidecar spells digests and ranges."""

import base64
import binascii
import http.client
import re
from collections.abc import Iterator
from typing import Final, Protocol

from holdfast.errors import ConflictError, NotFoundError
from holdfast.model.limits import FILE_BYTES_LARGE, KIB
from holdfast.model.tree import Signature, Stat, signature_of

_HEX: Final = re.compile("[0-9a-fA-F]{1,8}")
_STALLS_MAX: Final = 3
"""Answers in a row that end before they give anything."""


class Asks(Protocol):
    """What a file needs of its directory."""

    def ask_range(
        self, path: bytes, start: int, end: int | None = None
    ) -> http.client.HTTPResponse:
        """Ask for a file from `start` on, an answer of 200, 206 or 416; raises as open_file."""
        ...

    def drop(self) -> None:
        """Let go of a connection whose answer will not be read to its end."""
        ...


class SidecarFile:
    """ReadableFile over one GET that is read in order, and others where it is not."""

    def __init__(self, directory: Asks, path: bytes, stat: Stat) -> None:
        """Ask for it, unless it is empty; raises as ReadableDirectory.open_file."""
        self._directory = directory
        self._path = path
        self._stat = stat
        self._moved = False
        self._position = 0
        self._answer: http.client.HTTPResponse | None = None
        if stat.size_bytes:
            self._ask(0)

    def stat(self) -> Stat:
        """See ReadableFile. As it was listed."""
        return self._stat

    def signature(self) -> Signature:
        """See ReadableFile. Another one if it was seen to have moved."""
        if not self._moved and self._stat.size_bytes >= FILE_BYTES_LARGE:
            self._moved = self._has_grown()
        signature = signature_of(self._stat)
        return signature._replace(inode=-1) if self._moved else signature

    def xattrs(self) -> dict[bytes, bytes]:
        """See ReadableFile."""
        return {}

    def given_digest(self) -> bytes | None:
        """See ReadableFile. A Sidecar tells no digest of what it sends."""
        return None

    def digest_prefix(self, end: int) -> None:
        """See ReadableFile. A Sidecar digests whole files only."""

    def drop_cache(self) -> None:
        """See ReadableFile. Not possible from here."""

    def data_extents(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """See ReadableFile. Holes are sent as zeros."""
        if size_bytes:
            yield 0, size_bytes

    def read_into(self, buffer: memoryview, offset_bytes: int) -> int:
        """See ReadableFile. A lost connection is made anew and read on."""
        wanted = min(len(buffer), self._stat.size_bytes - offset_bytes)
        done = 0
        stalls = 0
        while done < wanted and not self._moved:
            if self._answer is None or self._position != offset_bytes + done:
                self._ask(offset_bytes + done)
                continue
            got = self._read(buffer[done:wanted])
            done += got
            self._position += got
            if got:
                stalls = 0
                continue
            # It ended early: what was cut off is asked for again, but not for ever.
            self._forget()
            stalls += 1
            if stalls > _STALLS_MAX:
                self._moved = True
        return max(done, 0)

    def close(self) -> None:
        """See ReadableFile."""
        self._forget()

    def _read(self, buffer: memoryview) -> int:
        assert self._answer is not None
        try:
            return self._answer.readinto(buffer)
        except (OSError, http.client.HTTPException, ValueError):
            return 0

    def _ask(self, start: int) -> None:
        self._forget()
        answer = self._directory.ask_range(self._path, start)
        size_bytes = self._stat.size_bytes
        length = answer.headers.get("Content-Length")
        begins = _begin_of(answer)
        is_as_listed = length is None or length == str(size_bytes - begins)
        if answer.status == 416 or begins > start or not is_as_listed:
            # Its length is another by now; what was read before belongs to what it was.
            self._moved = True
            self._directory.drop()
            return
        self._answer, self._position = answer, begins
        while self._position < start and (got := self._skip(start - self._position)):
            self._position += got

    def _skip(self, size_bytes: int) -> int:
        return self._read(memoryview(bytearray(min(size_bytes, 64 * KIB))))

    def _has_grown(self) -> bool:
        """Ask for the byte behind its end: there must be none."""
        self._forget()
        size_bytes = self._stat.size_bytes
        try:
            answer = self._directory.ask_range(self._path, size_bytes, size_bytes + 1)
        except (NotFoundError, ConflictError):
            return True
        self._directory.drop()
        return answer.status != 416

    def _forget(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.isclosed():
            self._directory.drop()


def parse_digest(text: str, spelt: str) -> bytes:
    """Return a digest as a Sidecar spells it: MD5 in Base64, XXHash32 in hex without zeros ahead.

    Raises:
        ValueError: It is spelt in another way.
    """
    if spelt == "MD5":
        try:
            digest = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(text) from error
        if len(digest) == 16:
            return digest
    elif _HEX.fullmatch(text):
        return int(text, 16).to_bytes(4, "big")
    raise ValueError(text)


def _begin_of(answer: http.client.HTTPResponse) -> int:
    """Return the first byte an answer holds. The total of an old revision is wrong: not read."""
    if answer.status != 206:
        return 0
    unit, _, rest = (answer.headers.get("Content-Range") or "").partition(" ")
    begin = rest.partition("-")[0]
    if unit == "bytes" and begin.isascii() and begin.isdigit() and len(begin) < 20:
        return int(begin)
    return 1 << 62
