"""Goal: the programs people have find in a volume what NBD promises, and their bytes again.

Method: libnbd's tools, qemu's and fio on a unix socket, TCP and TLS, against the real engine with a
small log, whose content is checked by another program, or after it was closed and opened again.
Invariants, of front ends: 51, 52 (every ability that is advertised is used here) and 53.
"""

import errno
import hashlib
import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast.volumes.nbd.negotiation import TlsMode
from tests.interop.nbd.conftest import VOLUME_BYTES, ServedVolume
from tests.support.certificates import Authority
from tests.support.nbd_server import NbdServerThread
from tests.support.plain_volume import PlainVolume
from tests.support.volumes import ENVIRONMENT, need, run

MIB = 1 << 20


def _nbdsh(served: ServedVolume, script: str, *, contexts: tuple[str, ...] = ()) -> str:
    need("nbdsh")
    connect = [f'h.add_meta_context("{context}")' for context in contexts]
    commands = "\n".join([*connect, f'h.connect_uri("{served.uri}")', script])
    return run("nbdsh", "-c", commands)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """As large as the volume: random bytes, zeros written, and holes."""
    path = tmp_path / "image"
    data = hashlib.shake_128(b"image").digest(20 * MIB + 12345)
    with open(path, "wb") as file:
        file.write(data)
        file.seek(30 * MIB)
        file.write(bytes(5 * MIB))
        file.seek(40 * MIB + 777)
        file.write(data[: 10 * MIB])
        file.truncate(VOLUME_BYTES)
    return path


def test_nbdinfo_is_told_size_and_abilities(served: ServedVolume) -> None:
    need("nbdinfo")

    told: dict[str, Any] = json.loads(run("nbdinfo", "--json", served.uri))
    (export,) = told["exports"]

    assert told["structured"]
    assert (export["export-name"], export["export-size"]) == ("disk", VOLUME_BYTES)
    assert not export["is_read_only"]
    abilities = ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero")
    assert all(export[f"can_{ability}"] for ability in abilities)
    assert export["contexts"] == ["base:allocation", "holdfast:changed-since:"]
    sizes = [export[f"block_size_{which}"] for which in ("minimum", "preferred", "maximum")]
    assert sizes == [1, 4096, 32 * MIB]


def test_nbdinfo_lists_exports(served: ServedVolume) -> None:
    need("nbdinfo")
    uri = f"nbd+unix://?socket={served.server.socket_path}"

    listed = json.loads(run("nbdinfo", "--list", "--json", uri))["exports"]

    assert [export["export-name"] for export in listed] == ["disk"]


def test_nbdsh_uses_every_command(served: ServedVolume) -> None:
    _nbdsh(
        served,
        """
h.pwrite(b"a" * 10000, 5000, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(10002, 4999) == b"\\0" + b"a" * 10000 + b"\\0"
chunks = []
h.pread_structured(10000, 5000, lambda *chunk: chunks.append(chunk), nbd.CMD_FLAG_DF)
assert [bytes(chunk[0]) for chunk in chunks] == [b"a" * 10000]
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 8192) == bytes(4096)
assert h.pread(3192, 5000) == b"a" * 3192
h.zero(100, 5100, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
h.zero(100, 5300, nbd.CMD_FLAG_FUA)
assert h.pread(400, 5000) == b"a" * 100 + bytes(100) + b"a" * 100 + bytes(100)
h.cache(1 << 20, 0)
h.shutdown()
""",
    )


def test_nbdsh_is_told_errors(served: ServedVolume) -> None:
    told = _nbdsh(
        served,
        f"""
h.set_strict_mode(0)
def refused(call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        return error.errnum
    return 0
end = {VOLUME_BYTES}
print(
    refused(h.pread, 1, end), refused(h.pwrite, b"x", end), refused(h.trim, 1, end),
    refused(h.zero, 1, end), refused(h.pread, 1, 0, nbd.CMD_FLAG_NO_HOLE),
    refused(h.pread, 0, 0), "|", h.pread(1, end - 1),
)
""",
    )

    numbers, byte = told.split("|")
    names = [errno.errorcode[int(number)] for number in numbers.split()]
    assert names == ["EINVAL", "ENOSPC", "EINVAL", "ENOSPC", "EINVAL", "EINVAL"]
    assert byte.strip() == "b'\\x00'" or "bytearray" in byte


def test_holes_and_changes_are_told(served: ServedVolume) -> None:
    need("nbdinfo")
    _nbdsh(served, "h.pwrite(b'a' * (1 << 20), 1 << 20)\nh.flush()")
    before = served.server.call(lambda: served.volume.last_lsn)
    _nbdsh(served, "h.pwrite(b'b' * 65536, 8 << 20)\nh.flush()")

    allocation = json.loads(run("nbdinfo", "--map", "--json", served.uri))
    context = f"holdfast:changed-since:{before}"
    changes = json.loads(run("nbdinfo", f"--map={context}", "--json", served.uri))

    assert [(e["offset"], e["length"]) for e in allocation if e["type"] == 0] == [
        (MIB, MIB),
        (8 * MIB, 65536),
    ]
    # More may be told than what has changed since, never less, and never what was not written.
    changed = [(e["offset"], e["length"]) for e in changes if e["type"] == 1]
    assert (8 * MIB, 65536) in changed
    assert set(changed) <= {(MIB, MIB), (8 * MIB, 65536)}


def test_flush_of_one_connection_covers_another(served: ServedVolume) -> None:
    _nbdsh(
        served,
        f"""
other = nbd.NBD()
other.connect_uri("{served.uri}")
assert h.can_multi_conn() and other.can_multi_conn()
h.pwrite(b"a" * 4096, 0)
other.flush()
""",
    )

    volume = served.volume
    assert served.server.call(lambda: volume.durable_lsn == volume.last_lsn > 0)


@pytest.mark.slow
def test_nbdcopy_there_and_back(served: ServedVolume, image: Path, tmp_path: Path) -> None:
    need("nbdcopy")

    run("nbdcopy", "--flush", image, served.uri)
    served.restart()
    run("nbdcopy", served.uri, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == image.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 40 * MIB, "holes are told"


@pytest.mark.slow
def test_qemu_converts_and_compares(served: ServedVolume, image: Path, tmp_path: Path) -> None:
    need("qemu-img")

    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, served.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, served.uri)
    served.restart()
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri, tmp_path / "copy.qcow2")

    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, tmp_path / "copy.qcow2")
    mapped = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", served.uri))
    assert any(not extent["data"] for extent in mapped)


def test_qemu_io_patterns(served: ServedVolume) -> None:
    need("qemu-io")
    commands = [
        "write -P 1 0 1M",
        "write -P 2 512 512",
        "write -P 3 1000 70000",
        "write -f -P 4 200000 4097",
        "flush",
        "read -P 1 0 512",
        "read -P 2 512 488",
        "read -P 3 1000 70000",
        "read -P 4 200000 4097",
        "discard 65536 131072",
        "read -P 0 65536 131072",
        "read -P 1 196608 3392",
        "write -z 300000 100000",
        "write -z -u 500000 1000",
        "read -P 0 300000 100000",
        "read -P 0 500000 1000",
        "read -P 1 400000 100000",
        "aio_write -P 5 2M 1M",
        "aio_write -P 6 3M 1M",
        "aio_flush",
        "read -P 5 2M 1M",
        "read -P 6 3M 1M",
    ]
    flags = [flag for command in commands for flag in ("-c", command)]

    said = run("qemu-io", "-f", "raw", *flags, served.uri)
    served.restart()
    again = [flag for command in commands[-2:] for flag in ("-c", command)]

    said += run("qemu-io", "-f", "raw", *again, served.uri)
    assert "failed" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "mix",
    ["--rw=randwrite --bsrange=4k-4k --iodepth=32", "--rw=randrw --bsrange=512-256k --iodepth=16"],
)
def test_fio_finds_what_it_wrote(served: ServedVolume, tmp_path: Path, mix: str) -> None:
    need("fio")
    job = [
        "fio", "--name=v", "--ioengine=nbd", f"--uri={served.uri}", f"--size={VOLUME_BYTES}",
        "--verify=crc32c", "--verify_fatal=1", "--randseed=7", f"--aux-path={tmp_path}",
        *mix.split(),
    ]  # fmt: skip

    run(*job, "--fsync=128", "--do_verify=1", "--verify_state_save=0")
    if "randrw" not in mix:
        served.restart()
        run(*job, "--verify_only")


@pytest.mark.slow
def test_fio_from_several_connections(served: ServedVolume, tmp_path: Path) -> None:
    need("fio")
    job = [
        "fio", "--name=v", "--ioengine=nbd", f"--uri={served.uri}", "--size=16m", "--numjobs=4",
        "--offset_increment=16m", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--fsync=64",
        "--verify=crc32c", "--verify_fatal=1", "--thread", f"--aux-path={tmp_path}",
        "--verify_state_save=0",
    ]  # fmt: skip

    run(*job)

    counters = served.server.counters
    assert counters.syncs_count < counters.flush.count, "flushes of several share one sync"


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """The directory that libnbd reads, and the server's context, which asks for a certificate."""
    authority = Authority(tmp_path / "authority")
    directory = tmp_path / "pki"
    directory.mkdir()
    certificate, key = authority.issue("client")
    shutil.copy(authority.path, directory / "ca-cert.pem")
    shutil.copy(certificate, directory / "client-cert.pem")
    shutil.copy(key, directory / "client-key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.path)
    return directory, context


def test_libnbd_speaks_tls(tmp_path: Path, certificates: tuple[Path, ssl.SSLContext]) -> None:
    need("nbdinfo", "nbdcopy")
    directory, context = certificates
    server = NbdServerThread(
        PlainVolume(8 * MIB), tmp_path, tls_context=context, tls_mode=TlsMode.REQUIRED
    )
    data = hashlib.shake_128(b"tls").digest(8 * MIB)
    (tmp_path / "image").write_bytes(data)
    address = f"localhost:{server.port}/disk?tls-certificates={directory}"
    try:
        run("nbdcopy", tmp_path / "image", f"nbds://{address}")
        run("nbdcopy", f"nbds://{address}", tmp_path / "copy")
        told = run("nbdinfo", f"nbds://{address}")
        clear = subprocess.run(
            ["nbdinfo", f"nbd://localhost:{server.port}/disk"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
    finally:
        server.close()

    assert "with TLS" in told
    assert (tmp_path / "copy").read_bytes() == data
    assert clear.returncode != 0
