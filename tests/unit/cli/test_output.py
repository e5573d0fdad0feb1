"""Goal: what a person or a script reads is exact, on one line, and safe for the terminal.

Method: captured streams, a terminal that is a string buffer, and a clock moved by hand. One test
runs a new interpreter to see what an import loads.
"""

import io
import json
import subprocess
import sys
import threading

import pytest

from holdfast.cli.output import (
    ProgressDisplay,
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    printable,
    report_error,
)
from holdfast.errors import CapacityError, NotFoundError
from holdfast.testing.clock import SimClock


class Terminal(io.StringIO):
    """A terminal that remembers what was drawn."""

    def isatty(self) -> bool:
        return True


FULL = CapacityError(
    "disk is full: data/a", code="disk-full", advice="free 3 MiB", path=b"data/a\xff"
)


def test_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(FULL, json=False)

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "holdfast: disk is full: data/a; free 3 MiB\n"


def test_error_without_advice_ends_with_message(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(NotFoundError("no such tree: x", code="no-entry"), json=False)

    assert capsys.readouterr().err == "holdfast: no such tree: x\n"


def test_error_is_an_object_under_json(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(FULL, json=True)

    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == {
        "kind": "capacity",
        "code": "disk-full",
        "message": "disk is full: data/a",
        "advice": "free 3 MiB",
        "context": {"path": "data/a\\xff"},
        "exit": 16,
    }


def test_defect_is_reported_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(ZeroDivisionError("division by zero"), json=True)

    problem = json.loads(capsys.readouterr().out)
    assert (problem["code"], problem["exit"]) == ("internal", 1)
    assert problem["message"] == "ZeroDivisionError: division by zero"


def test_hostile_name_neither_breaks_the_line_nor_commands_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_error(NotFoundError("no file a\n\x1b[2J\u202eb\udcff", code="no-entry"), json=False)

    assert capsys.readouterr().err == "holdfast: no file a\\n\\x1b[2J\\u202eb\\udcff\n"


def test_printable_keeps_letters_of_any_script() -> None:
    assert printable("Übung 日本 (1).db") == "Übung 日本 (1).db"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (12 * 1024**3, "12.0 GiB"),
        (5 * 1024**7, "5120.0 EiB"),
    ],
)
def test_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0.00 s"),
        (0.4249, "0.42 s"),
        (9.996, "10.0 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_duration(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


def test_rate_and_count() -> None:
    assert format_rate(1536) == "1.5 KiB/s"
    assert format_count(1, "entry", "entries") == "1 entry"
    assert format_count(20_000, "entry", "entries") == "20,000 entries"
    assert format_count(0, "file") == "0 files"


def test_stage_changes_are_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()

    with ProgressDisplay(SimClock(), stream=stream) as display:
        display.enter_stage("plan")
        display.update(10)
        display.enter_stage("transfer", 1536)
        display.update(1000)
        display.enter_stage("transfer", 2048)

    assert stream.getvalue() == "holdfast: plan\nholdfast: transfer, 1.5 KiB\n"


def test_quiet_shows_nothing_even_at_a_terminal() -> None:
    stream = Terminal()

    with ProgressDisplay(SimClock(), quiet=True, stream=stream) as display:
        display.enter_stage("transfer", 1536)
        display.update(1536)

    assert stream.getvalue() == ""


def test_bar_shows_stage_share_amount_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), SimClock()

    with ProgressDisplay(clock, stream=stream) as display:
        display.enter_stage("transfer", 40 * 1024)
        for done in (1, 2, 3):
            clock.sleep(1)
            display.update(done * 10 * 1024, note="pass 2")

    drawn = stream.getvalue()
    assert "transfer" in drawn
    assert " 75 %  30.0 KiB of 40.0 KiB  10.0 KiB/s  1.00 s left  pass 2" in drawn


def test_bar_goes_for_a_line_and_comes_back_with_the_next_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), SimClock()

    with ProgressDisplay(clock, stream=stream) as display:
        display.enter_stage("transfer", 1000)
        display.clear()
        cleared = len(stream.getvalue())
        display.update(500)
        assert len(stream.getvalue()) == cleared
        display.enter_stage("transfer", 2000)
        assert "of 2.0 KiB" in stream.getvalue()[cleared:]


def test_bar_is_drawn_ten_times_a_second_at_most_and_without_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), SimClock()
    threads_before = threading.active_count()

    with ProgressDisplay(clock, stream=stream) as display:
        display.enter_stage("transfer", 1000)
        for done in range(1000):
            clock.sleep(0.001)
            display.update(done)
        threads = threading.active_count()

    assert threads == threads_before
    assert 5 <= stream.getvalue().count("transfer") <= 15


def test_importing_output_does_not_load_rich() -> None:
    script = "import sys, holdfast.cli.output; print([m for m in sys.modules if 'rich' in m])"

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert loaded.stdout == "[]\n"
