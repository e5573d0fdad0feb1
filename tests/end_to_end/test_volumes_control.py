"""Goal: what a node tells a data process over its control socket is done, or refused with a reason.

Method: a served volume, our control client on its socket, qemu-io as the client of the volume.
Cites answering 1-3.
"""

import asyncio
from pathlib import Path

import pytest

from holdfast.errors import FencedError, HoldfastError
from holdfast.volumes.control_client import ControlClient
from tests.support.command import Holdfast
from tests.support.volumes import ENVIRONMENT, create, need, run, serving

MIB = 1 << 20


def _socket(holdfast: Holdfast, name: str) -> Path:
    return holdfast.state / "volumes" / name / "control.sock"


async def _writes(uri: str) -> bool:
    """Return whether a write and a flush are answered well."""
    command = ("qemu-io", "-f", "raw", "-c", "write 0 4k", "-c", "flush", uri)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=ENVIRONMENT, stdout=pipe, stderr=pipe
    )
    await process.communicate()
    return process.returncode == 0


def test_volume_answers_only_while_it_has_authority(holdfast: Holdfast) -> None:
    """Invariant 19 of the engine, through the front end; epochs never go back."""
    need("qemu-io")
    create(holdfast, "db", "8M")

    async def scenario(uri: str) -> None:
        async with await ControlClient.connect(_socket(holdfast, "db")) as client:
            assert (await client.status()).may_acknowledge
            assert (await client.fence(3, "primary", None)).epoch == 3
            assert await _writes(uri)
            assert (await client.flush()).durable_lsn == (await client.status()).last_lsn
            told = await client.fence(4, "replica", None)
            assert (told.role, told.may_acknowledge) == ("replica", False)
            assert not await _writes(uri)
            with pytest.raises(FencedError) as raised:
                await client.fence(3, "primary", None)
            assert raised.value.code == "epoch-old"
            with pytest.raises(HoldfastError, match="no role"):
                await client.fence(5, "king", None)
            assert (await client.fence(5, "primary", 0)).may_acknowledge is False, "no lease left"
            assert (await client.fence(5, "primary", 60_000)).may_acknowledge
            assert await _writes(uri)

    with serving(holdfast) as served:
        asyncio.run(scenario(served.uri("db")))
        shown = holdfast("volumes", "show", "db", "--json").json
        assert (shown["health"], shown["serving"]["epoch"]) == ("healthy", 5)


def test_growth_can_be_taken_back_and_a_scrub_stopped(holdfast: Holdfast) -> None:
    need("nbdinfo")
    create(holdfast, "db", "8M")

    async def scenario(uri: str) -> None:
        async with await ControlClient.connect(_socket(holdfast, "db")) as client:
            assert (await client.prepare_expand(16 * MIB)).prepared_size_bytes == 16 * MIB
            assert run("nbdinfo", "--size", uri) == f"{8 * MIB}\n"
            with pytest.raises(HoldfastError) as raised:
                await client.prepare_expand(32 * MIB)
            assert raised.value.code == "expansion-running"
            assert (await client.cancel_expand()).prepared_size_bytes == 0
            with pytest.raises(HoldfastError) as raised:
                await client.commit_expand()
            assert raised.value.code == "expansion-unprepared"
            assert (await client.start_scrub()).state == "running"
            assert (await client.cancel_scrub()).state in ("cancelled", "done")
            assert (await client.start_scrub()).state == "running"
            metrics = await client.metrics()
            assert metrics.counters.connections_count >= 1
            assert (await client.stop()).size_bytes == 8 * MIB

    with serving(holdfast) as served:
        asyncio.run(scenario(served.uri("db")))
