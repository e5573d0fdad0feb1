"""The walk over a tree: order, what vanishes, what cannot be listed, what is left out, memory.

Method: simulated trees; for memory a directory whose names are made up as they are asked for.
"""

import itertools
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import CapacityError, HoldfastError, InvalidRequestError, NotFoundError
from holdfast.files.listing import Exclusions, Listed, Page, Walk, join_listings, join_pages
from holdfast.model.limits import PATH_BYTES_MAX
from holdfast.model.tree import SIDE_DIRECTORY, FileKind, Stat, columns_of, join_path
from holdfast.testing.directory import SimDirectory
from holdfast.testing.faults import SimFaults
from holdfast.testing.trees import put_file

FILE = Stat(FileKind.FILE, 1, 1, 1, 1, 1, 0o644, 0, 0, 1, 0)


class Failures:
    """What a walk said it could not list."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, str]] = []

    def __call__(self, path: bytes, error: HoldfastError) -> None:
        self.found.append((path, error.code))


def walk(tree: SimDirectory, *patterns: str) -> tuple[list[bytes], Walk, Failures]:
    failures = Failures()
    walked = Walk(directory=tree, exclusions=Exclusions(patterns), on_failure=failures)
    return [path for path, _ in walked], walked, failures


def test_order_is_that_of_whole_paths_as_bytes() -> None:
    """`a-b` sorts before `a/x`, which a walk directory by directory gets wrong."""
    tree = SimDirectory()
    for path in (b"a", b"a-b", b"a/\xff", b"b", b"a/a"):
        tree.make_directory(path)
    for path in (b"a/x", b"a.b", b"a/a/y", b"a0", b"a-b/z", b"a\x01", b"\xfe", b"a/a-b"):
        put_file(tree, path, b"x")
    found, _, failures = walk(tree)
    expected = [
        b"a", b"a\x01", b"a-b", b"a-b/z", b"a.b", b"a/a", b"a/a-b", b"a/a/y", b"a/x", b"a/\xff",
        b"a0", b"b", b"\xfe",
    ]  # fmt: skip
    assert found == expected == sorted(expected)
    assert failures.found == []


def test_a_tree_of_too_many_entries_ends_the_walk() -> None:
    """Over all directories together, so that no source can have one walk for ever."""
    tree = SimDirectory()
    for path in (b"a", b"a/a", b"a/a/a", b"a/a/a/a"):
        tree.make_directory(path)
    for most, is_enough in ((4, True), (3, False)):
        walked = Walk(
            directory=tree, exclusions=Exclusions(()), on_failure=Failures(), entries_max=most
        )
        if is_enough:
            assert len(list(walked)) == most
            continue
        with pytest.raises(CapacityError) as raised:
            list(walked)
        assert raised.value.code == "listing-too-large"


def test_side_directory_is_left_out_at_the_root_only() -> None:
    tree = SimDirectory()
    tree.make_directory(SIDE_DIRECTORY)
    put_file(tree, join_path(SIDE_DIRECTORY, b"x"), b"x")
    tree.make_directory(b"d")
    tree.make_directory(b"d/" + SIDE_DIRECTORY)
    assert walk(tree)[0] == [b"d", b"d/" + SIDE_DIRECTORY]


def tree_with_files() -> SimDirectory:
    tree = SimDirectory()
    tree.make_directory(b"d")
    for path in (b"a", b"d/x", b"d/y.log", b"z"):
        put_file(tree, path, b"x")
    return tree


def on_look(tree: SimDirectory, name: str, path: bytes, act: object) -> None:
    """Have `act` happen once, before this look."""
    done = False

    def hook(number: int, called: str, at: bytes) -> None:
        nonlocal done
        if not done and (called, at) == (name, path):
            done = True
            assert callable(act)
            act()

    tree.gate.faults = SimFaults(on_look=hook)


def test_what_vanishes_during_the_walk_is_left_out() -> None:
    tree = tree_with_files()
    on_look(tree, "list_names", b"d", lambda: tree.remove_file(b"d/x"))
    assert walk(tree)[0] == [b"a", b"d", b"d/y.log", b"z"]

    tree = tree_with_files()

    def remove_all() -> None:
        for path in (b"d/x", b"d/y.log"):
            tree.remove_file(path)
        tree.remove_directory(b"d")

    on_look(tree, "list_names", b"d", remove_all)
    found, walked, _ = walk(tree)
    assert found == [b"a", b"d", b"z"]
    assert walked.failures == 0


def test_directory_that_cannot_be_listed_is_told_and_counted() -> None:
    tree = tree_with_files()
    tree.gate.faults.forbidden.add(b"d")
    found, walked, failures = walk(tree)
    assert found == [b"a", b"d", b"z"]
    assert failures.found == [(b"d", "forbidden")]
    assert walked.failures == 1


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_entry_that_changes_its_kind_while_listed_is_a_failure(kind: str) -> None:
    """Contents that were never listed must not pass for absent: they would be deleted."""
    tree = tree_with_files()
    names = tree.list_names(b"")

    class Stale(SimDirectory):
        """Gives an old answer for the names of the root."""

        def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
            return names if not path else super().list_names(path)

    after = Stale()
    if kind == "file":
        after.make_directory(b"a")
        put_file(after, b"a/in", b"x")
        after.make_directory(b"d")
    else:
        put_file(after, b"a", b"x")
        put_file(after, b"d", b"x")
    put_file(after, b"z", b"x")
    _, walked, failures = walk(after)
    assert walked.failures == 1
    expected = (b"a", "changed-while-listing") if kind == "file" else (b"d", "not-a-directory")
    assert failures.found == [expected]


def test_missing_root_is_an_error_of_the_whole_walk() -> None:
    class Gone(SimDirectory):
        def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
            raise NotFoundError("gone", code="no-root")

    with pytest.raises(NotFoundError):
        walk(Gone())


def test_exclusions() -> None:
    excluded: list[bytes] = []
    tree = tree_with_files()
    exclusions = Exclusions(("*.log", "/a", "!keep"))
    listing = Walk(
        directory=tree,
        exclusions=exclusions,
        on_failure=Failures(),
        on_excluded=excluded.append,
    )
    assert [path for path, _ in listing] == [b"d", b"d/x", b"z"]
    assert (listing.excluded, excluded) == (2, [b"a", b"d/y.log"])
    assert walk(tree, "d/")[0] == [b"a", b"z"]  # And nothing below it.
    assert walk(tree, "z/")[0] == [b"a", b"d", b"d/x", b"d/y.log", b"z"]  # Directories only.


def test_exclusions_of_names_outside_utf8() -> None:
    assert Exclusions(("*.log",)).match(b"\xff.log", is_directory=False)
    assert not Exclusions(()).match(b"anything", is_directory=True)


def test_bad_pattern_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Exclusions(("a", "!"))
    assert caught.value.code == "bad-pattern"


def test_path_that_grows_too_long_is_told() -> None:
    tree = SimDirectory()
    path = b""
    while len(path) <= PATH_BYTES_MAX:
        path = join_path(path, b"n" * 250)
        tree.make_directory(path)
    found, walked, failures = walk(tree)
    assert max(len(each) for each in found) <= PATH_BYTES_MAX
    assert walked.failures == 1
    assert failures.found[0][1] == "path-too-long"


def test_listings_are_joined_by_path() -> None:
    def listed(*paths: bytes) -> Iterator[Listed]:
        return iter([Listed(path, FILE) for path in paths])

    joined = list(join_listings(listed(b"a", b"c", b"d"), listed(b"b", b"c", b"e", b"f")))
    assert [(path, left is not None, right is not None) for path, left, right in joined] == [
        (b"a", True, False),
        (b"b", False, True),
        (b"c", True, True),
        (b"d", True, False),
        (b"e", False, True),
        (b"f", False, True),
    ]
    assert list(join_listings(listed(), listed())) == []


class Endless(SimDirectory):
    """A tree of 200 directories with 1000 files each that exists in no memory."""

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        if path:
            return [(b"f%d" % number, False) for number in range(1000)]
        return [(b"d%d" % number, True) for number in range(200)]

    def stat(self, path: bytes) -> Stat:
        return FILE if b"/" in path else FILE._replace(kind=FileKind.DIRECTORY)

    def stat_names(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        return [self.stat(join_path(path, name)) for name in names]


def test_memory_is_that_of_the_directories_on_the_way() -> None:
    """200 200 entries, and no more memory for the second half than for the first."""
    listing = Walk(directory=Endless(), exclusions=Exclusions(()), on_failure=Failures())
    entries = iter(listing)
    tracemalloc.start()
    try:
        count = sum(1 for _ in itertools.islice(entries, 100_000))
        _, first_peak = tracemalloc.get_traced_memory()
        count += sum(1 for _ in entries)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 200_200
    assert peak < 1.2 * first_peak < 2_000_000  # Some is what the interpreter keeps at hand.


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 25)), min_size=2, max_size=2),
    st.lists(st.integers(1, 5), min_size=2, max_size=2),
)
def test_pages_are_joined_as_entries_are(sides: list[set[int]], sizes: list[int]) -> None:
    """However each side is cut into pages; and what is joined is on the same sides throughout."""
    listings = [
        [Listed(b"%02d" % number, FILE._replace(inode=number)) for number in sorted(side)]
        for side in sides
    ]
    pages = [
        iter([page_of(listing[at : at + size]) for at in range(0, len(listing), size)])
        for listing, size in zip(listings, sizes, strict=True)
    ]
    joined = list(join_pages(*pages))
    rows = [row for each in joined for row in each.rows()]
    assert rows == list(join_listings(*map(iter, listings)))
    assert all(each.paths and (each.source or each.target) for each in joined)


def page_of(entries: list[Listed]) -> Page:
    return Page([path for path, _ in entries], columns_of([stat for _, stat in entries]))
