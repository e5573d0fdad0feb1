"""Composition root of the commands that need no daemon: this machine's trees, clock and journal."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from holdfast.errors import DeniedError, IntegrityError, InvalidRequestError, NotFoundError
from holdfast.files.running import Surroundings
from holdfast.files.service import Files
from holdfast.model.limits import FILE_BYTES_LARGE
from holdfast.model.tree import display_path
from holdfast.ports import (
    Clock,
    Directory,
    Entropy,
    PaceControl,
    ReadableDirectory,
    StartWorkers,
    Workers,
)
from holdfast.proof.signature import SigningKey
from holdfast.stores.directories.linux import give_way
from holdfast.stores.directories.posix import PosixDirectory, PosixReadableDirectory
from holdfast.stores.pace import SharedPace
from holdfast.stores.processes import InlineWorkers, ProcessWorkers, collect_seldom, run_beside
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.runner import Runner

if TYPE_CHECKING:
    from holdfast.files.migration.model import PeerTls

InT = TypeVar("InT")
OutT = TypeVar("OutT")

_INLINE_ENTRIES = 256
"""Less work than this is done before a worker process would have started."""


class LocalServices:
    """Everything the commands use, over one state directory."""

    def __init__(self, state: Path) -> None:
        """Open the state directory, making it (mode 0700) where it is missing.

        Raises:
            DeniedError: It cannot be made (`state-denied`).
        """
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            (state / "locks").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DeniedError(
                f"cannot make the state directory {state}: {error.strerror}",
                code="state-denied",
                advice="name another with HOLDFAST_STATE",
            ) from error
        collect_seldom()
        self.state = state
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.journal = TaskJournal(state / "tasks.sqlite", self.clock, self.entropy)
        self.runner = Runner(self.journal, state / "locks", self.clock)
        self._token: str | None = None
        self._tls: PeerTls | None = None
        self.files = Files(
            Surroundings(
                state=state,
                runner=self.runner,
                clock=self.clock,
                open_source=self._open_source,
                open_target=open_target,
                make_pace=lambda rate: SharedPace(self.clock, rate),
                make_workers=make_workers,
                run_beside=run_beside,
                load_key=self.load_key,
            )
        )

    def reach_nodes(self, token: str, ca: str | None, certificate: Path | None) -> None:
        """Say how sources on nodes are reached from now on.

        Args:
            token: Empty for none.
            ca: File of the authority to trust, or `system`; None for no TLS.
            certificate: PEM with its key, to be shown; needs `ca`.
        """
        if certificate is not None and ca is None:
            raise InvalidRequestError(
                "a certificate is shown over TLS alone",
                code="bad-certificate",
                advice="add --ca FILE, or --ca system",
            )
        self._token = token or None
        if ca is not None:
            # Here: as below.
            from holdfast.files.migration.model import PeerTls

            file = None if ca == "system" else Path(ca)
            self._tls = PeerTls(ca=file, certificate=certificate, key=certificate)

    def _open_source(self, root: bytes) -> ReadableDirectory:
        if root.startswith(b"/"):
            return open_source(root)
        # Here: commands on local trees start without what nodes are reached by.
        from holdfast.server.node_sources import open_on_node

        return open_on_node(root.decode(), self._token, self._tls)

    def close(self) -> None:
        """Release the journal, so that all of it stands in its one file."""
        self.journal.close()

    def give_way(self) -> None:
        """Do what follows at the lowest priority of processor and disk."""
        give_way()

    def load_key(self) -> SigningKey:
        """Return this machine's signing key, making it at the first use."""
        return load_key(self.state / "keys" / "ed25519.pem", self.entropy)


def state_directory() -> Path:
    """Return where this user's state is: HOLDFAST_STATE, else as the XDG base directories say."""
    named = os.environ.get("HOLDFAST_STATE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "holdfast"


def open_source(root: bytes) -> ReadableDirectory:
    """Open a tree of this machine for reading."""
    return PosixReadableDirectory(root)


def open_target(root: bytes, make: bool) -> Directory:
    """Open a tree for writing, making its root (but not what is above) if `make`."""
    if make:
        try:
            os.mkdir(root)
        except FileExistsError:
            pass
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{display_path(os.path.dirname(root))} does not exist, so {display_path(root)} "
                "cannot be made in it",
                code="no-root",
                advice="make it first, and check that its file system is mounted",
            ) from error
        except OSError as error:
            raise DeniedError(
                f"{display_path(root)} cannot be made: {error.strerror}",
                code="forbidden",
                advice="run as a user who may write there",
            ) from error
    return PosixDirectory(root)


def make_workers(pace: PaceControl, jobs: int) -> StartWorkers:
    """Return what chooses the workers of one task."""
    assert isinstance(pace, SharedPace)

    def start(
        function: Callable[[InT], OutT], *, entries: int, size_bytes: int
    ) -> Workers[InT, OutT]:
        if jobs == 1 or (entries < _INLINE_ENTRIES and size_bytes < 2 * FILE_BYTES_LARGE):
            return InlineWorkers(function)
        return ProcessWorkers(function, pace, jobs=jobs)

    return start


def load_key(path: Path, entropy: Entropy) -> SigningKey:
    """Return the key in a PEM file, making one with mode 0600 if there is none.

    A new key is linked to its name whole and flushed, so that of two processes that make one at
    once both use the same, and none is ever half there.

    Raises:
        IntegrityError: The file holds no key (`key-damaged`).
        DeniedError: It cannot be read or made (`key-denied`).
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read_key(path)
        _make_key(path, entropy)
        return _read_key(path)
    except OSError as error:
        raise DeniedError(
            f"the signing key {path} cannot be read or made: {error.strerror}",
            code="key-denied",
            advice="check its owner and mode, or name another state directory with HOLDFAST_STATE",
        ) from error


def _read_key(path: Path) -> SigningKey:
    try:
        return SigningKey.from_pem(path.read_bytes())
    except InvalidRequestError as error:
        raise IntegrityError(
            f"{path} does not hold a signing key",
            code="key-damaged",
            advice="bring it back from a backup; or move it away, and tell whoever checks your "
            "proofs of the new key that is then made",
        ) from error


def _make_key(path: Path, entropy: Entropy) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{entropy.random_bytes(8).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, SigningKey.from_seed(entropy.random_bytes(32)).to_pem())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    os.unlink(fresh)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_idempotency_key() -> str:
    """Return a fresh key for a request that must not be done twice."""
    return "cli-" + SystemEntropy().random_bytes(16).hex()


def system_clock() -> Clock:
    """Return this machine's clock."""
    return SystemClock()
