"""A data process of a volume by itself, to be killed and started again as fast as that goes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.engine_volume import make_volume


class DataProcess:
    """One volume in a directory, and the process that serves it, if one does."""

    def __init__(self, directory: Path, size_bytes: int, log_bytes: int) -> None:
        self.directory = directory
        self.socket_path = str(directory / "nbd.sock")
        self.starts_count = 0
        self._process: subprocess.Popen[bytes] | None = None
        make_volume(directory, size_bytes, log_bytes=log_bytes).close()

    @property
    def uri(self) -> str:
        """The volume on its unix socket."""
        return f"nbd+unix:///disk?socket={self.socket_path}"

    @property
    def pid(self) -> int:
        """The id of the process that serves now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process; return once it listens."""
        orders = {
            "name": "disk",
            "directory": str(self.directory),
            "preset": "general",
            "parent_id": os.getpid(),
            "is_offline": False,
            "listen": [],
            "socket_path": self.socket_path,
            "spin_us": 0,
            "tls": None,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.server.volume_process", json.dumps(orders)],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        report = json.loads(self._process.stdout.readline())
        if not report["listening"]:
            self.end()
            raise AssertionError(report)
        self.starts_count += 1

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the end and return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return 0
        os.kill(process.pid, number)
        assert process.stdout is not None
        process.stdout.close()
        return process.wait(timeout=60)
