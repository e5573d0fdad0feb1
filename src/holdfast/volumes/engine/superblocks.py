"""Two superblocks in turn, and the hint beside them.

Order and the crash it survives: a superblock goes to the slot of the older one and is flushed
before anything relies on it, so that a torn write leaves the one before. The hint is one sector,
not flushed: losing it only makes a damaged end of the log look like a torn one (recovery.py).

1. A superblock is valid with its digest only; of two valid ones the greater generation counts.
2. A lost or torn superblock leaves the one before it; that what is behind it is gone is noticed
   by the batches and the hint, which name the checkpoint they know.
"""

from holdfast.errors import IntegrityError
from holdfast.ports import BlockFile
from holdfast.volumes.engine.formats import (
    HINT_AT,
    HINT_BYTES,
    SUPERBLOCK_BYTES,
    Hint,
    Superblock,
    decode_hint,
    decode_superblock,
    encode_hint,
    encode_superblock,
)


def read_superblocks(meta: BlockFile) -> list[Superblock | None]:
    """Return what each of the two slots holds."""
    data = bytearray(2 * SUPERBLOCK_BYTES)
    meta.pread_into(memoryview(data), 0)
    return [
        decode_superblock(bytes(data[at : at + SUPERBLOCK_BYTES])) for at in (0, SUPERBLOCK_BYTES)
    ]


def newest_superblock(meta: BlockFile) -> Superblock:
    """Return the one that counts; IntegrityError (`superblock-damaged`) if neither is valid."""
    valid = [superblock for superblock in read_superblocks(meta) if superblock is not None]
    if not valid:
        raise IntegrityError(
            "both superblocks of the volume are damaged",
            code="superblock-damaged",
            advice="restore the volume's meta file from a copy, or the volume from a checkpoint",
        )
    return max(valid, key=lambda superblock: superblock.generation)


def read_hint(meta: BlockFile, incarnation: int) -> Hint | None:
    """Return the hint, if there is a valid one."""
    data = bytearray(HINT_BYTES)
    meta.pread_into(memoryview(data), HINT_AT)
    return decode_hint(bytes(data), incarnation)


class SuperblockStore:
    """Writes superblocks; the owner's."""

    def __init__(self, meta: BlockFile, current: Superblock) -> None:
        self.meta = meta
        self.current = current
        """The last one written, durable or not."""
        self.is_synced = False
        """Not at first: an earlier process may have been killed between writing it and flushing."""

    def write(self, superblock: Superblock) -> None:
        """Write the next one; durable once the file is flushed."""
        assert superblock.generation == self.current.generation + 1
        if not self.is_synced:
            self.sync()  # The other slot must hold a durable one before it is the only one.
        at = superblock.generation % 2 * SUPERBLOCK_BYTES
        self.is_synced = False
        self.current = superblock
        self.meta.pwrite(encode_superblock(superblock), at)

    def sync(self) -> None:
        """Make the current one durable."""
        self.meta.fdatasync()
        self.is_synced = True

    def hint(self, hint: Hint) -> None:
        """Note what is durable; best effort by design."""
        self.meta.pwrite(encode_hint(hint), HINT_AT)
