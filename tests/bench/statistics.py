"""Turns the samples of several rounds into rows of a table. Pure.

A ratio is taken within a round, where the machine was in one mood, and then the median of those:
the ratio of medians would mix rounds.
"""

from collections.abc import Sequence
from statistics import median

from tests.bench.model import Contender, Round, Row, Sample, Spread

SPREAD_FACTOR_MAX = 2.0


def run_order(names: Sequence[str], round_index: int) -> list[str]:
    """Return the order of a round: A B C, then C B A, so that a drift favours no one."""
    return list(names) if round_index % 2 == 0 else list(reversed(names))


def spread_of(figures: Sequence[float]) -> Spread:
    """Return median, lowest and highest of at least one figure."""
    return Spread(median=median(figures), low=min(figures), high=max(figures))


def rows_of(
    contenders: Sequence[Contender], rounds: Sequence[Round], *, compares_memory: bool
) -> tuple[Row, ...]:
    """Return a row for each contender that ran in every round."""
    ran = [c for c in contenders if all(c.name in samples for samples in rounds)]
    names = {contender.name for contender in ran}
    return tuple(_row_of(c, rounds, names, compares_memory=compares_memory) for c in ran)


def _row_of(
    contender: Contender, rounds: Sequence[Round], names: set[str], *, compares_memory: bool
) -> Row:
    def figure(sample: Sample) -> float:
        return float(sample.rss_bytes_max) if compares_memory else sample.wall_s

    mine = [samples[contender.name] for samples in rounds]
    ratio, cpu_ratio, noisy = None, None, _is_noisy([figure(sample) for sample in mine])
    if contender.against in names:
        theirs = [samples[contender.against] for samples in rounds]
        ratio = _ratio([figure(s) for s in mine], [figure(s) for s in theirs])
        cpu_ratio = _ratio([s.cpu_s for s in mine], [s.cpu_s for s in theirs])
        noisy = noisy or _is_noisy([figure(sample) for sample in theirs])
    return Row(
        name=contender.name,
        wall_s=spread_of([sample.wall_s for sample in mine]),
        cpu_s=spread_of([sample.cpu_s for sample in mine]),
        rss_bytes=spread_of([float(sample.rss_bytes_max) for sample in mine]),
        against=contender.against,
        ratio=ratio,
        cpu_ratio=cpu_ratio,
        goal=contender.goal,
        is_noisy=noisy,
    )


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    if min(theirs) <= 0:
        return None
    return spread_of([one / other for one, other in zip(mine, theirs, strict=True)])


def _is_noisy(figures: Sequence[float]) -> bool:
    return spread_of(figures).factor > SPREAD_FACTOR_MAX
