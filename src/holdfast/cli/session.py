"""What every command shares: opening the local services, showing progress, ending by exit code."""

import json as json_text
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType

from holdfast.cli.exits import exit_code
from holdfast.cli.output import ProgressDisplay, format_count, report_error
from holdfast.server.local import LocalServices, state_directory
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Listener


def run(command: Callable[[LocalServices], int], *, json: bool) -> None:
    """Run a command over the local services and exit with its code; errors are told once, here."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with closing(LocalServices(state_directory())) as services:
            code = command(services)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stderr.close()
        code = 141
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 the outermost loop
        if isinstance(error, KeyboardInterrupt) and not json:
            print("holdfast: stopped; run the same command to go on from here", file=sys.stderr)
        else:
            report_error(error, json=json)
        code = int(exit_code(error))
    raise SystemExit(code)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Let SIGTERM end a task as Ctrl-C does: settled, recorded, to be gone on with."""
    raise KeyboardInterrupt


@contextmanager
def progress(services: LocalServices, *, json: bool, quiet: bool) -> Iterator[Listener]:
    """Show a task on its way: a bar at a terminal, else a line for each stage."""
    with ProgressDisplay(services.clock, quiet=json or quiet) as display:
        stage = ""

        def listen(task: Task) -> None:
            nonlocal stage
            if not task.stage:
                return
            now = task.progress
            if task.stage != stage or now.bytes_total is not None:
                display.enter_stage(task.stage, now.bytes_total)
                stage = task.stage
            note = format_count(now.entries_done, "entry", "entries") if now.entries_done else ""
            display.update(now.bytes_done, note)

        yield listen


def print_line(value: object) -> None:
    """Print one value as a line of JSON, without flushing: for long listings."""
    sys.stdout.write(json_text.dumps(value) + "\n")
