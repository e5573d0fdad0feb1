"""Runs the schedules of a node's plans: `python -m holdfast.server.node_scheduler 0 PARENT`.

Started by node.py with its settings on standard input; prints 0 once it runs. It does the work
itself, one piece after the other, as `holdfast checkpoints run-schedules --watch` does. SIGTERM
leaves a task interrupted, and its schedule due.
"""

import os
import signal
import sys

from holdfast.checkpoints.scheduling import Scheduler
from holdfast.errors import HoldfastError
from holdfast.server.checkpoints import open_checkpoints
from holdfast.server.local import LocalServices
from holdfast.server.node_checkpoints import node_manner
from holdfast.server.node_logs import configure_logs, node_log
from holdfast.server.node_settings import parse_node_settings
from holdfast.server.task_process import interrupt
from holdfast.stores.directories.linux import die_with_parent

_log = node_log("scheduler")


def main(arguments: list[str]) -> int:
    """Run what becomes due until told to stop; return 1 if that is not possible."""
    signal.signal(signal.SIGTERM, interrupt)
    die_with_parent()
    if os.getppid() != int(arguments[1]):
        return 1
    try:
        settings = parse_node_settings(sys.stdin.read())
        configure_logs(settings.identity.log_level, process="scheduler")
        scheduler = Scheduler(open_checkpoints(LocalServices(settings.state)))
        print(0, flush=True)
        scheduler.watch(node_manner())
    except HoldfastError as error:
        _log.error("schedules not run", **error.as_problem())
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
