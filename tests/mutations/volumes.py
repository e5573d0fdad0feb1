"""Puts known defects of block engines back into ours, one at a time, and sees the tests notice.

`python -m tests.mutations.volumes` copies the sources aside, changes one place, runs the quick
simulations of volumes on the copy and prints what noticed. It ends with 1 if a defect lived.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = [
    "tests/simulation/test_volume_model.py",
    "tests/simulation/test_volume_damage.py",
    "tests/simulation/test_volume_faults.py",
    "tests/simulation/test_volume_authority.py",
]


class Mutation(NamedTuple):
    """A defect: what it is, and the text that makes it."""

    name: str
    module: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "after recovery the writer starts at the beginning of the segment",
        "opening",
        "log.used, log.frozen_used, log.start_chain = end.used,",
        "log.used, log.frozen_used, log.start_chain = 0,",
    ),
    Mutation(
        "the checkpoint names a change that is not in the frozen map",
        "volume",
        "self._frozen_lsn = self.log.last_lsn\n            self.log.rotate()",
        "self._frozen_lsn = self.log.last_lsn\n            self.log.rotate()\n"
        "            self._frozen_lsn = self.log.last_lsn + 1",
    ),
    Mutation(
        "an older change of a block wins",
        "dirty",
        "        shard.blocks[block] = entry\n",
        "        shard.blocks.setdefault(block, entry)\n",
    ),
    Mutation(
        "batches are not chained: old bytes replay",
        "recovery",
        "        if expected != found or header",
        "        if expected[:1] + expected[2:3] != found[:1] + found[2:3] or header",
    ),
    Mutation(
        "no mark parts a run from what an earlier one left",
        "volume",
        "self.log.append_mark(nonce)",
        "pass",
    ),
    Mutation(
        "the second segment is not replayed",
        "recovery",
        "found = None if is_second else self._at(",
        "found = None if is_second or True else self._at(",
    ),
    Mutation(
        "a batch with a wrong digest is replayed",
        "recovery",
        "if xxh3_64_intdigest(payload) != header.payload_digest:",
        "if False:",
    ),
    Mutation(
        "a loss of durable changes is passed over",
        "opening",
        "    if lost is not None:\n",
        "    if False:\n",
    ),
    Mutation(
        "rot in the log is carried home",
        "checkpoint",
        "if (digest(data, block * BLOCK_BYTES) & CHECK_MASK or 1) != entry & CHECK_MASK:",
        "if False:",
    ),
    Mutation(
        "an LSN is spent on a write that failed",
        "log",
        "        self.file.pwritev([data, *parts], self.segment_at + self.used)\n",
        "        self.last_lsn = Lsn(self.last_lsn + 1)\n"
        "        self.file.pwritev([data, *parts], self.segment_at + self.used)\n"
        "        self.last_lsn = Lsn(self.last_lsn - 1)\n",
    ),
    Mutation(
        "the log is not flushed before data goes home",
        "checkpoint",
        "        if self.sync is not None:\n            self.sync.run()\n",
        "",
    ),
    Mutation(
        "the table is written before data and checks are flushed",
        "checkpoint",
        "        self.files.extent.fdatasync()\n        self.pages.flush()\n"
        "        self.files.checks.fdatasync()\n",
        "        self.pages.flush()\n",
    ),
    Mutation(
        "the superblock of a checkpoint is not flushed",
        "checkpoint",
        "        self.files.meta.fdatasync()\n",
        "        pass\n",
    ),
    Mutation(
        "slots are free before their checkpoint is published",
        "volume",
        "        self.maps.frozen = None\n",
        "        self.maps.frozen = None\n        self.allocator.release(sorted(released))\n"
        "        released = set()\n",
    ),
    Mutation(
        "replaced slots are reused at once",
        "writing",
        "            self.maps.active.put_slot(first + index, Placed(physical, checks, lsn))\n",
        "            self.maps.active.put_slot(first + index, Placed(physical, checks, lsn))\n"
        "        self.allocator.release(self.maps.active.releases)\n"
        "        self.maps.active.releases.clear()\n",
    ),
    Mutation(
        "replaced slots are never free again",
        "dirty",
        "self.releases.append(old.physical)",
        "pass",
    ),
    Mutation(
        "only one superblock",
        "superblocks",
        "superblock.generation % 2 * SUPERBLOCK_BYTES",
        "0 * SUPERBLOCK_BYTES",
    ),
    Mutation(
        "a superblock of an earlier process is not flushed before the next",
        "superblocks",
        '        self.is_synced = False\n        """Not',
        '        self.is_synced = True\n        """Not',
    ),
    Mutation(
        "a sync does not flush data of placed slots",
        "files",
        "        if self.has_placed:\n            self.files.extent.fdatasync()\n",
        "",
    ),
    Mutation(
        "a sync does not flush the log",
        "files",
        "        self.files.log.fdatasync()\n",
        "        pass\n",
    ),
    Mutation(
        "placed data is not looked for after a crash",
        "opening",
        "        if missing is None:\n            break\n",
        "        break\n",
    ),
    Mutation(
        "a failed flush is forgotten",
        "volume",
        "            self.poison(error)\n        self.check_usable()\n",
        "            pass\n",
    ),
    Mutation(
        "checks at rest are not compared",
        "checks",
        "            raise damaged(start + at, start + end, place)\n",
        "            continue\n",
    ),
    Mutation(
        "checks at rest of single blocks are not compared",
        "reading",
        "!= check:\n            raise damaged(start, start + BLOCK_BYTES, _EXTENT)",
        "!= check and False:\n            raise damaged(start, start + BLOCK_BYTES, _EXTENT)",
    ),
    Mutation(
        "the lease is not asked before a flush is acknowledged",
        "volume",
        "        self._take_sync(job)\n        self.authority.check()\n",
        "        self._take_sync(job)\n",
    ),
    Mutation(
        "a trim is forgotten for slots that hold data",
        "apply",
        "            if not self.is_empty(slot):\n                self.active",
        "            if self.active.touches(slot):\n                self.active",
    ),
    Mutation(
        "neighbours of a partial block are zeroed",
        "writing",
        "        if start != aligned:\n            self.reader.read_block(",
        "        if start == aligned + 1:\n            self.reader.read_block(",
    ),
    Mutation(
        "pages of checks that a checkpoint wrote are not forgotten",
        "volume",
        "        self.checks.forget(job.pages.touched)\n",
        "",
    ),
    Mutation(
        "a stalled write has side effects",
        "writing",
        "            if BATCH_HEADER_BYTES + end - first <= log.segment_bytes:\n",
        "            if BATCH_HEADER_BYTES + end - first <= log.segment_bytes:\n"
        "                log.used += 1\n",
    ),
    Mutation(
        "a scrub reports what changed while it read",
        "scrub",
        "            self._confirm(slot)\n",
        '            self._note("extent", slot, slot, "differs")\n',
    ),
    Mutation(
        "new space of an expansion is not written",
        "expansion",
        "    table.write_sectors(",
        "    SlotTable(0, 0).write_sectors(",
    ),
]


def survives(mutation: Mutation, directory: Path) -> str:
    """Run the tests on a copy with the defect; return what noticed it, or an empty text."""
    copy = directory / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    path = copy / "src/holdfast/volumes/engine" / f"{mutation.module}.py"
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.name}: its text stands {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", "--timeout=120", *TESTS],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        return "time ran out"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else ""


def main() -> int:
    """Run all, or those whose names contain the argument."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    lived = 0
    with tempfile.TemporaryDirectory() as directory:
        for mutation in MUTATIONS:
            if wanted in mutation.name:
                noticed = survives(mutation, Path(directory))
                lived += not noticed
                print(
                    f"{'killed' if noticed else 'LIVED '}  {mutation.name}  [{noticed}]", flush=True
                )
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
