"""Copies, verifications, repairs and proofs of random pairs of trees.

Goal: what the files facet promises holds for trees nobody thought of. Method: hypothesis draws two
small trees of all kinds, with names that sort unlike their directories, hard links, and few enough
sizes and times that the two often agree by half; both are simulated. Content follows from size and
time, since a copy takes two files of equal size and time for the same.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, assume, example, given, note, settings
from hypothesis import strategies as st
from tests.simulation.world import HOUR_S, World, clone, is_aside, look, make_world

from holdfast.errors import StateError
from holdfast.files.ledger import Ledger
from holdfast.files.listing import Exclusions
from holdfast.files.model import (
    FULL_FIDELITY,
    Action,
    CopyOptions,
    DeleteLimit,
    PlanSummary,
    VerifyOptions,
)
from holdfast.files.planning import Planner
from holdfast.model.tree import ROOT_PATH, FileKind, Metadata, parent_of
from holdfast.proof.digests import Algorithm
from holdfast.proof.statement import VerificationMode
from holdfast.testing.directory import SimDirectory
from holdfast.testing.trees import Seen

NAMES = (b"a", b"a-b", b"a.b", b"b", b"\xff", b"a b")
SIZES = (0, 1, 4097)
ALL = CopyOptions(delete=True, delete_limit=DeleteLimit(count=1000), verify=VerificationMode.FULL)
ExampleT = TypeVar("ExampleT", bound=Callable[..., None])


def examples(count: int) -> Callable[[ExampleT], ExampleT]:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry to be made; what does not matter to its kind is ignored."""

    path: bytes
    kind: FileKind
    size_bytes: int
    number: int
    """Of its time."""
    mode: int
    is_link: bool
    """A file: a further name of the file made before it, where there is one."""
    xattrs: dict[bytes, bytes]


def nodes(*kinds: FileKind) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        path=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join),
        kind=st.sampled_from(kinds),
        size_bytes=st.sampled_from(SIZES),
        number=st.integers(0, 2),
        mode=st.sampled_from((0o600, 0o644, 0o755)),
        is_link=st.integers(0, 3).map(lambda drawn: drawn == 0),
        xattrs=st.sampled_from(({}, {}, {b"user.x": b"1"}, {b"user.x": b"2", b"user.y": b""})),
    )


COPIED = (FileKind.FILE, FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK)


def specs(*kinds: FileKind, min_size: int = 0) -> st.SearchStrategy[list[Node]]:
    return st.lists(nodes(*(kinds or COPIED)), min_size=min_size, max_size=9)


def metadata_of(node: Node) -> Metadata:
    mtime_ns = 1_500_000_000_000_000_000 + node.number
    return Metadata(mode=node.mode, mtime_ns=mtime_ns, uid=1000, gid=1000, xattrs=node.xattrs)


def build(tree: SimDirectory, spec: list[Node]) -> None:
    """Make what can be made; directories on the way too, as open as they need to be."""
    made: dict[bytes, Node] = {}
    leader: bytes | None = None
    for node in spec:
        way = node.path.split(b"/")
        parents = [b"/".join(way[:depth]) for depth in range(1, len(way))]
        kinds = [made[path].kind for path in parents if path in made]
        if node.path in made or any(kind is not FileKind.DIRECTORY for kind in kinds):
            continue
        for path in parents:
            if path not in made:
                tree.make_directory(path)
                made[path] = replace(node, path=path, kind=FileKind.DIRECTORY)
        if node.kind is FileKind.FILE and node.is_link and leader is not None:
            tree.make_hard_link(leader, node.path)
        else:
            make(tree, node)
        if node.kind is FileKind.FILE:
            leader = node.path
        made[node.path] = node
    for path in sorted(made, reverse=True):
        if made[path].kind is FileKind.DIRECTORY:
            tree.set_metadata(path, FileKind.DIRECTORY, metadata_of(made[path]))
    tree.flush_all()


def make(tree: SimDirectory, node: Node) -> None:
    match node.kind:
        case FileKind.FILE:
            file = tree.create_file(node.path, resume=False)
            if node.size_bytes:
                file.write_at(bytes([65 + node.number]) * node.size_bytes, 0)
            file.set_metadata(metadata_of(node))
            file.close()
        case FileKind.DIRECTORY:
            tree.make_directory(node.path)
        case FileKind.SYMLINK:
            target = b"to%d" % (node.size_bytes % 2)
            tree.make_symlink(node.path, target, metadata_of(replace(node, xattrs={})))
        case _:
            tree.make_special(node.path, node.kind)


@contextmanager
def pair(source: list[Node], target: list[Node]) -> Iterator[World]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as state:
        world = make_world(Path(state) / "state")
        build(world.source, source)
        build(world.target, target)
        world.clock.sleep(HOUR_S)
        yield world


def plan(world: World, options: CopyOptions) -> PlanSummary:
    return Planner(
        source=world.source,
        target=world.target,
        ledger=Ledger(None, Algorithm.BLAKE3),
        options=options,
        exclusions=Exclusions(options.exclude),
        fidelity=FULL_FIDELITY,
        on_progress=lambda _entries, _bytes: None,
    ).make()


@examples(60)
@given(specs(min_size=1), specs())
def test_copy_with_delete_makes_the_trees_equal(source: list[Node], target: list[Node]) -> None:
    """... and proves it, and a second plan is empty."""
    with pair(source, target) as world:
        result = world.copy(ALL)
        assert look(world.target) == look(world.source)
        assert result["verdict"] == "proven"
        copied = result["copy"]
        assert isinstance(copied, dict)
        assert set(copied["counts"]) <= {"settled"}
        world.clock.sleep(HOUR_S)
        assert plan(world, ALL).is_empty


LINKED = [
    Node(
        path=path,
        kind=FileKind.FILE,
        size_bytes=1,
        number=0,
        mode=0o644,
        is_link=True,
        xattrs={},
    )
    for path in (b"a", b"a-b", b"a/in")
]


@examples(40)
@example(LINKED[:2], LINKED[2:])  # The first name of a group is refused; the second is not.
@given(specs(min_size=1), specs())
def test_copy_without_delete_keeps_what_only_the_target_has(
    source: list[Node], target: list[Node]
) -> None:
    """Invariant 1 of rules.py."""
    with pair(source, target) as world:
        before, wanted = look(world.target), look(world.source)
        result = world.copy(replace(ALL, delete=False))
        after = look(world.target)
        for path, seen in before.items():
            if path not in wanted:
                assert same_extra(after[path], seen), path
        assert result["verdict"] in ("proven", "incomplete")
        refused = {path for path, (action, _) in world.outcomes().items() if action == "refuse"}
        assert (result["verdict"] == "proven") == (not refused)
        for path, seen in wanted.items():
            if path not in refused:
                assert replace(after[path], links_count=0) == replace(seen, links_count=0), path


def same_extra(after: Seen, before: Seen) -> bool:
    """Compare what a copy has no reason to touch; its directory gets entries, its inode names."""
    if before.kind is FileKind.DIRECTORY:
        return after.kind is FileKind.DIRECTORY
    return replace(after, links_count=0) == replace(before, links_count=0)


@examples(40)
@given(specs(*COPIED, FileKind.FIFO), specs(*COPIED, FileKind.FIFO), st.booleans())
def test_plan_touches_nothing_and_counts_every_entry_once(
    source: list[Node], target: list[Node], delete: bool
) -> None:
    with pair(source, target) as world:
        trees = (world.source, world.target)
        before = [(look(tree), tree.gate.operations_count) for tree in trees]
        summary = plan(world, replace(ALL, delete=delete))
        assert [(look(tree), tree.gate.operations_count) for tree in trees] == before
        counted = sum(summary.counts.values()) + summary.goes_along
        assert counted == len(before[0][0].keys() | before[1][0].keys())
        assert min(summary.counts.values(), default=0) >= 0


@examples(30)
@given(specs(*COPIED, FileKind.FIFO), specs(*COPIED, FileKind.FIFO), st.booleans())
def test_accounting_of_any_copy_and_verification_is_closed(
    source: list[Node], target: list[Node], delete: bool
) -> None:
    with pair(source, target) as world:
        try:
            result = world.copy(replace(ALL, delete=delete))
        except StateError:
            assert not look(world.source)  # Invariant 2 of rules.py.
            return
        assert world.target.open_files_count == world.source.open_files_count == 0
        verified = world.verify(VerifyOptions(one_way=not delete))
        for report in (result["verify"], verified["verify"]):
            assert isinstance(report, dict)
            assert sum(report["counts"].values()) == report["entries"]
            paths = look(world.source).keys() | look(world.target).keys()
            assert report["entries"] == sum(1 for path in paths if not is_aside(path))


Mutation = Callable[[SimDirectory, bytes], set[bytes]]
"""Changes a tree at a path; returns the paths that differ now."""


def names_of_inode(tree: SimDirectory, path: bytes) -> set[bytes]:
    inode = tree.stat(path).inode
    return {other for other in look(tree) if tree.stat(other).inode == inode}


def flip_bit(tree: SimDirectory, path: bytes) -> set[bytes]:
    tree.rot(path, tree.stat(path).size_bytes - 1)
    return names_of_inode(tree, path)


def change_mode(tree: SimDirectory, path: bytes) -> set[bytes]:
    seen = look(tree)[path]
    metadata = Metadata(
        mode=seen.mode ^ 0o020, mtime_ns=seen.mtime_ns, uid=1000, gid=1000, xattrs=seen.xattrs
    )
    tree.set_metadata(path, seen.kind, metadata)
    return names_of_inode(tree, path)


def remove(tree: SimDirectory, path: bytes) -> set[bytes]:
    tree.remove_file(path)
    return {path}


def free_name(tree: SimDirectory, path: bytes) -> bytes:
    while path in look(tree):
        path += b"+"
    return path


def rename(tree: SimDirectory, path: bytes) -> set[bytes]:
    new_path = free_name(tree, path + b"~")
    tree.rename(path, new_path)
    return {path, new_path}


def add(tree: SimDirectory, path: bytes) -> set[bytes]:
    new_path = free_name(tree, path + b"+")
    tree.create_file(new_path, resume=False).close()
    return {new_path}


def replace_by_symlink(tree: SimDirectory, path: bytes) -> set[bytes]:
    tree.remove_file(path)
    metadata = Metadata(mode=0o777, mtime_ns=1_500_000_000_000_000_000, uid=1000, gid=1000)
    tree.make_symlink(path, b"another place", metadata)
    return {path}


def mutations_of(tree: SimDirectory, path: bytes) -> list[Mutation]:
    """Return what can be done to an entry."""
    stat = tree.stat(path)
    if stat.kind is FileKind.DIRECTORY:
        return [change_mode, add]
    every: list[Mutation] = [remove, rename, add, replace_by_symlink]
    if stat.kind is FileKind.FILE:
        every.append(change_mode)
        if stat.size_bytes:
            every.append(flip_bit)
    return every


def mutate(tree: SimDirectory, path: bytes, mutation: Mutation) -> set[bytes]:
    """Change one entry, leaving the time of its directory as it was."""
    parent = parent_of(path)
    stat, xattrs = tree.stat(parent), tree.xattrs(parent)
    differ = mutation(tree, path)
    metadata = Metadata(mode=stat.mode, mtime_ns=stat.mtime_ns, uid=1000, gid=1000, xattrs=xattrs)
    tree.set_metadata(parent, FileKind.DIRECTORY, metadata)
    return differ


def draw_mutation(data: st.DataObject, tree: SimDirectory) -> tuple[set[bytes], Mutation]:
    paths = list(look(tree))
    assume(paths)
    path = data.draw(st.sampled_from(paths))
    mutation = data.draw(st.sampled_from(mutations_of(tree, path)))
    note(f"{mutation.__name__} {path!r}")
    return mutate(tree, path, mutation), mutation


def found_by(result: dict[str, object]) -> set[str]:
    findings = result["findings"]
    assert isinstance(findings, list)
    return {row["path"] for row in findings}


def shown(paths: set[bytes]) -> set[str]:
    return {path.decode("utf-8", "backslashreplace") for path in paths}


@examples(60)
@given(specs(min_size=1), st.data())
def test_verification_names_exactly_what_was_altered(
    source: list[Node], data: st.DataObject
) -> None:
    """Wholly, and for all that leaves a trace incrementally too."""
    with pair(source, []) as world:
        world.copy(ALL)
        world.clock.sleep(HOUR_S)
        world.verify(VerifyOptions())  # From here on digests of both sides may be trusted.
        differ, mutation = draw_mutation(data, world.target)
        world.clock.sleep(HOUR_S)
        modes = [VerificationMode.FULL]
        if mutation is not flip_bit:
            modes.append(VerificationMode.INCREMENTAL)
        result = world.verify(VerifyOptions(mode=data.draw(st.sampled_from(modes))))
        assert result["verdict"] == "damaged"
        assert found_by(result) == shown(differ)


@examples(40)
@given(specs(min_size=1), st.data())
def test_repair_makes_equal_whatever_was_damaged(source: list[Node], data: st.DataObject) -> None:
    """What only the target has stays, and keeps the verdict from being good."""
    with pair(source, []) as world:
        world.copy(ALL)
        world.clock.sleep(HOUR_S)
        for _ in range(data.draw(st.integers(1, 3))):
            draw_mutation(data, world.target)
        world.clock.sleep(HOUR_S)
        world.verify(VerifyOptions())
        result = world.repair(VerifyOptions())
        wanted, found = look(world.source), look(world.target)
        extra = found.keys() - wanted.keys()
        assert (result["verdict"] == "proven") == (not extra)
        for path, seen in wanted.items():
            assert replace(found[path], links_count=0) == replace(seen, links_count=0), path
        world.clock.sleep(HOUR_S)
        world.copy(ALL)
        assert look(world.target) == wanted


@examples(40)
@given(specs(min_size=1), st.data())
def test_proof_is_good_until_the_tree_is_altered(source: list[Node], data: st.DataObject) -> None:
    with pair(source, []) as world:
        proof = world.copy(ALL)["proof"]
        assert isinstance(proof, dict)
        path = Path(proof["path"])
        world.clock.sleep(HOUR_S)
        assert world.verify_proof(path, VerifyOptions())["verdict"] == "proven"
        differ, _ = draw_mutation(data, world.target)
        world.clock.sleep(HOUR_S)
        result = world.verify_proof(path, VerifyOptions())
        assert result["verdict"] == "damaged"
        assert found_by(result) == shown(differ)


@examples(20)
@given(specs(min_size=1), specs(), st.integers(1, 400))
def test_verification_before_a_copy_does_not_mislead_it(
    source: list[Node], target: list[Node], seed: int
) -> None:
    """What a verification remembers of two unequal trees must not make a copy skip anything."""
    with pair(source, target) as world:
        world.verify(VerifyOptions())
        world.clock.sleep(HOUR_S)
        incremental = replace(ALL, verify=VerificationMode.INCREMENTAL)
        assert world.copy(incremental)["verdict"] == "proven"
        assert look(world.target) == look(world.source)
        assert look(clone(world.target)) == look(world.source)
        assert world.target.stat(ROOT_PATH).mode == world.source.stat(ROOT_PATH).mode
        assert plan(world, ALL).counts.get(Action.FETCH, 0) == 0
