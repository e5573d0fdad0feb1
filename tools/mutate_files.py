#!/usr/bin/env python3
"""Re-introduces known defects into a copy of the files facet, one by one, and runs its tests.

A test suite that lets one of them live has a hole. Run from the repository's root:

    .venv/bin/python tools/mutate_files.py [NAME ...]

Each defect is an edit of one text in one module; a text that is not found exactly once means that
the code moved on and the edit must follow. Exit 0: all killed. 1: some survived. 2: an edit failed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from holdfast.stores.system import SystemClock

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300

POWER = "tests/simulation/test_power_cut.py"
FAULTS = "tests/simulation/test_faults.py"
WRITER = "tests/simulation/test_concurrent_writer.py"
RESUME = "tests/simulation/test_resume.py"
TREES = "tests/property/test_files_trees.py"
RULES = "tests/unit/files/test_files_rules.py"
UNIT = "tests/unit/files"
STORES = "tests/unit/stores"


class Edit(NamedTuple):
    """Replaces a text that stands in a module exactly once."""

    module: str
    old: str
    new: str


class Mutation(NamedTuple):
    """A defect and the tests that must notice it."""

    name: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


def one(name: str, tests: Sequence[str], module: str, old: str, new: str) -> Mutation:
    """Return a mutation of a single edit."""
    return Mutation(name, tuple(tests), (Edit(module, old, new),))


TRANSFER = "files/transfer.py"
COPYING = "files/copying.py"
FLUSH = "            self._flush(staged, flush_each=flush_each)\n"

MUTATIONS = (
    one(
        "skip-flush-of-a-few-files",
        [POWER],
        TRANSFER,
        "                each.writer.flush()\n",
        "",
    ),
    one(
        "skip-flush-of-a-batch",
        [POWER],
        TRANSFER,
        "        if not flush_each or any(each.writer is None for each in staged):\n",
        "        if False:\n",
    ),
    Mutation(
        "rename-before-flush",
        (POWER,),
        (
            Edit(TRANSFER, FLUSH, "            published = self._publish(staged)\n" + FLUSH),
            Edit(TRANSFER, "return results + self._publish(staged)", "return results + published"),
        ),
    ),
    one(
        "record-before-flush",
        [POWER],
        COPYING,
        "                self.target.flush_all()\n            self._record(results)\n",
        "                pass\n            self._record(results)\n"
        "            self.target.flush_all()\n",
    ),
    one(
        "no-look-after-reading-a-large-file",
        [WRITER],
        TRANSFER,
        "            if reader.signature() != signature:\n",
        "            if False:\n",
    ),
    one(
        "no-look-after-reading-a-small-file",
        [WRITER, UNIT],
        TRANSFER,
        "if small.is_steady else None",
        "if True else None",
    ),
    one(
        "trust-a-partial-file",
        [RESUME],
        "files/content.py",
        "return writer.read_into(other, position) == len(data) and other == data",
        "return True",
    ),
    Mutation(
        "delete-before-fetching",
        (FAULTS,),
        (
            Edit(COPYING, "        withheld = self._delete()\n", ""),
            Edit(
                COPYING,
                "        self._transfer_contents()\n",
                "        withheld = self._delete()\n        self._transfer_contents()\n",
            ),
        ),
    ),
    one(
        "no-flush-of-what-is-displaced",
        [POWER],
        "files/side_directory.py",
        "while flush and place != ROOT_PATH:",
        "while False:",
    ),
    one(
        "no-flush-of-the-way-to-what-is-displaced",
        [POWER],
        "files/side_directory.py",
        "        target.flush_directory(place)\n",
        "        target.flush_directory(place)\n        break\n",
    ),
    one(
        "no-flush-of-directories",
        [POWER],
        TRANSFER,
        "flush_directories(self.target, directories | {parent_of(path) for path in placed})",
        "pass",
    ),
    one(
        "no-flush-of-the-place-of-a-whole-directory",
        [POWER],
        TRANSFER,
        "directories | {parent_of(path) for path in placed})",
        "directories)",
    ),
    one(
        "place-a-directory-with-what-failed-in-it",
        [FAULTS],
        TRANSFER,
        "            self._whole.pop(parent_of(result.path), None)\n",
        "            pass\n",
    ),
    one(
        "deletion-despite-a-hole-in-the-listing",
        [RULES],
        "files/rules.py",
        "    if plan.listing_failures:",
        "    if False:",
    ),
    one(
        "deletion-despite-failures",
        [RULES],
        "files/rules.py",
        "return not (counts.get(CopyOutcome.FAILED) or counts.get(CopyOutcome.CHANGED))",
        "return True",
    ),
    one(
        "go-on-with-a-partial-after-a-failed-flush",
        [FAULTS],
        TRANSFER,
        "            for each in staged:\n"
        "                remove_if_there(self.target, each.partial)\n"
        "            return results",
        "            return results",
    ),
    one(
        "flush-again-after-a-failed-flush",
        [FAULTS],
        TRANSFER,
        FLUSH,
        "            try:\n    " + FLUSH + "            except StorageFailedError:\n    " + FLUSH,
    ),
    one(
        "write-into-what-an-earlier-run-left",
        [RESUME],
        COPYING,
        "        self._prepare_partials()\n",
        "",
    ),
    one(
        "displace-a-directory-without-delete",
        [RULES],
        "files/rules.py",
        "if target.kind is FileKind.DIRECTORY and not delete:",
        "if False:",
    ),
    one(
        "proven-by-nothing",
        [RULES],
        "files/rules.py",
        " or not counts.get(VerifyOutcome.MATCHED):",
        ":",
    ),
    one(
        "trust-a-young-signature",
        [UNIT],
        "files/rules.py",
        "return max(signature.ctime_ns, signature.mtime_ns) > observed_ns - RACY_NS",
        "return False",
    ),
    one(
        "copy-from-a-rotten-source",
        [RESUME],
        "files/repairing.py",
        "    VerifyOutcome.DIGEST_DIFFERS,\n",
        "    VerifyOutcome.DIGEST_DIFFERS,\n    VerifyOutcome.SOURCE_DAMAGED,\n",
    ),
    one(
        "call-a-change-damage",
        [WRITER],
        "files/verifying.py",
        "if now is None or signature_of(listed) != signature_of(now) or now.ctime_ns >= since:",
        "if now is None:",
    ),
    one(
        "call-what-cannot-be-listed-damage",
        [FAULTS],
        "files/verifying.py",
        "        if self._is_unlisted(evidence.path):",
        "        if False:",
    ),
    one(
        "let-go-of-the-quarantine-before-all-is-proven",
        [FAULTS],
        "files/running.py",
        "        if not proven:\n",
        "        if False:\n",
    ),
    one(
        "repair-through-a-shared-inode",
        [UNIT],
        "files/patching.py",
        "if found.size_bytes != before.size_bytes or found.links_count > 1:",
        "if found.size_bytes != before.size_bytes:",
    ),
    one(
        "trust-the-digest-of-a-target-that-differed",
        [UNIT],
        "files/evidence.py",
        "target.signature if same else None",
        "target.signature",
    ),
    one(
        "link-names-that-have-parted",
        [WRITER],
        COPYING,
        " or (one.device, one.inode) != (other.device, other.inode):",
        ":",
    ),
    one(
        "set-the-time-of-content-that-changed",
        [WRITER],
        COPYING,
        "if item.kind is FileKind.FILE and _content_key(source) != _content_key(target):",
        "if False:",
    ),
    one(
        "list-the-side-directory",
        [UNIT],
        "files/listing.py",
        "names = [pair for pair in names if pair[0] != SIDE_DIRECTORY]",
        "pass",
    ),
    one(
        "forget-the-first-of-two-displaced-directories",
        [UNIT],
        "files/planning.py",
        "            self._displaced[path] = (number, decision.action)\n",
        "            self._displaced = {path: (number, decision.action)}\n",
    ),
    one(
        "verdict-of-a-repair-without-the-rest",
        [RESUME, TREES],
        "files/running.py",
        "    if has(*DAMAGE):\n",
        "    if False:\n",
    ),
    one(
        "no-flush-at-the-end",
        [FAULTS],
        COPYING,
        "                self._finish_directory(path)\n        self.target.flush_all()\n",
        "                self._finish_directory(path)\n",
    ),
    one(
        "let-excluded-entries-go-with-their-directory",
        [UNIT],
        "files/planning.py",
        "            self.ledger.plan.refuse(number)\n",
        "",
    ),
    one(
        "leave-directories-with-their-new-times",
        [TREES],
        COPYING,
        "        self._finish_directories()\n",
        "",
    ),
    one(
        "skip-what-a-verification-has-seen",
        [UNIT],
        "files/ledger.py",
        " AND outcome IN ('matched', 'settled') AND source_inode != 0",
        " AND source_inode != 0",
    ),
    one(
        "let-a-refused-name-lead",
        [TREES],
        "files/planning.py",
        "            if own.action is not Action.REFUSE:",
        "            if True:",
    ),
    one(
        "worker-outlives-its-parent",
        [STORES],
        "stores/processes.py",
        "    die_with_parent()\n    if os.getppid() != parent_id:\n",
        "    if os.getppid() != parent_id:\n",
    ),
    one(
        "wait-for-a-dead-worker",
        [STORES],
        "stores/processes.py",
        "            if not finished:\n                self._pace.stop()\n",
        "",
    ),
    one(
        "swallow-the-lost-writes-of-another-worker",
        [STORES],
        "stores/directories/posix.py",
        "        if process != self._flush_process:\n",
        "        if False:\n",
    ),
    one("no-debt", [STORES], "stores/pace.py", "while wait_s > 0:", "while False:"),
    one(
        "follow-a-symlink-on-the-way",
        [STORES],
        "stores/directories/posix.py",
        "_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW",
        "_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY",
    ),
    one(
        "block-on-a-fifo",
        [STORES],
        "stores/directories/posix.py",
        "_FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK",
        "_FILE_FLAGS = os.O_NOFOLLOW",
    ),
)


def main(names: list[str]) -> int:
    """Run the mutations of these names, or all; return the exit status."""
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    clock = SystemClock()
    status = 0
    for mutation in chosen:
        began_ns = clock.monotonic_ns()
        with tempfile.TemporaryDirectory() as directory:
            verdict = run_one(mutation, Path(directory))
        took_s = (clock.monotonic_ns() - began_ns) / 1e9
        print(f"{mutation.name:48} {verdict} ({took_s:.0f} s)", flush=True)
        if verdict.startswith("STALE"):
            status = 2
        elif verdict.startswith("SURVIVED"):
            status = max(status, 1)
    return status


def run_one(mutation: Mutation, directory: Path) -> str:
    """Mutate a copy of the package and say what the tests made of it."""
    source = directory / "src"
    shutil.copytree(ROOT / "src", source)
    for edit in mutation.edits:
        path = source / "holdfast" / edit.module
        text = path.read_text()
        if text.count(edit.old) != 1:
            return f"STALE: {edit.module} holds {edit.old.strip()!r} {text.count(edit.old)} times"
        path.write_text(text.replace(edit.old, edit.new))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not slow", "--timeout=120", *mutation.tests]
    environment = os.environ | {"PYTHONPATH": os.fspath(source), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "killed by a hang"
    if result.returncode == 0:
        return f"SURVIVED {' '.join(mutation.tests)}"
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED ")]
    if not failed:
        return "STALE: the tests did not run: " + result.stdout.strip().rpartition("\n")[2]
    return "killed by " + failed[0].split(" - ")[0].split("::")[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
