"""Finds out by racing whether a store's conditional writes are fit to keep heads.

Many stores check the condition first and write later: two writers may both win. Trusting the
documentation does not show it; a race does.

Invariants:

1. One double win, one ignored condition or one value that is not the winner's is enough to refuse.
2. Passing is the absence of a proof, and is never called one.
3. What was written is removed again.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from holdfast.errors import NotFoundError, UnsupportedError
from holdfast.ports import ConditionalObjects, ConditionalOutcome, Entropy

ROUNDS: Final = 20
WRITERS: Final = 4

_CREATE: Final = "If-None-Match"
_REPLACE: Final = "If-Match"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What the races showed."""

    rounds: int
    """Of each of the two races."""
    unsupported: tuple[str, ...] = ()
    """Conditions the store does not know."""
    ignored: tuple[str, ...] = ()
    """Conditions that did not hold and that it wrote under all the same."""
    double_creates: int = 0
    """Rounds in which more than one writer created the object."""
    double_replaces: int = 0
    """Rounds in which more than one writer replaced the same version."""
    lost_wins: int = 0
    """Rounds with one winner whose value is not the one that is there."""

    @property
    def is_fit(self) -> bool:
        """Whether nothing speaks against the store."""
        faults = (self.double_creates, self.double_replaces, self.lost_wins)
        return not self.unsupported and not self.ignored and not any(faults)


def refuse_unfit(report: ProbeReport) -> None:
    """Raise UnsupportedError (`store-not-atomic`) unless the report is without fault."""
    if report.is_fit:
        return
    reasons = [f"does not know {name}" for name in report.unsupported]
    reasons += [f"ignores {name}" for name in report.ignored]
    counted = {
        "let several writers create one object": report.double_creates,
        "let several writers replace one version": report.double_replaces,
        "kept another value than the winner's": report.lost_wins,
    }
    reasons += [f"{what} in {n} of {report.rounds} rounds" for what, n in counted.items() if n]
    raise UnsupportedError(
        f"the store is no home for heads: it {', '.join(reasons)}",
        code="store-not-atomic",
        advice="keep heads in SQLite or etcd; the store may hold everything else",
    )


async def probe_conditional_writes(
    objects: ConditionalObjects, entropy: Entropy, *, rounds: int = ROUNDS, writers: int = WRITERS
) -> ProbeReport:
    """Race writers on new objects of random names, and report."""
    name = entropy.random_bytes(8).hex()
    unsupported, ignored = await _try_conditions(objects, f"{name}-conditions")
    broken = {*unsupported, *ignored}
    creates, replaces, lost = 0, 0, 0
    for number in range(rounds if _CREATE not in broken else 0):
        raced = f"{name}-{number}"
        try:
            wins, is_kept = await _race(objects, raced, objects.create, writers, "create")
            creates += wins > 1
            lost += wins == 1 and not is_kept
            if _REPLACE in broken:
                continue
            _, etag = await objects.read(raced)
            replace = functools.partial(objects.replace, etag=etag)
            wins, is_kept = await _race(objects, raced, replace, writers, "replace")
            replaces += wins > 1
            lost += wins == 1 and not is_kept
        finally:
            await objects.delete(raced)
    return ProbeReport(
        rounds=rounds,
        unsupported=unsupported,
        ignored=ignored,
        double_creates=creates,
        double_replaces=replaces,
        lost_wins=lost,
    )


async def _try_conditions(
    objects: ConditionalObjects, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the conditions that the store does not know, and those it ignores."""
    try:
        first = await objects.create(name, b"first")
        again = await objects.create(name, b"again")
        bogus = await objects.replace(name, b"bogus", '"00000000000000000000000000000000"')
        _, etag = await objects.read(name)
        right = await objects.replace(name, b"right", etag)
    except NotFoundError:
        return (_CREATE,), ()
    finally:
        await objects.delete(name)
    outcomes = {_CREATE: (first, again), _REPLACE: (right, bogus)}
    unsupported = tuple(
        condition
        for condition, (held, failed) in outcomes.items()
        if held is not ConditionalOutcome.WON or failed is ConditionalOutcome.UNSUPPORTED
    )
    ignored = tuple(
        condition
        for condition, (_, failed) in outcomes.items()
        if failed is ConditionalOutcome.WON and condition not in unsupported
    )
    return unsupported, ignored


async def _race(
    objects: ConditionalObjects,
    name: str,
    write: Callable[[str, bytes], Awaitable[ConditionalOutcome]],
    writers: int,
    what: str,
) -> tuple[int, bool]:
    """Return how many writers won, and whether the object is what a winner wrote."""
    values = [f"{what} {number}".encode() for number in range(writers)]
    outcomes = await asyncio.gather(*(write(name, value) for value in values))
    winners = [
        value
        for value, outcome in zip(values, outcomes, strict=True)
        if outcome is ConditionalOutcome.WON
    ]
    try:
        kept, _ = await objects.read(name)
    except NotFoundError:
        return len(winners), not winners
    return len(winners), kept in winners
