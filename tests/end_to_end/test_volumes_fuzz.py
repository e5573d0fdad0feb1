"""Goal: no bytes on the socket of a data process end it, change its volume, or make it hold much.

Method: connections that send noise in every state of the protocol, and proper beginnings with noise
behind them, to a real process; then it is looked at. Cites, of front ends, 51 and 55.
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast.volumes.nbd.codec import OPTION_MAGIC, REQUEST_MAGIC, Command, Option
from tests.support.nbd_client import NbdClient, go, option, request, write
from tests.support.volume_process import DataProcess

MIB = 1 << 20
VOLUME_BYTES = 4 * MIB
GROWTH_BYTES_MAX = 48 * MIB


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DataProcess]:
    """A volume with something in it, served."""
    process = DataProcess(tmp_path / "disk", VOLUME_BYTES, 2 * MIB)
    process.start()
    yield process
    process.end()


def noise(random: Random) -> bytes:
    """Return bytes that change nothing: no change among them is whole and in the volume."""
    made = [
        random.randbytes(random.randrange(200)),
        OPTION_MAGIC + random.randbytes(random.randrange(60)),
        option(random.choice(list(Option)), random.randbytes(random.randrange(100))),
        OPTION_MAGIC + struct.pack(">II", random.choice(list(Option)), 0xFFFFFFFF),
        request(random.randrange(9, 1 << 16), 1, random.randrange(1 << 63), 77),
        request(Command.READ, 2, VOLUME_BYTES - 1, 2 + random.randrange(1 << 31)),
        request(Command.WRITE_ZEROES, 3, VOLUME_BYTES, 4096, flags=random.randrange(1 << 16)),
        struct.pack(">IHHQQI", REQUEST_MAGIC, 0, Command.WRITE, 4, 0, 0xFFFFFFFF),
        write(5, 0, b"x" * 4096, flags=0x8000),
        request(Command.READ, 6, 0, MIB) * random.randrange(200),
        go("disk"),
    ]
    half_a_write = struct.pack(">IHHQQI", REQUEST_MAGIC, 0, Command.WRITE, 7, 0, 32 * MIB)
    return b"".join(random.choices(made, k=random.randint(1, 6))) + half_a_write + bytes(9000)


def held_bytes(process: DataProcess) -> int:
    """Return the resident memory of the process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_noise_changes_nothing(process: DataProcess) -> None:
    random = Random(7)
    image = random.randbytes(VOLUME_BYTES)
    owner = NbdClient(process.socket_path)
    owner.start("disk")
    for at in range(0, VOLUME_BYTES, MIB):
        assert owner.write(at, image[at : at + MIB]) == 0
    assert owner.flush() == 0
    before = held_bytes(process)

    with contextlib.ExitStack() as held:
        for number in range(400):
            client = NbdClient(process.socket_path)
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                client.socket.settimeout(0.2)
                if number % 4:
                    client.start("disk", structured=number % 2 == 0)
                client.send(noise(random))
            if number % 10 == 0:
                held.callback(client.close)  # Some stay as they are.
            else:
                client.close()
        assert held_bytes(process) - before < GROWTH_BYTES_MAX
        found = b"".join(owner.read(at, MIB) for at in range(0, VOLUME_BYTES, MIB))

    assert found == image
    owner.close()
    assert process.end(15) == 0
