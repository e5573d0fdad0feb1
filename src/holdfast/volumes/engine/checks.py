"""Checks at rest: 32 bits for each block of each physical slot that is in use.

That of a block that reads as zeros depends on the block too: a check that was lost, as zeros or as
those of another place, is never taken for it (formats.py).

Kept in a file, 4 bytes a block, in pages of 1024 of which a bounded number is held in memory. The
owner reads; a checkpoint writes through pages of its own, which the owner then takes.

1. A block read from the extent file is compared with its check, always; a mismatch is an error that
   names the range, never data.
"""

from array import array
from itertools import groupby
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast.errors import IntegrityError
from holdfast.ports import BlockFile
from holdfast.volumes.engine.formats import CHECK_MASK, DATA_BIT, zero_check
from holdfast.volumes.model import BLOCK_BYTES

PAGE_CHECKS: Final = 1024
_PAGE_BYTES: Final = 4 * PAGE_CHECKS
PAGES_MAX: Final = 4096
"""Pages held: 16 MiB, the checks of 16 GiB."""
_RUN_PAGES: Final = 256
_ZEROS: Final = bytes(BLOCK_BYTES)
_SHIFT: Final = 12


class CheckPages:
    """Pages of the checks file; `dirty` ones are written by `flush`."""

    def __init__(self, file: BlockFile, pages_max: int = PAGES_MAX) -> None:
        self.file = file
        self.pages_max = pages_max
        self.pages: dict[int, memoryview] = {}
        self.dirty: set[int] = set()
        self.touched: set[int] = set()
        """Every page that was ever written here."""

    def page(self, number: int) -> memoryview:
        """Return a page as 1024 numbers."""
        page = self.pages.get(number)
        if page is None:
            if len(self.pages) >= self.pages_max:
                self.flush()
                self.pages.pop(next(iter(self.pages)))
            data = memoryview(bytearray(_PAGE_BYTES))
            self.file.pread_into(data, number * _PAGE_BYTES)
            page = self.pages[number] = data.cast("I")
        return page

    def get(self, index: int, count: int) -> list[int]:
        """Return the checks of `count` blocks from physical block `index`; of one page."""
        at = index % PAGE_CHECKS
        return self.page(index // PAGE_CHECKS)[at : at + count].tolist()

    def writable(self, number: int) -> memoryview:
        """Return a page to be changed, before any other page is asked for."""
        page = self.page(number)
        self.dirty.add(number)
        return page

    def put_many(self, index: int, checks: "array[int]") -> None:
        """Change the checks of blocks from physical block `index`; of one page."""
        number, at = divmod(index, PAGE_CHECKS)
        self.writable(number)[at : at + len(checks)] = memoryview(checks)

    def flush(self) -> None:
        """Write what was changed; not durable before the file is flushed."""
        for _, group in groupby(enumerate(sorted(self.dirty)), lambda pair: pair[1] - pair[0]):
            run = [number for _, number in group]
            for at in range(0, len(run), _RUN_PAGES):
                part = run[at : at + _RUN_PAGES]
                data = [self.pages[number].cast("B") for number in part]
                self.file.pwritev(data, part[0] * _PAGE_BYTES)
        self.touched |= self.dirty
        self.dirty.clear()

    def adopt(self, other: "CheckPages") -> None:
        """Take the pages that another has written and will not change any more."""
        for number in other.touched & self.pages.keys():
            page = other.pages.get(number)
            if page is None:
                del self.pages[number]
            else:
                self.pages[number] = page


def verify_blocks(view: memoryview, start: int, checks: list[int], place: str) -> None:
    """Compare blocks just read, of the volume from `start`, with their checks.

    Those without data are zeroed.
    """
    digest = xxh3_64_intdigest
    # All of them compared at once: a step of Python for each is half of a large read.
    found = [
        digest(view[at : at + BLOCK_BYTES], start + at) & CHECK_MASK | DATA_BIT
        for at in range(0, len(view), BLOCK_BYTES)
    ]
    if found == checks:
        return
    for at, check, seen in zip(range(0, len(view), BLOCK_BYTES), checks, found, strict=True):
        end = at + BLOCK_BYTES
        if seen == check:
            continue
        if check != zero_check(start + at >> _SHIFT):
            raise damaged(start + at, start + end, place)
        view[at:end] = _ZEROS


def damaged(start: int, end: int, place: str) -> IntegrityError:
    """Return the error of bytes of a volume that are not what was written."""
    return IntegrityError(
        f"bytes {start} to {end} of the volume are damaged in its {place} file",
        code="block-damaged",
        advice="restore this range from a copy or a checkpoint; writing it anew also heals it",
        start=start,
        end=end,
        place=place,
    )
