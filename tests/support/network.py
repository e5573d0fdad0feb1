"""Two hosts on this machine: network namespaces joined by a veth, and faults between them.

Needs root, `ip`, and what a fault needs: `nft`, `iptables`, `tc`. Each pair has names of its own,
so that tests run side by side, and is removed with everything in it when it is left.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

CLONE_NEWNET: Final = 0x40000000
NETWORK: Final = "10.77.0"
PROGRAMS: Final = ("ip", "nft", "iptables", "tc")

_T = TypeVar("_T")


def why_not() -> str:
    """Say why there can be no such hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@dataclass(slots=True, kw_only=True)
class Host:
    """One side of the link."""

    namespace: str
    address: str
    link: str
    """Its end of the link."""
    _inside: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._inside = ThreadPoolExecutor(1, initializer=_enter, initargs=(self.namespace,))

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run there."""
        return ("ip", "netns", "exec", self.namespace)

    def run(self, *command: str) -> str:
        """Run a command there; return what it printed."""
        return _run(*self.prefix, *command)

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function with the network of the host."""
        return self._inside.submit(function).result()

    def received_bytes(self) -> int:
        """Return what came over the link so far."""
        counter = f"/sys/class/net/{self.link}/statistics/rx_bytes"
        return int(self.run("cat", counter))

    def close(self) -> None:
        """End what `call` runs in."""
        self._inside.shutdown()

    def block(self) -> None:
        """Have everything that arrives dropped; nobody is told."""
        self.run("nft", "add", "table", "inet", "cut")
        chain = "{ type filter hook input priority 0; }"
        self.run("nft", "add", "chain", "inet", "cut", "in", chain)
        self.run("nft", "add", "rule", "inet", "cut", "in", "iifname", self.link, "drop")

    def unblock(self) -> None:
        """Undo `block`."""
        self.run("nft", "delete", "table", "inet", "cut")

    def lose(self, share: float) -> None:
        """Have this share of the packets that arrive dropped, at random."""
        rule = ("-i", self.link, "-m", "statistic", "--mode", "random", "--probability", f"{share}")
        self.run("iptables", "-A", "INPUT", *rule, "-j", "DROP")

    def lost_packets(self) -> int:
        """Return how many were dropped by `lose`."""
        return int(self.run("iptables", "-nvxL", "INPUT").splitlines()[2].split()[0])

    def cap(self, rate: str) -> None:
        """Let out no more than a rate, in the words of `tc`: `100mbit`."""
        bucket = ("rate", rate, "burst", "64kb", "latency", "50ms")
        self.run("tc", "qdisc", "add", "dev", self.link, "root", "tbf", *bucket)

    def set_link(self, *settings: str) -> None:
        """Change this end of the link: `down`, `up`, `mtu 600`."""
        self.run("ip", "link", "set", self.link, *settings)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts and the link; they and their network are gone afterwards."""
    one, other = (
        Host(namespace=f"hf-{side}-{os.getpid()}", address=f"{NETWORK}.{at}", link=f"veth-{side}")
        for at, side in ((1, "source"), (2, "target"))
    )
    try:
        for host in (one, other):
            _run("ip", "netns", "add", host.namespace)
        _run(
            *("ip", "-n", one.namespace, "link", "add", one.link, "type", "veth"),
            *("peer", "name", other.link, "netns", other.namespace),
        )
        for host in (one, other):
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", host.link)
            host.run("ip", "link", "set", "lo", "up")
            host.set_link("up")
        yield one, other
    finally:
        for host in (one, other):
            host.close()
            subprocess.run(("ip", "netns", "del", host.namespace), check=False)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def _enter(namespace: str) -> None:
    """Move the calling thread, and nothing else of the process, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        assert libc.setns(descriptor, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)
