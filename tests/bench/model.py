"""What a benchmark is made of: data sets, contenders, workloads, samples. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """A tree of equal files of incompressible bytes."""

    files_count: int
    size_bytes: int
    directories_count: int

    def scaled(self, scale: float) -> "Dataset":
        """Return a smaller one: fewer files where there are many, smaller ones otherwise."""
        if self.files_count >= 1000:
            return Dataset(
                files_count=max(1, int(self.files_count * scale)),
                size_bytes=self.size_bytes,
                directories_count=max(1, int(self.directories_count * scale)),
            )
        return Dataset(
            files_count=self.files_count,
            size_bytes=max(1, int(self.size_bytes * scale)),
            directories_count=self.directories_count,
        )

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
