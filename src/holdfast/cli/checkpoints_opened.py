"""What the commands on checkpoints of this machine share: the facet, how to work, and arguments."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli import session
from holdfast.cli.arguments import parse_jobs, parse_size
from holdfast.server.local import LocalServices

if TYPE_CHECKING:
    from holdfast.checkpoints.running import Manner
    from holdfast.checkpoints.service import Checkpoints

PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="Name or id of a plan.")]
DAYS_MAX: Final = 36_500
"""A hundred years, for locks and ages."""
Id = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Id, or its beginning.")]
BankUrl = Annotated[
    str,
    typer.Argument(
        metavar="BANK",
        help="Directory, s3+https://HOST/BUCKET/PREFIX or swift:CONTAINER/PREFIX.",
    ),
]


def open_facet(services: LocalServices) -> "Checkpoints":
    """Return the facet over the services of this machine."""
    # Only here: other commands do not pay for loading it.
    from holdfast.server.checkpoints import open_checkpoints

    return open_checkpoints(services)


@contextmanager
def manner_of(
    services: LocalServices, bwlimit: str | None, jobs: int | None, *, json: bool, quiet: bool
) -> "Iterator[Manner]":
    """Give how to go about work, with its progress shown meanwhile."""
    from holdfast.checkpoints.running import Manner

    with session.progress(services, json=json, quiet=quiet) as listener:
        yield Manner(
            jobs=parse_jobs(jobs, waits_for_disk=False),
            rate_bytes_per_s=parse_size(bwlimit, what="rate") if bwlimit else None,
            listener=listener,
        )


def bank_url_of(text: str) -> str:
    """Return the URL of a bank; a path is made absolute."""
    if re.match(r"[a-z0-9+]+:", text):
        return text.rstrip("/")
    return str(Path(text).absolute())
