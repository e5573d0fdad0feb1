"""A volume of the real engine, served over NBD in a thread of the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.volumes.engine.volume import Volume
from tests.support.engine_volume import make_volume, reopen_volume
from tests.support.nbd_server import NbdServerThread

VOLUME_BYTES = 64 << 20


class ServedVolume:
    """A volume and its server, which can be ended and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.volume: Volume = make_volume(directory / "volume", VOLUME_BYTES)
        self._server = NbdServerThread(self.volume, directory)

    @property
    def uri(self) -> str:
        """Of the unix socket."""
        return self._server.uri

    @property
    def server(self) -> NbdServerThread:
        """The one that runs now."""
        return self._server

    def restart(self) -> None:
        """End the server, close the volume, open and serve it again."""
        self.close()
        self.volume = reopen_volume(self._directory / "volume")
        self._server = NbdServerThread(self.volume, self._directory)

    def close(self) -> None:
        """End the server and close the volume."""
        self._server.close()
        self.volume.close()
        Path(self._server.socket_path).unlink()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedVolume]:
    """64 MiB, never written."""
    served = ServedVolume(tmp_path)
    yield served
    served.close()
