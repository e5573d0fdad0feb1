"""Logs of a node's processes: one JSON object a line on stderr, of our own and of libraries.

Invariants:

1. A line is ASCII: control characters of names and messages are escaped, so no file name breaks a
   line or commands a terminal.
2. Every line of a task's process has its `task`.
3. A value under a name that speaks of a secret is not written.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.types import Processor

_SECRET: Final = ("token", "authorization", "password", "secret", "key")
_HIDDEN: Final = "[hidden]"


def configure_logs(level: str, *, stream: TextIO | None = None, **bound: object) -> None:
    """Send all logs of this process to stderr, or `stream`.

    Args:
        level: debug, info, warning or error.
        bound: Members of every line from now on, such as `task`.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_bound(bound),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    lines = logging.StreamHandler(sys.stderr if stream is None else stream)
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [lines]
    root.setLevel(level.upper())
    # Of libraries only what is wrong: their informative lines repeat ours.
    for name in ("asyncio", "aiohttp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


def node_log(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger; what it is told is an event in the past tense, and members."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"holdfast.{name}")
    return logger


def hide_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace the value of every member whose name speaks of a secret, at any depth."""
    for name, value in event.items():
        if _is_secret(name):
            event[name] = _HIDDEN
        elif isinstance(value, dict):
            event[name] = hide_secrets(None, "", dict(value))
    return event


def _is_secret(name: str) -> bool:
    words = name.lower().replace("-", "_").split("_")
    return any(word in _SECRET for word in words)


def _add_bound(bound: dict[str, object]) -> Processor:
    def add(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        for name, value in bound.items():
            event.setdefault(name, value)
        return event

    return add
