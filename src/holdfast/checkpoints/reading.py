"""Gives back what a checkpoint holds of one resource: its entries, its streams, its tree."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from holdfast.checkpoints.bank import Bank
from holdfast.checkpoints.model import ChunkId, ResourceRecord
from holdfast.checkpoints.sealing import Sealer
from holdfast.checkpoints.segments import FILE, Entry, decode_segment
from holdfast.checkpoints.tree import CheckpointTree
from holdfast.errors import NotFoundError


def read_entries(
    bank: Bank,
    sealer: Sealer,
    record: ResourceRecord,
    on_segment: Callable[[], object] = lambda: None,
) -> Iterator[Entry]:
    """Yield the entries of a resource, checked; raises as Bank.read_chunk and decode_segment.

    `on_segment` is called before each read of the bank: whoever holds a lease keeps it there.
    """
    after: bytes | None = None
    for segment in record.segments:
        on_segment()
        entries = decode_segment(bank.read_chunk(sealer, segment.id), after)
        yield from entries
        after = entries[-1].path if entries else after


@dataclass(slots=True, kw_only=True)
class ResourceReader:
    """Reads one resource of a checkpoint; what it returns was checked against its digests."""

    bank: Bank
    sealer: Sealer
    record: ResourceRecord
    identity: Mapping[str, object]
    """What a proof says of where it is from."""

    def names(self) -> list[str]:
        """Return the names of the streams, as they were written."""
        return [
            entry.path.decode("utf-8", "surrogateescape")
            for entry in self.entries()
            if entry.kind == FILE
        ]

    def read(self, name: str) -> Iterator[bytes]:
        """Yield a stream's bytes; NotFoundError (`no-entry`)."""
        path = name.encode("utf-8", "surrogateescape")
        for entry in self.entries():
            if entry.path == path:
                for chunk, start, size_bytes in entry.parts:
                    if chunk:
                        yield self._read_chunk(chunk)[start : start + size_bytes]
                    else:
                        yield bytes(size_bytes)
                return
        raise NotFoundError(f"{name}: no such entry", code="no-entry")

    def entries(self) -> Iterator[Entry]:
        """Yield what is listed, in order of paths."""
        return read_entries(self.bank, self.sealer, self.record)

    def tree(self) -> CheckpointTree:
        """Return it as a tree."""
        return CheckpointTree(
            self.entries(),
            self._read_chunk,
            self.identity,
            is_forkable=self.bank.store.is_forkable,
        )

    def _read_chunk(self, chunk: bytes) -> bytes:
        return self.bank.read_chunk(self.sealer, ChunkId(chunk))
