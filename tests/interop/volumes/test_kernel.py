"""Goal: what the kernel's own NBD client flushed is there after the machine and its server died.

Method: a guest with a distribution's kernel in qemu without KVM (tools/kernel-guest builds it)
makes an ext4 file system on a volume, writes files and flushes each. Half-way the data process and
the guest are killed. A second boot mounts the file system again and checks the sums of all that
was flushed, and the host checks its structure.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import ROOT, Holdfast
from tests.support.volumes import create, data_process_id, need, run, serving

pytestmark = pytest.mark.slow
GUEST = Path(os.environ.get("HOLDFAST_GUEST", ROOT / ".guest"))
BOOT_S = 150


@contextmanager
def guest(port: str, task: str) -> Iterator["subprocess.Popen[str]"]:
    """Boot the guest for a task; its console is the output of the process."""
    words = f"console=ttyS0 quiet panic=-1 nbd_port={port} nbd_export=db nbd_task={task}"
    machine = ("-accel", "tcg", "-cpu", "max", "-m", "512", "-smp", "1")
    network = ("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0")
    boot = ("-kernel", GUEST / "vmlinuz", "-initrd", GUEST / "initrd.gz", "-append", words)
    process = subprocess.Popen(
        ["qemu-system-x86_64", *machine, "-nographic", "-no-reboot", *boot, *network],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]", words: str) -> str:
    """Read the console up to a line with these words; return all that was read."""
    assert process.stdout is not None
    console = ""
    for line in process.stdout:
        console += line
        if words in line:
            return console
        assert "GUEST FAILED" not in line, console
    raise AssertionError(f"no {words!r} on the console: {console}")


@pytest.mark.timeout(2 * BOOT_S)
def test_what_the_kernel_flushed_survives_its_server(holdfast: Holdfast, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "nbdcopy", "fsck.ext4")
    if not (GUEST / "initrd.gz").exists():
        pytest.skip(f"there is no guest in {GUEST}; tools/kernel-guest builds it")
    create(holdfast, "db", "256M")

    with serving(holdfast, "--listen", "127.0.0.1:0") as served:
        tcp = served.listening["db"][1]
        port = tcp.rpartition(":")[2].partition("/")[0]
        process_id = data_process_id(holdfast, "db")
        with guest(port, "fill") as filling:
            said(filling, "GUEST wrote 4")
            os.kill(process_id, signal.SIGKILL)
        with guest(port, "check") as checking:
            console = said(checking, "GUEST OK")
            assert console.count(": OK") >= 4, console
        run("nbdcopy", served.uri("db"), tmp_path / "image")
    run("fsck.ext4", "-fn", tmp_path / "image")
