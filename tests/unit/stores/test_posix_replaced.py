"""A directory that another process puts in place of one held open here.

Goal: a file renamed into it arrives. Method: two objects over one root, as two workers have.
"""

import os
from pathlib import Path

from holdfast.model.tree import Metadata
from holdfast.stores.directories.posix import PosixDirectory

METADATA = Metadata(mode=0o644, mtime_ns=1, uid=os.getuid(), gid=os.getgid())


def test_rename_into_a_directory_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    here, there = (PosixDirectory(os.fsencode(tmp_path)) for _ in range(2))
    here.make_directory(b"d")
    here.write_small(b"d/held", b"", METADATA)  # Now `d` is held open here.
    here.remove_file(b"d/held")
    here.write_small(b"file", b"content", METADATA)
    there.make_directory(b"ready")
    there.write_small(b"ready/other", b"other", METADATA)
    there.rename(b"ready", b"d")
    here.rename(b"file", b"d/file")
    assert sorted(os.listdir(tmp_path / "d")) == ["file", "other"]
    here.close()
    there.close()
