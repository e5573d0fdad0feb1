"""What every test may need: coroutines run on asyncio, as the product's do."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run coroutine tests, marked `anyio`, on asyncio only."""
    return "asyncio"
