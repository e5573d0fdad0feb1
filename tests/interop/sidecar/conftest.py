"""A Sidecar-shaped source over real sockets, and its directories as the product opens them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.stores.sidecar.client import SidecarAddress
from holdfast.stores.sidecar.directory import SidecarDirectory, open_sidecar_directories
from holdfast.stores.system import SystemEntropy
from tests.support.clocks import QuickClock
from tests.support.sidecar_source import SidecarSource

NAMES = ("data/0", "data/1")

Open = Callable[[], list[SidecarDirectory]]


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """The source's directories, empty."""
    found = {name: tmp_path / "source" / name.replace("/", "") for name in NAMES}
    for root in found.values():
        root.mkdir(parents=True)
    return found


@pytest.fixture
def source(roots: dict[str, Path]) -> Iterator[SidecarSource]:
    """The server."""
    with SidecarSource(roots) as server:
        yield server


@pytest.fixture
def open_all(source: SidecarSource, tmp_path: Path) -> Iterator[Open]:
    """Opens every directory of the source anew, as a pass does."""
    opened: list[SidecarDirectory] = []

    def open_now() -> list[SidecarDirectory]:
        directories = open_sidecar(source, tmp_path)
        opened.extend(directories)
        return directories

    yield open_now
    for directory in opened:
        directory.close()


def open_sidecar(
    source: SidecarSource, place: Path, *, token: str | None = None
) -> list[SidecarDirectory]:
    """Open a source's directories with a clock that does not wait."""
    return open_sidecar_directories(
        SidecarAddress(host="127.0.0.1", port=source.port),
        list(source.directories),
        [str(place).encode()] * len(source.directories),
        scratch=place / "scratch" / "listing",
        token=token,
        clock=QuickClock(),
        entropy=SystemEntropy(),
    )
