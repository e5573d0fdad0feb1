"""Measures what an object store keeps, by racing it; the documentation is not asked.

Invariants:
1. One double win, one ignored condition or one stale read is enough for the promise not to be made.
2. What was written is removed again.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Final

from holdfast.ports import Entropy, ObjectStore, PutOutcome, StorePromises

ROUNDS: Final = 5
WRITERS: Final = 4


def measure_promises(
    store: ObjectStore, entropy: Entropy, *, rounds: int = ROUNDS
) -> StorePromises:
    """Race creators of objects with random names, read and list after writing, and report.

    Raises whatever the store raises when it cannot be used at all.
    """
    place = f"probe/{entropy.random_bytes(8).hex()}"
    creates_once = all(_race(store, f"{place}-{number}") for number in range(rounds))
    return StorePromises(creates_once, _reads_back(store, place))


def _race(store: ObjectStore, name: str) -> bool:
    """Return whether of several creators one won, and its bytes are there."""
    barrier = Barrier(WRITERS)

    def create(number: int) -> PutOutcome:
        barrier.wait()
        return store.create(name, b"%d" % number * 1000)

    try:
        with ThreadPoolExecutor(WRITERS) as pool:
            outcomes = list(pool.map(create, range(WRITERS)))
        winners = [n for n, outcome in enumerate(outcomes) if outcome is PutOutcome.CREATED]
        return len(winners) == 1 and store.get(name, 1 << 20) == b"%d" % winners[0] * 1000
    finally:
        store.delete(name)


def _reads_back(store: ObjectStore, place: str) -> bool:
    is_kept = True
    for number in range(WRITERS):
        name = f"{place}-read-{number}"
        for content in (b"one", b"other"):
            store.put(name, content)
            is_kept &= store.get(name, 100) == content
        is_kept &= [found.name for found in store.list(name)] == [name]
        store.delete(name)
        is_kept &= store.head(name) is None and not list(store.list(name))
    return is_kept
