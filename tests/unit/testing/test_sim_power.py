"""What a simulated loss of power takes and what it leaves.

Goal: a program that flushes what it must passes under every adversary, one that forgets a flush is
found out by at least one, and what no real file system would do (a rename half done, a flushed file
gone) never happens. Method: short programs on SimDirectory, cut off, then read back.
"""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import HoldfastError
from holdfast.model.tree import ROOT_PATH, FileKind, Metadata
from holdfast.testing.directory import SimDirectory
from holdfast.testing.inodes import PAGE_BYTES
from holdfast.testing.trees import put_file, read_file, tree_of

OLD = b"old" * 3000
NEW = b"new!" * 4000
METADATA = Metadata(mode=0o640, mtime_ns=123_456_789, uid=1000, gid=1000)


def outcomes_of(tree: SimDirectory, seeds_count: int = 100) -> Iterator[SimDirectory]:
    """Yield the tree after every kind of loss of power."""
    yield tree.power_cut(None)
    yield tree.power_cut_names_first()
    yield tree.power_cut_names_first(zeros=True)
    for seed in range(seeds_count):
        yield tree.power_cut(seed)


def names_in(tree: SimDirectory, path: bytes = ROOT_PATH) -> set[bytes]:
    return {name for name, _ in tree.list_names(path)}


def write_and_flush(tree: SimDirectory, path: bytes, content: bytes) -> None:
    file = tree.create_file(path, resume=False)
    file.write_at(content, 0)
    file.set_metadata(METADATA)
    file.flush()
    file.close()


def tree_with_old() -> SimDirectory:
    """Return a tree with a durable file `f` of content OLD."""
    tree = SimDirectory()
    put_file(tree, b"f", OLD)
    tree.flush_all()
    return tree


def test_nothing_flushed_nothing_left() -> None:
    tree = SimDirectory()
    tree.make_directory(b"d")
    put_file(tree, b"d/f", NEW)

    assert tree_of(tree.power_cut(None)) == {}


def test_flush_all_saves_everything() -> None:
    """All kinds, hard links and metadata; under every adversary."""
    tree = SimDirectory()
    tree.make_directory(b"d")
    put_file(tree, b"d/f", NEW, METADATA)
    tree.make_hard_link(b"d/f", b"g")
    tree.make_symlink(b"s", b"d", METADATA)
    tree.make_special(b"p", FileKind.FIFO)
    tree.set_metadata(b"d", FileKind.DIRECTORY, METADATA)
    tree.flush_all()

    for after in outcomes_of(tree):
        assert tree_of(after) == tree_of(tree)
        assert after.stat(b"g") == tree.stat(b"g") == after.stat(b"d/f")


def test_flush_of_a_file_does_not_save_its_name() -> None:
    tree = SimDirectory()
    write_and_flush(tree, b"f", NEW)

    assert names_in(tree.power_cut(None)) == set()
    assert {frozenset(names_in(tree.power_cut(seed))) for seed in range(50)} == {
        frozenset(),
        frozenset({b"f"}),
    }


def test_flush_of_a_directory_does_not_save_content() -> None:
    """The name is there; the file may be empty, zeros, or anything between."""
    tree = SimDirectory()
    put_file(tree, b"f", NEW, METADATA)
    tree.flush_directory(ROOT_PATH)

    assert read_file(tree.power_cut(None), b"f") == b""
    assert read_file(tree.power_cut_names_first(), b"f") == b""
    zeros = tree.power_cut_names_first(zeros=True)
    assert read_file(zeros, b"f") == bytes(len(NEW))
    assert zeros.stat(b"f").mtime_ns == METADATA.mtime_ns


def test_rename_without_flush_loses_the_content() -> None:
    """The classic mistake: the new name is durable before what it leads to."""
    tree = tree_with_old()
    put_file(tree, b"temporary", NEW)
    tree.rename(b"temporary", b"f")
    tree.flush_directory(ROOT_PATH)

    assert read_file(tree.power_cut(None), b"f") == b""


def test_write_flush_rename_flush_is_safe() -> None:
    """The right order: after each step the name leads to all of the old or all of the new."""
    tree = tree_with_old()
    write_and_flush(tree, b"temporary", NEW)
    assert {read_file(after, b"f") for after in outcomes_of(tree)} == {OLD}

    tree.rename(b"temporary", b"f")
    assert {read_file(after, b"f") for after in outcomes_of(tree)} == {OLD, NEW}
    # The name of the temporary was never durable, so it need not be there; never both are missing.
    assert read_file(tree.power_cut(None), b"f") == OLD

    tree.flush_directory(ROOT_PATH)
    for after in outcomes_of(tree):
        assert read_file(after, b"f") == NEW
        assert names_in(after) == {b"f"}


def test_rename_over_directories_is_atomic() -> None:
    """A durable file is under its old or its new name, and not under both."""
    tree = tree_with_old()
    tree.make_directory(b"d")
    tree.flush_all()
    tree.rename(b"f", b"d/g")

    found = {frozenset(tree_of(after)) for after in outcomes_of(tree)}
    assert found == {frozenset({b"f", b"d"}), frozenset({b"d", b"d/g"})}
    for directory in (ROOT_PATH, b"d"):
        copy = tree_with_old()
        copy.make_directory(b"d")
        copy.flush_all()
        copy.rename(b"f", b"d/g")
        copy.flush_directory(directory)
        assert set(tree_of(copy.power_cut(None))) == {b"d", b"d/g"}


def test_new_directory_needs_its_own_name_flushed() -> None:
    """Names in it wait; a file moved into it stays where it was until then."""
    tree = tree_with_old()
    tree.make_directory(b"d")
    write_and_flush(tree, b"d/new", NEW)
    tree.rename(b"f", b"d/f")
    tree.flush_directory(b"d")

    assert set(tree_of(tree.power_cut(None))) == {b"f"}
    # Where chance saves the directory, what was flushed in it is there.
    states = {frozenset(tree_of(after)) for after in outcomes_of(tree)}
    assert states == {frozenset({b"f"}), frozenset({b"d", b"d/f", b"d/new"})}
    tree.flush_directory(ROOT_PATH)
    assert set(tree_of(tree.power_cut(None))) == {b"d", b"d/f", b"d/new"}


def test_flush_of_one_directory_leaves_others_open() -> None:
    tree = SimDirectory()
    tree.make_directory(b"d")
    tree.make_directory(b"e")
    tree.flush_all()
    put_file(tree, b"d/f", b"")
    put_file(tree, b"e/f", b"")
    tree.flush_directory(b"d")

    assert set(tree_of(tree.power_cut(None))) == {b"d", b"d/f", b"e"}


def test_removal_needs_a_flush_too() -> None:
    """Until the directory is flushed either state may be; then it is gone."""
    tree = tree_with_old()
    tree.remove_file(b"f")

    assert {len(tree_of(after)) for after in outcomes_of(tree)} == {0, 1}
    assert read_file(tree.power_cut(None), b"f") == OLD
    tree.flush_directory(ROOT_PATH)
    assert all(tree_of(after) == {} for after in outcomes_of(tree))


def test_removed_directory_takes_its_names_along() -> None:
    tree = SimDirectory()
    tree.make_directory(b"d")
    put_file(tree, b"d/f", OLD)
    tree.flush_all()
    tree.remove_file(b"d/f")
    tree.remove_directory(b"d")

    states = {frozenset(tree_of(after)) for after in outcomes_of(tree)}
    assert states == {frozenset({b"d", b"d/f"}), frozenset({b"d"}), frozenset()}
    tree.flush_directory(ROOT_PATH)
    assert tree_of(tree.power_cut(None)) == {}


def test_what_a_name_led_to_is_not_lost_when_the_name_is_taken_again() -> None:
    """Invariant 2 of names: the new `f` does not survive where the move of the old one does not."""
    tree = tree_with_old()
    tree.rename(b"f", b"kept")
    write_and_flush(tree, b"f", NEW)

    for after in outcomes_of(tree):
        assert OLD in {read_file(after, name) for name in names_in(after)}


def test_flush_of_a_directory_saves_what_a_name_in_it_depends_on() -> None:
    """A file made elsewhere and moved here is here, and does not come back there."""
    tree = SimDirectory()
    tree.make_directory(b"d")
    tree.make_directory(b"e")
    tree.flush_all()
    write_and_flush(tree, b"d/f", NEW)
    tree.rename(b"d/f", b"e/f")
    tree.flush_directory(b"e")

    for after in outcomes_of(tree):
        assert set(tree_of(after)) == {b"d", b"e", b"e/f"}


def test_directories_that_change_places_are_not_lost() -> None:
    """Invariant 4 of names: the inner one becomes the outer one, in any part that survives."""
    tree = SimDirectory()
    tree.make_directory(b"outer")
    tree.make_directory(b"outer/inner")
    put_file(tree, b"outer/inner/f", OLD)
    tree.flush_all()
    tree.rename(b"outer/inner", b"inner")
    tree.rename(b"outer", b"inner/outer")

    for after in outcomes_of(tree):
        assert OLD in {seen.content for seen in tree_of(after).values()}


def test_file_moved_out_of_a_directory_that_goes_is_not_lost() -> None:
    """Invariant 4 of names: for a directory removed, and for one replaced by another."""
    for replace in (False, True):
        tree = SimDirectory()
        for path in (b"d", b"e", b"other"):
            tree.make_directory(path)
        put_file(tree, b"d/f", OLD)
        tree.flush_all()
        tree.rename(b"d/f", b"e/f")
        if replace:
            tree.rename(b"other", b"d")
        else:
            tree.remove_directory(b"d")

        for after in outcomes_of(tree):
            assert OLD in {seen.content for seen in tree_of(after).values()}


def test_symlink_is_born_whole() -> None:
    """Its name is all that needs a flush: target, owner and time are with it."""
    tree = SimDirectory()
    tree.make_symlink(b"s", b"target", METADATA)
    tree.flush_directory(ROOT_PATH)

    for after in outcomes_of(tree):
        assert after.read_link(b"s") == b"target"
        assert after.stat(b"s").mtime_ns == METADATA.mtime_ns


def test_metadata_of_a_directory_needs_flush_all() -> None:
    """The port promises its names, by flush_directory, and no more."""
    tree = SimDirectory()
    tree.make_directory(b"d")
    tree.set_metadata(b"d", FileKind.DIRECTORY, METADATA)
    tree.flush_directory(b"d")
    tree.flush_directory(ROOT_PATH)
    assert tree.power_cut(None).stat(b"d").mtime_ns != METADATA.mtime_ns

    tree.flush_all()
    assert tree.power_cut(None).stat(b"d").mtime_ns == METADATA.mtime_ns


def test_what_was_found_after_one_cut_is_durable_for_the_next() -> None:
    tree = _make_a_mess()
    for seed in range(10):
        after = tree.power_cut(seed)
        assert tree_of(after.power_cut(None)) == tree_of(after)


def test_bytes_past_the_end_do_not_come_back() -> None:
    """Method: grow the recovered file; whatever size it has, what is new is zeros."""
    tree = SimDirectory()
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"o" * 10, 0)
    tree.flush_all()
    file.write_at(b"n" * 100, 0)
    sizes = set()
    for after in outcomes_of(tree):
        size = after.stat(b"f").size_bytes
        sizes.add(size)
        after.create_file(b"f", resume=True).truncate(200)
        assert read_file(after, b"f")[size:] == bytes(200 - size)
    assert sizes == {10, 100}


def test_pages_not_flushed_come_back_old_new_or_zero() -> None:
    """Every fate of a page and of the size occurs, and no byte from nowhere."""
    tree = SimDirectory()
    file = tree.create_file(b"f", resume=False)
    file.write_at(b"o" * 2 * PAGE_BYTES, 0)
    tree.flush_all()
    file.write_at(b"n" * 3 * PAGE_BYTES, PAGE_BYTES)

    contents = [read_file(tree.power_cut(seed), b"f") for seed in range(200)]

    old, new, zero = b"o" * PAGE_BYTES, b"n" * PAGE_BYTES, bytes(PAGE_BYTES)
    assert {content[:PAGE_BYTES] for content in contents} == {old}
    assert {content[PAGE_BYTES : 2 * PAGE_BYTES] for content in contents} == {old, new}
    assert {content[2 * PAGE_BYTES : 3 * PAGE_BYTES] for content in contents} == {b"", new, zero}
    assert {len(content) for content in contents} == {2 * PAGE_BYTES, 4 * PAGE_BYTES}


def test_emptied_file_may_be_old_empty_or_new() -> None:
    """What create_file cut off and nobody flushed may still be there."""
    tree = tree_with_old()
    put_file(tree, b"f", b"x")

    sizes = {tree.power_cut(seed).stat(b"f").size_bytes for seed in range(100)}

    assert sizes == {0, 1, len(OLD)}


def test_shrunk_file_shows_zeros_when_it_grows_again() -> None:
    """No cut-off byte comes back, neither now nor after a loss of power."""
    tree = tree_with_old()
    file = tree.create_file(b"f", resume=True)
    file.truncate(5)
    file.flush()
    after = tree.power_cut(None)
    grown = after.create_file(b"f", resume=True)
    grown.truncate(len(OLD))

    assert read_file(after, b"f") == OLD[:5] + bytes(len(OLD) - 5)


def test_cutting_power_changes_nothing_here_and_shares_nothing() -> None:
    tree = tree_with_old()
    put_file(tree, b"g", NEW)
    before = tree_of(tree)

    after = tree.power_cut_names_first()
    put_file(after, b"f", b"other")
    after.remove_file(b"g")
    after.flush_all()

    assert tree_of(tree) == before
    assert set(tree_of(tree.power_cut(None))) == {b"f"}
    assert after.create_file(b"h", resume=False).stat().inode > tree.stat(b"g").inode


names = st.sampled_from([b"a", b"b", b"c"])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
steps = st.lists(st.tuples(st.sampled_from(["move", "make", "flush"]), paths, paths), max_size=25)


@given(steps, st.one_of(st.none(), st.integers(0, 1000)))
def test_durable_files_that_are_only_moved_are_never_lost(
    program: list[tuple[str, bytes, bytes]], seed: int | None
) -> None:
    """Method: move, make and flush directories at random, replacing nothing; then cut power."""
    tree = SimDirectory()
    for path in (b"a", b"a/b", b"c"):
        tree.make_directory(path)
    files = {b"a/1", b"a/b/2", b"c/3", b"4"}
    for path in files:
        put_file(tree, path, path)
    tree.flush_all()

    for step, path, new_path in [*program, ("move", b"4", b"c/a")]:
        try:
            if step == "flush":
                tree.flush_directory(path)
            elif step == "make":
                tree.make_directory(path)
            elif not _exists(tree, new_path):
                tree.rename(path, new_path)
        except HoldfastError:
            continue  # The program asked for what is not there.

    seen = tree_of(tree.power_cut(seed))
    contents = sorted(one.content for one in seen.values() if one.kind is FileKind.FILE)
    assert contents == sorted(files)
    assert all(one.links_count == 1 for one in seen.values() if one.kind is FileKind.FILE)


def _exists(tree: SimDirectory, path: bytes) -> bool:
    try:
        tree.stat(path)
    except HoldfastError:
        return False
    return True


def _make_a_mess() -> SimDirectory:
    tree = tree_with_old()
    for number in range(20):
        path = b"%d" % number
        put_file(tree, path, NEW[: number * 1000])
        if number % 3 == 0:
            tree.rename(path, b"moved-" + path)
    tree.remove_file(b"f")
    return tree


def test_same_calls_and_seed_give_the_same_tree() -> None:
    """Invariant 1 of the module: two runs from nothing, equal in every stat and byte."""
    first, second = _make_a_mess(), _make_a_mess()
    assert tree_of(first) == tree_of(second)

    for seed in range(30):
        one, two = first.power_cut(seed), second.power_cut(seed)
        assert tree_of(one) == tree_of(two)
        assert {p: one.stat(p) for p in tree_of(one)} == {p: two.stat(p) for p in tree_of(two)}
    assert len({str(tree_of(first.power_cut(seed))) for seed in range(30)}) > 20
