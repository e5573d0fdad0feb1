"""What holds for every test: how chance is used, what runs coroutines, that Ctrl-C works, and that
nothing is compiled twice.

By hand every run of a property looks at other examples, so that over the days many are seen. In CI
the same ones are looked at each time, so that a change is judged by what it changed.
"""

import gc
import os
import signal
import sys

import pytest
from hypothesis import settings

# No deadline: how long an example takes depends on what else the machine does.
settings.register_profile("fresh", print_blob=True, deadline=None)
settings.register_profile("same", derandomize=True, print_blob=True, deadline=None)
settings.load_profile("same" if os.environ.get("CI") else "fresh")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has a job in the background ignore Ctrl-C, and what a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The tests start interpreters by the hundred: each would compile the product anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """Keep all that was loaded out of every later search for garbage.

    The second one here finds nothing and tells the collector so: what tests leave is then looked
    through soon, not when it is a quarter of everything, which took gigabytes.
    """
    gc.collect()
    gc.freeze()
    gc.collect()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run coroutine tests, marked `anyio`, on asyncio only."""
    return "asyncio"
