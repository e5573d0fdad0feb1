"""The log: two segments in turn, filled by batches that are chained to one another.

Changes go to the active segment while the other, frozen, is carried home by a checkpoint. A batch
never lies in both. Not here: what records mean (dirty.py, apply.py), finding the end (recovery.py).

1. An LSN is spent only when its batch is written: a write that failed leaves position, LSN and
   chain as they were, and the next batch goes over it.
2. A segment is filled anew only when the checkpoint of what it held is published.
3. Every batch carries the volume's incarnation, the number of this pass over the segment and the
   digest of the batch before it: old bytes are never taken for new ones. A mark with a nonce,
   written at each opening, parts what follows from what an earlier run may have left behind it.
4. Every batch carries what was durable when it was written: a damaged record below that is known
   to be damage and no torn end.
"""

from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_64, xxh3_64_intdigest

from holdfast.ports import BlockFile, Buffer
from holdfast.volumes.engine.formats import (
    BATCH_HEADER_BYTES,
    NONCE_BYTES,
    pack_batch_header,
)
from holdfast.volumes.model import Lsn

MARK_BYTES: Final = BATCH_HEADER_BYTES + NONCE_BYTES


class Log:
    """The end of the log and what is written there; the owner's."""

    def __init__(
        self, file: BlockFile, *, segment_bytes: int, incarnation: int, pass_number: int, chain: int
    ) -> None:
        self.file = file
        self.segment_bytes = segment_bytes
        self.incarnation = incarnation
        self.pass_number = pass_number
        self.segment_at = (pass_number & 1) * segment_bytes
        self.used = 0
        self.frozen_used = 0
        """Bytes of the other segment that still count; 0: it is free."""
        self.chain = chain
        self.start_chain = chain
        """Digest of the last batch before this pass."""
        self.last_lsn = Lsn(0)
        self.durable_lsn = Lsn(0)
        self.checkpoint_lsn = Lsn(0)
        self.epoch = 0

    def has_room(self, payload_bytes: int) -> bool:
        """Return whether a batch fits the active segment."""
        return self.used + BATCH_HEADER_BYTES + payload_bytes <= self.segment_bytes

    @property
    def used_fraction(self) -> float:
        """How full the whole log is."""
        return (self.used + self.frozen_used) / (2 * self.segment_bytes)

    def payload_at(self) -> int:
        """Return where in the file the payload of the next batch will lie."""
        return self.segment_at + self.used + BATCH_HEADER_BYTES

    def append(self, parts: Sequence[Buffer], payload_bytes: int, count: int) -> None:
        """Write a batch; volatile until the file is flushed. There must be room.

        Raises:
            StorageFailedError, CapacityError: Nothing has happened (invariant 1).
        """
        if len(parts) == 1:
            digest = xxh3_64_intdigest(parts[0])
        else:
            state = xxh3_64()
            for part in parts:
                state.update(part)
            digest = state.intdigest()
        data, chain = pack_batch_header(
            self.incarnation,
            self.pass_number,
            self.last_lsn + 1,
            self.epoch,
            self.durable_lsn,
            self.checkpoint_lsn,
            count,
            payload_bytes,
            digest,
            self.chain,
        )
        self.file.pwritev([data, *parts], self.segment_at + self.used)
        self.used += BATCH_HEADER_BYTES + payload_bytes
        self.chain = chain
        self.last_lsn = Lsn(self.last_lsn + count)

    def append_mark(self, nonce: bytes) -> None:
        """Write a mark (invariant 3)."""
        assert len(nonce) == NONCE_BYTES
        self.append([nonce], NONCE_BYTES, 0)

    def rotate(self) -> None:
        """Freeze the active segment and go on at the beginning of the other, which must be free."""
        assert not self.frozen_used, "invariant 2"
        self.frozen_used = self.used
        self.pass_number += 1
        self.segment_at = (self.pass_number & 1) * self.segment_bytes
        self.used = 0
        self.start_chain = self.chain
