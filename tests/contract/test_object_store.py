"""Goal: an object store keeps whole objects under checked names, in order, whatever is behind.

Method: each sentence of the port ObjectStore on the simulated store, a directory, SeaweedFS as S3
and Swift; the last two are slow to start.
"""

import os
from pathlib import Path

import pytest

from holdfast.errors import CapacityError, InvalidRequestError, NotFoundError
from holdfast.ports import ObjectStore, PutOutcome
from holdfast.stores.objects.directory import DirectoryObjects
from holdfast.stores.objects.racing import measure_promises
from holdfast.stores.system import SystemEntropy
from holdfast.testing.clock import SimClock, SimEntropy
from holdfast.testing.objects import SimObjectStore, StoreFaults
from tests.contract.objects import store, swift_alone, weed

__all__ = ["store", "swift_alone", "weed"]

LIMIT = 1 << 24


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 9000])
def test_what_was_put_is_read(store: ObjectStore, data: bytes) -> None:
    store.put("chunks/ab/one", data)

    assert store.get("chunks/ab/one", LIMIT) == data
    found = store.head("chunks/ab/one")
    assert found is not None
    assert (found.name, found.size_bytes) == ("chunks/ab/one", len(data))


def test_put_replaces_and_create_does_not(store: ObjectStore) -> None:
    assert store.create("a", b"one") is PutOutcome.CREATED
    assert store.create("a", b"two") is PutOutcome.EXISTS
    assert store.get("a", LIMIT) == b"one"

    store.put("a", b"three")

    assert store.get("a", LIMIT) == b"three"


def test_staged_objects_are_there_once_settled(store: ObjectStore) -> None:
    names = [f"chunks/{n % 3:02}/{n}" for n in range(7)]
    for name in names:
        store.stage(name, name.encode())
    store.settle()

    assert [store.get(name, LIMIT) for name in names] == [name.encode() for name in names]


def test_range_is_part_of_the_object(store: ObjectStore) -> None:
    store.put("a", b"0123456789")

    assert store.get_range("a", 2, 5) == b"234"
    assert store.get_range("a", 8, 50) == b"89"
    assert store.get_range("a", 20, 30) == b""
    assert store.get_range("a", 3, 3) == b""


def test_missing_object_is_told(store: ObjectStore) -> None:
    assert store.head("nothing/here") is None
    with pytest.raises(NotFoundError, match="nothing/here"):
        store.get("nothing/here", LIMIT)
    with pytest.raises(NotFoundError):
        store.get_range("nothing/here", 0, 1)
    store.delete("nothing/here")


def test_listing_is_in_order_with_prefix_and_marker(store: ObjectStore) -> None:
    names = sorted(["a-b", "a/x", "a/y/z", "a.b", "ab/c", "b", "zz/1"])
    for name in reversed(names):
        store.put(name, b"12")

    assert [found.name for found in store.list("")] == names
    assert [found.name for found in store.list("a/")] == ["a/x", "a/y/z"]
    assert [found.name for found in store.list("a")] == names[:5]
    assert [found.name for found in store.list("", "a/x")] == names[names.index("a/x") + 1 :]
    assert [found.name for found in store.list("a/", "a/x")] == ["a/y/z"]
    assert {found.size_bytes for found in store.list("")} == {2}
    assert list(store.list("c")) == []


def test_deleted_object_is_gone(store: ObjectStore) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")

    assert store.head("a/b") is None
    assert list(store.list("")) == []


def test_object_over_the_limit_is_refused(store: ObjectStore) -> None:
    store.put("a", b"12345")

    with pytest.raises(CapacityError):
        store.get("a", 4)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "é", "a" * 600]
)
def test_bad_names_are_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        store.put(name, b"")
    with pytest.raises(InvalidRequestError):
        store.delete(name)


def test_promises_are_measured(store: ObjectStore) -> None:
    """Swift answers 412 but is racy; which promise it makes is not ours to say."""
    promises = measure_promises(store, SystemEntropy(), rounds=5)

    assert list(store.list("probe/")) == []
    if type(store).__name__ != "ContainerObjects":
        assert promises == (True, True)


def test_racy_store_is_found_out() -> None:
    store = SimObjectStore(SimClock(), StoreFaults(creates_racy=True))

    assert not measure_promises(store, SimEntropy(1), rounds=3).creates_once


def test_directory_shows_nothing_of_what_was_cut_off(tmp_path: Path) -> None:
    """Invariant 1 of stores/objects/directory: what is only staged is seen by nobody."""
    cut_off = DirectoryObjects(str(tmp_path), SystemEntropy())
    cut_off.stage("chunks/a", b"whole or not at all")

    other = DirectoryObjects(str(tmp_path), SystemEntropy())

    assert other.head("chunks/a") is None
    assert list(other.list("")) == []
    assert other.tidy(0) == 0
    assert other.tidy(1 << 62) == 1
    assert os.listdir(tmp_path / ".staging") == []
