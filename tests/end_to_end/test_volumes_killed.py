"""Goal: nothing acknowledged is lost, and nothing is half done, however often a data process dies.

Method: a data process with the smallest log there is, so that it goes round all the time, killed
while a client pipelines writes of all sizes, trims, zeroes and flushes over its socket; the client
comes back and finds exactly a prefix of what was under way. And fio, which verifies what it wrote,
through nbdkit, which reconnects. Cites 3, 5, 8, 9, 11 and 17 of volumes/engine/volume.py and, of
front ends, 55.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from holdfast.volumes.model import SLOT_BYTES
from holdfast.volumes.nbd.codec import Command
from tests.support.nbd_client import NbdClient, request, write
from tests.support.volume_process import DataProcess
from tests.support.volumes import ENVIRONMENT, need

VOLUME_BYTES = 2 << 20
SMALLEST_LOG_BYTES = 6 * SLOT_BYTES
DEPTH = 24
FIO_KILLS = 30
FUA, NO_HOLE = 1, 2


@dataclass(slots=True)
class Change:
    """A request that changes the volume: its bytes, and where."""

    message: bytes
    start: int
    data: bytes


class Changing:
    """Changes a volume over one connection after the other, and knows what it must hold."""

    def __init__(self, process: DataProcess, seed: int) -> None:
        self._process = process
        self._random = Random(seed)
        self._stamp = 0
        self.image = bytearray(VOLUME_BYTES)
        self.waiting: list[Change | None] = []
        """Sent and not answered, in order; None is a flush."""
        self.answered_count = 0

    def live(self, kill_after: int) -> None:
        """Pipeline changes and have the process killed once so many are answered."""
        client = NbdClient(self._process.socket_path)
        client.start("disk")
        self.check(client)
        end = self.answered_count + kill_after
        killer: threading.Thread | None = None
        try:
            while True:
                while len(self.waiting) < DEPTH:
                    client.send(self._next())
                answer = client.reply()
                assert answer.errno == 0
                self._answered()
                if killer is None and self.answered_count >= end:
                    killer = threading.Thread(target=self._process.end)
                    killer.start()
        except (EOFError, ConnectionError):
            assert killer is not None, "it ended without having been told to"
            killer.join()
        finally:
            client.close()

    def check(self, client: NbdClient) -> None:
        """Find what is there to be all that was answered and the first of what was not."""
        found = b"".join(client.read(at, 1 << 20) for at in range(0, VOLUME_BYTES, 1 << 20))
        while self.image != found:
            assert self.waiting, "not a prefix of what was sent"
            self._answered()
        self.waiting.clear()

    def _answered(self) -> None:
        change = self.waiting.pop(0)
        self.answered_count += 1
        if change is not None:
            self.image[change.start : change.start + len(change.data)] = change.data

    def _next(self) -> bytes:
        random, cookie = self._random, self._stamp
        self._stamp += 1
        kind = random.randrange(20)
        if kind == 0:
            self.waiting.append(None)
            return request(Command.FLUSH, cookie)
        start, size_bytes = self._range(kind)
        data, flags = bytes(size_bytes), FUA * (random.random() < 0.05)
        if kind in (1, 2):
            command = (Command.TRIM, Command.WRITE_ZEROES)[kind - 1]
            flags |= NO_HOLE * (kind == 2 and random.random() < 0.5)
            message = request(command, cookie, start, size_bytes, flags=flags)
        else:
            data = (self._stamp.to_bytes(8, "little") * (size_bytes // 8 + 1))[:size_bytes]
            message = write(cookie, start, data, flags=flags)
        self.waiting.append(Change(message, start, data))
        return message

    def _range(self, kind: int) -> tuple[int, int]:
        random = self._random
        if kind < 15:
            return random.randrange(VOLUME_BYTES // 4096) * 4096, 4096
        if kind < 18:
            size_bytes = random.randint(1, 30_000)
            return random.randrange(VOLUME_BYTES - size_bytes), size_bytes
        size_bytes = random.randint(1, 4) * SLOT_BYTES
        return random.randrange((VOLUME_BYTES - size_bytes) // 4096) * 4096, size_bytes


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DataProcess]:
    """A volume of 32 slots with a log of six."""
    process = DataProcess(tmp_path / "disk", VOLUME_BYTES, SMALLEST_LOG_BYTES)
    yield process
    process.end()


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="twice"), pytest.param(40, id="often", marks=pytest.mark.slow)]
)
def test_nothing_answered_is_lost_by_kills(process: DataProcess, kills: int) -> None:
    changing = Changing(process, kills)
    random = Random(kills)
    for _ in range(kills):
        process.start()
        changing.live(random.randint(1, 1500))

    process.start()
    client = NbdClient(process.socket_path)
    client.start("disk")
    changing.check(client)
    client.close()
    assert process.end(15) == 0
    assert changing.answered_count > kills * 100


@pytest.mark.slow
def test_fio_verifies_what_it_wrote_while_the_process_is_killed(
    process: DataProcess, tmp_path: Path
) -> None:
    """nbdkit's filter connects again and repeats what was not answered; fio notices nothing."""
    need("nbdkit", "fio")
    process.start()
    local = tmp_path / "kit.sock"
    kit = subprocess.Popen(
        [
            "nbdkit", "--foreground", "--exit-with-parent", "--unix", local, "--filter=retry",
            "nbd", f"uri={process.uri}", "retry-delay=1", "retry-exponential=no", "retries=60",
        ],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not local.exists():
        assert kit.poll() is None
    fio = subprocess.Popen(
        [
            "fio", "--name=v", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={local}", "--bs=4k",
            f"--size={VOLUME_BYTES}", "--rw=randwrite", "--iodepth=16", "--verify=crc32c",
            "--verify_fatal=1", "--do_verify=1", "--fsync=64", "--loops=30", "--thinktime=1000",
            "--output-format=json",
        ],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    kills = 0
    try:
        while fio.poll() is None and kills < FIO_KILLS:
            time.sleep(0.7 if kills else 3.0)  # The filter does not repeat the first connection.
            process.end()
            process.start()
            kills += 1
        assert fio.stdout is not None
        told = fio.stdout.read()
        assert fio.wait() == 0, told
        job = json.loads(told[told.index("{") :])["jobs"][0]
        assert job["error"] == 0
        assert job["write"]["io_bytes"] == job["read"]["io_bytes"] == 30 * VOLUME_BYTES
        assert kills == FIO_KILLS
    finally:
        for child in (fio, kit):
            child.terminate()
            child.communicate()
