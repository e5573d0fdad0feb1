"""Goal: whoever types a command wrongly, stops it, or runs it twice is told in one line what to do.

Method: the real command with every bad value, with signals in the middle of its work, beside
itself, and on state that was spoiled by hand. No failure may show a traceback.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command import Argument, Completed, Holdfast, kill_group
from tests.support.trees import make_tree, pattern, read_tree, write

MIB = 1 << 20


def assert_told(done: Completed, code: int) -> None:
    """One line for a person, that names the program and ends in advice or a reason."""
    assert done.exit == code, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith(("holdfast: ", "Error: ")), done
    assert len(line) > 20
    assert "Traceback" not in done.stderr


BAD = [
    "copy S T --max-delete x",
    "copy S T --max-delete -1",
    "copy S T --max-delete 101%",
    "copy S T --max-delete 99999999999999",
    "copy S T --verify sample",
    "copy S T --verify some",
    "copy S T --no-verify --proof P",
    "copy S T --digest rot13",
    "copy S T --cache maybe",
    "copy S T --bwlimit 0",
    "copy S T --bwlimit fast",
    "copy S T --bwlimit -5M",
    "copy S T --jobs 0",
    "copy S T --jobs 65",
    "copy S T --jobs two",
    "copy S T --unknown",
    "copy S",
    "copy",
    "copy S T U",
    "copy S host:/tree",
    "verify S",
    "verify S T --proof P",
    "verify S T --key abc",
    "verify S --proof P --write-proof Q",
    "verify S T --mode sample",
    "verify S T --mode none",
    "verify S T --sample 0%",
    "verify S T --sample 101%",
    "verify S T --sample lots",
    "verify S T --seed -1",
    "verify S T --seed x",
    "verify S T --seed 99999999999999999999999",
    "repair S",
    "repair S T --jobs 100",
    "repair S T --bwlimit x",
    "repair S T --digest x",
    "proof check",
    "proof check P --key zz",
    "proof export P --format pdf",
    "tasks list --limit 0",
    "tasks list --limit x",
    "tasks show",
    "tasks show nonsense",
    "tasks cancel nonsense",
    "frobnicate",
]


@pytest.mark.parametrize("line", BAD)
def test_what_is_typed_wrongly_is_told_and_does_nothing(
    holdfast: Holdfast, source: Path, target: Path, line: str
) -> None:
    source.mkdir()
    target.mkdir()
    write(source / "file")
    places: dict[str, Path] = {"S": source, "T": target, "P": source / "file"}
    done = holdfast(*(places.get(word, word) for word in line.split()))
    assert_told(done, 2)
    assert list(target.iterdir()) == []


def test_an_empty_name_is_no_tree(holdfast: Holdfast, source: Path) -> None:
    """`""` may come from a variable that is not set; it must not mean this directory."""
    source.mkdir()
    assert_told(holdfast("copy", source, ""), 2)
    assert_told(holdfast("copy", "", source), 2)


def test_a_pattern_that_cannot_be_used(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_tree(source)
    done = holdfast("copy", source, target, "--exclude", "!")
    assert "Traceback" not in done.stderr
    assert done.exit == 2, done


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["copy", "missing", "target"], 10),
        (["copy", "source", "source"], 2),
        (["copy", "source", "target", "--jobs", "0"], 2),
        (["verify", "source", "missing"], 10),
        (["repair", "source", "missing"], 10),
        (["tasks", "show", "task-" + "0" * 32], 10),
        (["tasks", "cancel", "task-" + "0" * 32], 10),
        (["proof", "check", "missing"], 10),
        (["proof", "check", "source/d0/f0000"], 20),
        (["copy", "source", "target"], 0),
        (["copy", "source", "target", "--plan"], 0),
        (["verify", "source", "empty"], 3),
        (["proof", "key"], 0),
    ],
)
def test_json_is_the_only_thing_on_stdout_and_names_the_exit(
    holdfast: Holdfast, tmp_path: Path, arguments: list[str], code: int
) -> None:
    make_tree(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    places: list[Argument] = [
        str(tmp_path / word) if word.partition("/")[0] in ("source", "target", "empty", "missing")
        else word
        for word in arguments
    ]  # fmt: skip
    done = holdfast(*places, "--json")
    assert done.exit == code, done
    assert done.stderr == ""
    values = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(isinstance(value, dict) for value in values)
    assert len(values) == 1 or "--plan" in arguments
    if arguments[-1] != "key":
        assert values[-1]["exit"] == code
    if code not in (0, 3):
        assert {"kind", "code", "message", "advice", "context"} <= values[0].keys()


def start_slow_copy(holdfast: Holdfast, source: Path, target: Path) -> "subprocess.Popen[bytes]":
    """Start a copy that takes 15 seconds, and wait until it writes."""
    make_tree(source, files=20)
    write(source / "large", pattern(60 * MIB))
    process = holdfast.start("copy", source, target, "--bwlimit", "4M")
    for _ in range(600):
        if any(path.stat().st_size >= MIB for path in target.glob(".holdfast/partial/*")):
            return process
        time.sleep(0.05)
    kill_group(process)
    raise AssertionError("it did not begin")


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
    ],
)
def test_stopped_by_a_signal_it_goes_on_later(
    holdfast: Holdfast, source: Path, target: Path, number: signal.Signals, whole_group: bool
) -> None:
    """Ctrl-C reaches the whole group, `kill` only the process."""
    process = start_slow_copy(holdfast, source, target)
    began = time.monotonic()
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.decode().splitlines()[-1] == (
        "holdfast: stopped; run the same command to go on from here"
    )
    assert not (target / "large").exists()
    kept = max(path.stat().st_size for path in target.glob(".holdfast/partial/*"))
    assert kept >= MIB
    (stopped,) = holdfast.tasks()
    assert (stopped["state"], stopped["attempt"]) == ("interrupted", 1)

    done = holdfast.copy(source, target)
    assert (done.exit, done.json["verdict"], done.json["taskId"]) == (0, "proven", stopped["id"])
    assert done.json["copy"]["writtenBytes"] <= 60 * MIB + 20_000 - kept
    assert read_tree(target) == read_tree(source)
    shown = holdfast("tasks", "show", stopped["id"], "--json").json
    assert (shown["state"], shown["attempt"]) == ("completed", 2)
    assert [event["name"] for event in shown["events"]].count("interrupted") == 1


def test_killed_it_is_listed_as_interrupted(holdfast: Holdfast, source: Path, target: Path) -> None:
    kill_group(start_slow_copy(holdfast, source, target))
    assert [task["state"] for task in holdfast.tasks()] == ["interrupted"]
    assert holdfast.copy(source, target).exit == 0
    assert [(task["state"], task["attempt"]) for task in holdfast.tasks()] == [("completed", 2)]


def test_cancelled_by_another_process(holdfast: Holdfast, source: Path, target: Path) -> None:
    process = start_slow_copy(holdfast, source, target)
    (running,) = holdfast.tasks()
    assert running["state"] == "running"
    assert holdfast("tasks", "cancel", running["id"]).exit == 0
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "was cancelled" in stderr.decode().splitlines()[-1]
    assert [task["state"] for task in holdfast.tasks()] == ["cancelled"]
    assert not (target / "large").exists()
    again = holdfast("tasks", "cancel", running["id"])
    assert again.exit in (0, 13)
    assert holdfast.copy(source, target).exit == 0
    assert read_tree(target) == read_tree(source)


def test_two_copies_to_one_target(
    holdfast: Holdfast, source: Path, target: Path, tmp_path: Path
) -> None:
    """However the target is spelled, and whatever is asked of it."""
    process = start_slow_copy(holdfast, source, target)
    (running,) = holdfast.tasks()
    make_tree(tmp_path / "other")
    (tmp_path / "alias").symlink_to(target)
    try:
        commands: list[list[Argument]] = [
            ["copy", source, target],
            ["copy", tmp_path / "other", tmp_path / "alias"],
            ["verify", source, f"{target}/../target/"],
            ["repair", source, target],
        ]
        for command in commands:
            done = holdfast(*command)
            assert_told(done, 11)
            assert running["id"] in done.stderr
        elsewhere = holdfast("copy", tmp_path / "other", tmp_path / "elsewhere")
        assert elsewhere.exit == 0
    finally:
        kill_group(process)


def spoil(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    path.write_bytes(content)


def rot(path: Path) -> None:
    """Leave the first pages, which are read on opening, and ruin what follows."""
    content = path.read_bytes()
    assert len(content) > 30_000
    path.write_bytes(content[:8192] + os.urandom(len(content) - 8192))


@pytest.mark.parametrize(
    "how", [spoil, rot, *(pytest.param(how, marks=pytest.mark.slow) for how in (cut, scramble))]
)
@pytest.mark.parametrize("which", ["tasks.sqlite", "ledgers"])
def test_spoiled_state_is_told_and_can_be_thrown_away(
    holdfast: Holdfast, source: Path, target: Path, which: str, how: object
) -> None:
    assert callable(how)
    make_tree(source, files=300)
    assert holdfast.copy(source, target).exit == 0
    path = holdfast.state / which
    if path.is_dir():
        (path,) = path.glob("*.sqlite")
    how(path)
    done = holdfast("copy", source, target)
    assert_told(done, 20)
    assert str(path.parent) in done.stderr
    for spoiled in path.parent.glob(path.name + "*"):
        spoiled.unlink()
    again = holdfast.copy(source, target)
    assert (again.exit, again.json["verdict"]) == (0, "proven")


def test_a_spoiled_key_is_told(holdfast: Holdfast, source: Path, target: Path) -> None:
    make_tree(source)
    assert holdfast.copy(source, target).exit == 0
    spoil(holdfast.state / "keys/ed25519.pem")
    assert_told(holdfast("proof", "key"), 20)
    assert_told(holdfast("copy", source, target), 20)
    (holdfast.state / "keys/ed25519.pem").unlink()
    assert holdfast.copy(source, target).exit == 0


def test_state_that_cannot_be_a_directory(tmp_path: Path, source: Path, target: Path) -> None:
    make_tree(source)
    file = write(tmp_path / "file")
    for place in (file, file / "below", Path("/proc/state")):
        done = Holdfast(state=place)("copy", source, target)
        assert_told(done, 17)
        assert "HOLDFAST_STATE" in done.stderr
    assert not target.exists()


def test_output_that_nobody_reads(holdfast: Holdfast, source: Path, target: Path) -> None:
    """As `holdfast copy --plan | head`."""
    make_tree(source, files=3000)
    process = holdfast.start("copy", source, target, "--plan")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in stderr
    assert process.returncode == 141


def test_help_names_every_option(holdfast: Holdfast) -> None:
    for command in ("copy", "verify", "repair"):
        done = holdfast(command, "--help")
        assert done.exit == 0
        assert "--json" in done.stdout
    assert holdfast("--version").stdout.startswith("holdfast ")
    assert holdfast().exit in (0, 2)
