"""`holdfast demo`: the whole story on a real tree of this machine, in a scratch directory.

Runs the real commands as a person would type them, and stops with an error if any of them does not
end as the story says. Nothing outside the scratch directory is written.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from holdfast.cli.exits import Exit
from holdfast.cli.output import format_bytes, format_count
from holdfast.model.limits import GIB

_FILES_MIN: Final = 500
_BYTES_MAX: Final = GIB


def demo(
    *,
    tree: Annotated[
        Path | None, typer.Option("--tree", help="Tree to copy. [default: one of this machine's]")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch directory.")] = False,
) -> None:
    """Show the whole story on a real tree: plan, copy, verify, damage, find, repair, prove."""
    source = tree.absolute() if tree else _choose_tree()
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        _tell(source, scratch)
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


def _tell(source: Path, scratch: Path) -> None:
    copy = scratch / "copy"
    sizes = [entry.stat().st_size for entry in _files(source)]
    amount = f"{format_count(len(sizes), 'file')}, {format_bytes(sum(sizes))}"
    print("holdfast copies directory trees, and proves every copy.")
    print(f"The story below runs on {source} of this machine ({amount}), which is only read.")
    print(f"The copy goes to {scratch}, where the commands below are run.")

    _say("1. What would be copied? A plan shows it and does nothing.")
    _run(scratch, "copy", source, "copy", "--plan", "--summary")
    _say(
        "2. Copy it. Each file is read and hashed in one pass, made durable, then named; then the",
        "   whole copy is read back from the disk and compared, and a signed proof is left.",
    )
    _run(scratch, "copy", source, "copy", "--proof", "copy.proof")
    victim = max(_files(copy), key=lambda entry: entry.stat().st_size)
    place = _flip_one_bit(Path(victim.path))
    relative = Path(victim.path).relative_to(copy)
    _say(
        f"3. Now a disk goes bad: one bit of byte {place} of the copy's {relative} is flipped",
        "   behind its back. Size and times are as before, so a tool that compares these is blind:",
    )
    _run(scratch, "copy", source, "copy", "--plan", "--summary")
    _say("4. Reading everything again does see it, names the file, and where in it:")
    _run(scratch, "verify", source, "copy", expected=Exit.DAMAGED)
    _say("5. Repair writes only the damaged block, and reads it back:")
    _run(scratch, "repair", source, "copy")
    _say("6. The proof of step 2 still stands. It needs neither the source nor this machine:")
    _run(scratch, "proof", "check", "copy.proof", "copy")
    print("\nThat was all. Try it on something of yours:  .venv/bin/holdfast copy SOURCE TARGET")


def _say(*lines: str) -> None:
    print("\n" + "\n".join(lines))


def _run(scratch: Path, *arguments: str | Path, expected: Exit = Exit.DONE) -> None:
    """Run one command of ours as typed, in the open; end the story if it ends otherwise."""
    words = [os.fspath(argument) for argument in arguments]
    print(f"\n$ holdfast {shlex.join(words)}", flush=True)
    environment = os.environ | {"HOLDFAST_STATE": os.fspath(scratch / "state")}
    command = [sys.executable, "-m", "holdfast", *words]
    ended = subprocess.run(command, cwd=scratch, env=environment, check=False)
    if ended.returncode != expected:
        print(f"holdfast: the demo expected exit status {expected}, not {ended.returncode}")
        raise typer.Exit(Exit.BUG)
    if expected is Exit.DAMAGED:
        print(f"(exit status {ended.returncode}: done, and the answer is bad)")


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
