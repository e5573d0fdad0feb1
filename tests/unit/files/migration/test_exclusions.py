"""Goal: a pattern of the settings holds for just the directories its placeholder names.

Method: an instance of several directories, a pattern of each form, paths asked one by one.
"""

from pathlib import Path

import pytest

from holdfast.errors import InvalidRequestError
from holdfast.files.migration.exclusions import exclusions_of, kept_patterns
from holdfast.files.migration.model import Instance, InstanceDirectory

DIRECTORIES = tuple(
    InstanceDirectory(kind=kind, index=index, path=f"/var/db/{kind}{index}".encode())
    for kind, index in (("data", 0), ("data", 1), ("commitlog", 0), ("my-wal", 0))
)


def instance(files: tuple[str, ...] = (), directories: tuple[str, ...] = ()) -> Instance:
    return Instance(
        name="db",
        directories=DIRECTORIES,
        exclude_files=files,
        exclude_directories=directories,
        staging=Path("/var/db/staging"),
    )


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ("glob:${DATA_FILE_DIR}/x", {"data/0", "data/1"}),
        ("glob:${DATA_FILE_DIR_1}/x", {"data/1"}),
        ("glob:${DATA_FILE_DIR_7}/x", set()),
        ("glob:${COMMITLOG_DIR}/x", {"commitlog/0"}),
        ("glob:${HINTS_DIR}/x", set()),
        ("glob:${MY_WAL_DIR}/x", {"my-wal/0"}),
        ("regex:${DATA_FILE_DIR}/x", {"data/0", "data/1"}),
        ("glob:**/x", {"data/0", "data/1", "commitlog/0", "my-wal/0"}),
        ("glob:/var/db/data1/x", {"data/1"}),
        ("regex:.*/x", {"data/0", "data/1", "commitlog/0", "my-wal/0"}),
    ],
)
def test_placeholders(pattern: str, holds: set[str]) -> None:
    with_files, with_directories = instance((pattern,)), instance((), (pattern,))
    for directory in DIRECTORIES:
        wanted = directory.name in holds
        excluded = exclusions_of(with_files, directory)
        assert excluded.match(b"x", is_directory=False) is wanted
        assert not excluded.match(b"x", is_directory=True)
        excluded = exclusions_of(with_directories, directory)
        assert excluded.covers(b"x/y/z", is_directory=False) is wanted


def test_a_placeholder_of_nothing_is_an_error_not_silence() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        kept_patterns(instance(("glob:${DATA_DIRECTORY}/x",)), DIRECTORIES[0])
    assert caught.value.code == "bad-pattern"


def test_what_a_proof_tells_holds_wherever_the_tree_is() -> None:
    kept = kept_patterns(instance((), ("glob:${DATA_FILE_DIR}/*/*/snapshots",)), DIRECTORIES[0])
    assert kept == ("directories:glob:${ROOT}/*/*/snapshots",)
