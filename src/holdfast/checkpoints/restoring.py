"""One restore: the resources of a checkpoint, each by its plug-in, from bytes that were checked.

A directory is restored by the files facet as a copy from the tree of the checkpoint: planned before
the first byte, resumed after an interruption, verified, with a signed proof.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from blake3 import blake3

from holdfast.checkpoints.model import Checkpoint, ResourceStatus
from holdfast.checkpoints.plugins import HookContext, OperationKind
from holdfast.checkpoints.running import (
    OpenBank,
    Parameters,
    Surroundings,
    Walk,
    parameters_for,
)
from holdfast.checkpoints.tree import CheckpointTree
from holdfast.errors import (
    ConflictError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    StateError,
)
from holdfast.files.model import CacheUse, CopyOptions, CopyOutcome, Verdict
from holdfast.files.pair import Manner as FilesManner
from holdfast.files.running import Surroundings as FilesSurroundings
from holdfast.files.service import Files
from holdfast.model.tree import SIDE_DIRECTORY, display_path
from holdfast.ports import ReadableDirectory
from holdfast.proof.statement import VerificationMode
from holdfast.tasks.model import Task
from holdfast.tasks.runner import TaskContext


class TreeRestorer:
    """Copies a tree of a checkpoint to a place on this machine."""

    def __init__(self, files: FilesSurroundings, jobs: int) -> None:
        self._files = files
        self._jobs = jobs

    def __call__(
        self, tree: CheckpointTree, target: bytes, context: HookContext
    ) -> Mapping[str, Any]:
        """Restore; the parameters are `overwrite` and `verify` (full, incremental or none).

        Raises:
            ConflictError: `not-empty`: something is there, and `overwrite` was not asked for.
            IntegrityError: `not-restored`: not everything was; the report says what.
        """
        target, parameters = os.path.abspath(target), context.parameters
        identity = tree.describe()
        place = f"/checkpoint/{identity['checkpoint']}/{identity['resource']}"
        may_replace = parameters.get("overwrite") or context.is_begun
        if not may_replace and _holds_anything(target):
            raise ConflictError(
                f"{display_path(target)} is not empty",
                code="not-empty",
                advice="restore to another place, or say that what differs there may be replaced",
            )
        mode = _mode(parameters.get("verify", "incremental"))
        around = replace(self._files, open_source=_opener(tree, self._files, place))

        def listen(task: Task) -> None:
            now = task.progress
            context.on_progress(now.entries_done, now.bytes_done, now.bytes_total)

        # A store that cannot be forked is read here, by one worker.
        jobs = self._jobs if tree.is_forkable else 1
        prove = mode is not VerificationMode.NONE
        manner = FilesManner(jobs=jobs, prove=prove, listener=listen)
        options = CopyOptions(verify=mode, cache=CacheUse.KEEP)
        context.on_begin()
        task = Files(around).copy(os.fsencode(place), target, options, manner)
        return _report(task.id, task.result or {}, target)


def _short(key: str) -> str:
    """Return what tells one resource from another where many are written down."""
    return blake3(key.encode("utf-8", "surrogatepass")).hexdigest(length=16)


def _opener(
    tree: CheckpointTree, files: FilesSurroundings, place: str
) -> Callable[[bytes], ReadableDirectory]:
    def open_source(root: bytes) -> ReadableDirectory:
        return tree if root == os.fsencode(place) else files.open_source(root)

    return open_source


def _holds_anything(target: bytes) -> bool:
    try:
        return bool(set(os.listdir(target)) - {SIDE_DIRECTORY})
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConflictError(
            f"{display_path(target)} cannot be restored to: {error.strerror}",
            code="not-a-directory",
            advice="name a directory, or one that is to be made",
        ) from error


def _mode(text: object) -> VerificationMode:
    modes = {
        "full": VerificationMode.FULL,
        "incremental": VerificationMode.INCREMENTAL,
        "none": VerificationMode.NONE,
    }
    if text in modes:
        return modes[str(text)]
    raise InvalidRequestError(
        f"{text!r} is no way to verify a restore",
        code="bad-parameter",
        advice="say full, incremental or none",
    )


def _report(task_id: str, result: Mapping[str, Any], target: bytes) -> dict[str, Any]:
    copied = result["copy"]
    failed = copied["counts"].get(CopyOutcome.FAILED.value, 0)
    report = {
        "task": task_id,
        "target": display_path(target),
        "entries": copied["counts"].get(CopyOutcome.SETTLED.value, 0),
        "readBytes": copied["readBytes"],
        "verdict": result.get("verdict", "unverified"),
        "proof": (result.get("proof") or {}).get("path", ""),
        "findings": result.get("findings", []),
    }
    if failed or report["verdict"] not in (Verdict.PROVEN.value, "unverified"):
        names = ", ".join(f"{f['path']} ({f['detail']})" for f in report["findings"][:5])
        raise IntegrityError(
            f"not all of it was restored to {display_path(target)}: {names or 'see the report'}",
            code="not-restored",
            advice="the rest is there and right; heal the bank, or restore another checkpoint",
            report=report,
        )
    return report


class RestoreRun:
    """One attempt of a restore; run it once."""

    def __init__(
        self,
        around: Surroundings,
        open_bank: OpenBank,
        checkpoint: Checkpoint,
        *,
        parameters: Parameters,
        resource: str | None,
        context: TaskContext,
    ) -> None:
        self._around = around
        self._open = open_bank
        self._checkpoint = checkpoint
        self._parameters = parameters
        self._resource = resource
        self._context = context
        found = context.task.detail.get("begun")
        self._begun: list[str] = list(found) if isinstance(found, list) else []
        """Of the resources with which this attempt or one before it has begun."""

    def _on_progress(self, entries: int, size_bytes: int, total_bytes: int | None) -> None:
        self._context.progress(entries_done=entries, bytes_done=size_bytes, bytes_total=total_bytes)

    def _begin(self, key: str) -> None:
        self._begun.append(_short(key))
        self._context.tell({"begun": self._begun})
        self._context.enter("restoring")  # This writes it down.

    def run(self) -> dict[str, object]:
        """Do it and return the result of the task."""
        self._context.enter("restoring")
        signed, body = self._open.read_manifest(self._checkpoint.id)
        if self._checkpoint.manifest_digest not in ("", signed.digest):
            raise IntegrityError(
                f"the manifest of checkpoint {self._checkpoint.id} is not the one that was written",
                code="bad-manifest",
                advice="restore another checkpoint, and tell whoever keeps this bank",
            )
        records = [r for r in body.records if self._resource in (None, r.resource.key)]
        if not records:
            raise NotFoundError(
                f"checkpoint {self._checkpoint.id} has no resource {self._resource}",
                code="no-resource",
                advice="see 'holdfast checkpoints show'",
            )
        usable = [r for r in records if r.status is ResourceStatus.AVAILABLE]
        new_ids: dict[str, str] = {}
        contexts = {
            record.resource.key: HookContext(
                resource=record.resource,
                parameters=parameters_for(record.resource, self._parameters),
                info=dict(record.info),
                reader=self._open.reader(record, self._checkpoint.id),
                is_begun=_short(record.resource.key) in self._begun,
                on_begin=partial(self._begin, record.resource.key),
                new_ids=new_ids,
                on_progress=self._on_progress,
            )
            for record in usable
        }
        walk = Walk(plugins=self._around.plugins, kind=OperationKind.RESTORE, contexts=contexts)
        walk.run([record.resource for record in body.records])
        failures = walk.failures | {
            r.resource.key: f"it was not protected: {r.reason}"
            for r in records
            if r.status is ResourceStatus.ERROR
        }
        if len(failures) == len(records):
            raise StateError(
                "nothing was restored: " + "; ".join(failures.values())[:800],
                code="nothing-restored",
                advice="look at each reason, then run it again",
            )
        return {
            "checkpoint": self._checkpoint.id,
            "resources": {
                r.resource.key: "error" if r.resource.key in failures else "available"
                for r in records
            },
            "reasons": failures,
            "reports": {key: context.report for key, context in contexts.items()},
            "newIds": new_ids,
        }
