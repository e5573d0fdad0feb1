"""What a data process counts, cheap enough for the data path: plain integers, no lock, no label.

One event thread owns all of them; metrics.py turns a snapshot into Prometheus' words elsewhere.
Durations fall into buckets by their number of bits, so that counting one is an index, not a search.

Invariants:

1. The buckets of an operation sum to its count.
2. Bucket b holds durations below 2**b ns and not below 2**(b-1) ns; the last also all longer ones.
"""

from dataclasses import dataclass, field
from typing import Final

BUCKETS_COUNT: Final = 36
"""The last bucket begins at 2**34 ns, seventeen seconds."""


@dataclass(slots=True)
class OperationCounter:
    """Requests of one kind that were answered."""

    count: int = 0
    size_bytes: int = 0
    errors_count: int = 0
    duration_ns: int = 0
    """Sum over all requests."""
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS_COUNT)

    def add(self, count: int, size_bytes: int, duration_ns: int) -> None:
        """Count requests that were answered together, each after `duration_ns`."""
        self.count += count
        self.size_bytes += size_bytes
        self.duration_ns += duration_ns * count
        bits = duration_ns.bit_length()
        self.buckets[bits if bits < BUCKETS_COUNT else BUCKETS_COUNT - 1] += count


@dataclass(slots=True)
class Counters:
    """Everything one data process counts since it started."""

    read: OperationCounter = field(default_factory=OperationCounter)
    write: OperationCounter = field(default_factory=OperationCounter)
    flush: OperationCounter = field(default_factory=OperationCounter)
    trim: OperationCounter = field(default_factory=OperationCounter)
    """Trims and writes of zeroes."""
    connections_count: int = 0
    """Connections taken since the start."""
    pauses_count: int = 0
    """Times a connection that writes was slowed because the log filled."""
    stalls_count: int = 0
    """Times a connection had to wait because the log was full."""
    stalled_ns: int = 0
    stalls_failed_count: int = 0
    """Of these, waits that ended in an error because the deadline passed."""
    checkpoints_count: int = 0
    checkpoint_ns: int = 0
    syncs_count: int = 0
    """Flushes of the log to its medium; one may answer many requests."""
    sync_ns: int = 0
