"""What a command tells a person at the end, and with which code it exits; from a task's result."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from holdfast import errors
from holdfast.cli.exits import EXITS, Exit, worst
from holdfast.cli.output import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    print_json,
    printable,
)
from holdfast.files.model import CopyOutcome, Verdict, VerifyOutcome
from holdfast.files.results import FINDINGS_MAX
from holdfast.tasks.model import Task

Result = Mapping[str, Any]

_EXIT_OF_KIND = {kind.kind: code for kind, code in EXITS.items()}
_KIND_WORDS = {
    errors.DeniedError.kind: "not permitted",
    errors.StorageFailedError.kind: "refused by the disk",
    errors.ConflictError.kind: "in the way of something else",
}
_OUTCOME_WORDS = {
    VerifyOutcome.MISSING_AT_TARGET: "missing at the target",
    VerifyOutcome.MISSING_AT_SOURCE: "only at the target",
    VerifyOutcome.METADATA_DIFFERS: "with other metadata",
    VerifyOutcome.DIGEST_DIFFERS: "with other content",
    VerifyOutcome.SOURCE_DAMAGED: "damaged at the source",
    VerifyOutcome.CHANGED: "changed meanwhile",
    VerifyOutcome.FAILED: "unreadable",
    VerifyOutcome.EXTRA: "only at the target, as allowed",
    VerifyOutcome.SKIPPED: "of a kind that is not copied",
    VerifyOutcome.NOT_SAMPLED: "not in the sample",
}


def finish(task: Task, *, json: bool, lines: Iterable[str]) -> int:
    """Print the end of a task in the one form or the other and return the exit code."""
    result = cast(Result, task.result or {})
    code = exit_of(result)
    if json:
        print_json({"taskId": task.id, "state": task.state.value, **result, "exit": int(code)})
    else:
        for line in lines:
            print(line)
    return int(code)


def exit_of(result: Result) -> Exit:
    """Return the exit code of what a task did: damage, then the worst error, then what is open."""
    codes = [Exit.DONE]
    if result.get("verdict") == Verdict.DAMAGED.value:
        codes.append(Exit.DAMAGED)
    if result.get("verdict") == Verdict.INCOMPLETE.value:
        codes.append(Exit.STATE)
    for part in ("copy", "verify"):
        report = result.get(part) or {}
        codes += [_EXIT_OF_KIND.get(kind, Exit.BUG) for kind in report.get("errorKinds", {})]
        if report.get("counts", {}).get(CopyOutcome.CHANGED.value):
            codes.append(Exit.STATE)
    if (result.get("plan") or {}).get("listingFailures") and worst(codes) is Exit.DONE:
        codes.append(Exit.DENIED)
    return worst(codes)


def plan_lines(result: Result) -> Iterable[str]:
    """Tell what a copy would do."""
    yield from finding_lines(result)
    plan = result["plan"]
    counts = {action: n for action, n in plan["counts"].items() if n and action != "keep"}
    told = ", ".join(f"{n:,} to {action}" for action, n in counts.items()) or "nothing to do"
    kept = format_count(plan["counts"].get("keep", 0), "entry", "entries")
    yield f"plan      {told}; {format_bytes(plan['fetchBytes'])} to read; {kept} right already"


def copy_lines(result: Result) -> Iterable[str]:
    """Tell what a copy did."""
    plan, copy = result["plan"], result["copy"]
    counts = copy["counts"]
    settled = counts.get(CopyOutcome.SETTLED.value, 0)
    kept = plan["counts"].get("keep", 0)
    yield (
        f"copied    {format_count(settled, 'entry', 'entries')}, "
        f"{format_bytes(copy['readBytes'])} in {format_duration(copy['durationS'])}"
        + _rate(copy["readBytes"], copy["durationS"])
        + (f"; {format_count(kept, 'entry was', 'entries were')} right already" if kept else "")
    )
    open_ends = {
        CopyOutcome.CHANGED: "changed while being read; run again to get them",
        CopyOutcome.VANISHED: "left the source meanwhile",
        CopyOutcome.SKIPPED: "cannot be copied (FIFO, socket or device) or hold what stays",
        CopyOutcome.FAILED: "failed",
    }
    for outcome, words in open_ends.items():
        if counts.get(outcome.value):
            yield f"          {format_count(counts[outcome.value], 'entry', 'entries')} {words}"
    for loss, number in sorted(copy["losses"].items()):
        yield f"          {loss}: {format_count(number, 'entry', 'entries')}"
    if copy["deletionsWithheld"]:
        yield f"          {copy['deletionsWithheld']} deletions withheld because of the above"
    if result["pass"]["number"] > 1:
        yield _trend_line(result["pass"])
    if "verify" in result:
        yield from verify_lines(result)
    else:
        yield from finding_lines(result)
        yield "verified  not at all (--no-verify); there is no proof"
    if "quarantine" in result:
        yield f"kept      what was replaced or deleted, until a proven copy: {result['quarantine']}"


def _trend_line(trend: Mapping[str, Any]) -> str:
    before = trend["sizeBytesBefore"]
    line = f"pass      {trend['number']}; {format_bytes(before)} the time before"
    if trend["finalPassS"] is not None:
        final = format_duration(trend["finalPassS"])
        line += f"; with the source stopped now, one more would take about {final}"
    return line


def verify_lines(result: Result) -> Iterable[str]:
    """Tell what a verification found."""
    report = result["verify"]
    counts = report["counts"]
    source = "from the disk" if report["cacheDropped"] else "page cache allowed"
    yield (
        f"verified  {format_count(report['entries'], 'entry', 'entries')}, "
        f"{format_bytes(report['hashedBytes'])} read ({source}) "
        f"in {format_duration(report['durationS'])}"
        + _rate(report["hashedBytes"], report["durationS"])
    )
    if report["trusted"]:
        yield (
            f"          {format_count(report['trusted'], 'file')} unchanged since an earlier "
            "digest, not read again"
        )
    for outcome, words in _OUTCOME_WORDS.items():
        if counts.get(outcome.value):
            yield f"          {format_count(counts[outcome.value], 'entry', 'entries')} {words}"
    if report["confidence"]:
        yield f"          {report['confidence']}"
    yield from finding_lines(result)
    yield from verdict_lines(result)


def _skipped(result: Result) -> int:
    report = result.get("verify") or {}
    skipped = report.get("counts", {}).get(VerifyOutcome.SKIPPED.value, 0)
    assert isinstance(skipped, int)
    return skipped


def verdict_lines(result: Result) -> Iterable[str]:
    """Tell the verdict and where the proof is."""
    words = {
        Verdict.PROVEN: "proven: every entry was examined and is equal"
        + (", but for those of kinds that are not copied" if _skipped(result) else ""),
        Verdict.SAMPLED: "no damage in the sample, which is not a proof of the rest",
        Verdict.DAMAGED: "DAMAGED: see above; 'holdfast repair SOURCE TARGET' mends it",
        Verdict.INCOMPLETE: "not proven: not everything could be examined, see above",
    }
    yield f"verdict   {words[Verdict(result['verdict'])]}"
    proof = result.get("proof")
    if proof and "path" in proof:
        yield f"proof     {proof['path']}"
        yield f"          root {proof['algorithm']} {proof['rootDigest']}"


def repair_lines(result: Result) -> Iterable[str]:
    """Tell what a repair did."""
    copy = result["copy"]
    settled = copy["counts"].get(CopyOutcome.SETTLED.value, 0)
    yield (
        f"repaired  {format_count(settled, 'entry', 'entries')}, "
        f"{format_bytes(copy['writtenBytes'])} written in {format_duration(copy['durationS'])}"
    )
    yield from _listed(result["repaired"], "          ")
    yield from finding_lines(result)
    if result["verdict"] == Verdict.PROVEN.value:
        yield "verdict   proven: what was damaged is equal again"
    else:
        yield from verdict_lines(result)


def finding_lines(result: Result) -> Iterable[str]:
    """Name what is not as it should be."""
    findings = result.get("findings") or []
    yield from _listed(findings, "  ")
    if len(findings) == FINDINGS_MAX:
        yield "  ... and perhaps more: --report FILE writes them all"


def _listed(findings: list[Mapping[str, str]], indent: str) -> Iterable[str]:
    for finding in findings:
        detail = f" ({finding['detail']})" if finding["detail"] else ""
        yield printable(f"{indent}{finding['outcome']}: {finding['path']}{detail}")


def proof_lines(check: Result) -> Iterable[str]:
    """Tell what the check of a proof found."""
    marks = {
        "signatureGood": "signature",
        "keyGood": "signer",
        "rootGood": "entries",
        "countsGood": "counts",
    }
    wrong = [words for member, words in marks.items() if not check[member]]
    state = "good" if not wrong else "BAD: " + ", ".join(wrong)
    trees = f"{check['source'].get('path')} -> {check['target'].get('path')}"
    entries = format_count(check["entries"], "entry", "entries")
    yield printable(f"proof     {state}; {entries}, made {check['createdAt']} of {trees}")
    yield f"          root {check['algorithm']} {check['rootDigest']}"
    yield (
        f"          signed by {check['fingerprint']}; verified then: {check['mode']}, "
        + printable(str(check["verdict"]))
    )
    for outcome, count in sorted(check["unproven"].items()):
        yield printable(f"          {count} entries not in it: {outcome}")


def _rate(size_bytes: float, duration_s: float) -> str:
    return f", {format_rate(size_bytes / duration_s)}" if duration_s > 0 and size_bytes else ""


def proof_tree_lines(result: Result) -> Iterable[str]:
    """Tell what the check of a tree by its proof found."""
    yield from proof_lines(result["proof"])
    if "verify" in result:
        yield from verify_lines(result)
    else:
        yield "verdict   DAMAGED: the proof itself is bad, so the tree was not read"
