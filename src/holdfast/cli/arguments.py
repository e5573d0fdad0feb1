"""Parsers of what people type: sizes, rates, percentages, limits, trees."""

import os
import re
from typing import TYPE_CHECKING

from holdfast.errors import InvalidRequestError, NotFoundError
from holdfast.files.model import DeleteLimit
from holdfast.model.limits import JOBS_MAX

if TYPE_CHECKING:
    from holdfast.checkpoints.model import Budget, Retention, Verdict

_UNITS = {
    "": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1000,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 1000**2,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 1000**3,
    "t": 1 << 40,
    "tib": 1 << 40,
    "tb": 1000**4,
}
STREAM_PORT = 9044
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgt]?(?:i?b)?|b)?(?:/s)?", re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")


def parse_size(text: str, *, what: str) -> int:
    """Return bytes: `4096`, `10M` and `10MiB` (powers of 1024), `10MB` (powers of 1000)."""
    found = _SIZE.fullmatch(text.strip())
    unit = (found[2] or "").lower().removesuffix("/s") if found else ""
    factor = _UNITS.get("" if unit == "b" else unit)
    size_bytes = int(float(found[1]) * factor) if found and factor else 0
    if size_bytes < 1:
        raise InvalidRequestError(
            f"{text!r} is not a {what}",
            code="bad-size",
            advice="say for example 4096, 500K, 10M or 1.5GiB, more than nothing",
        )
    return size_bytes


def parse_delete_limit(text: str) -> DeleteLimit:
    """Return a limit on deletions: `500` entries or `20%` of the target's."""
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return DeleteLimit(count=int(text))
    percent = parse_percent(text)
    if percent is None:
        raise InvalidRequestError(
            f"{text!r} is not a limit on deletions",
            code="bad-max-delete",
            advice="say a number of entries such as 500, or a share such as 20%",
        )
    return DeleteLimit(percent=percent)


def parse_percent(text: str) -> float | None:
    """Return the number before a percent sign, 0 to 100; None for any other text."""
    found = _PERCENT.fullmatch(text.strip())
    value = float(found[1]) if found else -1.0
    return value if 0 <= value <= 100 else None


def parse_jobs(jobs: int | None, *, waits_for_disk: bool = True) -> int:
    """Return how many workers to use; without a wish as many as this process has processors.

    And one more where one of them mostly waits for the disk.
    """
    if jobs is None:
        return min(JOBS_MAX, len(os.sched_getaffinity(0)) + waits_for_disk)
    if not 1 <= jobs <= JOBS_MAX:
        raise InvalidRequestError(
            f"{jobs} workers cannot be used",
            code="bad-jobs",
            advice=f"say a number from 1 to {JOBS_MAX}",
        )
    return jobs


_ON_NODE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253}):(?:(?P<port>[0-9]{1,5})/)?"
    r"(?P<export>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}/[a-z][a-z0-9_-]{0,63}/[0-9]{1,4})"
)


def parse_source(text: str) -> bytes:
    """Return a tree to read: as parse_tree, or `HOST:PORT/INSTANCE/TYPE/INDEX` of a node.

    Without a port, and the slash after it, that of the stream is meant.
    """
    found = _ON_NODE.fullmatch(text)
    if found is None or os.path.lexists(text):
        return parse_tree(text)
    port = int(found["port"] or STREAM_PORT)
    if not 1 <= port <= 65535:
        raise InvalidRequestError(
            f"{port} is not a port", code="bad-tree", advice="leave it out for 9044"
        )
    return f"{found['host']}:{port}/{found['export']}".encode()


def parse_tree(text: str) -> bytes:
    """Return the absolute path of a local tree, its own symlinks resolved.

    Raises:
        InvalidRequestError: Empty, or spelled like a tree on another host.
        NotFoundError: Its parent does not exist.
    """
    if not text:
        raise InvalidRequestError(
            "the name of a tree is empty", code="bad-tree", advice="name a directory; . is this one"
        )
    path = os.fsencode(text)
    if re.match(rb"[^/]+:", path) and not os.path.lexists(path):
        raise InvalidRequestError(
            f"{text!r} looks like a tree on another host, and is none that can be used here",
            code="remote-tree",
            advice="a SOURCE on a node is HOST:PORT/INSTANCE/TYPE/INDEX, such as "
            "db1:9044/main/data/0; a TARGET is local: run it there. Write ./NAME for a name with "
            "a colon",
        )
    if os.path.isfile(path):
        raise InvalidRequestError(
            f"{text} is a file; holdfast works on directory trees",
            code="not-a-directory",
            advice="name the directory it is in",
        )
    try:
        return os.path.realpath(path)
    except OSError as error:
        raise NotFoundError(
            f"{text}: {error.strerror}", code="no-root", advice="check the path"
        ) from error


def parse_retention(text: str) -> "Retention":
    """Return rules such as `last=3,daily=7`; InvalidRequestError (`bad-retention`)."""
    from holdfast.checkpoints.model import Retention

    rules: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().partition("=")
        if (
            name not in Retention.__dataclass_fields__
            or not number.isascii()
            or not (number.isdigit() and len(number) < 7)
        ):
            raise InvalidRequestError(
                f"{part!r} is no rule of retention",
                code="bad-retention",
                advice="say for example last=3,hourly=24,daily=7,weekly=4,monthly=12,yearly=3,"
                "days=90,max_backups=50",
            )
        rules[name] = int(number)
    return Retention(**rules)


def parse_verdict(text: str | None) -> "Verdict | None":
    """Return a verdict, None for none; InvalidRequestError (`bad-verdict`)."""
    from holdfast.checkpoints.model import Verdict

    if text is None or text in list(Verdict):
        return None if text is None else Verdict(text)
    raise InvalidRequestError(
        f"{text!r} is no verdict",
        code="bad-verdict",
        advice=f"say one of {', '.join(Verdict)}",
    )


def parse_budget(
    budget: str | None, slice_of: str | None, skip_younger_days: float | None
) -> "Budget":
    """Return what a verification may read; InvalidRequestError (`bad-size`, `bad-slice`)."""
    from holdfast.checkpoints.model import Budget

    size_bytes = percent = duration_s = None
    if budget is not None:
        percent = parse_percent(budget)
        if percent is None and budget.endswith("s") and budget[:-1].isdigit():
            duration_s = float(budget[:-1])
        elif percent is None:
            size_bytes = parse_size(budget, what="budget")
    return Budget(
        size_bytes=size_bytes,
        percent=percent,
        duration_s=duration_s,
        slice=_parse_slice(slice_of) if slice_of else None,
        skip_younger_s=skip_younger_days * 86_400 if skip_younger_days else None,
    )


def _parse_slice(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of) <= 10_000:
        return int(number), int(of)
    raise InvalidRequestError(
        f"{text!r} is no slice", code="bad-slice", advice="say for example 2/7"
    )
