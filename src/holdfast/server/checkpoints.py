"""Composition root of checkpoints on this machine: stores by URL, keys, plug-ins, heads of plans.

A bank is named by a URL:
    PATH                            a directory
    s3+https://HOST/BUCKET/PREFIX   S3 and compatible, path style; keys in AWS_ACCESS_KEY_ID,
                                    AWS_SECRET_ACCESS_KEY, region in AWS_REGION
    swift:CONTAINER/PREFIX          Swift; login in OS_AUTH_URL, OS_USERNAME, OS_PASSWORD,
                                    OS_PROJECT_NAME, OS_USER_DOMAIN_NAME, OS_REGION_NAME; or, for
                                    tempauth, ST_AUTH, ST_USER, ST_KEY

Nothing of the environment is written down: a URL holds no secret.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from holdfast.checkpoints.catalogue import Catalogue
from holdfast.checkpoints.directories import DirectoryPlugin
from holdfast.checkpoints.plugins import Plugins, find_plugins
from holdfast.checkpoints.restoring import TreeRestorer
from holdfast.checkpoints.running import Surroundings, TaskRunner
from holdfast.checkpoints.sealing import BankKey
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import (
    DeniedError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    StorageFailedError,
)
from holdfast.model.head import Advanced, HeadState
from holdfast.model.ids import TaskId
from holdfast.model.limits import JOBS_MAX
from holdfast.ports import ObjectStore, PaceControl, StartWorkers, StorePromises, Workers
from holdfast.server.local import LocalServices, make_workers, open_source
from holdfast.stores.objects.directory import DirectoryObjects
from holdfast.stores.objects.racing import measure_promises
from holdfast.stores.registers.sqlite_states import advance_once, read_once
from holdfast.stores.system import SystemEntropy
from holdfast.stores.threads import ThreadWorkers
from holdfast.tasks.model import TaskState

InT = TypeVar("InT")
OutT = TypeVar("OutT")

STORE_TIMEOUT_S: Final = 60.0
_REMOTE_JOBS: Final = 8
_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
_ADVANCES_MAX: Final = 8


def open_checkpoints(
    services: LocalServices, *, may_fork: bool = True, runner: TaskRunner | None = None
) -> Checkpoints:
    """Return the checkpoints facet over the services of this machine.

    Args:
        services: Of this machine.
        may_fork: False in a process of several threads, such as a server: then threads work.
        runner: Of tasks; the one of this machine unless given.
    """
    jobs = min(JOBS_MAX, (os.cpu_count() or 1) + 1) if may_fork else 1
    restorer = TreeRestorer(services.files.surroundings, jobs)
    plugins = Plugins([DirectoryPlugin(restorer), *find_plugins()])
    keys = services.state / "keys"

    def task_state(task_id: str) -> TaskState | None:
        with contextlib.suppress(NotFoundError):
            return services.journal.get(TaskId(task_id)).state
        return None

    around = Surroundings(
        state=services.state,
        runner=runner or services.runner,
        task_state=task_state,
        clock=services.clock,
        entropy=services.entropy,
        catalogue=Catalogue(services.state / "checkpoints.sqlite"),
        heads=RegisterHeads(services.state / "heads.sqlite"),
        plugins=plugins,
        open_store=open_store,
        load_bank_key=lambda key_id: load_bank_key(keys, key_id),
        load_key=services.load_key,
        open_source=open_source,
        make_pace=services.files.surroundings.make_pace,
        make_workers=lambda pace, jobs, forkable: _make_workers(pace, jobs, may_fork and forkable),
    )
    return Checkpoints(around, _measure)


def open_store(url: str) -> ObjectStore:
    """Open the store that a bank's URL names.

    Raises:
        InvalidRequestError: `bad-bank-url`.
    """
    entropy = SystemEntropy()
    if url.startswith(("s3+http://", "s3+https://")):
        # Only where they are asked for: loading them takes longer than a small protect.
        from holdfast.server.heads import keys_from_environment
        from holdfast.stores.objects.bucket import BucketObjects

        keys = keys_from_environment()
        return BucketObjects(url.removeprefix("s3+"), keys, timeout_s=STORE_TIMEOUT_S)
    if url.startswith("swift:"):
        return _open_container(url.removeprefix("swift:").lstrip("/"))
    if re.match(r"[a-z0-9+]+:", url) and not os.path.isdir(url):
        raise InvalidRequestError(
            f"{url[:200]!r} names no bank",
            code="bad-bank-url",
            advice="name a directory, s3+https://HOST/BUCKET/PREFIX or swift:CONTAINER/PREFIX",
        )
    return DirectoryObjects(url, entropy)


def _open_container(place: str) -> ObjectStore:
    from holdfast.stores.objects.container import ContainerObjects, SwiftLogin

    container, _, prefix = place.partition("/")
    given = os.environ.get
    if given("ST_AUTH"):
        login = SwiftLogin(
            auth_url=given("ST_AUTH", ""), user=given("ST_USER", ""), password=given("ST_KEY", "")
        )
    else:
        login = SwiftLogin(
            auth_url=given("OS_AUTH_URL", ""),
            user=given("OS_USERNAME", ""),
            password=given("OS_PASSWORD", ""),
            project=given("OS_PROJECT_NAME", ""),
            domain=given("OS_USER_DOMAIN_NAME", "Default"),
            region=given("OS_REGION_NAME", ""),
        )
    if not container or not login.auth_url:
        raise InvalidRequestError(
            "a Swift bank needs a container and a place to log in",
            code="bad-bank-url",
            advice="write swift:CONTAINER/PREFIX, and set OS_AUTH_URL or ST_AUTH and their kin",
        )
    return ContainerObjects(login, container, prefix, timeout_s=STORE_TIMEOUT_S)


def make_bank_directory(url: str) -> None:
    """Make the directory of a bank, where it is one and its parent is there."""
    if not re.match(r"[a-z0-9+]+:", url):
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.mkdir(url, 0o700)


def make_bank_key(keys: Path, secret: bytes | None) -> str:
    """Keep a key for encrypted banks, a new one unless one is given, and return its id.

    It is linked to its name whole and flushed. Whoever loses it loses the banks.
    """
    key = BankKey(secret or SystemEntropy().random_bytes(32))
    directory = keys / "banks"
    path = directory / f"{key.id}.key"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            fresh = directory / f"{key.id}.{SystemEntropy().random_bytes(8).hex()}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, key.secret.hex().encode() + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(fresh, path)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise DeniedError(
            f"the key {path} cannot be kept: {error.strerror}",
            code="key-denied",
            advice="check owner and mode, or name another state directory with HOLDFAST_STATE",
        ) from error
    return key.id


def read_bank_key(path: Path) -> bytes:
    """Return the secret in a key file: 64 hexadecimal digits.

    Raises:
        NotFoundError: `no-key-file`. InvalidRequestError: `bad-key`.
    """
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise NotFoundError(
            f"the key file {path} cannot be read: {error.strerror}", code="no-key-file"
        ) from error
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise InvalidRequestError(
            f"{path} does not hold 64 hexadecimal digits",
            code="bad-key",
            advice="make one with: openssl rand -hex 32",
        )
    return bytes.fromhex(text)


def load_bank_key(keys: Path, key_id: str) -> BankKey | None:
    """Return the key of an id; None for the empty one.

    Raises:
        DeniedError: `key-missing`. IntegrityError: `key-damaged`.
    """
    if not key_id:
        return None
    path = keys / "banks" / f"{key_id}.key"
    try:
        # What a bank calls its key comes from outside and must not lead to another file.
        key = BankKey(read_bank_key(path)) if _KEY_ID.fullmatch(key_id) else None
    except NotFoundError:
        key = None
    if key is None:
        raise DeniedError(
            f"the bank is encrypted with the key {key_id}, which is not on this machine",
            code="key-missing",
            advice="bring its file: holdfast checkpoints doctor BANK --key-file FILE",
        )
    if key.id != key_id:
        raise IntegrityError(
            f"{path} holds another key", code="key-damaged", advice="bring it from a backup"
        )
    return key


def _measure(store: ObjectStore) -> StorePromises:
    return measure_promises(store, SystemEntropy())


def _make_workers(pace: PaceControl, jobs: int, may_fork: bool) -> StartWorkers:
    if may_fork:
        return make_workers(pace, jobs)

    def start(
        function: Callable[[InT], OutT],
        *,
        entries: int,  # noqa: ARG001 waiting for the network takes as long for a little
        size_bytes: int,  # noqa: ARG001
    ) -> Workers[InT, OutT]:
        return ThreadWorkers(function, pace, jobs=_REMOTE_JOBS)

    return start


class RegisterHeads:
    """PlanHeads in the register file of this machine; opened for each call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, plan_id: str) -> tuple[str, str] | None:
        """See PlanHeads."""
        if not self._path.exists():
            return None
        return _parse_head(read_once(self._path, f"plans/{plan_id}"))

    def advance(self, plan_id: str, checkpoint_id: str, digest: str, task_id: str) -> None:
        """See PlanHeads."""
        value = json.dumps({"checkpoint": checkpoint_id, "manifest": digest}).encode()
        key = f"plans/{plan_id}"
        for _ in range(_ADVANCES_MAX):
            outcome = advance_once(self._path, key, value, task_id)
            if isinstance(outcome, Advanced):
                return
        raise StorageFailedError(
            f"the head of plan {plan_id} could not be advanced",
            code="head-not-advanced",
            advice="run it again: the checkpoint is in the bank already",
        )


def _parse_head(state: HeadState) -> tuple[str, str] | None:
    if state.value is None:
        return None
    try:
        told = json.loads(state.value)
        return str(told["checkpoint"]), str(told["manifest"])
    except (ValueError, KeyError, TypeError):
        return None
