"""Goal: every name, kind of entry and piece of metadata that Linux allows is copied, or told.

Method: the real command on trees full of what is unusual. Names and links are hostile on purpose:
nothing may reach the terminal raw, nothing outside the trees may be touched.
"""

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.end_to_end.conftest import needs_root
from tests.support.command import Completed, Holdfast
from tests.support.trees import age, hard_links, list_paths, pattern, read_tree, write

GIB = 1 << 30

NAMES = [
    b"new\nline",
    b"per%cent%2Fslash",
    b"#hash",
    b"x" * 255,
    b"\xff\xfe bad utf-8 \x80",
    b"Twin",
    b"twin",
    b"-leading-dash",
    b"--delete",
    b"back\\slash",
    b"\x1b[31mred\x1b[2J\x07\r",
    b"\xc2\x9b31m c1 control",
    b"\xe2\x80\xaegnp.txt",
    b" space ",
    b"*?[a]",
    b"quote'\"`$(id)",
    b"e\xcc\x81",
    b"\xc3\xa9",
    b"...",
    b"~",
    b"a" * 100 + b".partial",
]


def raw(root: Path, *names: bytes) -> bytes:
    return os.path.join(os.fsencode(root), *names)


def write_raw(path: bytes, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


def assert_harmless(done: Completed) -> None:
    """Nothing a terminal obeys, but the end of a line."""
    for text in (done.stdout, done.stderr):
        assert all(character.isprintable() for character in text.replace("\n", "")), ascii(text)


def assert_equal(done: Completed, source: Path, target: Path) -> None:
    assert (done.exit, done.json["verdict"]) == (0, "proven"), done
    assert read_tree(target) == read_tree(source)


@pytest.fixture
def odd(source: Path) -> Path:
    """A tree with every odd name, as a file, as a directory and as the target of a link."""
    source.mkdir()
    for number, name in enumerate(NAMES):
        write_raw(raw(source, name), pattern(number + 1))
        os.mkdir(raw(source, b"d" + name[:254]))
        write_raw(raw(source, b"d" + name[:254], name), pattern(number + 1, 1))
        os.symlink(name, raw(source, b"l" + name[:254]))
    age(source)
    return source


def test_every_name_is_copied(holdfast: Holdfast, odd: Path, target: Path) -> None:
    assert_equal(holdfast.copy(odd, target), odd, target)
    again = holdfast.copy(odd, target, "--delete")
    assert set(again.json["plan"]["counts"]) == {"keep"}


@pytest.mark.parametrize(
    "name",
    [
        b"\x1b[31mroot",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (b"-leading-dash", b"\xffroot", b"new\nline")
        ),
    ],
)
def test_a_root_may_have_any_name(holdfast: Holdfast, tmp_path: Path, name: bytes) -> None:
    source, target = raw(tmp_path, name), raw(tmp_path, name + b"-target")
    os.mkdir(source)
    write_raw(os.path.join(source, b"file"), b"content")
    done = holdfast("copy", "--", source, target)
    assert done.exit == 0, done
    assert_harmless(done)
    assert read_tree(target) == read_tree(source)
    for command in (["tasks", "list"], ["tasks", "show", holdfast.tasks()[0]["id"]]):
        assert_harmless(holdfast(*command))
    proof = next((holdfast.state / "proofs").iterdir())
    checked = holdfast("proof", "check", proof, target)
    assert checked.exit == 0, checked
    assert_harmless(checked)


def test_nothing_a_terminal_obeys_is_printed(holdfast: Holdfast, odd: Path, target: Path) -> None:
    """Every command that names entries, with every entry having something to be named for."""
    proof = odd.parent / "proof"
    planned = holdfast("copy", odd, target, "--plan")
    assert planned.exit == 0
    assert_harmless(planned)
    assert_harmless(holdfast("copy", odd, target, "--proof", proof))
    for name in NAMES:
        os.chmod(raw(target, name), 0o640)
        os.unlink(raw(target, b"l" + name[:254]))
        os.mkfifo(raw(odd, b"p" + name[:254]))
    found = holdfast("verify", odd, target)
    assert found.exit == 3
    assert_harmless(found)
    assert_harmless(holdfast("verify", target, "--proof", proof))
    assert_harmless(holdfast("copy", odd, target))
    for name in NAMES:
        write_raw(raw(target, name), b"damage")
    assert_harmless(holdfast("verify", odd, target))
    assert_harmless(holdfast("repair", odd, target))
    assert_harmless(holdfast("copy", raw(odd, b"\x1b[31m missing"), target))
    assert_harmless(holdfast("copy", odd, raw(odd, b"missing\x1b[2J", b"target")))
    assert_harmless(holdfast("verify", odd, raw(odd, NAMES[0])))


def test_nesting_beyond_what_one_path_can_name(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """150 levels of long names: over PATH_BYTES_MAX there is nothing to do but say so."""
    source.mkdir()
    depth = make_nested(source, name=b"n" * 20, levels=150)
    assert_equal(holdfast.copy(source, target), source, target)
    assert max(path.count(b"/") for path in list_paths(target)) == depth


def test_what_is_nested_too_deeply_is_told_and_the_rest_copied(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    source.mkdir()
    make_nested(source, name=b"n" * 200, levels=30)
    write(source / "other", b"other")
    done = holdfast.copy(source, target, "--delete")
    assert done.exit == 16, done
    assert done.json["verdict"] == "incomplete"
    assert "nested too deeply" in str(done.json["findings"])
    assert (target / "other").read_bytes() == b"other"


def make_nested(root: Path, *, name: bytes, levels: int) -> int:
    """Make a chain of directories with a file in each; return its depth."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    return levels


def test_a_sparse_file_stays_sparse(holdfast: Holdfast, source: Path, target: Path) -> None:
    """Data at the beginning, across a border of blocks, and at the end of 8 GiB."""
    make_sparse(source, 8 * GIB)
    done = holdfast.copy(source, target, "--digest", "xxh3-128", "--no-verify")
    assert done.exit == 0
    assert_sparse_equal(source, target, 8 * GIB)


@pytest.mark.slow
def test_a_sparse_file_of_one_tebibyte(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_sparse(source, 1024 * GIB)
    options = ("--digest", "xxh3-128", "--no-verify")
    done = holdfast("copy", source, target, *options, timeout_s=550)
    assert done.exit == 0
    assert_sparse_equal(source, target, 1024 * GIB)


def make_sparse(source: Path, size_bytes: int) -> None:
    source.mkdir()
    with open(source / "sparse", "wb") as stream:
        stream.truncate(size_bytes)
        for offset in sparse_offsets(size_bytes):
            os.pwrite(stream.fileno(), pattern(4096, offset), offset)


def sparse_offsets(size_bytes: int) -> list[int]:
    return [0, GIB // 8 - 2048, size_bytes // 2, size_bytes - 4096]


def assert_sparse_equal(source: Path, target: Path, size_bytes: int) -> None:
    one, two = (source / "sparse").stat(), (target / "sparse").stat()
    assert (two.st_size, two.st_mtime_ns) == (one.st_size, one.st_mtime_ns)
    assert two.st_blocks * 512 <= one.st_blocks * 512 + (1 << 20)
    with open(target / "sparse", "rb") as stream:
        for offset in sparse_offsets(size_bytes):
            assert os.pread(stream.fileno(), 4096, offset) == pattern(4096, offset)
        assert os.pread(stream.fileno(), 4096, 65536) == bytes(4096)


def test_a_sparse_file_verified(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_sparse(source, GIB // 4)
    assert_equal(holdfast.copy(source, target, "--digest", "xxh3-128"), source, target)


def test_hard_links_are_regrouped(holdfast: Holdfast, source: Path, target: Path) -> None:
    write(source / "b/first", b"shared")
    os.link(source / "b/first", source / "a")
    os.link(source / "b/first", source / "c")
    write(source / "lonely", b"shared")
    os.link(source / "lonely", source.parent / "outside the tree")
    age(source)
    assert_equal(holdfast.copy(source, target), source, target)
    assert hard_links(target) == {frozenset({b"a", b"b/first", b"c"})}
    inode = (target / "a").stat().st_ino
    again = holdfast.copy(source, target)
    assert set(again.json["plan"]["counts"]) == {"keep"}
    assert (target / "a").stat().st_ino == inode


def test_a_hard_link_group_that_changes(holdfast: Holdfast, source: Path, target: Path) -> None:
    """Its content, its members, its first name, and its end, each in a run of its own."""
    write(source / "b", b"shared")
    os.link(source / "b", source / "c")
    age(source)
    assert holdfast.copy(source, target).exit == 0

    write(source / "b", b"shared anew")
    age(source, 10**18 + 1)
    assert_equal(holdfast.copy(source, target), source, target)
    assert hard_links(target) == {frozenset({b"b", b"c"})}

    os.link(source / "b", source / "a")
    os.link(source / "b", source / "d")
    assert_equal(holdfast.copy(source, target), source, target)
    assert hard_links(target) == {frozenset({b"a", b"b", b"c", b"d"})}

    (source / "a").unlink()
    (source / "b").unlink()
    write(source / "b", b"alone")
    age(source, 10**18 + 2)
    assert_equal(holdfast.copy(source, target, "--delete"), source, target)
    assert hard_links(target) == {frozenset({b"c", b"d"})}


def test_a_hard_link_group_broken_up_with_equal_contents(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    """Size and time say nothing of it; writing to one name must not change the other later."""
    write(source / "a", b"shared")
    os.link(source / "a", source / "b")
    age(source)
    assert holdfast.copy(source, target).exit == 0
    (source / "b").unlink()
    write(source / "b", b"shared")
    age(source)
    assert holdfast.copy(source, target).exit == 0
    assert read_tree(target) == read_tree(source)
    assert hard_links(target) == set()


def test_two_groups_swap_a_member(holdfast: Holdfast, source: Path, target: Path) -> None:
    for first, second in (("a", "b"), ("c", "dd")):
        write(source / first, second * 5)
        os.link(source / first, source / second)
    age(source)
    assert holdfast.copy(source, target).exit == 0
    (source / "b").rename(source / "x")
    (source / "dd").rename(source / "b")
    (source / "x").rename(source / "dd")
    assert_equal(holdfast.copy(source, target), source, target)
    assert hard_links(target) == {frozenset({b"a", b"dd"}), frozenset({b"b", b"c"})}


def test_symlinks_are_copied_and_never_followed(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    outside = write(tmp_path / "outside/file", b"not ours")
    source.mkdir()
    for name, leads_to in {
        "dangling": "nowhere",
        "self": "self",
        "up": "../..",
        "outward": os.fspath(outside.parent),
        "outward-file": os.fspath(outside),
        "long": "x/" * 2000,
    }.items():
        (source / name).symlink_to(leads_to)
    age(source)
    before = read_tree(tmp_path / "outside")
    assert_equal(holdfast.copy(source, target), source, target)
    assert read_tree(tmp_path / "outside") == before


def test_symlinks_planted_at_the_target_lead_nowhere(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    """A directory and a file of the source stand as links to the outside at the target."""
    write(source / "directory/file", b"ours")
    write(source / "file", b"ours")
    outside = write(tmp_path / "outside/file", b"not ours").parent
    target.mkdir()
    (target / "directory").symlink_to(outside)
    (target / "file").symlink_to(outside / "file")
    (target / "extra").symlink_to(outside)
    before = read_tree(outside)
    assert_equal(holdfast.copy(source, target, "--delete"), source, target)
    assert read_tree(outside) == before


def test_special_files_are_skipped_and_told(holdfast: Holdfast, source: Path, target: Path) -> None:
    write(source / "file", b"ordinary")
    os.mkfifo(source / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(source)  # The address of a socket has room for 107 bytes only.
    try:
        listener.bind("socket")
    finally:
        os.chdir(before)
    kinds = {"fifo", "socket"}
    if os.geteuid() == 0:
        os.mknod(source / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        kinds.add("device")
    done = holdfast.copy(source, target)
    listener.close()
    assert list_paths(target) == [b"file"]
    assert {f["path"] for f in done.json["findings"] if f["outcome"] == "skipped"} == kinds
    assert done.json["verify"]["counts"]["skipped"] == len(kinds)
    assert done.exit == 0


def test_times_to_the_nanosecond_and_out_of_the_ordinary(
    holdfast: Holdfast, source: Path, target: Path
) -> None:
    for number, mtime_ns in enumerate([0, 1, 999_999_999, -1, 2**33 * 10**9 + 7, 10**18 + 1]):
        os.utime(write(source / f"f{number}"), ns=(0, mtime_ns))
        (source / f"d{number}").mkdir()
        os.utime(source / f"d{number}", ns=(0, mtime_ns))
    assert_equal(holdfast.copy(source, target), source, target)


def test_extended_attributes_follow_and_go(holdfast: Holdfast, source: Path, target: Path) -> None:
    file = write(source / "d/file")
    try:
        os.setxattr(file, "user.one", b"1")
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    os.setxattr(file, "user.two", b"\x00\xff" * 500)
    os.setxattr(source / "d", "user.of-directory", b"")
    age(source)
    assert_equal(holdfast.copy(source, target), source, target)
    os.setxattr(file, "user.one", b"one")
    os.removexattr(file, "user.two")
    os.removexattr(source / "d", "user.of-directory")
    assert_equal(holdfast.copy(source, target), source, target)


@needs_root
def test_owners_and_set_id_bits(holdfast: Holdfast, source: Path, target: Path) -> None:
    for number, mode in enumerate([0o4755, 0o2755, 0o6711, 0o1777, 0o000, 0o7777]):
        file = write(source / f"f{number}")
        directory = source / f"d{number}"
        directory.mkdir()
        for path in (file, directory):
            os.chown(path, 1000 + number, 2000 + number)
            path.chmod(mode)
    (source / "link").symlink_to("f0")
    os.chown(source / "link", 1234, 4321, follow_symlinks=False)
    os.chown(source, 77, 88)
    source.chmod(0o2750)
    assert_equal(holdfast.copy(source, target), source, target)
    root = target.stat()
    assert (root.st_uid, root.st_gid, stat.S_IMODE(root.st_mode)) == (77, 88, 0o2750)
    (source / "f0").chmod(0o755)
    os.chown(source / "d1", 1, 1)
    assert_equal(holdfast.copy(source, target), source, target)
