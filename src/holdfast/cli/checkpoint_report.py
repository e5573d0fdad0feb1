"""What the commands on checkpoints tell a person, and as JSON; from results and values."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from holdfast.cli import session
from holdfast.cli.exits import Exit
from holdfast.cli.output import format_bytes, format_count, print_json, printable
from holdfast.tasks.model import Task


def finish(
    task: "Task", code: Exit, lines: "Callable[[dict[str, Any]], list[str]]", *, json: bool
) -> int:
    """Print the end of a task in the one form or the other and return the exit code."""
    return tell_end(task.id, task.state.value, dict(task.result or {}), (code, lines), json=json)


def tell_end(
    task_id: str,
    state: str,
    result: "dict[str, Any]",
    end: "tuple[Exit, Callable[[dict[str, Any]], list[str]]]",
    *,
    json: bool,
) -> int:
    """As `finish`, of a task of any machine."""
    code, lines = end
    if json:
        print_json({"taskId": task_id, "state": state, **result, "exit": int(code)})
    else:
        for line in lines(result):
            print(printable(line))
    return int(code)


def protect_exit(result: "Mapping[str, Any]") -> Exit:
    """Return how a protect that ended well is told by the exit code."""
    return Exit.STATE if result.get("leftOutCount") or result.get("reasons") else Exit.DONE


def verify_exit(result: "Mapping[str, Any]") -> Exit:
    """The same of a verification."""
    return Exit.DAMAGED if result.get("verdict") == "fail" else Exit.DONE


def restore_exit(result: "Mapping[str, Any]") -> Exit:
    """The same of a restore."""
    return Exit.DAMAGED if result.get("reasons") else Exit.DONE


def show_plans(plans: "Iterable[Mapping[str, Any]]", *, json: bool) -> None:
    """Print plans, as plan_result has them."""
    for each in plans:
        if json:
            session.print_line(dict(each))
            continue
        print(printable(f"plan      {each['name']}  {each['id']}"))
        sealed = f", encrypted with key {each['keyId']}" if each["keyId"] else ""
        print(printable(f"bank      {each['bank']}  {each['bankId']}{sealed}"))
        for resource in each["resources"]:
            print(printable(f"          {resource['type']}#{resource['id']}"))


def show_fates(fates: "Iterable[Mapping[str, Any]]", *, dry_run: bool, json: bool) -> None:
    """Print what retention decides, as fate_result has it."""
    for each in fates:
        if json:
            session.print_line({**each, "dryRun": dry_run})
            continue
        word = "keep" if each["keep"] else "delete"
        why = "; ".join(each["reasons"])
        print(printable(f"{word:<7} {each['checkpoint']}  {each['createdAt']}  {why}"))


def show_schedules(schedules: "Iterable[Mapping[str, Any]]", *, json: bool) -> None:
    """Print schedules, as schedule_result has them."""
    for told in schedules:
        if json:
            session.print_line(dict(told))
            continue
        line = f"{told['id']}  {told['plan']}  {told['operation']}  '{told['cron']}'"
        line += f"  next {told['nextRunAt']}  last {told['lastRunAt'] or 'never'}"
        print(printable(f"{line}  {told['lastResult']}"))


def finish_doctor(task_id: str, told: "dict[str, Any]", *, json: bool) -> int:
    """Print how a bank is and return the exit code."""
    left = told["badCount"] - told.get("heal", {}).get("healedCount", 0)
    is_bad = left > 0 or told["damagedManifests"] or told["onlyInCatalogue"]
    code = Exit.DAMAGED if is_bad else Exit.DONE
    if json:
        print_json({"taskId": task_id, **told, "exit": int(code)})
    else:
        for line in doctor_lines(told):
            print(printable(line))
    return int(code)


def checkpoint_line(told: "Mapping[str, Any]") -> str:
    """Return a checkpoint, as checkpoint_result has it, as one line."""
    verified = told["verified"]
    proof = "never verified"
    if verified is not None:
        coverage = verified["coveragePercent"]
        share = f", {coverage:.0f} %" if coverage < 100 else ""
        proof = f"{verified['verdict']} ({verified['depth']}{share}) {verified['at']}"
    held = "  held" if told["protected"] else ""
    return (
        f"{told['id']}  {told['createdAt']}  {told['plan']}  "
        f"{told['state']}  {format_bytes(told['totalBytes'])}  {proof}{held}"
    )


def checkpoint_lines(told: "Mapping[str, Any]") -> "Iterator[str]":
    """Tell a checkpoint, its resources, and what was left out."""
    yield checkpoint_line(told)
    if told["error"]:
        yield f"  {told['error']}"
    for record in told.get("body", {}).get("records", ()):
        key = f"{record['resource']['type']}#{record['resource']['id']}"
        yield f"  {key}  {record['status']}  {format_bytes(record['totalBytes'])}"
        if record["reason"]:
            yield f"    {record['reason']}"
        for path, why in record["leftOut"]:
            yield f"    not in it: {path} ({why})"


def delete_lines(result: dict[str, Any]) -> list[str]:
    """Tell what was deleted."""
    return [f"deleted   {result['checkpoint']}"]


def protect_lines(result: dict[str, Any]) -> list[str]:
    """Tell what a protect did."""
    entries = format_count(result["entries"], "entry", "entries")
    lines = [
        f"protected {entries}, {format_bytes(result['totalBytes'])}; "
        f"{format_bytes(result['addedBytes'])} stored anew",
        f"          checkpoint {result['checkpoint']} of plan {result['plan']}",
    ]
    lines += [f"  failed: {key}: {why}" for key, why in result["reasons"].items()]
    if result["leftOutCount"]:
        lines.append(f"  {result['leftOutCount']} entries are not in it:")
        lines += [f"    {each['path']} ({each['why']})" for each in result["leftOut"]]
    if result.get("healed"):
        lines.append(f"  {len(result['healed'])} chunks known to be bad were stored anew")
    return lines


def verify_lines(result: dict[str, Any]) -> list[str]:
    """Tell what a verification found."""
    count = format_count(result["checkpointsCount"], "checkpoint")
    lines = [
        f"verified  {count} by {result['depth']}: {format_count(result['readChunks'], 'chunk')}, "
        f"{format_bytes(result['readBytes'])} of {format_bytes(result['totalBytes'])} read"
    ]
    for each in result["checkpoints"]:
        if each["verdict"] in ("fail", "gone"):
            lines.append(f"  {each['checkpoint']}: {each['verdict']} {each.get('reason', '')}")
        for key, why in each.get("reasons", {}).items():
            lines.append(f"    {key}: {why}")
            lines += [f"      {path}" for path in each["paths"].get(key, [])]
    lines += [
        f"  bad chunk {each['chunk']} ({each['result']}) is shared by "
        + ", ".join(f"{checkpoint} {key}" for checkpoint, key in each["sharedBy"])
        for each in result["bad"]
    ]
    words = {
        "success": "success: everything that was looked at is right",
        "partial": "partial: nothing bad was found, and not everything was looked at",
        "fail": "FAIL: see above; 'doctor --heal-from' or the next protect stores anew what is bad",
    }
    return [*lines, f"verdict   {words[result['verdict']]}"]


def restore_lines(result: dict[str, Any]) -> list[str]:
    """Tell what a restore did."""
    lines = []
    for key, status in result["resources"].items():
        report = result["reports"].get(key, {})
        where = f" to {report['target']}" if "target" in report else ""
        lines.append(f"restored  {key}{where}: {status}")
        if "verdict" in report:
            lines.append(f"          {report['entries']} entries; verdict {report['verdict']}")
        if report.get("proof"):
            lines.append(f"proof     {report['proof']}")
        if key in result["reasons"]:
            lines.append(f"          {result['reasons'][key]}")
    return lines


def doctor_lines(told: dict[str, Any]) -> list[str]:
    """Tell how a bank is."""
    lines = [
        f"bank      {told['bank']}: {format_count(told['checkpoints'], 'checkpoint')}, "
        f"{format_count(told['chunks'], 'chunk')}, {format_bytes(told['storedBytes'])}",
        "promises  " + ", ".join(f"{k}: {v}" for k, v in told["promises"].items()),
    ]
    lines += [f"  found in the bank, now in the catalogue: {each}" for each in told["onlyInBank"]]
    lines += [f"  in the catalogue, not in the bank: {each}" for each in told["onlyInCatalogue"]]
    lines += [f"  {why}" for why in told["damagedManifests"].values()]
    lines += [f"  {why}" for why in told["unknownSigners"].values()]
    if told["orphanChunks"]:
        lines.append(
            f"  {told['orphanChunks']} chunks, {format_bytes(told['orphanBytes'])}, are needed by "
            "nothing; --sweep deletes them"
        )
    for each in told["bad"]:
        sharers = ", ".join(f"{checkpoint} {key}" for checkpoint, key in each["sharedBy"])
        lines.append(f"  bad chunk {each['chunk']} is shared by {sharers or 'nothing'}")
    if told.get("heal"):
        lines.append(
            f"healed    {told['heal']['healedCount']}; not healed {told['heal']['notHealedCount']}"
        )
    if told.get("sweep"):
        swept = told["sweep"]
        lines.append(
            f"swept     {swept['deleted']} chunks, {format_bytes(swept['deletedBytes'])}"
            + (f"; put off: {swept['why']}" if swept["deferred"] else "")
        )
    return lines
