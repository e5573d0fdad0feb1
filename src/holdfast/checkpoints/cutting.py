"""Where a large file is cut into chunks: by content, so that an insertion moves no later cut.

A cut is made behind a line feed whose neighbours belong to sets drawn from a seed, not
before CHUNK_BYTES_MIN and at the latest at CHUNK_BYTES_MAX. The search is one compiled pattern that
begins with a literal: the scan runs in C.

The seed of an encrypted bank is its key's, so that lengths of chunks tell little about well-known
files; all others share one. So banks that name chunks alike also cut alike, and heal each other.
"""

import re
from dataclasses import dataclass
from hashlib import shake_256

from holdfast.model.limits import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN
from holdfast.ports import Buffer

_SETS = 3
_PRINTABLE = range(32, 128)
_PRINTABLE_COUNT = 6
_OTHERS_COUNT = 10
"""Of 256 values 16, six of them printable: a cut is expected every 256 * 16^3 = 1 Mi bytes, beyond
the shortest length, in random bytes, and about as often in text."""


@dataclass(frozen=True, slots=True)
class Cutter:
    """The cuts of one seed."""

    pattern: "re.Pattern[bytes]"

    @classmethod
    def of_seed(cls, seed: bytes) -> "Cutter":
        """Return the cutter of a seed; part of the format of banks."""
        drawn = shake_256(b"holdfast-bank cuts" + seed).digest(_SETS * 256)
        sets = []
        for number in range(_SETS):
            weights = drawn[number * 256 : (number + 1) * 256]
            order = sorted(range(256), key=lambda value: (weights[value], value))
            printable = [value for value in order if value in _PRINTABLE][:_PRINTABLE_COUNT]
            others = [value for value in order if value not in _PRINTABLE][:_OTHERS_COUNT]
            members = sorted(printable + others)
            sets.append(b"[" + b"".join(b"\\x%02x" % value for value in members) + b"]")
        before, after, beyond = sets
        return cls(re.compile(b"\\n(?<=" + before + b"\\n)" + after + beyond, re.DOTALL))

    def cut(self, data: Buffer, start: int, end: int) -> int:
        """Return where the chunk that begins at `start` ends; at most `end`."""
        last = min(end, start + CHUNK_BYTES_MAX)
        if last - start <= CHUNK_BYTES_MIN:
            return last
        found = self.pattern.search(data, start + CHUNK_BYTES_MIN, last)
        return last if found is None else found.start() + 1
