"""A process that keeps a SQLite register busy and says on its standard output what it was told.

Usage: python -m tests.support.register_load FILE CLIENTS ADVANCES SEED

One line an event, written before the next step: `ready`; `ask KEY EXPECTED ID` before an advance;
`ack KEY REVISION ID`, `unknown ID` or `refused` after it; `read KEY REVISION ID` now and then, by a
client that only reads; `failed CODE` once the register gives up;
`unready KIND` at the end if it does not commit.
"""

import asyncio
import os
import sys
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.model.head import ABSENT, Advanced, Epoch, HeadState, Refused
from holdfast.stores.registers.sqlite import SqliteRegister

KEYS_COUNT = 5


def value_of(write_id: str) -> bytes:
    """Return the value that an advance of this name carries."""
    return (write_id + ".").encode() * 40


def say(*words: object) -> None:
    """Write one line at once."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


async def work(register: SqliteRegister, client: int, advances_count: int, seed: str) -> None:
    """Advance keys in turn, each from what was last seen of it."""
    seen: dict[str, HeadState] = {}
    for number in range(advances_count):
        key = f"k{(client + number) % KEYS_COUNT}"
        state = seen.get(key) or await register.read(key)
        write_id = f"{seed}-{client}-{number}"
        say("ask", key, state.revision, write_id)
        outcome = await register.advance(
            key,
            expected=state.revision,
            value=value_of(write_id),
            epoch=Epoch(0),
            write_id=write_id,
        )
        match outcome:
            case Advanced(state=made):
                say("ack", key, made.revision, write_id)
                seen[key] = made
            case Refused(current=current):
                say("refused")
                seen[key] = current
            case _:
                say("unknown", write_id)
                seen[key] = ABSENT


async def look(register: SqliteRegister) -> None:
    """Read all keys again and again; say what is new."""
    seen: dict[str, HeadState] = {}
    while True:
        for key in (f"k{number}" for number in range(KEYS_COUNT)):
            state = await register.read(key)
            if state.revision and seen.get(key) != state:
                say("read", key, state.revision, state.write_id)
                seen[key] = state
        await asyncio.sleep(0)


async def main(path: Path, clients_count: int, advances_count: int, seed: str) -> None:
    """Run all clients; go on after a failure, to show what it is worth."""
    register = SqliteRegister(path)
    say("ready")

    async def run(client: int) -> None:
        try:
            await work(register, client, advances_count, seed)
        except HoldfastError as error:
            say("failed", error.code)

    looking = asyncio.create_task(look(register))
    await asyncio.gather(*(run(client) for client in range(clients_count)))
    looking.cancel()
    await asyncio.wait([looking])
    try:
        await register.check()
    except HoldfastError as error:
        say("unready", error.kind)
    await register.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
