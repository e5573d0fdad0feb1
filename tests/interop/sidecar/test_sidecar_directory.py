"""The half of the Directory port that a source needs, over a Sidecar's HTTP.

Goal: every sentence of ReadableDirectory that a Sidecar can keep holds, its faults included; what
it lists is never believed to lead out of a tree (listing.py, invariants 1 to 3).
Method: a server shaped like a Sidecar on loopback, a real tree behind it, faults switched on.
"""

import json
import os
from pathlib import Path

import pytest
import xxhash

from holdfast.errors import (
    CapacityError,
    ConflictError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from holdfast.files.listing import Exclusions, Walk
from holdfast.model.limits import FILE_BYTES_LARGE, LISTING_ENTRY_BYTES_MAX, MIB
from holdfast.model.tree import ROOT_PATH, FileKind, Stat, signature_of
from holdfast.ports import FileDigest
from holdfast.stores.directories.posix import PosixReadableDirectory
from holdfast.stores.sidecar.directory import SidecarDirectory
from holdfast.stores.sidecar.file import parse_digest
from tests.support.sidecar_source import BASE, SidecarSource

from .conftest import Open, open_sidecar

ODD_NAMES = ("per%20cent", "a b", "qu?ry", "ha#sh", "plus+", "ünï", "new\nline", "semi;colon", "%")


def write(root: Path, name: str, content: bytes, mtime_ns: int = 1_700_000_000_123_456_789) -> Path:
    """Make a file with a time that is no whole millisecond."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def read(directory: SidecarDirectory, path: bytes) -> bytes:
    """Read a file in blocks."""
    file = directory.open_file(path)
    try:
        found = bytearray()
        buffer = memoryview(bytearray(MIB))
        while done := file.read_into(buffer, len(found)):
            found += buffer[:done]
        assert file.signature() == signature_of(file.stat()), "it was seen to move"
        return bytes(found)
    finally:
        file.close()


def listing_of(directory: SidecarDirectory | PosixReadableDirectory) -> dict[bytes, Stat]:
    """Walk a tree as a pass does."""
    failures: list[HoldfastError] = []
    walk = Walk(
        directory=directory,
        exclusions=Exclusions(()),
        on_failure=lambda _path, error: failures.append(error),
    )
    found = dict(walk)
    assert not failures
    return found


def test_lists_what_is_there_as_finely_as_a_sidecar_tells(
    roots: dict[str, Path], open_all: Open
) -> None:
    write(roots["data/0"], "ks/t-1/a", b"x" * 10)
    write(roots["data/0"], "ks/t-1/b", b"")
    (roots["data/0"] / "empty").mkdir()
    write(roots["data/1"], "other", b"y")

    first, second = open_all()
    here = listing_of(PosixReadableDirectory(os.fsencode(roots["data/0"])))
    there = listing_of(first)

    assert list(there) == list(here), "same paths in the same order"
    for path, stat in there.items():
        assert stat.kind is here[path].kind
        assert stat.mtime_ns == here[path].mtime_ns // 1_000_000 * 1_000_000
        if stat.kind is FileKind.FILE:
            assert stat.size_bytes == here[path].size_bytes
    assert list(listing_of(second)) == [b"other"]
    capabilities = first.capabilities()
    assert capabilities.mtime_unit_ns == 1_000_000
    assert not any((capabilities.mode, capabilities.owner, capabilities.links))


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB + 17, FILE_BYTES_LARGE + 1])
def test_reads_a_file_of_any_size(roots: dict[str, Path], open_all: Open, size: int) -> None:
    content = os.urandom(size)
    write(roots["data/0"], "f", content)
    directory = open_all()[0]

    assert read(directory, b"f") == content
    small = directory.read_small(b"f", memoryview(bytearray(MIB)))
    assert (small is None) == (size > MIB)
    if small is not None:
        assert (small.size_bytes, small.is_steady) == (size, True)


def test_odd_names_are_listed_and_read(roots: dict[str, Path], open_all: Open) -> None:
    for name in ODD_NAMES:
        write(roots["data/0"], f"dir {name}/{name}", name.encode())

    directory = open_all()[0]

    for name in ODD_NAMES:
        assert read(directory, f"dir {name}/{name}".encode()) == name.encode()


def test_reads_at_any_offset_and_on_after_another_file(
    roots: dict[str, Path], open_all: Open
) -> None:
    content = os.urandom(100_000)
    write(roots["data/0"], "f", content)
    write(roots["data/0"], "g", b"g" * 1000)
    directory = open_all()[0]
    file, other = directory.open_file(b"f"), directory.open_file(b"g")
    buffer = memoryview(bytearray(1000))

    for offset in (0, 1000, 99_500, 5, 50_000):
        done = file.read_into(buffer, offset)
        assert buffer[:done] == content[offset : offset + 1000]
        assert other.read_into(buffer, 0) == 1000
        assert bytes(buffer) == b"g" * 1000
    assert file.read_into(buffer, 100_000) == 0
    file.close()
    other.close()


def test_a_lost_connection_is_read_on(
    roots: dict[str, Path], source: SidecarSource, open_all: Open
) -> None:
    content = os.urandom(3 * MIB)
    write(roots["data/0"], "f", content)
    directory = open_all()[0]
    source.faults.cut_after_bytes["data/0/f"] = MIB + 333

    assert read(directory, b"f") == content
    assert any(asked == f"bytes={MIB + 333}-" for _, asked in source.requests)


def test_ranges_are_read_whatever_the_total_says(
    roots: dict[str, Path], source: SidecarSource, open_all: Open
) -> None:
    content = os.urandom(MIB)
    write(roots["data/0"], "f", content)
    source.faults.old_revision = True
    source.faults.cut_after_bytes["data/0/f"] = 1000
    assert read(open_all()[0], b"f") == content


@pytest.mark.parametrize("old_revision", [False, True])
def test_over_the_cap_is_waited_for(
    roots: dict[str, Path], source: SidecarSource, open_all: Open, old_revision: bool
) -> None:
    write(roots["data/0"], "f", b"content")
    source.faults.old_revision = old_revision
    source.faults.busy_answers = 4
    assert read(open_all()[0], b"f") == b"content"


def test_busy_for_ever_is_told(
    roots: dict[str, Path], source: SidecarSource, open_all: Open
) -> None:
    write(roots["data/0"], "f", b"content")
    directory = open_all()[0]
    source.faults.busy_answers = 10_000
    with pytest.raises(UnavailableError) as caught:
        directory.open_file(b"f")
    assert caught.value.code == "busy"


def test_a_source_that_is_gone_is_told(
    roots: dict[str, Path], source: SidecarSource, tmp_path: Path
) -> None:
    with SidecarSource(roots) as gone:
        pass
    with pytest.raises(UnavailableError) as caught:
        open_sidecar(gone, tmp_path)
    assert caught.value.code == "source-unreachable"
    assert not (tmp_path / "scratch" / "listing").exists()


def test_a_file_that_leaves_is_vanished_or_changed_never_broken(
    roots: dict[str, Path], source: SidecarSource, open_all: Open
) -> None:
    gone = write(roots["data/0"], "gone", b"x")
    write(roots["data/0"], "going", b"x")
    directory = open_all()[0]
    gone.unlink()
    source.faults.vanishing.add("data/0/going")

    with pytest.raises(NotFoundError):
        directory.open_file(b"gone")
    with pytest.raises(ConflictError) as caught:
        directory.open_file(b"going")
    assert caught.value.code == "changed-at-source"


@pytest.mark.parametrize("size_after", [0, 10, 5000])
@pytest.mark.parametrize("size", [1000, FILE_BYTES_LARGE])
def test_another_length_than_listed_is_seen(
    roots: dict[str, Path], open_all: Open, size: int, size_after: int
) -> None:
    path = write(roots["data/0"], "f", b"a" * size)
    directory = open_all()[0]
    path.write_bytes(b"b" * size_after)

    file = directory.open_file(b"f")
    file.read_into(memoryview(bytearray(1000)), 0)
    assert file.signature() != signature_of(file.stat())
    file.close()


def test_growth_behind_the_reading_is_seen(roots: dict[str, Path], open_all: Open) -> None:
    path = write(roots["data/0"], "f", b"a" * FILE_BYTES_LARGE)
    directory = open_all()[0]
    file = directory.open_file(b"f")
    with open(path, "ab") as stream:
        stream.write(b"more")
    assert file.signature() != signature_of(file.stat())
    file.close()


def test_digests_are_the_sources(
    roots: dict[str, Path], source: SidecarSource, open_all: Open
) -> None:
    write(roots["data/0"], "f", b"abc")
    write(roots["data/0"], "empty", b"")
    directory = open_all()[0]
    wanted = {
        "md5": ("900150983cd24fb0d6963f7d28e17f72", "d41d8cd98f00b204e9800998ecf8427e"),
        "xxh32": ("32d153ff", "02cc5d05"),
    }
    for algorithm, digests in wanted.items():
        answers = directory.digest_files([b"f", b"empty", b"none"], algorithm, drop_cache=False)
        assert answers is not None
        found = [each for each in answers if not isinstance(each, int)]
        assert [each.digest.hex() for each in found if isinstance(each, FileDigest)] == [*digests]
        assert isinstance(found[2], NotFoundError)
    assert directory.digest_files([b"f"], "blake3", drop_cache=False) is None


@pytest.mark.parametrize(
    "fault",
    [{"cut_digests": 2}, pytest.param({"digest_s": 32.0}, marks=pytest.mark.slow)],
    ids=["cut off", "slow"],
)
def test_a_digest_is_waited_for(
    roots: dict[str, Path], source: SidecarSource, open_all: Open, fault: dict[str, float]
) -> None:
    """A large file takes longer than other answers may; an answer that was cut off is asked for
    again."""
    content = bytes(32 * MIB)
    write(roots["data/0"], "f", content)
    (directory, _) = open_all()
    for name, value in fault.items():
        setattr(source.faults, name, value)

    answers = directory.digest_files([b"f"], "xxh32", drop_cache=False)

    assert answers is not None
    found = [each.digest for each in answers if isinstance(each, FileDigest)]
    assert found == [xxhash.xxh32(content).digest()]
    asked = sum("digestAlgorithm" in path for path, _ in source.requests)
    assert asked == 1 + int(fault.get("cut_digests", 0))


@pytest.mark.parametrize("text", ["", "zz", "123456789", "-1", "0x12", "²"])
def test_no_other_spelling_of_a_digest_is_taken(text: str) -> None:
    with pytest.raises(ValueError):
        parse_digest(text, "XXHash32")
    with pytest.raises(ValueError):
        parse_digest(text, "MD5")


def entry(url: str, **changes: object) -> dict[str, object]:
    """Return an entry of a list."""
    whole: dict[str, object] = {
        "fileUrl": url,
        "size": 1,
        "fileType": "FILE",
        "lastModifiedTime": 1_700_000_000_000,
    }
    return whole | changes


def folder(path: str) -> dict[str, object]:
    """Return an entry of a list that is a directory."""
    return entry(f"{BASE}/files/data/0/{path}", fileType="DIRECTORY", size=-1)


def in_data(path: str) -> dict[str, object]:
    """Return an entry of a list that is a file of `data/0`."""
    return entry(f"{BASE}/files/data/0/{path}")


HOSTILE: dict[str, tuple[str, list[dict[str, object]]]] = {
    "up": ("", [in_data("../../etc/passwd")]),
    "up inside": ("a", [in_data("a/../../b")]),
    "absolute": ("", [in_data("/etc/passwd")]),
    "doubled": ("a", [in_data("a//b")]),
    "dot": ("", [in_data("./a")]),
    "nul": ("a", [in_data("a/b\0c")]),
    "empty": ("", [in_data("")]),
    "name too long": ("a", [in_data("a/" + "n" * 256)]),
    "path too long": ("a", [in_data("a/" + "n/" * 3000 + "n")]),
    "in no directory": ("", [in_data("nowhere/a")]),
    "in no directory below": ("a", [in_data("a/nowhere/deep/b")]),
    "no way to what is wrong": ("a", [in_data("a/nowhere/../b")]),
    "twice": ("a", [in_data("a/b"), in_data("a/c"), in_data("a/b"), in_data("a/d")]),
    "in a file": ("a", [in_data("a/b"), in_data("a/b/c")]),
}


@pytest.mark.parametrize(("bad", "files"), HOSTILE.values(), ids=list(HOSTILE))
def test_an_entry_that_cannot_be_costs_its_directory(
    source: SidecarSource, tmp_path: Path, bad: str, files: list[dict[str, object]]
) -> None:
    """It is refused by name; the others are served, and so are other trees."""
    others = [folder("a"), in_data("a/x"), folder("z"), in_data("z/y")]
    elsewhere = entry(f"{BASE}/files/data/1/log")
    listed = [*others, *files, elsewhere]
    source.faults.list_answer = json.dumps({"files": listed}).encode()
    directories = open_sidecar(source, tmp_path)
    by_name = {directory.describe()["path"]: directory for directory in directories}
    failures: list[tuple[bytes, str]] = []
    walk = Walk(
        directory=by_name["data/0"],
        exclusions=Exclusions(()),
        on_failure=lambda path, error: failures.append((path, error.code)),
    )
    found = [path for path, _ in walk]

    assert (bad.encode(), "hostile-listing") in failures
    if bad:
        assert [path for path in found if not path.startswith(b"a/n")] == [b"a", b"z", b"z/y"]
    else:
        assert found == []
    assert by_name["data/1"].list_names(ROOT_PATH) == [(b"log", False)]
    for directory in directories:
        directory.close()


@pytest.mark.parametrize("url", ["http://other.example/files/data/0/a", f"{BASE}/data/0/a", "a"])
def test_a_list_of_no_place_is_refused_whole(
    source: SidecarSource, tmp_path: Path, url: str
) -> None:
    good = entry(f"{BASE}/files/data/0/good")
    source.faults.list_answer = json.dumps({"files": [good, entry(url)]}).encode()
    with pytest.raises(IntegrityError) as caught:
        open_sidecar(source, tmp_path)
    assert caught.value.code == "hostile-listing"
    assert not (tmp_path / "scratch" / "listing").exists()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"files": 3}',
        b'{"files": [1]}',
        b'{"files": [{"fileUrl": "' + BASE.encode() + b'/files/data/0/a"',
        json.dumps({"files": [entry(f"{BASE}/files/data/0/a", size=-5)]}).encode(),
        json.dumps({"files": [entry(f"{BASE}/files/data/0/a", size="1")]}).encode(),
        json.dumps({"files": [entry(f"{BASE}/files/data/0/a", size=True)]}).encode(),
        json.dumps({"files": [entry(f"{BASE}/files/data/0/a", fileType="LINK")]}).encode(),
        json.dumps({"files": [entry(f"{BASE}/files/data/0/a", lastModifiedTime=1 << 62)]}).encode(),
    ],
)
def test_what_is_no_list_is_refused(source: SidecarSource, tmp_path: Path, answer: bytes) -> None:
    source.faults.list_answer = answer or b"\n"
    with pytest.raises(IntegrityError) as caught:
        open_sidecar(source, tmp_path)
    assert caught.value.code == "bad-listing"


def test_an_entry_without_end_is_cut_off(source: SidecarSource, tmp_path: Path) -> None:
    endless = b'{"files": [{"fileUrl": "' + b"a" * (4 * LISTING_ENTRY_BYTES_MAX)
    source.faults.list_answer = endless
    with pytest.raises(CapacityError) as caught:
        open_sidecar(source, tmp_path)
    assert caught.value.code == "listing-too-large"


def test_an_unknown_directory_is_not_left_behind_unseen(
    source: SidecarSource, tmp_path: Path
) -> None:
    listed = {"files": [entry(f"{BASE}/files/cdc_raw/0/a")]}
    source.faults.list_answer = json.dumps(listed).encode()
    with pytest.raises(StateError) as caught:
        open_sidecar(source, tmp_path)
    assert caught.value.code == "directory-not-mapped"


def test_a_list_that_fails_may_go_better_later(source: SidecarSource, tmp_path: Path) -> None:
    source.faults.list_status = 500
    with pytest.raises(UnavailableError) as caught:
        open_sidecar(source, tmp_path)
    assert caught.value.code == "listing-failed"


def test_the_token_is_sent(source: SidecarSource, tmp_path: Path) -> None:
    source.faults.token = "secret"
    for directory in open_sidecar(source, tmp_path, token="secret"):
        directory.close()
    with pytest.raises(DeniedError):
        open_sidecar(source, tmp_path, token="other")


def test_contract_of_entries_that_are_not_there(roots: dict[str, Path], open_all: Open) -> None:
    write(roots["data/0"], "d/f", b"x")
    directory = open_all()[0]

    with pytest.raises(NotFoundError):
        directory.stat(b"none")
    with pytest.raises(NotFoundError):
        directory.list_names(b"none")
    with pytest.raises(ConflictError):
        directory.stat(b"d/f/below")
    with pytest.raises(ConflictError):
        directory.list_names(b"d/f")
    with pytest.raises(ConflictError):
        directory.open_file(b"d")
    with pytest.raises(ConflictError):
        directory.read_link(b"d/f")
    assert directory.xattrs(b"d/f") == {}
    found = directory.stat_names(b"d", [b"none", b"f"])
    assert isinstance(found[0], NotFoundError)
    assert isinstance(found[1], Stat)
    assert directory.list_names(b"d") == [(b"f", False)]


def test_a_list_that_is_cut_off_is_of_a_source_that_is_away(
    source: SidecarSource, tmp_path: Path
) -> None:
    """It is waited for; it is not broken or hostile, which would end a verification."""
    source.faults.is_list_cut = True
    with pytest.raises(UnavailableError) as caught:
        open_sidecar(source, tmp_path)
    assert caught.value.code == "listing-failed"
