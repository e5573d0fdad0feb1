"""Who is told of a write that failed, by what the kernel keeps for each opening of a directory.

Goal: a worker process is told of its own losses. Method: status flags belong to one opening of a
file, as the memory of reported errors does; setting one in a child shows whether it is shared.
"""

import fcntl
import os
from pathlib import Path

import pytest

from holdfast.model.tree import Metadata
from holdfast.stores.directories.posix import PosixDirectory

METADATA = Metadata(mode=0o644, mtime_ns=1, uid=os.getuid(), gid=os.getgid())


@pytest.mark.parametrize("call", ["create_file", "write_small"])
def test_worker_that_writes_flushes_through_an_opening_of_its_own(
    call: str, tmp_path: Path
) -> None:
    tree = PosixDirectory(os.fsencode(tmp_path))
    child = os.fork()
    if not child:
        if call == "create_file":
            tree.create_file(b"f", resume=False).close()
        else:
            tree.write_small(b"f", b"x", METADATA)
        tree.flush_all()
        fcntl.fcntl(tree._flush_descriptor, fcntl.F_SETFL, os.O_NONBLOCK)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not fcntl.fcntl(tree._flush_descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
    tree.close()


def test_opening_is_kept_while_the_process_is_the_same(tmp_path: Path) -> None:
    """To open anew between a write and its flush would miss what failed in between."""
    tree = PosixDirectory(os.fsencode(tmp_path))
    before = tree._flush_descriptor
    fcntl.fcntl(before, fcntl.F_SETFL, os.O_NONBLOCK)
    tree.create_file(b"f", resume=False).close()
    tree.flush_all()
    assert tree._flush_descriptor == before
    assert fcntl.fcntl(before, fcntl.F_GETFL) & os.O_NONBLOCK
    tree.close()
