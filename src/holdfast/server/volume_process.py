"""Composition root of a data process: one volume, its front ends, its control socket, one thread.

Run as `python -m holdfast.server.volume_process ORDERS` by server/volumes.py. It takes the lock of
the volume, opens its files, recovers, listens, says so in one line on stdout, and serves until it
is told to stop: SIGTERM, SIGINT, or over the control socket.

Invariants:

1. The lock is held before a file is opened and until the last is closed.
2. It reports that it serves only when every socket listens, its control socket included.
3. To stop: no new connection, what is under way is answered, the log is emptied, the files closed.
4. It ends with whoever started it.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from holdfast.errors import (
    ConflictError,
    HoldfastError,
    InvalidRequestError,
)
from holdfast.stores.directories.linux import die_with_parent
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.volumes.catalog import CONTROL_SOCKET, locked
from holdfast.volumes.control_server import ControlServer
from holdfast.volumes.local_socket import bind_local
from holdfast.volumes.model import Preset

_log = logging.getLogger("holdfast.volumes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: our certificate with its key, and who may sign those of clients."""

    certificate: str
    key: str
    client_authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a data process is told."""

    name: str
    directory: str
    preset: str
    parent_id: int
    is_offline: bool
    """Only control is served."""
    listen: tuple[tuple[str, int], ...]
    socket_path: str
    tls: TlsFiles | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a data process says once: where it listens, or why it does not."""

    listening: tuple[str, ...] = ()
    problem: dict[str, object] | None = None
