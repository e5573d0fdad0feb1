"""What every command prints with: errors, quantities, progress.

It formats and draws; it decides nothing. Results go to stdout, everything else to stderr.

Invariants:
1. An error is one line: control characters in names are escaped, so a hostile file name can neither
   break the line nor command the terminal.
2. The progress display starts no thread: worker processes are forked while it is alive.
3. rich is imported only when a bar is drawn.
"""

import json
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from holdfast.cli.exits import exit_code
from holdfast.errors import HoldfastError
from holdfast.ports import Clock

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DRAW_INTERVAL_NS: Final = 100_000_000
"""Shortest time between two drawings of the bar."""

_BYTE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def printable(text: str) -> str:
    """Return `text` on one line, with everything a terminal might obey as a backslash escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def problem_of(error: BaseException) -> dict[str, object]:
    """Return an error as the object that --json prints; one of ours or a defect (`internal`)."""
    if isinstance(error, HoldfastError):
        problem = error.as_problem()
    else:
        problem = {
            "kind": "internal",
            "code": "internal",
            "message": f"{type(error).__name__}: {error}",
            "advice": "this is a defect of holdfast; report it with the command and this line",
            "context": {},
        }
    return problem | {"exit": int(exit_code(error))}


def report_error(error: BaseException, *, json: bool) -> None:
    """Print an error: `holdfast: MESSAGE; ADVICE` on stderr, or an object on stdout for --json."""
    problem = problem_of(error)
    if json:
        print_json(problem)
        return
    said = [str(problem["message"]), str(problem["advice"])]
    print("holdfast: " + "; ".join(printable(part) for part in said if part), file=sys.stderr)


def print_json(value: object) -> None:
    """Print one value as one line of ASCII JSON on stdout."""
    print(json.dumps(value), flush=True)


def format_bytes(size_bytes: float) -> str:
    """Return `512 B`, `1.5 KiB`, `12.0 GiB`."""
    power = 0
    # From 1023.95 on, one decimal would say "1024.0".
    while size_bytes >= 1023.95 and power < len(_BYTE_UNITS) - 1:
        size_bytes /= 1024
        power += 1
    return f"{size_bytes:.1f} {_BYTE_UNITS[power]}" if power else f"{size_bytes:.0f} B"


def format_rate(bytes_per_s: float) -> str:
    """Return `1.5 MiB/s`."""
    return format_bytes(bytes_per_s) + "/s"


def format_count(count: int, noun: str, plural: str = "") -> str:
    """Return `1 entry`, `20,000 files`; the plural of `noun` is with an s unless given."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def format_duration(duration_s: float) -> str:
    """Return `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`, `3 d 04 h`."""
    if duration_s < 9.995:
        return f"{duration_s:.2f} s"
    if duration_s < 59.95:
        return f"{duration_s:.1f} s"
    seconds = round(duration_s)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours == 0:
        return f"{minutes} min {seconds % 60:02} s"
    if days == 0:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24:02} h"


class ProgressDisplay:
    """Shows how far a piece of work is; owned by the thread that opened it.

    At a terminal a bar, drawn in `update`, at most ten times a second; elsewhere one line on stderr
    at each change of stage; nothing when quiet. Used as a context manager: the bar goes when it
    ends, so that what the command prints then stands alone.

    Args:
        clock: Paces the drawing, and gives rate and time left.
        quiet: Show nothing (--quiet, --json).
        stream: Where to; stderr unless given.
    """

    def __init__(self, clock: Clock, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._clock = clock
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Progress | None = None
        self._row: TaskID | None = None
        self._stage = ""
        self._drawn_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the bar away, so that a line can be printed; naming a stage brings it back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._row = None

    def enter_stage(self, name: str, total_bytes: int | None = None) -> None:
        """Say that another stage begins, and how much it has to do where that is known.

        Naming the stage it is in already only changes the total.
        """
        changed, self._stage = name != self._stage, name
        if self._quiet:
            return
        if self._is_terminal:
            self._enter_row(name, total_bytes, changed)
        elif changed:
            amount = "" if total_bytes is None else f", {format_bytes(total_bytes)}"
            print(f"holdfast: {name}{amount}", file=self._stream, flush=True)

    def update(self, done_bytes: int, note: str = "") -> None:
        """Say how much of the stage is done; cheap, so it may be called as often as is easy."""
        if self._bar is None or self._row is None:
            return
        self._bar.update(self._row, completed=done_bytes)
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._drawn_ns >= DRAW_INTERVAL_NS:
            self._drawn_ns = now_ns
            self._draw(note)

    def _enter_row(self, name: str, total_bytes: int | None, changed: bool) -> None:
        if self._bar is None:
            self._bar = _open_bar(self._stream, self._clock)
        if self._row is None or changed:
            if self._row is not None:
                self._bar.remove_task(self._row)
            self._row = self._bar.add_task(name, total=total_bytes, figures="")
        else:
            self._bar.update(self._row, total=total_bytes)
        self._draw("")

    def _draw(self, note: str) -> None:
        assert self._bar is not None
        row = self._bar.tasks[0]
        figures = [format_bytes(row.completed)]
        if row.total is not None:
            figures = [f"{row.percentage:3.0f} %", f"{figures[0]} of {format_bytes(row.total)}"]
        if row.speed:
            figures.append(format_rate(row.speed))
        if row.speed and row.time_remaining is not None:
            figures.append(f"{format_duration(row.time_remaining)} left")
        if note:
            figures.append(printable(note))
        self._bar.update(row.id, figures="  ".join(figures), refresh=True)


def _open_bar(stream: TextIO, clock: Clock) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(file=stream, force_terminal=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        get_time=lambda: clock.monotonic_ns() / 1e9,
    )
    bar.start()
    return bar
