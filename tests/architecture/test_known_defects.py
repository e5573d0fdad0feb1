"""Goal: every known defect can still be put back, so that `make mutations` tries what it says.

Method: each text that an edit replaces stands exactly once where the edit looks for it.
"""

import pytest
from tests.architecture.source import ROOT
from tests.mutations import volumes
from tools import mutate_files

EDITS = [
    *(
        (mutation.name, f"{edit.module}", edit.old)
        for mutation in mutate_files.MUTATIONS
        for edit in mutation.edits
    ),
    *(
        (mutation.name, f"volumes/{mutation.module}.py", mutation.old)
        for mutation in volumes.MUTATIONS
    ),
]


@pytest.mark.parametrize(("name", "module", "old"), EDITS)
def test_defect_can_be_put_back(name: str, module: str, old: str) -> None:
    assert (ROOT / "src" / "holdfast" / module).read_text().count(old) == 1, (name, module)
