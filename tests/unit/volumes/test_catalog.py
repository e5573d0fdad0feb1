"""Goal: a volume is whole or not there, and never taken from whoever has it open.

Method: real directories; a creation stopped by an error on the way; locks held by this process;
invariants of volumes/catalog.py.
"""

from pathlib import Path

import pytest

from holdfast.errors import (
    CapacityError,
    ConflictError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
)
from holdfast.model.ids import VolumeName, parse_volume_name
from holdfast.model.limits import VOLUME_NAME_BYTES_MAX, VOLUMES_MAX
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.volumes.catalog import Catalog, locked

DB = VolumeName("db")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "volumes"


@pytest.fixture
def catalog(root: Path) -> Catalog:
    return Catalog(root, SystemClock(), SystemEntropy())


def _build(directory: Path) -> None:
    (directory / "log").write_bytes(b"x")


def test_created_volume_is_listed_with_its_files(catalog: Catalog, root: Path) -> None:
    place = catalog.create(DB, "general", _build)

    assert catalog.names() == ["db"]
    assert (place.directory / "log").read_bytes() == b"x"
    assert catalog.entry(place).preset == "general"
    assert [path.name for path in root.iterdir()] == ["db"]


def test_creation_that_fails_leaves_nothing(catalog: Catalog, root: Path) -> None:
    """Invariant 1: a name is given last."""

    def build(directory: Path) -> None:
        _build(directory)
        assert catalog.names() == []
        raise CapacityError("full", code="disk-full")

    with pytest.raises(CapacityError):
        catalog.create(DB, "general", build)

    assert list(root.iterdir()) == []


def test_name_is_taken_once(catalog: Catalog) -> None:
    catalog.create(DB, "general", _build)

    with pytest.raises(ConflictError) as raised:
        catalog.create(DB, "general", _build)

    assert raised.value.code == "volume-exists"


def test_name_taken_while_files_are_made_is_refused(catalog: Catalog) -> None:
    """Two creations at once: the second to finish loses, and the first one's files stay."""

    def build(directory: Path) -> None:
        (directory / "log").write_bytes(b"late")
        catalog.create(DB, "general", _build)

    with pytest.raises(ConflictError):
        catalog.create(DB, "general", build)

    assert (catalog.find(DB).directory / "log").read_bytes() == b"x"


def test_locked_volume_is_not_removed(catalog: Catalog) -> None:
    """Invariants 2 and 3."""
    place = catalog.create(DB, "general", _build)

    with locked(place.directory), pytest.raises(ConflictError) as raised:
        catalog.remove(DB)

    assert raised.value.code == "volume-in-use"
    catalog.remove(DB)
    assert catalog.names() == []


def test_lock_of_a_removed_volume_is_not_given(catalog: Catalog) -> None:
    place = catalog.create(DB, "general", _build)
    catalog.remove(DB)

    with pytest.raises(NotFoundError), locked(place.directory):
        pass


def test_what_a_crash_leaves_is_swept(catalog: Catalog, root: Path) -> None:
    """Invariant 4; what another creation still works on stays."""
    catalog.create(DB, "general", _build)
    for name in (".new-dead", ".gone-dead", ".new-alive"):
        (root / name).mkdir()
        (root / name / "log").touch()

    with locked(root / ".new-alive"):
        catalog.create(VolumeName("other"), "general", _build)

    assert sorted(path.name for path in root.iterdir()) == [".new-alive", "db", "other"]


def test_damaged_entry_is_told(catalog: Catalog) -> None:
    place = catalog.create(DB, "general", _build)
    (place.directory / "entry.json").write_bytes(b"{")

    with pytest.raises(IntegrityError) as raised:
        catalog.entry(place)

    assert raised.value.code == "entry-damaged"


def test_entry_of_another_format_is_refused(catalog: Catalog) -> None:
    place = catalog.create(DB, "general", _build)
    (place.directory / "entry.json").write_bytes(b'{"format":2,"preset":"x","created_ns":1}')

    with pytest.raises(IntegrityError, match="format is 2"):
        catalog.entry(place)


def test_there_is_a_most_of_volumes(catalog: Catalog, root: Path) -> None:
    root.mkdir()
    for number in range(VOLUMES_MAX):
        (root / f"v{number}").mkdir()

    with pytest.raises(CapacityError) as raised:
        catalog.create(DB, "general", _build)

    assert raised.value.code == "volumes-full"


@pytest.mark.parametrize("text", ["a", "DB.1-x_y", "0", "a" * VOLUME_NAME_BYTES_MAX])
def test_name_is_taken(text: str) -> None:
    assert parse_volume_name(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", ".new-1", "a/b", "a@b", "a b", "a\n", "-a", "ä", "a" * 65, "a\0"],
)
def test_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_volume_name(text)
