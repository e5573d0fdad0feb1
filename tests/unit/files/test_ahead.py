"""Goal: a walk ahead yields and tells what a walk here does, in the same order.

Method: a simulated tree larger than what is walked here first, some of it excluded and some that
cannot be listed; pages go through their encoding, once in this process and once in a forked one.
"""

import pytest

from holdfast.files import ahead
from holdfast.files.ahead import RunBeside, WalkAhead
from holdfast.files.listing import Exclusions, Listed, Walk
from holdfast.model.tree import FileKind, Metadata
from holdfast.stores.processes import run_beside
from holdfast.testing.directory import SimDirectory
from holdfast.testing.trees import put_file

METADATA = Metadata(mode=0o644, mtime_ns=1_500_000_000_000_000_000, uid=1000, gid=1000)
EXCLUSIONS = Exclusions(("*.tmp",))


def large_tree() -> SimDirectory:
    tree = SimDirectory()
    for directory in range(30):
        name = b"d%02d" % directory
        tree.make_directory(name)
        for number in range(100):
            put_file(tree, name + b"/%03d" % number, b"x" * number, METADATA)
        put_file(tree, name + b"/050.tmp", b"", METADATA)
    tree.gate.faults.forbidden |= {b"d07", b"d27"}
    tree.make_symlink(b"s", b"d00", METADATA)
    tree.make_special(b"p", FileKind.FIFO)
    return tree


@pytest.mark.parametrize("beside", [iter, run_beside])
def test_comes_as_it_would_here(beside: RunBeside) -> None:
    tree = large_tree()
    here: list[object] = []
    walk = Walk(
        directory=tree,
        exclusions=EXCLUSIONS,
        on_failure=lambda path, error: here.append((path, error.code)),
        on_excluded=here.append,
    )
    here.extend(walk)
    assert (walk.excluded, walk.failures) == (28, 2)
    assert len(here) > 1.2 * ahead._HERE_ENTRIES
    found: list[object] = []

    walk_ahead = WalkAhead(
        tree,
        EXCLUSIONS,
        beside,
        on_failure=lambda path, error: found.append((path, error.code)),
        on_excluded=found.append,
    )
    for page in walk_ahead.pages():
        found.extend(map(Listed, page.paths, page.stats.rows()))

    assert found == here
    assert walk_ahead.failures == 2
