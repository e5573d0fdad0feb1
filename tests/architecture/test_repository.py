"""Goal: the repository means the same on every machine, and its documents lead somewhere.

Method: every tracked text is searched for paths and hosts of one machine, every link between
documents is followed; each search is tried on a bad example first.
"""

import re
from pathlib import Path

import pytest
from tests.architecture.source import ROOT, tracked_files

# Put together here so that this file does not find itself.
HOMES = "work|root|home|Users"
MACHINE_PATH = re.compile(rf"(?<![\w.}})\]])/(?:{HOMES})/\w|/opt/" + "pypi")
HOSTS = ["pypi" + ".org", "python" + "hosted", "npm" + "js.", "deb." + "debian", "arti" + "factory"]
INDEX_OPTION = re.compile(r"--(extra-)?index" + r"-url[ =]|--find" + "-links")
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def _texts() -> list[tuple[str, str]]:
    found = []
    for path in tracked_files():
        try:
            found.append((str(path.relative_to(ROOT)), path.read_text()))
        except UnicodeDecodeError:
            continue
    assert len(found) > 20
    return found


def _traces(text: str) -> list[str]:
    """Return what in a text belongs to one machine."""
    found = [match.group() for match in MACHINE_PATH.finditer(text)]
    found += [host for host in HOSTS if host in text]
    return found + [match.group() for match in INDEX_OPTION.finditer(text)]


def _broken_links(document: Path) -> list[str]:
    """Return the relative links of a Markdown file that lead nowhere."""
    targets = [match.group(1) for match in LINK.finditer(document.read_text())]
    relative = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    return [target for target in relative if not (document.parent / target).exists()]


def test_nothing_of_one_machine_is_tracked() -> None:
    assert {name: found for name, text in _texts() if (found := _traces(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "see /work" + "/main/x",
        "'/home" + "/me'",
        "https://pypi" + ".org/simple",
        "--index" + "-url x",
    ],
)
def test_trace_of_a_machine_is_found(text: str) -> None:
    assert _traces(text)


@pytest.mark.parametrize("text", ["data/work/x", "{tmp_path}/root/x", "/workers/x", "/rooted"])
def test_ordinary_path_is_no_trace(text: str) -> None:
    assert _traces(text) == []


def test_links_between_documents_resolve() -> None:
    documents = [path for path in tracked_files() if path.suffix == ".md"]

    assert documents
    assert {
        str(document.relative_to(ROOT)): broken
        for document in documents
        if (broken := _broken_links(document))
    } == {}


def test_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    document = tmp_path / "a.md"
    document.write_text("[a](there.md#x) [b](gone.md) [c](https://example.org) [d](#here)")

    assert _broken_links(document) == ["gone.md"]
