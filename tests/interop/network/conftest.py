"""Two nodes, each a process in a network namespace of its own, and a link between them."""

import hashlib
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.heads import Answer
from tests.support.network import Host, two_hosts, why_not
from tests.support.node_process import NodeProcess

TOKEN = "0perator"


@dataclass(slots=True, kw_only=True)
class HostNode(NodeProcess):
    """A node on one of the hosts, asked from that host itself: also while the link is cut."""

    host: Host

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        **headers: str,
    ) -> Answer:
        """See NodeProcess."""
        return self.host.call(lambda: NodeProcess.ask(self, method, path, body, **headers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Two nodes of one migration map."""

    source: HostNode
    target: HostNode


MakeHosts = Callable[..., Hosts]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two nodes that know each other by a token, in the clear."""
    with _running(tmp_path, tls=False) as made:
        yield made


@pytest.fixture
def secured_hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two nodes with a certificate each, which they show each other; no token between them."""
    with _running(tmp_path, tls=True) as made:
        yield made


@contextmanager
def _running(directory: Path, *, tls: bool) -> Iterator[Hosts]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    tokens, own = directory / "tokens", directory / "own"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f"operator copy,verify,read sha256:{digest}\n")
    own.write_text(TOKEN)
    for each in (tokens, own):
        each.chmod(0o600)
    authority = Authority(directory / "certificates")
    with two_hosts() as (one, other):
        names = (one.address, other.address)
        source, target = (
            HostNode(
                name=host.address,
                host=host,
                prefix=host.prefix,
                directory=directory / part,
                migration=names,
                listen=f'address = "{host.address}"\n' + ("" if tls else "allow_plain = true\n"),
                more=f'[access]\ntoken_file = "{tokens}"\n',
                token=TOKEN,
            )
            for part, host in (("source", one), ("target", other))
        )
        peer = f'token_file = "{own}"\n'
        if tls:
            for node in (source, target):
                _give_certificate(node, authority)
            source.more += f'[access.certificates]\n"{target.name}" = ["copy"]\n'
            certificate = authority.path.parent / f"{target.name}.pem"
            peer = (
                f'tls = true\nca = "{authority.path}"\n'
                f'certificate = "{certificate}"\nkey = "{certificate.with_suffix(".key")}"\n'
            )
        try:
            source.start()
            target.more += f'[peers."{source.name}"]\nport = {source.port}\n{peer}'
            target.start()
            yield Hosts(source=source, target=target)
        finally:
            for node in (target, source):
                if node.process is not None:
                    node.stop(signal.SIGKILL)


def _give_certificate(node: HostNode, authority: Authority) -> None:
    certificate, key = authority.issue(node.name, address=node.name, host=node.name)
    node.ca = authority.path
    node.more = (
        f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\nclient_ca = "{authority.path}"\n'
        + node.more
    )
