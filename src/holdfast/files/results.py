"""Results of tasks as JSON objects: what the journal keeps, `--json` prints, a terminal shows."""

import json
from base64 import b64encode
from enum import Enum

from holdfast.files.ledger import Ledger
from holdfast.files.model import Finding, VerifyReport
from holdfast.model.tree import display_path
from holdfast.proof.check import ProofCheck

FINDINGS_MAX = 25
"""Findings told in a result; all of them are in the ledger."""
_PATH_CHARACTERS_MAX = 1000
_DETAIL_CHARACTERS_MAX = 500


def verify_result(
    report: VerifyReport, ledger: Ledger, listing: list[Finding]
) -> dict[str, object]:
    """Return a verification as a JSON object."""
    findings = listing + ledger.entries.findings(FINDINGS_MAX)
    return {
        "verify": plain(report),
        "verdict": report.verdict.value,
        "findings": findings_result(findings),
    }


def check_result(check: ProofCheck) -> dict[str, object]:
    """Return the check of a proof as plain JSON."""
    statement = check.statement
    return {
        "good": check.good,
        "signatureGood": check.signature_good,
        "keyGood": check.key_good,
        "rootGood": check.root_good,
        "countsGood": check.counts_good,
        "fingerprint": check.fingerprint,
        "entries": check.entries_count,
        "rootDigest": statement.root_digest.hex(),
        "algorithm": statement.algorithm.value,
        "createdAt": statement.created_at,
        "source": dict(statement.source),
        "target": dict(statement.target),
        "verdict": statement.verification.verdict,
        "mode": statement.verification.mode.value,
        "unproven": dict(statement.unproven),
    }


def findings_result(findings: list[Finding]) -> list[dict[str, str]]:
    """Return the first findings as JSON objects, cut so that a result stays small."""
    return [
        {
            "path": display_path(path)[:_PATH_CHARACTERS_MAX],
            "outcome": str(outcome),
            "detail": detail[:_DETAIL_CHARACTERS_MAX],
        }
        for path, outcome, detail in findings[:FINDINGS_MAX]
    ]


def finding_line(finding: Finding) -> bytes:
    """Return a finding whole, as a line of JSON; a name outside UTF-8 also in `pathBase64`."""
    path, outcome, detail = finding
    line = {"path": display_path(path), "outcome": str(outcome), "detail": detail}
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        line["pathBase64"] = b64encode(path).decode("ascii")
    return json.dumps(line).encode("ascii") + b"\n"


def plain_object(value: object) -> dict[str, object]:
    """Return a dataclass as a JSON object."""
    names = getattr(value, "__dataclass_fields__", {})
    return {camel_case(name): plain(getattr(value, name)) for name in names}


def plain(value: object) -> object:
    """Return values as JSON: dataclasses as objects with camelCase members, enums as text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(plain(name)): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return plain_object(value) if hasattr(value, "__dataclass_fields__") else value


def camel_case(name: str) -> str:
    """Spell a name of ours as a member of JSON."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
