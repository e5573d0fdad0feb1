"""Goal: modules import downwards only, as the contracts in pyproject.toml say.

Method: import-linter on the product, and on a copy of it with one import upwards added.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.architecture.source import ROOT


def _lint(directory: Path) -> subprocess.CompletedProcess[str]:
    # It takes the package from the directory it runs in before the installed one.
    lint_imports = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [lint_imports, "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=directory,
        capture_output=True,
        text=True,
    )


def test_product_keeps_the_contracts() -> None:
    linted = _lint(ROOT / "src")

    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_import_upwards_breaks_the_contract(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "holdfast", tmp_path / "holdfast")
    with open(tmp_path / "holdfast" / "model" / "limits.py", "a") as file:
        file.write("\nimport holdfast.files\n")

    linted = _lint(tmp_path)

    assert linted.returncode != 0
    assert "holdfast.model is not allowed to import holdfast.files" in linted.stdout
