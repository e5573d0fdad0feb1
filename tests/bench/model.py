"""What a benchmark is made of: data sets, contenders, workloads, samples. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class Place(StrEnum):
    """Where source and target lie."""

    DISK = "disk"
    MEMORY = "memory"


class Target(StrEnum):
    """What a run finds at $DST."""

    FRESH = "fresh"
    """Nothing: a name never used before."""
    OWN = "own"
    """What the contender's own `setup` made there once, before the first round."""
    SHARED = "shared"
    """What the workload's `setup` made there once, the same for all contenders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A tree of files of incompressible bytes, equal ones or of several sizes."""

    files_count: int
    size_bytes: int
    """Of each file; the mean where they differ."""
    directories_count: int
    sizes_bytes: tuple[int, ...] = ()
    """Where they differ: what they have, in turn; their number divides that of the files."""

    def __post_init__(self) -> None:
        if self.sizes_bytes:
            turns, rest = divmod(self.files_count, len(self.sizes_bytes))
            if rest or turns * sum(self.sizes_bytes) != self.total_bytes:
                raise ValueError("the sizes do not come to what the data set says it has")

    def scaled(self, scale: float) -> "Dataset":
        """Return a smaller one: fewer files where there are many, smaller ones otherwise."""
        if self.files_count >= 1000:
            step = max(1, len(self.sizes_bytes))
            return replace(
                self,
                files_count=max(1, int(self.files_count * scale) // step) * step,
                directories_count=max(1, int(self.directories_count * scale)),
            )
        return replace(self, size_bytes=max(1, int(self.size_bytes * scale)))

    def size_of(self, index: int) -> int:
        """Return how long a file is, in bytes."""
        sizes = self.sizes_bytes
        return sizes[index % len(sizes)] if sizes else self.size_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return self.files_count * self.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to do the work.

    Its script is bash, with $SRC, $DST, $WORK (of the workload, shared), $RUN (its own, but for
    rounds on one target), $PORT (free), $HOLDFAST and $CORES, and $SAMPLE, for scripts that measure
    themselves.
    """

    name: str
    script: str
    programs: tuple[str, ...] = ()
    """Programs without which it is skipped."""
    against: str = ""
    """Name of the contender it is compared with; empty for holdfast's own."""
    goal: float | None = None
    """The least the ratio should be; None where it is only told."""
    setup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A question, the data, the ways to do it."""

    name: str
    title: str
    dataset: Dataset
    contenders: tuple[Contender, ...]
    place: Place = Place.DISK
    target: Target = Target.FRESH
    setup: str = ""
    copies: bool = False
    """After a run, $DST must hold as many files and bytes as $SRC."""
    samples_memory: bool = False
    """The ratio is of peak memory, not of time."""
    rounds_count: int = 5
    makes_files: bool = True
    """A run makes about as many files as the data set has, so that it waits for ext4 to rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one run took."""

    wall_s: float
    cpu_s: float
    """User and system time of the whole process tree."""
    rss_bytes_max: int = 0
    """Peak of the sum over the process tree; 0 where not sampled."""


Round = Mapping[str, Sample]
"""One run of each contender, one after another, by contender name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Middle and range of some figures."""

    median: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """How many times the lowest the highest is."""
        return self.high / self.low if self.low > 0 else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender in the result of a workload. Ratios: its figure divided by holdfast's."""

    name: str
    wall_s: Spread
    cpu_s: Spread
    rss_bytes: Spread
    against: str
    ratio: Spread | None
    cpu_ratio: Spread | None
    goal: float | None
    is_noisy: bool
    """Its own runs, or those it is compared with, differ by more than a factor of 2: no result."""

    @property
    def meets_goal(self) -> bool | None:
        """Whether the goal is met; None where there is no goal or no result."""
        if self.goal is None or self.ratio is None or self.is_noisy:
            return None
        return self.ratio.median >= self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a workload came to."""

    workload: str
    title: str
    file_system: str
    files_count: int
    size_bytes: int
    rounds_count: int
    compares_memory: bool
    rows: tuple[Row, ...]
    skipped: tuple[tuple[str, str], ...]
    """(contender, reason)."""
