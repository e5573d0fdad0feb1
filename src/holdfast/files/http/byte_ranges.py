"""The grammar of the Range header as Sidecar has it: one range of bytes, or 416. Pure.

Invariants:

1. What is returned lies inside the file, is not empty, and its end is exclusive.
2. Several ranges, another unit, `bytes=-`, `bytes=-0`, a start behind its end or behind the file's
   are refused; nothing that cannot be parsed is taken for "all of it".
"""

import re
from typing import Final, NamedTuple

from holdfast.errors import InvalidRequestError

_ONE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)


class ByteRange(NamedTuple):
    """Half-open part of a file."""

    start: int
    end: int


def parse_range(header: str | None, size_bytes: int) -> ByteRange:
    """Return the part asked for; all of the file, also of an empty one, where nothing is asked.

    Raises:
        InvalidRequestError: `range-not-satisfiable`, with `size_bytes`.
    """
    if header is None:
        return ByteRange(0, size_bytes)
    match = _ONE.fullmatch(header.strip())
    if match is None:
        raise _unsatisfiable("the Range header is not one range of bytes", size_bytes)
    first, last = match.groups()
    if first:
        start = int(first)
        end = min(int(last) + 1, size_bytes) if last else size_bytes
        is_backwards = bool(last) and int(last) < start
    else:
        start = max(size_bytes - int(last or "0"), 0)
        end, is_backwards = size_bytes, False
    if is_backwards or start >= end:
        raise _unsatisfiable(f"no byte of the file is in the range {header.strip()}", size_bytes)
    return ByteRange(start, end)


def content_range(part: ByteRange, size_bytes: int) -> str:
    """Spell the Content-Range header of a part that is not empty."""
    return f"bytes {part.start}-{part.end - 1}/{size_bytes}"


def _unsatisfiable(message: str, size_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(
        message,
        code="range-not-satisfiable",
        advice=f"the file has {size_bytes} bytes; ask for bytes=FIRST-LAST, FIRST- or -COUNT",
        size_bytes=size_bytes,
    )
