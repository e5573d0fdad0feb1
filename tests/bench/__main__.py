"""Runs workloads: `python -m tests.bench [WORKLOAD ...] [--rounds N] [--scale S] ...`.

Contenders run alternately, A B C ... C B A, each on a target directory never used before, on the
same file system. Many small files are deleted only after the last workload: on ext4, making files
right after deleting as many costs several times as much.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.data import make_dataset, measure_tree
from tests.bench.measure import RunFailedError, run_script, warm_memory
from tests.bench.model import Contender, Place, Result, Round, Sample, Target, Workload
from tests.bench.report import (
    as_json,
    as_markdown,
    describe_machine,
    file_system_of,
    replace_section,
)
from tests.bench.statistics import rows_of, run_order
from tests.bench.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800.0
INODES_REST_S = 40.0
MEMORY_BYTES_MIN = 512 << 20
MEMORY_BYTES_MAX = 6 << 30
"""How much memory is touched before each run, so that none pays for pages the host took back."""
FILES_MANY = 1000


class Bench:
    """Runs one workload in one place, below a directory of its own that `close` removes."""

    _has_rested = False
    """Whether ext4 was given time since anything but this program deleted many files."""

    def __init__(self, workload: Workload, place: Path, holdfast: str, scale: float) -> None:
        self.workload = workload
        self.dataset = workload.dataset.scaled(scale)
        self.skipped: dict[str, str] = {}
        self._work = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=place))
        self._holdfast = holdfast
        self._runs_count = 0
        self._own: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        """Remove everything made."""
        shutil.rmtree(self._work)

    def is_kept(self) -> bool:
        """Say whether its files are to stay until all workloads were run."""
        return self._makes_many() and self.workload.place is Place.DISK

    def run(self, rounds_count: int) -> list[Round]:
        """Return the samples of all rounds; contenders that cannot run are in `skipped`."""
        make_dataset(self.dataset, self._work / "source")
        self._prepare()
        if self.is_kept() and not Bench._has_rested:
            # For about half a minute ext4 walks over the inodes that others deleted before.
            time.sleep(INODES_REST_S)
            Bench._has_rested = True
        rounds: list[Round] = []
        for index in range(rounds_count):
            samples: dict[str, Sample] = {}
            order = run_order([c.name for c in self.workload.contenders], index)
            for name in order:
                contender = next(c for c in self.workload.contenders if c.name == name)
                if name not in self.skipped:
                    self._run_one(contender, samples, f"round {index + 1}")
            rounds.append(samples)
        return rounds

    def _prepare(self) -> None:
        for contender in self.workload.contenders:
            reason = self._missing(contender)
            if reason:
                self._skip(contender, reason)
        if self.workload.target is Target.SHARED:
            shared = self._environment("shared")
            run_script(self.workload.setup, shared, timeout_s=TIMEOUT_S)
            self._own = {c.name: shared for c in self.workload.contenders}
        elif self.workload.target is Target.OWN:
            for index, contender in enumerate(self.workload.contenders):
                if contender.name in self.skipped:
                    continue
                own = self._own[contender.name] = self._environment(f"own-{index}")
                try:
                    run_script(contender.setup, own, timeout_s=TIMEOUT_S)
                except RunFailedError as error:
                    self._skip(contender, f"its setup failed: {error}")

    def _missing(self, contender: Contender) -> str:
        missing = [name for name in contender.programs if not shutil.which(name)]
        if missing:
            return f"{missing[0]} is not installed (make deps)"
        if "$HOLDFAST" in contender.script and not shutil.which(self._holdfast):
            return "holdfast is not installed (make .venv/.installed)"
        return ""

    def _skip(self, contender: Contender, reason: str) -> None:
        self.skipped[contender.name] = reason
        print(f"  {contender.name}: skipped: {reason}", file=sys.stderr)

    def _run_one(self, contender: Contender, samples: dict[str, Sample], label: str) -> None:
        environment = self._own.get(contender.name)
        if environment is None:
            self._runs_count += 1
            environment = self._environment(f"run-{self._runs_count}")
        os.sync()  # What the run before left dirty is not this one's to write.
        data_bytes = self.dataset.files_count * self.dataset.size_bytes
        warm_memory(min(MEMORY_BYTES_MAX, 2 * data_bytes + MEMORY_BYTES_MIN))
        try:
            sample = run_script(
                contender.script,
                environment,
                timeout_s=TIMEOUT_S,
                samples_memory=self.workload.samples_memory,
            )
            self._check(environment)
        except RunFailedError as error:
            self._skip(contender, f"failed: {error}")
            return
        samples[contender.name] = sample
        figures = f"{sample.wall_s:.3f} s, CPU {sample.cpu_s:.3f} s"
        print(f"  {label}: {contender.name}: {figures}", file=sys.stderr)
        if self.workload.target is Target.FRESH and not self._makes_many():
            shutil.rmtree(environment["DST"])

    def _makes_many(self) -> bool:
        return self.workload.makes_files and self.dataset.files_count >= FILES_MANY

    def _check(self, environment: dict[str, str]) -> None:
        """Refuse the time of a copy that did not copy."""
        if not self.workload.copies:
            return
        copied = measure_tree(Path(environment["DST"]))
        if copied != (self.dataset.files_count, self.dataset.total_bytes):
            raise RunFailedError(f"the target holds {copied[0]} files, {copied[1]} bytes")

    def _environment(self, name: str) -> dict[str, str]:
        """Return the variables of a run with a fresh target and a fresh state of holdfast."""
        directory = self._work / name
        (directory / "state").mkdir(parents=True)
        return {
            "SRC": str(self._work / "source"),
            "DST": str(directory / "target"),
            "WORK": str(self._work),
            "HOLDFAST": self._holdfast,
            "HOLDFAST_STATE": str(directory / "state"),
            "RUN": str(directory),
            "SAMPLE": str(directory / "sample"),
            "PORT": str(free_port()),
            "CORES": str(len(os.sched_getaffinity(0))),
        }


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def run_workload(
    workload: Workload, arguments: argparse.Namespace, cleaning: contextlib.ExitStack
) -> Result:
    """Run one workload and sum it up; what must not be deleted now is when `cleaning` ends."""
    directory = arguments.disk if workload.place is Place.DISK else arguments.memory
    directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(workload, directory, arguments.holdfast, arguments.scale)
    with contextlib.ExitStack() as own:
        (cleaning if bench.is_kept() else own).callback(bench.close)
        rounds = bench.run(arguments.rounds or workload.rounds_count)
    return _result(bench, directory, rounds)


def _result(bench: Bench, directory: Path, rounds: list[Round]) -> Result:
    workload = bench.workload
    return Result(
        workload=workload.name,
        title=workload.title,
        file_system=file_system_of(directory),
        files_count=bench.dataset.files_count,
        size_bytes=bench.dataset.size_bytes,
        rounds_count=len(rounds),
        compares_memory=workload.samples_memory,
        rows=rows_of(workload.contenders, rounds, compares_memory=workload.samples_memory),
        skipped=tuple((name, reason.splitlines()[0]) for name, reason in bench.skipped.items()),
    )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options, or exit with 2 and what is wrong with them."""
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("workload", nargs="*", metavar="WORKLOAD", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="runs of each contender (default 5; memory 1)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the data; not recorded")
    parser.add_argument("--disk", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--holdfast", default=str(ROOT / ".venv" / "bin" / "holdfast"))
    parser.add_argument("--json", type=Path, help="write the results there too, one a line")
    parser.add_argument("--record", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--no-record", action="store_true", help="print only")
    parsed = parser.parse_args(arguments)
    for name in parsed.workload:
        if name not in names:
            parser.error(f"no workload {name!r}; there are {', '.join(names)}")
    if not 0 < parsed.scale <= 1:
        parser.error("--scale is above 0 and at most 1")
    return parsed


def record(result: Result, section: str, document: Path) -> None:
    """Exchange the section of a result in a document."""
    document.write_text(replace_section(document.read_text(), result.workload, section))


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; return 1 if a goal was missed or a run failed."""
    arguments = parse_arguments(argv)
    with contextlib.ExitStack() as cleaning:
        return _run_all(arguments, cleaning)


def _run_all(arguments: argparse.Namespace, cleaning: contextlib.ExitStack) -> int:
    machine = describe_machine()
    all_is_well = True
    for workload in WORKLOADS:
        if arguments.workload and workload.name not in arguments.workload:
            continue
        print(workload.name, file=sys.stderr)
        result = run_workload(workload, arguments, cleaning)
        section = as_markdown(result, machine)
        print(section)
        if arguments.json:
            with open(arguments.json, "a", encoding="utf-8") as file:
                print(json.dumps(as_json(result, machine)), file=file)
        if arguments.scale == 1 and not arguments.no_record:
            record(result, section, arguments.record)
        all_is_well &= all(row.meets_goal is not False for row in result.rows)
        all_is_well &= not any("failed" in reason for _, reason in result.skipped)
    return 0 if all_is_well else 1


if __name__ == "__main__":
    sys.exit(main())
