"""Export: the real `sha256sum -c` accepts the text for a real tree and finds a changed file.

Method: a tree of names that shells, terminals and sha256sum itself find hard.
"""

import io
import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from holdfast.errors import IntegrityError, StateError
from holdfast.model.tree import FileKind
from holdfast.proof.digests import Algorithm
from holdfast.proof.document import ProofWriter
from holdfast.proof.export import export_sha256sum
from holdfast.proof.manifest import ManifestEntry
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import Claims, VerificationClaim, VerificationMode

NAMES = [
    b"plain",
    b"with space",
    b" leading",
    b"trailing ",
    b"*star",
    b"-",
    b"--help",
    b"#comment",
    b"new\nline",
    b"return\r",
    b"back\\slash",
    b"\\n",
    b"all\\\n\r\\",
    b"tab\t\x7f\x1b[31m",
    b"quote'\"$(id)",
    b"not-utf8-\xff\xfe",
    "ü\U0001f600".encode(),
    b"sub/-",
]


def make_proof(names: list[bytes], algorithm: Algorithm = Algorithm.SHA256) -> io.BytesIO:
    stream = io.BytesIO()
    writer = ProofWriter(stream, algorithm)
    writer.add(ManifestEntry(b" dir", FileKind.DIRECTORY, 0, 0o755, None, None))
    for name in sorted(names):
        digest = sha256(name).digest()[: 4 if algorithm is Algorithm.CRC32 else 32]
        writer.add(ManifestEntry(name, FileKind.FILE, len(name), 0o644, None, digest))
    verification = VerificationClaim(
        mode=VerificationMode.NONE, cache_dropped=False, verdict="unverified", details={}
    )
    claims = Claims(
        product="holdfast 0.1.0",
        source={},
        target={},
        task_ids=(),
        created_at="2026-01-02T03:04:05Z",
        exclusions=(),
        unproven={},
        verification=verification,
    )
    writer.finish(claims, SigningKey.from_seed(bytes(32)))
    stream.seek(0)
    return stream


def sha256sum_check(tree: Path, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sha256sum", "--check", "--strict"], cwd=tree, input=text, capture_output=True, check=False
    )


def test_sha256sum_accepts_the_tree_and_finds_a_change(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    text = io.BytesIO()
    assert export_sha256sum(make_proof(NAMES), text) == len(NAMES)

    good = sha256sum_check(tmp_path, text.getvalue())
    assert good.returncode == 0, good.stderr
    assert good.stdout.count(b": OK") == len(NAMES)

    (tmp_path / "back\\slash").write_bytes(b"changed")
    bad = sha256sum_check(tmp_path, text.getvalue())
    assert bad.returncode == 1
    assert bad.stdout.count(b": FAILED") == 1


def test_other_algorithms_are_refused_before_anything_is_written() -> None:
    text = io.BytesIO()
    with pytest.raises(StateError) as caught:
        export_sha256sum(make_proof([b"a"], Algorithm.CRC32), text)
    assert caught.value.code == "algorithm-not-sha256"
    assert "--digest sha256" in caught.value.advice
    assert text.getvalue() == b""


def test_altered_proof_is_not_exported_as_good() -> None:
    digest = sha256(b"a").hexdigest().encode()
    altered = make_proof([b"a"]).getvalue().replace(digest, b"0" * 64)
    with pytest.raises(IntegrityError) as caught:
        export_sha256sum(io.BytesIO(altered), io.BytesIO())
    assert caught.value.code == "bad-proof"
