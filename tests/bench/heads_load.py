"""Commits heads from many clients at once and writes what it took, in seconds, into $SAMPLE.

Usage: python -m tests.bench.heads_load sqlite|etcd wall|p99 CLIENTS COMMITS DIRECTORY

Each client advances a key of its own, each advance from the last one's revision, each durable
before it is answered. SQLite is asked within the process; etcd is a process of its own on loopback,
asked over one kept connection a client with as little work as HTTP allows, so that it is etcd which
is measured. Starting either is not.
"""

import asyncio
import base64
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from holdfast.model.head import NEVER_WRITTEN, Advanced, Epoch
from holdfast.stores.registers.sqlite import SqliteRegister
from tests.support.etcd import EtcdCluster

VALUE = b"0000000000000001 00000000000003E8 0000000000000400 0000000000000BB8"
WARM_UP_COMMITS = 20
_REVISION = re.compile(rb'"revision":"(\d+)"')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)

Commit = Callable[[int], Awaitable[None]]
"""Makes the commit of this number."""


async def sqlite_client(register: SqliteRegister, client: int) -> Commit:
    """Return what advances one key of a register."""
    expected = NEVER_WRITTEN

    async def commit(number: int) -> None:
        nonlocal expected
        outcome = await register.advance(
            f"key-{client}",
            expected=expected,
            value=VALUE,
            epoch=Epoch(1),
            write_id=f"{client}-{number}",
        )
        assert isinstance(outcome, Advanced)
        expected = outcome.state.revision

    return commit


async def etcd_client(url: str, client: int) -> Commit:
    """Return what puts one key if it is as it was put last."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    key = base64.b64encode(b"key-%d" % client).decode()
    revision = "0"

    async def commit(_number: int) -> None:
        nonlocal revision
        compare = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}
        put = {"request_put": {"key": key, "value": base64.b64encode(VALUE).decode()}}
        body = json.dumps({"compare": [compare], "success": [put]}).encode()
        writer.write(b"POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nContent-Length: ")
        writer.write(b"%d\r\n\r\n" % len(body) + body)
        answered = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answered)
        assert length
        answer = await reader.readexactly(int(length[1]))
        found = _REVISION.search(answer)
        assert found
        assert b'"succeeded":true' in answer
        revision = found[1].decode()

    return commit


async def measure(clients: list[Commit], commits_count: int) -> tuple[float, float]:
    """Return the time of all commits together, and the 99th percentile of one."""
    latencies_s: list[float] = []

    async def work(commit: Commit, first: int, count: int) -> None:
        for number in range(first, first + count):
            begin_s = time.perf_counter()
            await commit(number)
            latencies_s.append(time.perf_counter() - begin_s)

    await asyncio.gather(*(work(commit, 0, WARM_UP_COMMITS) for commit in clients))
    latencies_s.clear()
    begin_s = time.perf_counter()
    share = commits_count // len(clients)
    await asyncio.gather(*(work(commit, WARM_UP_COMMITS, share) for commit in clients))
    wall_s = time.perf_counter() - begin_s
    # Of ten tenths the middle: one hiccup of the machine is not what most of the run was like.
    tenth = len(latencies_s) // 10
    tenths = [sorted(latencies_s[start : start + tenth]) for start in range(0, 10 * tenth, tenth)]
    return wall_s, median(each[int(tenth * 0.99)] for each in tenths)


async def run(
    kind: str, clients_count: int, commits_count: int, where: Path
) -> tuple[float, float]:
    """Open one store, measure, close it."""
    if kind == "sqlite":
        register = SqliteRegister(where / "heads.db")
        try:
            clients = [await sqlite_client(register, number) for number in range(clients_count)]
            return await measure(clients, commits_count)
        finally:
            await register.close()
    cluster = EtcdCluster(where, 1)
    try:
        cluster.start()
        url = cluster.endpoints[0]
        clients = [await etcd_client(url, number) for number in range(clients_count)]
        return await measure(clients, commits_count)
    finally:
        cluster.kill()


def main() -> None:
    """Measure and write down the figure asked for."""
    kind, figure, clients_count, commits_count, where = sys.argv[1:]
    Path(where).mkdir(parents=True)
    wall_s, p99_s = asyncio.run(run(kind, int(clients_count), int(commits_count), Path(where)))
    rate = int(commits_count) / wall_s
    print(f"{kind}, {clients_count} clients: {rate:.0f}/s, p99 {p99_s * 1000:.2f} ms")
    if "SAMPLE" in os.environ:
        Path(os.environ["SAMPLE"]).write_text(str(wall_s if figure == "wall" else p99_s))


if __name__ == "__main__":
    main()
