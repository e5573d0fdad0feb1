"""Writes results as Markdown, each workload between its own markers, and as JSON."""

import os
import platform
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from holdfast.cli.output import format_bytes
from tests.bench.model import Result, Row, Spread

_END = "<!-- bench end -->"


def describe_machine() -> str:
    """Return one line: processor, cores, memory, kernel, Python, date."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {format_bytes(memory_bytes)}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds `path`, such as `ext4`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mounted_kind, *_ = line.split()
        inside = f"{path.resolve()}/".startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, mounted_kind
    return kind


def as_json(result: Result, machine: str) -> dict[str, object]:
    """Return a result as an object for JSON."""
    return {"machine": machine, **asdict(result)}


def as_markdown(result: Result, machine: str) -> str:
    """Return a result as a section with a table."""
    what = "memory" if result.compares_memory else "time"
    lines = [
        f"### {result.workload}, {result.file_system}",
        "",
        f"{result.title[0].upper()}{result.title[1:]}: {result.files_count:,} x "
        f"{format_bytes(result.size_bytes)}, rounds: {result.rounds_count}. {machine}.",
        "",
        f"| | {'peak memory' if result.compares_memory else 'wall'} | lowest to highest | CPU "
        f"| {what}, holdfast = 1 | CPU, holdfast = 1 | goal |",
        "|---|---|---|---|---|---|---|",
        *(_line(row, compares_memory=result.compares_memory) for row in result.rows),
    ]
    lines += [f"\nSkipped: {name}: {reason}." for name, reason in result.skipped]
    if any(row.is_noisy for row in result.rows):
        lines.append("\nNoisy: runs of one contender differ more than twofold; not a result.")
    return "\n".join(lines) + "\n"


def _line(row: Row, *, compares_memory: bool) -> str:
    figure = row.rss_bytes if compares_memory else row.wall_s
    show = format_bytes if compares_memory else _seconds
    goal = "" if row.goal is None else f"at least {row.goal:g}"
    if row.meets_goal is not None:
        goal += ": met" if row.meets_goal else ": missed"
    name = row.name if row.against in ("", "holdfast") else f"{row.name} (to {row.against})"
    cells = [
        name,
        show(figure.median),
        f"{show(figure.low)} to {show(figure.high)}",
        _seconds(row.cpu_s.median),
        "noisy" if row.is_noisy else _ratio(row.ratio),
        "noisy" if row.is_noisy else _ratio(row.cpu_ratio),
        goal,
    ]
    return "| " + " | ".join(cells) + " |"


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.3g} s"


def _ratio(ratio: Spread | None) -> str:
    if ratio is None:
        return "1"
    return f"**{ratio.median:.2f}** ({ratio.low:.2f} to {ratio.high:.2f})"


def replace_section(text: str, name: str, section: str) -> str:
    """Return `text` with the section of that name exchanged, or added at the end."""
    begin = f"<!-- bench begin {name} -->"
    whole = f"{begin}\n{section}{_END}\n"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(_END) + r"\n?", re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: whole, text, count=1)
    return f"{text.rstrip()}\n\n{whole}"
