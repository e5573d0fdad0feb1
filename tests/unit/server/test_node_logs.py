"""Goal: a line of the log is one line, names its task, and tells no secret.

Method: a process of its own logs to a pipe, for logging is of the whole process.
"""

import json
import subprocess
import sys

PROGRAM = """
import logging
from holdfast.server.node_logs import configure_logs, node_log

configure_logs("info", task="task-1")
node_log("tasks").info("file copied", path="a\\nb\\x1b[2J", size=3)
node_log("tasks").debug("not shown")
node_log("tasks").warning("called", token="s3cret", peer={"authorization": "s3cret", "port": 1})
logging.getLogger("somewhere").error("library says %s", "\\x1b")
try:
    1 / 0
except ZeroDivisionError:
    node_log("tasks").exception("defect")
"""


def test_lines_are_json_with_the_task_and_without_secrets() -> None:
    """Invariants 1, 2 and 3 of node_logs.py."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert ended.stdout == ""
    assert ended.stderr.isascii()
    assert "\x1b" not in ended.stderr
    assert "s3cret" not in ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines] == [
        "file copied",
        "called",
        "library says \x1b",
        "defect",
    ]
    assert {line["task"] for line in lines} == {"task-1"}
    assert lines[0]["path"] == "a\nb\x1b[2J"
    assert (lines[0]["level"], lines[0]["logger"]) == ("info", "holdfast.tasks")
    assert lines[1]["peer"] == {"authorization": "[hidden]", "port": 1}
    assert "ZeroDivisionError" in lines[3]["exception"]
