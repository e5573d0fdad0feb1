"""What holds for every test: how chance is used, and what runs coroutines.

By hand every run of a property looks at other examples, so that over the days many are seen. In CI
the same ones are looked at each time, so that a change is judged by what it changed.
"""

import os

import pytest
from hypothesis import settings

settings.register_profile("fresh", print_blob=True)
settings.register_profile("same", derandomize=True, print_blob=True)
settings.load_profile("same" if os.environ.get("CI") else "fresh")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run coroutine tests, marked `anyio`, on asyncio only."""
    return "asyncio"
