"""Goal: a command loads what it needs, and takes its options as before.

Method: processes of their own that tell what they have loaded; the command line in this one.
"""

import subprocess
import sys

from typer.testing import CliRunner

from holdfast.cli.main import app

_TOLD = """
import sys, typer.main
from holdfast.cli.main import app
group = typer.main.get_group(app)
command = group.get_command(None, "copy")
found = command.make_context("copy", ["/a", "/b", "--digest", "md5", "--delete"]).params
assert (found["source"], found["target"]) == ("/a", "/b")
assert (found["digest"], found["delete"], found["json"]) == ("md5", True, False)
assert (found["jobs"], list(found["exclude"] or ())) == (None, [])
print(*sys.modules)
"""


def test_copy_loads_neither_other_commands_nor_what_coerces() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", _TOLD], check=True, capture_output=True, text=True
    ).stdout.split()
    unwanted = ("pydantic", "rich", "holdfast.cli.checkpoints", "holdfast.files.migration.model")
    assert not set(unwanted) & set(loaded)


def test_bad_values_are_still_refused() -> None:
    for words, told in (
        (["copy", "/a", "/b", "--jobs", "x"], "'--jobs'"),
        (["copy", "/a", "/b", "--cache", "x"], "'--cache'"),
        (["copy", "/a"], "'TARGET'"),
        (["verfy"], "'verify'"),
    ):
        ended = CliRunner().invoke(app, words, prog_name="holdfast")
        assert ended.exit_code == 2
        assert told in ended.output
