"""The contract of the Directory port: names, kinds, links, renames and their errors.

Goal: every sentence of the port's docstrings holds for every implementation, the simulated one
included. Method: each test makes a small tree through the port and looks at it through the port.
Files and their metadata are in test_directory_files.py.
"""

from collections.abc import Callable

import pytest

from holdfast.errors import ConflictError, DeniedError, HoldfastError, NotFoundError
from holdfast.model.tree import ROOT_PATH, FileKind, Metadata
from holdfast.ports import Directory
from holdfast.testing.trees import put_file, read_file, tree_of

from .conftest import MTIME_NS, World, metadata_for

METADATA = Metadata(mode=0o640, mtime_ns=MTIME_NS, uid=0, gid=0)

NAMES = [
    b"plain",
    b"new\nline",
    b"percent%2e%00",
    b"#hash",
    b"space  and\ttab",
    b"-rf",
    b"back\\slash",
    b"~",
    b"*?[a]",
    b"..twodots",
    b"n" * 255,
    b"\xff\xfe invalid \x80",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"Twin",
    b"twin",
    b"\x01",
]


def make_one_of_each(world: World) -> None:
    """Make a directory `d`, file `d/f`, empty `e`, file `f`, link `s` to `d`, FIFO and socket."""
    tree = world.tree
    tree.make_directory(b"d")
    tree.make_directory(b"e")
    put_file(tree, b"d/f", b"inner")
    put_file(tree, b"f", b"outer")
    tree.make_symlink(b"s", b"d", METADATA)
    world.make_special(b"p", FileKind.FIFO)
    world.make_special(b"k", FileKind.SOCKET)


def failure_of(call: Callable[..., object], *arguments: object) -> tuple[type[HoldfastError], str]:
    """Return class and code of the error that the call must raise."""
    with pytest.raises(HoldfastError) as raised:
        call(*arguments)
    assert raised.value.message
    return type(raised.value), raised.value.code


def test_describe_identifies_the_root(tree: Directory) -> None:
    described = tree.describe()

    assert set(described) == {"path", "host", "device", "inode"}
    assert described["device"] == tree.stat(ROOT_PATH).device
    assert described["inode"] == tree.stat(ROOT_PATH).inode


def test_root_is_an_empty_directory(tree: Directory) -> None:
    assert tree.stat(ROOT_PATH).kind is FileKind.DIRECTORY
    assert tree.list_names(ROOT_PATH) == []


def test_names_are_bytes_and_nothing_else(tree: Directory) -> None:
    """Every name is kept byte for byte, as file and as directory, twins apart."""
    tree.make_directory(b"in")
    for name in NAMES:
        put_file(tree, name, name)
        tree.make_directory(b"in/" + name)
        put_file(tree, b"in/" + name + b"/" + name, b"deep " + name)

    assert sorted(tree.list_names(ROOT_PATH)) == sorted(
        [(n, False) for n in NAMES] + [(b"in", True)]
    )
    assert sorted(tree.list_names(b"in")) == sorted((n, True) for n in NAMES)
    for name in NAMES:
        assert read_file(tree, name) == name
        assert read_file(tree, b"in/" + name + b"/" + name) == b"deep " + name


def test_listing_says_which_entries_are_directories(world: World) -> None:
    make_one_of_each(world)

    assert dict(world.tree.list_names(ROOT_PATH)) == {
        b"d": True,
        b"e": True,
        b"f": False,
        b"s": False,
        b"p": False,
        b"k": False,
    }
    assert world.tree.list_names(b"d") == [(b"f", False)]
    assert world.tree.list_names(b"e") == []


def test_listing_twice_gives_the_same(world: World) -> None:
    make_one_of_each(world)

    assert sorted(world.tree.list_names(ROOT_PATH)) == sorted(world.tree.list_names(ROOT_PATH))


def test_stat_tells_the_kind_of_the_entry_itself(world: World) -> None:
    make_one_of_each(world)
    kinds = {path: world.tree.stat(path).kind for path in (b"d", b"f", b"s", b"p", b"k", b"d/f")}
    sizes = {path: world.tree.stat(path).size_bytes for path in kinds}

    assert kinds == {
        b"d": FileKind.DIRECTORY,
        b"f": FileKind.FILE,
        b"s": FileKind.SYMLINK,
        b"p": FileKind.FIFO,
        b"k": FileKind.SOCKET,
        b"d/f": FileKind.FILE,
    }
    assert sizes == {b"d": 0, b"f": 5, b"s": 1, b"p": 0, b"k": 0, b"d/f": 5}


def test_inodes_differ_and_lie_on_one_device(world: World) -> None:
    make_one_of_each(world)
    stats = [world.tree.stat(path) for path in (b"d", b"e", b"f", b"s", b"p", b"k", b"d/f")]

    assert len({stat.inode for stat in stats}) == len(stats)
    assert len({stat.device for stat in stats}) == 1


CALLS_ON_A_PATH: dict[str, Callable[[Directory, bytes], object]] = {
    "list_names": lambda tree, path: tree.list_names(path),
    "stat": lambda tree, path: tree.stat(path),
    "read_link": lambda tree, path: tree.read_link(path),
    "xattrs": lambda tree, path: tree.xattrs(path),
    "open_file": lambda tree, path: tree.open_file(path),
    "create_file": lambda tree, path: tree.create_file(path, resume=False),
    "resume_file": lambda tree, path: tree.create_file(path, resume=True),
    "make_directory": lambda tree, path: tree.make_directory(path),
    "make_symlink": lambda tree, path: tree.make_symlink(path, b"x", METADATA),
    "link_to": lambda tree, path: tree.make_hard_link(b"f", path),
    "link_from": lambda tree, path: tree.make_hard_link(path, b"new"),
    "set_metadata": lambda tree, path: tree.set_metadata(path, FileKind.FILE, METADATA),
    "set_symlink_metadata": lambda tree, path: tree.set_metadata(path, FileKind.SYMLINK, METADATA),
    "rename_from": lambda tree, path: tree.rename(path, b"new"),
    "rename_to": lambda tree, path: tree.rename(b"f", path),
    "remove_file": lambda tree, path: tree.remove_file(path),
    "remove_directory": lambda tree, path: tree.remove_directory(path),
    "flush_directory": lambda tree, path: tree.flush_directory(path),
}
MAKING = {
    "create_file", "resume_file", "make_directory", "make_symlink", "link_to", "rename_to",
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS_ON_A_PATH)
def test_no_call_goes_through_a_symlink(world: World, name: str) -> None:
    """`s` leads to the directory `d`; no call may reach `d/f` or make anything by way of it."""
    make_one_of_each(world)
    before = tree_of(world.tree)

    for path in (b"s/f", b"s/new", b"s/f/deeper"):
        failure = failure_of(CALLS_ON_A_PATH[name], world.tree, path)
        assert failure == (ConflictError, "not-a-directory")
    assert tree_of(world.tree) == before


@pytest.mark.parametrize("name", CALLS_ON_A_PATH)
def test_no_call_goes_through_a_file(world: World, name: str) -> None:
    make_one_of_each(world)

    for path in (b"f/x", b"p/x", b"k/x", b"d/f/x"):
        failure = failure_of(CALLS_ON_A_PATH[name], world.tree, path)
        assert failure == (ConflictError, "not-a-directory")


@pytest.mark.parametrize("name", CALLS_ON_A_PATH)
def test_missing_directory_on_the_way_is_no_entry(world: World, name: str) -> None:
    make_one_of_each(world)

    failure = failure_of(CALLS_ON_A_PATH[name], world.tree, b"missing/x")

    assert failure == (NotFoundError, "no-entry")


@pytest.mark.parametrize("name", [name for name in CALLS_ON_A_PATH if name not in MAKING])
def test_missing_entry_is_no_entry(world: World, name: str) -> None:
    make_one_of_each(world)

    for path in (b"missing", b"d/missing"):
        failure = failure_of(CALLS_ON_A_PATH[name], world.tree, path)
        assert failure == (NotFoundError, "no-entry")


@pytest.mark.parametrize("name", CALLS_ON_A_PATH)
def test_name_too_long_is_refused(world: World, name: str) -> None:
    make_one_of_each(world)

    _, code = failure_of(CALLS_ON_A_PATH[name], world.tree, b"n" * 256)

    assert code == "name-too-long"


@pytest.mark.parametrize("path", [b"s", b"p", b"k", b"d"])
def test_only_regular_files_are_opened(world: World, path: bytes) -> None:
    """Opening returns at once, though nobody writes to the FIFO, and says what is wrong."""
    make_one_of_each(world)
    tree = world.tree

    for call in (
        lambda: tree.open_file(path),
        lambda: tree.create_file(path, resume=False),
        lambda: tree.create_file(path, resume=True),
    ):
        assert failure_of(call) == (ConflictError, "not-a-file")
    assert tree_of(tree)[b"d/f"].content == b"inner"


def test_symlinks_to_files_are_not_opened_either(tree: Directory) -> None:
    """Neither what a link leads to is read, emptied or made, wherever it leads."""
    put_file(tree, b"f", b"content")
    tree.make_symlink(b"to-file", b"f", METADATA)
    tree.make_symlink(b"to-nothing", b"new", METADATA)
    tree.make_symlink(b"to-itself", b"to-itself", METADATA)
    before = tree_of(tree)

    for path in (b"to-file", b"to-nothing", b"to-itself"):
        assert failure_of(tree.open_file, path) == (ConflictError, "not-a-file")
        for resume in (False, True):
            failure = failure_of(lambda p, r: tree.create_file(p, resume=r), path, resume)
            assert failure == (ConflictError, "not-a-file")
    assert tree_of(tree) == before


@pytest.mark.parametrize("path", [b"f", b"s", b"p", b"k"])
def test_only_directories_are_listed_flushed_and_removed_as_such(world: World, path: bytes) -> None:
    make_one_of_each(world)
    tree = world.tree

    for call in (tree.list_names, tree.flush_directory, tree.remove_directory):
        failure = failure_of(call, path)
        assert failure == (ConflictError, "not-a-directory")


@pytest.mark.parametrize("path", [b"f", b"d", b"p", b"k"])
def test_only_symlinks_are_read_as_links(world: World, path: bytes) -> None:
    make_one_of_each(world)

    assert failure_of(world.tree.read_link, path) == (ConflictError, "not-a-symlink")


@pytest.mark.parametrize(
    "target", [b"d", b"/absolute", b"../../up", b"dangling", b"\xff\n%", b"t" * 4095]
)
def test_symlink_keeps_its_target_owner_and_time(tree: Directory, target: bytes) -> None:
    """The target is any bytes, never looked at; setting its time follows nothing."""
    tree.make_directory(b"d")
    untouched = tree.stat(b"d")

    losses = tree.make_symlink(b"s", target, metadata_for(tree, 0o777))

    assert losses == []
    assert tree.read_link(b"s") == target
    stat = tree.stat(b"s")
    assert (stat.kind, stat.size_bytes) == (FileKind.SYMLINK, len(target))
    assert stat.mtime_ns == MTIME_NS
    assert (stat.uid, stat.gid) == (tree.stat(ROOT_PATH).uid, tree.stat(ROOT_PATH).gid)
    assert tree.stat(b"d") == untouched


@pytest.mark.parametrize("path", [b"f", b"d", b"s", b"p", b"k"])
def test_making_over_anything_is_refused(world: World, path: bytes) -> None:
    make_one_of_each(world)
    before = tree_of(world.tree)

    for name in ("make_directory", "make_symlink", "link_to"):
        failure = failure_of(CALLS_ON_A_PATH[name], world.tree, path)
        assert failure == (ConflictError, "exists")
    assert tree_of(world.tree) == before


def test_new_directory_is_private(tree: Directory) -> None:
    tree.make_directory(b"d")

    assert tree.stat(b"d").mode == 0o700


def test_hard_link_is_a_second_name_of_one_file(tree: Directory) -> None:
    tree.make_directory(b"d")
    put_file(tree, b"a", b"same")
    tree.make_hard_link(b"a", b"d/b")

    first, second = tree.stat(b"a"), tree.stat(b"d/b")
    assert first == second
    assert first.links_count == 2
    put_file(tree, b"d/b", b"changed")
    assert read_file(tree, b"a") == b"changed"
    tree.remove_file(b"a")
    assert tree.stat(b"d/b").links_count == 1
    assert read_file(tree, b"d/b") == b"changed"


def test_rename_replaces_a_file_at_once(tree: Directory) -> None:
    tree.make_directory(b"d")
    put_file(tree, b"new", b"new content")
    put_file(tree, b"d/old", b"old content")
    inode = tree.stat(b"new").inode

    tree.rename(b"new", b"d/old")

    assert tree.stat(b"d/old").inode == inode
    assert read_file(tree, b"d/old") == b"new content"
    assert tree.list_names(ROOT_PATH) == [(b"d", True)]


@pytest.mark.parametrize("path", [b"s", b"p", b"k"])
def test_rename_moves_and_replaces_any_non_directory(world: World, path: bytes) -> None:
    make_one_of_each(world)
    tree = world.tree
    kind = tree.stat(path).kind

    tree.rename(path, b"d/f")
    assert tree.stat(b"d/f").kind is kind
    tree.rename(b"f", b"d/f")
    assert read_file(tree, b"d/f") == b"outer"
    assert dict(tree.list_names(b"d")) == {b"f": False}


def test_rename_of_a_replaced_symlink_leaves_its_target(world: World) -> None:
    """A file renamed over a symlink takes the link's place; what it led to is as before."""
    make_one_of_each(world)

    world.tree.rename(b"f", b"s")

    assert read_file(world.tree, b"s") == b"outer"
    assert world.tree.list_names(b"d") == [(b"f", False)]


def test_rename_moves_a_directory_with_all_below_it(world: World) -> None:
    make_one_of_each(world)
    tree = world.tree
    assert read_file(tree, b"d/f") == b"inner"

    tree.rename(b"d", b"e/moved")

    assert read_file(tree, b"e/moved/f") == b"inner"
    assert failure_of(tree.stat, b"d/f") == (NotFoundError, "no-entry")
    tree.make_directory(b"d")
    assert tree.list_names(b"d") == []


def test_rename_over_an_empty_directory_takes_its_place(world: World) -> None:
    """The replaced directory had been looked into before, and still is not seen again."""
    make_one_of_each(world)
    tree = world.tree
    put_file(tree, b"e/short-lived", b"")
    tree.remove_file(b"e/short-lived")
    assert tree.list_names(b"e") == []

    tree.rename(b"d", b"e")

    assert tree.list_names(b"e") == [(b"f", False)]
    assert read_file(tree, b"e/f") == b"inner"
    tree.flush_directory(b"e")


RENAMES_REFUSED = [
    (b"e", b"d", "not-empty"),
    (b"d/f", b"d", "not-empty"),
    (b"f", b"d", "is-a-directory"),
    (b"f", b"e", "is-a-directory"),
    (b"s", b"e", "is-a-directory"),
    (b"d", b"f", "not-a-directory"),
    (b"e", b"s", "not-a-directory"),
    (b"e", b"p", "not-a-directory"),
]


@pytest.mark.parametrize(("path", "new_path", "code"), RENAMES_REFUSED)
def test_rename_refused_changes_nothing(
    world: World, path: bytes, new_path: bytes, code: str
) -> None:
    make_one_of_each(world)
    before = tree_of(world.tree)

    assert failure_of(world.tree.rename, path, new_path) == (ConflictError, code)
    assert tree_of(world.tree) == before


def test_rename_of_a_directory_into_itself_is_refused(world: World) -> None:
    make_one_of_each(world)
    before = tree_of(world.tree)

    assert failure_of(world.tree.rename, b"d", b"d/x")[1] == "bad-name"
    assert tree_of(world.tree) == before
    world.tree.rename(b"d", b"e/d")
    assert failure_of(world.tree.rename, b"e", b"e/d/x")[1] == "bad-name"


def test_rename_onto_another_name_of_the_same_file_does_nothing(tree: Directory) -> None:
    """The rule of POSIX that surprises: both names stay."""
    put_file(tree, b"a", b"one")
    tree.make_hard_link(b"a", b"b")

    tree.rename(b"a", b"b")

    assert sorted(tree.list_names(ROOT_PATH)) == [(b"a", False), (b"b", False)]
    assert tree.stat(b"a").links_count == 2


def test_rename_onto_itself_does_nothing(world: World) -> None:
    make_one_of_each(world)
    before = tree_of(world.tree)

    for path in (b"f", b"d", b"s"):
        world.tree.rename(path, path)

    assert tree_of(world.tree) == before


@pytest.mark.parametrize("path", [b"f", b"s", b"p", b"k", b"d/f"])
def test_remove_file_removes_anything_but_a_directory(world: World, path: bytes) -> None:
    make_one_of_each(world)

    world.tree.remove_file(path)

    assert path not in tree_of(world.tree)
    assert world.tree.stat(b"d").kind is FileKind.DIRECTORY


def test_remove_file_refuses_directories(world: World) -> None:
    make_one_of_each(world)

    for path in (b"d", b"e"):
        failure = failure_of(world.tree.remove_file, path)
        assert failure == (ConflictError, "is-a-directory")


def test_remove_directory_removes_only_an_empty_one(world: World) -> None:
    make_one_of_each(world)
    tree = world.tree

    assert failure_of(tree.remove_directory, b"d") == (ConflictError, "not-empty")
    tree.remove_file(b"d/f")
    tree.remove_directory(b"d")
    assert failure_of(tree.list_names, b"d") == (NotFoundError, "no-entry")
    tree.make_directory(b"d")
    assert tree.list_names(b"d") == []


def test_a_path_used_before_means_what_stands_there_now(world: World) -> None:
    """No call answers from a directory that once had this path."""
    make_one_of_each(world)
    tree = world.tree
    assert tree.list_names(b"d") == [(b"f", False)]
    assert read_file(tree, b"d/f") == b"inner"

    tree.rename(b"d", b"away")
    tree.make_symlink(b"d", b"away", METADATA)

    assert failure_of(tree.list_names, b"d") == (ConflictError, "not-a-directory")
    assert failure_of(tree.stat, b"d/f") == (ConflictError, "not-a-directory")


def test_deep_paths_work(tree: Directory) -> None:
    """Deeper than an implementation keeps directories open, and used from both ends."""
    path = b"0"
    tree.make_directory(path)
    paths = [path]
    for depth in range(1, 150):
        path = path + b"/%d" % depth
        tree.make_directory(path)
        paths.append(path)
    put_file(tree, path + b"/f", b"bottom")

    for directory in [*paths, *reversed(paths)]:
        assert len(tree.list_names(directory)) == 1
    assert read_file(tree, path + b"/f") == b"bottom"


def test_directory_mtime_moves_with_its_names(tree: Directory) -> None:
    tree.make_directory(b"d")
    calls: list[Callable[[], None]] = [
        lambda: put_file(tree, b"d/a", b"x"),
        lambda: tree.rename(b"d/a", b"d/b"),
        lambda: tree.make_hard_link(b"d/b", b"d/c"),
        lambda: tree.remove_file(b"d/b"),
        lambda: tree.rename(b"d/c", b"away"),
        lambda: tree.rename(b"away", b"d/back"),
    ]
    for call in calls:
        tree.set_metadata(b"d", FileKind.DIRECTORY, metadata_for(tree, 0o700))
        assert tree.stat(b"d").mtime_ns == MTIME_NS
        call()
        assert tree.stat(b"d").mtime_ns > MTIME_NS


def test_forbidden_entries_are_denied(world: World) -> None:
    put_file(world.tree, b"secret", b"x")
    world.forbid(b"secret")

    assert failure_of(world.tree.open_file, b"secret") == (DeniedError, "forbidden")
    assert world.tree.stat(b"secret").kind is FileKind.FILE


def test_flushes_return(world: World) -> None:
    make_one_of_each(world)

    world.tree.flush_directory(b"d")
    world.tree.flush_directory(ROOT_PATH)
    world.tree.flush_all()


def test_space_is_plausible(tree: Directory) -> None:
    space = tree.space()

    assert space.free_bytes > 0
    assert space.block_bytes > 0
    assert space.free_files is None or space.free_files > 0
