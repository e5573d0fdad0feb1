"""Measures one server of NBD under one load and writes the figures into $SAMPLE.

Usage: python -m tests.bench.volumes_load SERVER LOAD FIGURE DIRECTORY

Starts the server on a fresh volume in DIRECTORY, fills it, and drives it for a few seconds. FIGURE
is `time`: seconds that the load's requests take, per 100,000 of them; `p99.9`, `flush` or
`latency`: seconds of one request; `reopen`: seconds from the start of a server that was killed
with a full log until it serves. The CPU time beside it is that of the server alone, for as many
requests, and the memory that of its data process, at its highest. Starting and filling are not
measured.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.nbd_blast import blast, connect, fill

MIB = 1 << 20
COUNT = 100_000
VOLUME_BYTES = int(os.environ.get("BENCH_VOLUME_MIB", "512")) * MIB
SECONDS = float(os.environ.get("BENCH_SECONDS", "1.5"))
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
NAME = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a client asks: arguments of fio, or batches of the blasting client."""

    fio: str = ""
    batch_count: int = 0
    writes: bool = True
    seconds: float = SECONDS
    client_core: int | None = None
    server_core: int | None = None
    disturb: str = ""
    """`api`: ask `holdfast volumes show` all the time."""


_RANDOM = "--bs=4k --norandommap --randrepeat=0"
LOADS = {
    "write-qd32": Load(fio=f"--rw=randwrite {_RANDOM} --iodepth=32"),
    "read-qd32": Load(fio=f"--rw=randread {_RANDOM} --iodepth=32"),
    "write-qd32x4": Load(
        fio=f"--rw=randwrite {_RANDOM} --iodepth=32 --numjobs=4 --group_reporting"
    ),
    "read-qd32x4": Load(fio=f"--rw=randread {_RANDOM} --iodepth=32 --numjobs=4 --group_reporting"),
    "write-qd1": Load(fio=f"--rw=randwrite {_RANDOM} --iodepth=1"),
    "read-qd1": Load(fio=f"--rw=randread {_RANDOM} --iodepth=1"),
    "write-qd1-pinned": Load(
        fio=f"--rw=randwrite {_RANDOM} --iodepth=1", client_core=0, server_core=1
    ),
    "read-qd1-pinned": Load(
        fio=f"--rw=randread {_RANDOM} --iodepth=1", client_core=0, server_core=1
    ),
    "write-4m": Load(fio="--rw=write --bs=4m --iodepth=4"),
    "write-qd1-disturbed": Load(fio=f"--rw=randwrite {_RANDOM} --iodepth=1", disturb="api"),
    "blast-write": Load(batch_count=32),
    "blast-read": Load(batch_count=32, writes=False),
    # Long enough for the log to go round several times.
    "flush-64": Load(fio=f"--rw=randwrite {_RANDOM} --iodepth=32 --fsync=64", seconds=4 * SECONDS),
    "flush-512": Load(
        fio=f"--rw=randwrite {_RANDOM} --iodepth=32 --fsync=512", seconds=10 * SECONDS
    ),
    "write-1m": Load(fio="--rw=write --bs=1m --iodepth=4"),
    "read-1m": Load(fio="--rw=read --bs=1m --iodepth=4"),
    "write-128k": Load(fio="--rw=write --bs=128k --iodepth=8"),
    "read-128k": Load(fio="--rw=read --bs=128k --iodepth=8"),
}


@dataclass(slots=True)
class Server:
    """A server of NBD that runs."""

    process: "subprocess.Popen[bytes]"
    port: int
    name: str
    """Of the export."""

    @property
    def uri(self) -> str:
        """What clients are given."""
        return f"nbd://127.0.0.1:{self.port}/{self.name}"

    def cpu_s(self) -> float:
        """Return the processor time of all its processes so far."""
        total = 0
        for stat in _stats_of_session(self.process.pid):
            total += int(stat[11]) + int(stat[12])
        return total * TICK_S

    def rss_bytes(self) -> int:
        """Return the most memory that a data process ever held."""
        return max(_rss_bytes_max(number) for number in self.data_processes())

    def data_processes(self) -> list[int]:
        """Return its processes but the first, or the first if it is the only one."""
        ids = [int(stat[-1]) for stat in _stats_of_session(self.process.pid)]
        return [number for number in ids if number != self.process.pid] or ids


def _rss_bytes_max(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _stats_of_session(session: int) -> Iterator[list[str]]:
    """Yield the fields after the name of /proc/PID/stat, and the PID, of a session's processes."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended meanwhile.
            if int(fields[3]) == session:
                yield [*fields, entry.name]


def nbdkit_command(directory: Path, port: int) -> list[str]:
    """Return what starts nbdkit with its file plugin."""
    return ["nbdkit", "-f", "-p", str(port), "-i", "127.0.0.1", "file", _image(directory)]


def qemu_command(directory: Path, port: int) -> list[str]:
    """Return what starts qemu-nbd."""
    options = ["-f", "raw", "--cache=writeback", "-e", "8", "-t", "-b", "127.0.0.1"]
    return ["qemu-nbd", *options, "-p", str(port), _image(directory)]


def make_volume(directory: Path) -> None:
    """Make a volume of ours."""
    holdfast = os.environ["HOLDFAST"]
    size = f"{VOLUME_BYTES // MIB}MiB"
    subprocess.run(
        [holdfast, "volumes", "create", NAME, "--size", size],
        check=True,
        env=os.environ | {"HOLDFAST_STATE": str(directory)},
        stdout=subprocess.DEVNULL,
    )


def holdfast_command(port: int, *, spin: bool) -> list[str]:
    """Return what starts a server of ours."""
    listen = f"127.0.0.1:{port}"
    command = [os.environ["HOLDFAST"], "volumes", "serve", "--listen", listen]
    return [*command, "--spin", "50"] if spin else command


def _image(directory: Path) -> str:
    image = directory / "disk.img"
    with open(image, "wb") as file:
        file.truncate(VOLUME_BYTES)
    return str(image)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(kind: str, directory: Path, *, creates: bool = True) -> Iterator[Server]:
    """Start a server, usually on a fresh volume; end it."""
    if creates:
        directory.mkdir(parents=True)
        if kind.startswith("holdfast"):
            make_volume(directory)
    port, name = _free_port(), ""
    if kind == "nbdkit":
        command = nbdkit_command(directory, port)
    elif kind == "qemu-nbd":
        command = qemu_command(directory, port)
    else:
        command = holdfast_command(port, spin=kind == "holdfast-spin")
        name = NAME
    process = subprocess.Popen(
        command,
        env=os.environ | {"HOLDFAST_STATE": str(directory)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Server(process=process, port=port, name=name)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def _connect(server: Server) -> socket.socket:
    deadline_s = time.monotonic() + 30
    while server.process.poll() is None:
        try:
            return connect(server.port, server.name)
        except OSError:
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.02)
    raise SystemExit(f"the server does not listen: {server.process.args!r}")


def run_fio(load: Load, uri: str) -> dict[str, Any]:
    """Return what fio says of its one job."""
    command = [
        "fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--size={VOLUME_BYTES}",
        "--time_based", f"--runtime={load.seconds}", "--thread", "--output-format=json",
        *load.fio.split(),
    ]  # fmt: skip
    if load.client_core is not None:
        command = ["taskset", "-c", str(load.client_core), *command]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    job: dict[str, Any] = json.loads(told[told.index("{") :])["jobs"][0]
    if job["error"]:
        raise SystemExit(f"fio: error {job['error']}")
    return job


@contextmanager
def _disturbance(load: Load, directory: Path) -> Iterator[None]:
    """Ask the control API all the time, from another process."""
    if load.disturb != "api":
        yield
        return
    asking = 'while :; do "$HOLDFAST" volumes show disk --json >/dev/null; done'
    environment = os.environ | {"HOLDFAST_STATE": str(directory)}
    process = subprocess.Popen(["bash", "-c", asking], env=environment, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(kind: str, load: Load, directory: Path) -> dict[str, float]:
    """Return every figure there is of one run."""
    with serving(kind, directory) as server:
        client = _connect(server)
        fill(client, VOLUME_BYTES)
        if load.server_core is not None:
            for number in server.data_processes():
                for thread in os.listdir(f"/proc/{number}/task"):
                    os.sched_setaffinity(int(thread), {load.server_core})
        with _disturbance(load, directory):
            began_cpu_s = server.cpu_s()
            if load.batch_count:
                count, took_s = blast(
                    client,
                    writes=load.writes,
                    batch_count=load.batch_count,
                    volume_bytes=VOLUME_BYTES,
                    duration_s=load.seconds,
                )
                figures: dict[str, float] = {}
            else:
                client.close()
                figures, count, took_s = _figures_of(run_fio(load, server.uri))
            cpu_s = server.cpu_s() - began_cpu_s
            rss_bytes = server.rss_bytes()
        client.close()
    scale = COUNT / count
    return figures | {"time": took_s * scale, "cpu": cpu_s * scale, "rss": rss_bytes}


def measure_reopening(directory: Path) -> dict[str, float]:
    """Return how long a volume takes to open after a kill with as much in its log as it holds."""
    with serving("holdfast", directory) as server:
        client = _connect(server)
        fill(client, VOLUME_BYTES)
        blast(client, writes=True, batch_count=32, volume_bytes=VOLUME_BYTES, duration_s=2.0)
        for number in server.data_processes():
            os.kill(number, signal.SIGSTOP)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        client.close()
    began_s = time.perf_counter()
    with serving("holdfast", directory, creates=False) as server:
        _connect(server).close()
        took_s = time.perf_counter() - began_s
        return {"reopen": took_s, "cpu": server.cpu_s(), "rss": server.rss_bytes()}


def _figures_of(job: dict[str, Any]) -> tuple[dict[str, float], int, float]:
    side = max((job["read"], job["write"]), key=lambda each: int(each["total_ios"]))
    percentiles = side["clat_ns"]["percentile"]
    figures = {
        "latency": percentiles["50.000000"] / 1e9,
        "p99.9": percentiles["99.900000"] / 1e9,
        "flush": job["sync"]["lat_ns"]["mean"] / 1e9,
    }
    return figures, side["total_ios"], side["runtime"] / 1000


def main() -> None:
    """Measure and write down the figure asked for."""
    kind, load, figure, directory = sys.argv[1:]
    where = Path(directory)
    figures = measure_reopening(where) if figure == "reopen" else measure(kind, LOADS[load], where)
    print(f"{kind} {load}: " + ", ".join(f"{n} {v:.6f}" for n, v in sorted(figures.items())))
    if "SAMPLE" in os.environ:
        Path(os.environ["SAMPLE"]).write_text(
            f"{figures[figure]} {figures['cpu']} {figures['rss']}"
        )


if __name__ == "__main__":
    main()
