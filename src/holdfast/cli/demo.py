"""`holdfast demo`: the whole story on a real tree of this machine, in a scratch directory.

Two nodes stand for two hosts, and a writer for the database of the first. Runs the real commands as
a person would type them, and stops with an error if any of them does not end as the story says.
Nothing outside the scratch directory is written, and every process that is started is ended.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from holdfast.cli.exits import Exit
from holdfast.cli.output import format_bytes, format_count
from holdfast.model.limits import GIB

_FILES_MIN: Final = 500
_BYTES_MAX: Final = GIB
_OLD_HOST: Final = "127.0.0.1"
_NEW_HOST: Final = "localhost"
_WRITTEN_FILES: Final = 50
_WRITE_EACH_S: Final = 0.02
_END_S: Final = 20


def demo(
    *,
    tree: Annotated[
        Path | None, typer.Option("--tree", help="Tree to copy. [default: one of this machine's]")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch directory.")] = False,
) -> None:
    """Show the whole story: migrate live between two nodes, verify, damage, find, repair, prove."""
    source = tree.absolute() if tree else _choose_tree()
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.ExitStack() as running:
            _tell(source, scratch, running)
    except KeyboardInterrupt:
        print("\nholdfast: the demo was stopped", file=sys.stderr)
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        if keep:
            print(f"\nEverything is left in {scratch}.")
        else:
            shutil.rmtree(scratch, ignore_errors=True)


def _choose_tree() -> Path:
    """Return a tree every machine has, of some thousands of files and not too large."""
    candidates = (Path("/usr/share/doc"), Path(sysconfig.get_path("stdlib")))
    for candidate in candidates:
        sizes = [entry.stat().st_size for entry in _files(candidate)]
        if len(sizes) >= _FILES_MIN and sum(sizes) <= _BYTES_MAX:
            return candidate
    return candidates[-1]


def _files(tree: Path) -> Iterator["os.DirEntry[str]"]:
    stack = [os.fspath(tree)] if tree.is_dir() else []
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def _tell(tree: Path, scratch: Path, running: contextlib.ExitStack) -> None:
    old, new = scratch / "old" / "data", scratch / "new" / "data"
    sizes = [entry.stat().st_size for entry in _files(tree)]
    amount = f"{format_count(len(sizes), 'file')}, {format_bytes(sum(sizes))}"
    print("holdfast moves directory trees between hosts, and proves every copy.")
    print(f"The story below runs in {scratch}, where its commands are run, with two nodes on")
    print("loopback that stand for an old and a new host of a database.")

    _say(
        f"1. The old host needs something to hold: {tree} of this machine ({amount}),",
        "   which is only read. Each file is made durable, then named.",
    )
    (scratch / "old").mkdir()
    (scratch / "new").mkdir()
    _run(scratch, "copy", tree, "old/data", "--no-verify")
    _say("2. A node on each of the two hosts. The new one pulls; the old one is only read.")
    old_port = _start_node(scratch, running, "old", "")
    peer = f'[peers."{_OLD_HOST}"]\nport = {old_port}\n'
    new_port = _start_node(scratch, running, "new", peer)
    os.environ["HOLDFAST_NODE"] = f"http://{_NEW_HOST}:{new_port}"
    print(f"\n$ export HOLDFAST_NODE={os.environ['HOLDFAST_NODE']}")

    _say(
        "3. Copy while the database goes on writing at the old host, in passes, until 99 % of the",
        "   bytes are there; again when it has written much at once, which is less than the first",
        "   time; the trend then says how long a last pass would take:",
    )
    with _writer(old):
        _run(scratch, "files", "migrate", "--threshold", "0.99")
        (old / "compacted.db").write_bytes(b"row\n" * max(1024, sum(sizes) // 100))
        _run(scratch, "files", "migrate", "--threshold", "0.99")
    _say("4. The database is stopped. One last pass, for everything, and then the cut-over:")
    _run(scratch, "files", "migrate")
    _say("5. Both hosts read all of it again, the new one from its disk; a signed proof is left:")
    _run(scratch, "files", "verify")
    proof = max((scratch / "new" / "state" / "proofs").iterdir(), key=lambda p: p.stat().st_mtime)
    victim = max(_files(new), key=lambda entry: entry.stat().st_size)
    place = _flip_one_bit(Path(victim.path))
    relative = Path(victim.path).relative_to(new)
    _say(
        f"6. Now a disk goes bad: one bit of byte {place} of {relative} is flipped at the",
        "   new host, behind its back. Size and times are as before; the content tells:",
    )
    verification = _task_of(_run(scratch, "files", "verify", expected=Exit.DAMAGED))
    _run(scratch, "files", "results", verification, "--outcome", "digest-differs")
    _say("7. Repair fetches only that, and reads it back:")
    _run(scratch, "files", "repair", verification)
    _say("8. Marked complete, neither host takes part in a copy any more:")
    _run(scratch, "files", "complete")
    _say("9. The proof of step 5 stands. It needs neither of the hosts:")
    _run(scratch, "proof", "check", proof.relative_to(scratch), "new/data")
    print("\nThat was all. Try it on something of yours:  .venv/bin/holdfast copy SOURCE TARGET")


def _start_node(scratch: Path, running: contextlib.ExitStack, name: str, more: str) -> int:
    """Start a node that ends with the story; return its port."""
    host = _OLD_HOST if name == "old" else _NEW_HOST
    (scratch / f"{name}.toml").write_text(
        f'[node]\nnames = ["{host}"]\nstate = "{scratch}/{name}/state"\n'
        "[listen]\nport = 0\nstream_port = 0\n"
        f'[migration_map]\n"{_OLD_HOST}" = "{_NEW_HOST}"\n'
        f'[instances.main]\ndirectories = {{ data = "{scratch}/{name}/data" }}\n{more}'
    )
    print(f"\n$ holdfast node --config {name}.toml &", flush=True)
    with open(scratch / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "node", "--config", scratch / f"{name}.toml"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    running.callback(_end, process)
    assert process.stdout is not None
    line = process.stdout.readline()
    print(line, end="")
    found = re.search(r":([0-9]+) stream", line)
    if found is None:
        print((scratch / f"{name}.log").read_text())
        raise typer.Exit(Exit.BUG)
    return int(found[1])


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _writer(tree: Path) -> Iterator[None]:
    """Write to a tree, as a database would, until left."""
    smallest = sorted(_files(tree), key=lambda entry: entry.stat().st_size)
    victims = [entry.path for entry in smallest[: min(_WRITTEN_FILES, (len(smallest) + 1) // 2)]]
    stopped = threading.Event()

    def write() -> None:
        number = 0
        while not stopped.wait(_WRITE_EACH_S):
            number += 1
            with open(victims[number % len(victims)], "ab") as stream:
                stream.write(b"written meanwhile\n")
            if number % 10 == 0:
                (tree / f"new-{number}.db").write_bytes(b"row\n" * number)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _say(*lines: str) -> None:
    print("\n" + "\n".join(lines))


def _run(scratch: Path, *arguments: str | Path, expected: Exit = Exit.DONE) -> list[str]:
    """Run one command of ours as typed, in the open; end the story if it ends otherwise."""
    words = [os.fspath(argument) for argument in arguments]
    print(f"\n$ holdfast {shlex.join(words)}", flush=True)
    environment = os.environ | {"HOLDFAST_STATE": os.fspath(scratch / "state")}
    command = [sys.executable, "-m", "holdfast", *words]
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=scratch, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            print(line, end="", flush=True)
    if process.returncode != expected:
        print(f"holdfast: the demo expected exit status {expected}, not {process.returncode}")
        raise typer.Exit(Exit.BUG)
    if expected is Exit.DAMAGED:
        print(f"(exit status {process.returncode}: done, and the answer is bad)")
    return said


def _task_of(said: list[str]) -> str:
    return next(line.split()[1] for line in said if line.startswith("task "))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _flip_one_bit(path: Path) -> int:
    """Damage a file in its middle, keeping its times, and return where."""
    before = path.stat()
    place = before.st_size // 2
    path.chmod(before.st_mode | 0o200)
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
        stream.flush()
        os.fsync(stream.fileno())
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return place
