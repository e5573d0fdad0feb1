"""The proof format, version 1: the golden file is read for ever, and written the same.

Method: the golden file against the writer and the reader, and against what docs/formats/proof.md
tells an engineer to do with nothing but Python's standard library, openssl and coreutils: the very
commands of that page are run.
"""

import hashlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.model.tree import FileKind
from holdfast.proof.check import check_proof
from holdfast.proof.digests import Algorithm
from holdfast.proof.document import ProofWriter, read_proof
from holdfast.proof.manifest import ManifestEntry
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import Claims, VerificationClaim, VerificationMode

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "proof-v1.jsonl"
PAGE = (ROOT / "docs" / "formats" / "proof.md").read_text()
KEY = SigningKey.from_seed(bytes(range(32)))


def file_entry(path: bytes, content: bytes, mode: int = 0o644) -> ManifestEntry:
    digest = hashlib.sha256(content).digest()
    return ManifestEntry(path, FileKind.FILE, len(content), mode, None, digest)


ENTRIES = [
    ManifestEntry(b"data", FileKind.DIRECTORY, 0, 0o755, None, None),
    file_entry(b"data.txt", b"hello\n"),
    file_entry(b"data/empty", b"", mode=0o600),
    ManifestEntry(b"data/latest", FileKind.SYMLINK, 11, 0o777, b"../data.txt", None),
    file_entry(b"data/line\nbreak", b"x"),
    file_entry("data/na\u00efve".encode(), b"y"),
    file_entry(b"data/raw-\xff", b"z"),
]
CLAIMS = Claims(
    product="holdfast 0.1.0",
    source={"path": "/srv/a", "host": "alpha", "device": 2049, "inode": 131},
    target={"path": "/srv/b", "host": "beta", "device": 2049, "inode": 132},
    task_ids=("task-00112233445566778899aabbccddeeff",),
    created_at="2026-01-02T03:04:05Z",
    exclusions=("*.tmp",),
    unproven={"skipped": 1},
    verification=VerificationClaim(
        mode=VerificationMode.FULL, cache_dropped=True, verdict="equal", details={}
    ),
)


def write_golden() -> bytes:
    stream = io.BytesIO()
    writer = ProofWriter(stream, Algorithm.SHA256)
    for entry in ENTRIES:
        writer.add(entry)
    writer.finish(CLAIMS, KEY)
    return stream.getvalue()


def block_of(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(block)


def test_writer_makes_the_golden_file() -> None:
    assert write_golden() == GOLDEN.read_bytes()


def test_golden_file_is_read() -> None:
    with GOLDEN.open("rb") as stream:
        reader = read_proof(stream)
        assert list(reader) == ENTRIES
    assert reader.statement.source == CLAIMS.source
    with GOLDEN.open("rb") as stream:
        assert check_proof(stream, expected_public_key=KEY.public_key).good


def test_page_shows_the_golden_file() -> None:
    assert block_of("json") == GOLDEN.read_text()


def run_page(proof: bytes, directory: Path) -> list[subprocess.CompletedProcess[bytes]]:
    """Do what the page says with a proof; return how its script and its commands ended."""
    (directory / "proof.jsonl").write_bytes(proof)
    script = [sys.executable, "-I", "-c", block_of("python"), "proof.jsonl"]
    return [
        subprocess.run(command, cwd=directory, capture_output=True, check=False)
        for command in (script, ["sh", "-ec", block_of("sh")])
    ]


def test_commands_of_the_page_accept_the_golden_file(tmp_path: Path) -> None:
    script, commands = run_page(GOLDEN.read_bytes(), tmp_path)
    assert script.returncode == 0, script.stderr
    assert commands.returncode == 0, commands.stderr
    assert b"Signature Verified Successfully" in commands.stdout
    with GOLDEN.open("rb") as stream:
        reader = read_proof(stream)
        assert len(list(reader)) == len(ENTRIES)
    assert reader.chain_digest.encode() in commands.stdout


@pytest.mark.parametrize(
    ("before", "after", "script_good", "commands_good"),
    [
        (b'"mode":"0600"', b'"mode":"0666"', False, True),
        (b'"host":"beta"', b'"host":"zeta"', True, False),
    ],
)
def test_commands_of_the_page_find_a_change(
    before: bytes, after: bytes, script_good: bool, commands_good: bool, tmp_path: Path
) -> None:
    altered = GOLDEN.read_bytes().replace(before, after)
    script, commands = run_page(altered, tmp_path)
    assert (script.returncode == 0, commands.returncode == 0) == (script_good, commands_good)
