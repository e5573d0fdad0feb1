"""The arguments and options of the commands on trees: one name and one help text for each."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.files.model import CacheUse
from holdfast.proof.digests import Algorithm
from holdfast.proof.statement import VerificationMode


class CopyVerification(StrEnum):
    """How much is read back after a copy."""

    INCREMENTAL = VerificationMode.INCREMENTAL.value
    FULL = VerificationMode.FULL.value
    NONE = VerificationMode.NONE.value


class TreeVerification(StrEnum):
    """How much a verification reads where no sample is asked for."""

    FULL = VerificationMode.FULL.value
    INCREMENTAL = VerificationMode.INCREMENTAL.value


SourceTree = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="Tree to read; on a node, HOST:PORT/INSTANCE/TYPE/INDEX."
    ),
]
TargetTree = Annotated[str, typer.Argument(metavar="TARGET", help="Tree to make like SOURCE.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", help="Worker processes. [default: processors + 1]")
]
Rate = Annotated[
    str | None, typer.Option("--bwlimit", metavar="RATE", help="Bytes a second, such as 50M.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="As in .gitignore; may be repeated."),
]
DigestName = Annotated[
    str,
    typer.Option(
        "--digest", metavar="ALGORITHM", help=f"{', '.join(Algorithm)}.", show_default=True
    ),
]
Cache = Annotated[
    CacheUse, typer.Option("--cache", help="drop: read the target from its disk, not from memory.")
]


TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="Token for a node, in a file. [default: HOLDFAST_TOKEN]"),
]
Ca = Annotated[
    str | None,
    typer.Option("--ca", metavar="FILE", help="TLS to a node: authority, or 'system'."),
]
Certificate = Annotated[
    Path | None,
    typer.Option("--certificate", metavar="FILE", help="Shown to a node; PEM, with its key."),
]
Plan = Annotated[bool, typer.Option("--plan", help="Show what would be done; do nothing.")]
Summary = Annotated[
    bool, typer.Option("--summary", help="With --plan: the totals, not every entry.")
]
Delete = Annotated[
    bool, typer.Option("--delete", help="Remove what only TARGET has, once all else is done.")
]
MaxDelete = Annotated[
    str | None,
    typer.Option(
        "--max-delete",
        metavar="N|P%",
        help="Refuse to delete more. [default: 1000 or 10%, the larger]",
    ),
]
VerifyHow = Annotated[
    CopyVerification,
    typer.Option(
        "--verify", help="incremental: trust digests of what has not changed since; full: read all."
    ),
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Same as --verify none: no proof either.")
]
ProofOut = Annotated[
    Path | None, typer.Option("--proof", metavar="FILE", help="Where to leave the proof.")
]
JudgeTree = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Tree to judge by; with --proof, the tree.")
]
JudgedTree = Annotated[str, typer.Argument(metavar="[TARGET]", help="Tree to judge.")]
ProofIn = Annotated[
    Path | None, typer.Option("--proof", metavar="FILE", help="Judge the tree by this proof.")
]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="HEX|FILE", help="Public key that must have signed it."),
]
Mode = Annotated[
    TreeVerification,
    typer.Option("--mode", help="incremental: trust digests of what has not changed since."),
]
Sample = Annotated[
    str | None,
    typer.Option("--sample", metavar="P%|SIZE", help="Read only a sample of the files."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Which sample.")]
OneWay = Annotated[bool, typer.Option("--one-way", help="What only TARGET has is no difference.")]
WriteProof = Annotated[
    Path | None,
    typer.Option("--write-proof", metavar="FILE", help="Leave a signed proof here."),
]
Nice = Annotated[
    bool, typer.Option("--nice", help="Let all other processes go first, at CPU and disk.")
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write every finding here, as lines of JSON."),
]
