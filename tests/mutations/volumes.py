"""Puts known defects of block engines back into ours, one at a time, and sees the tests notice.

`python -m tests.mutations.volumes` copies the sources aside, changes one place, runs the quick
simulations of volumes on the copy and prints what noticed. It ends with 1 if a defect lived.

D1 to D17 are the defects that were found in others' engines. Not here, for what they are about is
not of the engine: restoring and importing (D13, and the snapshots of D10), replicas (D9, D15, D16)
and other front ends (the rest of D17).
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
    "tests/simulation/test_volume_served.py",
    "tests/contract/test_block_file.py",
    "tests/unit/volumes/nbd/test_session.py",
    "tests/simulation/test_volume_model.py",
    "tests/simulation/test_volume_damage.py",
    "tests/simulation/test_volume_faults.py",
    "tests/simulation/test_volume_authority.py",
]


class Mutation(NamedTuple):
    """A defect: what it is, the module of holdfast.volumes, and the text that makes it."""

    name: str
    module: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "D3: an older write of a run wins",
        "engine/writing",
        "            shard.blocks[block] = entry\n",
        "            shard.blocks.setdefault(block, entry)\n",
    ),
    Mutation(
        "D8: a write that stalls has spent an LSN",
        "engine/writing",
        "                return _LOG_FULL\n            return self._slow_run(run)\n",
        "                log.last_lsn = Lsn(log.last_lsn + 1)\n                return _LOG_FULL\n"
        "            return self._slow_run(run)\n",
    ),
    Mutation(
        "D12: a log without changes is never freed",
        "engine/volume",
        "if (not self.maps.active.weight and not self.log.used) or self.log.frozen_used:",
        "if not self.maps.active.weight or self.log.frozen_used:",
    ),
    Mutation(
        "D12: the checkpoint in the superblock goes back",
        "engine/volume",
        "                checkpoint_lsn=plan.lsn,\n",
        "                checkpoint_lsn=Lsn(0),\n",
    ),
    Mutation(
        "D14: a read of a fenced copy is answered",
        "engine/volume",
        "        if not self.stale_reads:\n            self.authority.check()\n"
        "        size_bytes =",
        "        size_bytes =",
    ),
    Mutation(
        "D14: a run of reads of a fenced copy is answered",
        "engine/volume",
        "        if not self.stale_reads:\n            self.authority.check()\n"
        "        last_start =",
        "        last_start =",
    ),
    Mutation(
        "a sync claims what was appended while it ran",
        "engine/volume",
        "            self.log.durable_lsn = job.lsn\n",
        "            self.log.durable_lsn = self.log.last_lsn\n",
    ),
    Mutation(
        "a promotion is not stored",
        "engine/volume",
        "            self.write_superblock(epoch=epoch, role=role)\n",
        "",
    ),
    Mutation(
        "what a flush made durable is not noted",
        "engine/core",
        "            self.store.hint(Hint(",
        "            str(Hint(",
    ),
    Mutation(
        "what lies behind the end of the log is not asked what was durable",
        "engine/recovery",
        "            durable = max(durable, header.durable_lsn, header.checkpoint_lsn)\n",
        "            pass\n",
    ),
    Mutation(
        "a scrub leaves out whole slots that only the log describes",
        "engine/scrub",
        "            if placed is not None:\n                return _Place(",
        "            if False:\n                return _Place(",
    ),
    Mutation(
        "trimmed space is not given back to the file system",
        "engine/checkpoint",
        "            self.files.extent.punch(",
        "            print(",
    ),
    Mutation(
        "a flush that failed is tried again",
        "../stores/blocks/posix",
        "                    self._flush_error = error\n",
        "                    raise StorageFailedError('x', code='flush-failed') from error\n",
    ),
    Mutation(
        "D14: writes of a fenced copy are taken",
        "engine/core",
        "            self.check_usable()\n        self.authority.check()\n",
        "            self.check_usable()\n",
    ),
    Mutation(
        "D14: a flush with nothing to do asks nobody",
        "running",
        "done(self._refusal())",
        "done(None)",
    ),
    Mutation(
        "D17: FUA is ignored",
        "nbd/session",
        "        if self._write_flags:\n            durable",
        "        if False:\n            durable",
    ),
    Mutation(
        "D17: FUA of a trim is ignored",
        "nbd/session",
        "        if request.flags & _FUA:\n",
        "        if False:\n",
    ),
    Mutation(
        "a flush covers what its own connection wrote only",
        "nbd/session",
        "        self._answer_durable(self._volume.last_lsn, [request.cookie]",
        "        self._answer_durable(self._volume.durable_lsn, [request.cookie]",
    ),
    Mutation(
        "an opening does not flush the table it read",
        "engine/volume",
        "        self.files.slots.fdatasync()\n",
        "",
    ),
    Mutation(
        "a lost page of checks reads as zeros",
        "engine/formats",
        "    return (block + 1) * _ODD & _ZERO_MASK | 1\n",
        "    return 0\n",
    ),
    Mutation(
        "an expansion does not flush the new table",
        "engine/expansion",
        "        volume.files.slots.fdatasync()\n",
        "        pass\n",
    ),
    Mutation(
        "D1: after recovery the writer starts at the beginning of the segment",
        "engine/opening",
        "log.used, log.frozen_used, log.start_chain = end.used,",
        "log.used, log.frozen_used, log.start_chain = 0,",
    ),
    Mutation(
        "D2: the checkpoint names a change that is not in the frozen map",
        "engine/volume",
        "self._frozen_lsn = self.log.last_lsn\n            self.log.rotate()",
        "self._frozen_lsn = self.log.last_lsn\n            self.log.rotate()\n"
        "            self._frozen_lsn = self.log.last_lsn + 1",
    ),
    Mutation(
        "D3: an older change of a block wins",
        "engine/dirty",
        "        shard.blocks[block] = entry\n",
        "        shard.blocks.setdefault(block, entry)\n",
    ),
    Mutation(
        "D4: batches are not chained: old bytes replay",
        "engine/recovery",
        "        if expected != found or header",
        "        if expected[:1] + expected[2:3] != found[:1] + found[2:3] or header",
    ),
    Mutation(
        "D4, D9: no mark parts a run from what an earlier one left",
        "engine/volume",
        "self.log.append_mark(nonce)",
        "pass",
    ),
    Mutation(
        "D5: the second segment is not replayed",
        "engine/recovery",
        "found = None if is_second else self._at(",
        "found = None if is_second or True else self._at(",
    ),
    Mutation(
        "D6: a batch with a wrong digest is replayed",
        "engine/recovery",
        "if xxh3_64_intdigest(payload) != header.payload_digest:",
        "if False:",
    ),
    Mutation(
        "D6: a loss of durable changes is passed over",
        "engine/opening",
        "    if lost is not None:\n",
        "    if False:\n",
    ),
    Mutation(
        "D7: rot in the log is carried home",
        "engine/checkpoint",
        "        if found != expected:\n",
        "        if False:\n",
    ),
    Mutation(
        "D8: an LSN is spent on a write that failed",
        "engine/log",
        "        self.file.pwritev([data, *parts], self.segment_at + self.used)\n",
        "        self.last_lsn = Lsn(self.last_lsn + 1)\n"
        "        self.file.pwritev([data, *parts], self.segment_at + self.used)\n"
        "        self.last_lsn = Lsn(self.last_lsn - 1)\n",
    ),
    Mutation(
        "the log is not flushed before data goes home",
        "engine/checkpoint",
        "        if self.sync is not None:\n            self.sync.run()\n",
        "",
    ),
    Mutation(
        "the table is written before data and checks are flushed",
        "engine/checkpoint",
        "        self.files.extent.fdatasync()\n        self.pages.flush()\n"
        "        self.files.checks.fdatasync()\n",
        "        self.pages.flush()\n",
    ),
    Mutation(
        "D11: the superblock of a checkpoint is not flushed",
        "engine/checkpoint",
        "        self.files.meta.fdatasync()\n",
        "        pass\n",
    ),
    Mutation(
        "D10: slots are free before their checkpoint is published",
        "engine/volume",
        "        self.maps.frozen = None\n",
        "        self.maps.frozen = None\n        self.allocator.release(sorted(released))\n"
        "        released = set()\n",
    ),
    Mutation(
        "D10: replaced slots are reused at once",
        "engine/writing",
        "            self.maps.active.put_slot(first + index, Placed(physical, checks, lsn))\n",
        "            self.maps.active.put_slot(first + index, Placed(physical, checks, lsn))\n"
        "        self.allocator.release(self.maps.active.releases)\n"
        "        self.maps.active.releases.clear()\n",
    ),
    Mutation(
        "D12: replaced slots are never free again",
        "engine/dirty",
        "self.releases.append(old.physical)",
        "pass",
    ),
    Mutation(
        "D11: only one superblock",
        "engine/superblocks",
        "superblock.generation % 2 * SUPERBLOCK_BYTES",
        "0 * SUPERBLOCK_BYTES",
    ),
    Mutation(
        "D11: a superblock of an earlier process is not flushed before the next",
        "engine/superblocks",
        '        self.is_synced = False\n        """Not',
        '        self.is_synced = True\n        """Not',
    ),
    Mutation(
        "a sync does not flush data of placed slots",
        "engine/files",
        "        if self.has_placed:\n            self.files.extent.fdatasync()\n",
        "",
    ),
    Mutation(
        "a sync does not flush the log",
        "engine/files",
        "        self.files.log.fdatasync()\n",
        "        pass\n",
    ),
    Mutation(
        "placed data is not looked for after a crash",
        "engine/opening",
        "        if missing is None:\n            break\n",
        "        break\n",
    ),
    Mutation(
        "a failed flush is forgotten",
        "engine/volume",
        "            self.poison(error)\n        self.check_usable()\n",
        "            pass\n",
    ),
    Mutation(
        "checks at rest are not compared",
        "engine/checks",
        "            raise damaged(start + at, start + end, place)\n",
        "            continue\n",
    ),
    Mutation(
        "checks at rest of single blocks are not compared",
        "engine/reading",
        "!= check:\n            raise damaged(start, start + BLOCK_BYTES, _EXTENT)",
        "!= check and False:\n            raise damaged(start, start + BLOCK_BYTES, _EXTENT)",
    ),
    Mutation(
        "D14: the lease is not asked before a flush is acknowledged",
        "engine/volume",
        "        self._take_sync(job)\n        self.authority.check()\n",
        "        self._take_sync(job)\n",
    ),
    Mutation(
        "a trim is forgotten for slots that hold data",
        "engine/apply",
        "            if not self.is_empty(slot):\n                self.active",
        "            if self.active.touches(slot):\n                self.active",
    ),
    Mutation(
        "neighbours of a partial block are zeroed",
        "engine/writing",
        "        if start != aligned:\n            self.reader.read_block(",
        "        if start == aligned + 1:\n            self.reader.read_block(",
    ),
    Mutation(
        "pages of checks that a checkpoint wrote are not taken over",
        "engine/volume",
        "        self.checks.adopt(job.pages)\n",
        "",
    ),
    Mutation(
        "a stalled write has side effects",
        "engine/writing",
        "            if BATCH_HEADER_BYTES + end - first <= log.segment_bytes:\n",
        "            if BATCH_HEADER_BYTES + end - first <= log.segment_bytes:\n"
        "                log.used += 1\n",
    ),
    Mutation(
        "a scrub reports what changed while it read",
        "engine/scrub",
        "            self._confirm(slot)\n",
        '            self._note("extent", slot, slot, "differs")\n',
    ),
    Mutation(
        "new space of an expansion is not written",
        "engine/expansion",
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
    path = copy / "src/holdfast/volumes" / f"{mutation.module}.py"
    text = path.read_text()
    if text.count(mutation.old) != 1:
        print(f"        its text stands {text.count(mutation.old)} times in {mutation.module}")
        return ""
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
