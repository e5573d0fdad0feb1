"""Commands on proofs: check one offline, export one for coreutils, show this machine's key."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import report, session
from holdfast.cli.arguments import parse_jobs, parse_tree
from holdfast.cli.output import print_json
from holdfast.errors import InvalidRequestError
from holdfast.files.model import VerifyOptions
from holdfast.files.pair import Manner
from holdfast.files.proving import open_proof, replace_file
from holdfast.files.results import check_result
from holdfast.proof.check import check_proof
from holdfast.proof.export import export_sha256sum
from holdfast.proof.signature import fingerprint
from holdfast.server.local import LocalServices

app = typer.Typer(help="Check, export and explain proofs.", no_args_is_help=True)

ProofFile = Annotated[Path, typer.Argument(metavar="FILE", help="The proof.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_KEY_BYTES = 32


def read_public_key(text: str) -> bytes:
    """Return an Ed25519 public key given as 64 hexadecimal digits or as a file that holds them."""
    path = Path(text)
    if path.is_file():
        with path.open("rb") as stream:
            text = stream.read(1024).decode("ascii", "replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidRequestError(
            "that is no public key",
            code="bad-key",
            advice="give 64 hexadecimal digits, or a file of them, as 'holdfast proof key' prints",
        )
    return key


@app.command()
def check(
    file: ProofFile,
    tree: Annotated[str, typer.Argument(metavar="[TREE]", help="Tree it must agree with.")] = "",
    *,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="HEX|FILE", help="Public key that must have signed it."),
    ] = None,
    json: Json = False,
) -> None:
    """Check signature and entries of a proof, offline; with TREE, read that whole tree too.

    Exits with 3 if the proof is bad or the tree differs from it.
    """

    def command(services: LocalServices) -> int:
        public_key = read_public_key(key) if key else None
        if tree:
            with session.progress(services, json=json, quiet=False) as listener:
                manner = Manner(jobs=parse_jobs(None), prove=False, listener=listener)
                task = services.files.verify_proof(
                    file.absolute(), parse_tree(tree), VerifyOptions(), manner, public_key
                )
            lines = report.proof_tree_lines(task.result or {})
            return report.finish(task, json=json, lines=lines)
        with open_proof(file) as stream:
            found = check_result(check_proof(stream, expected_public_key=public_key))
        if json:
            print_json({"proof": found, "exit": 0 if found["good"] else 3})
        else:
            for line in report.proof_lines(found):
                print(line)
        return 0 if found["good"] else 3

    session.run(command, json=json)


@app.command()
def export(
    file: ProofFile,
    *,
    text_format: Annotated[
        str, typer.Option("--format", metavar="sha256sum", help="What to write.")
    ] = "sha256sum",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="[default: stdout]")
    ] = None,
) -> None:
    """Write the digests of a proof as text that 'sha256sum --check' reads in the tree."""

    def command(_services: LocalServices) -> int:
        if text_format != "sha256sum":
            raise InvalidRequestError(
                f"there is no export format {text_format!r}",
                code="bad-format",
                advice="use --format sha256sum",
            )
        with open_proof(file) as stream:
            if output is None:
                export_sha256sum(stream, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            else:
                with replace_file(output.absolute()) as out:
                    export_sha256sum(stream, out)
        return 0

    session.run(command, json=False)


@app.command(name="key")
def show_key(*, json: Json = False) -> None:
    """Print the public key this machine signs proofs with; give it to whoever will check them."""

    def command(services: LocalServices) -> int:
        public_key = services.load_key().public_key
        if json:
            print_json(
                {
                    "publicKey": public_key.hex(),
                    "fingerprint": fingerprint(public_key),
                    "path": os.fspath(services.state / "keys" / "ed25519.pem"),
                }
            )
        else:
            print(public_key.hex())
        return 0

    session.run(command, json=json)
