"""Goal: Sidecar's patterns mean what Java's PathMatcher reads in them, and no more.

Method: a table of globs from Java's documentation and its corners; drawn paths against a second
way of saying what `*`, `?` and `**` mean.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.files.listing import Exclusions
from holdfast.files.patterns import compile_pattern, keep_pattern

TABLE = [
    ("/d/*.db", "/d/a.db", True),
    ("/d/*.db", "/d/.db", True),
    ("/d/*.db", "/d/x/a.db", False),
    ("/d/**.db", "/d/x/y/a.db", True),
    ("**/a", "/a", True),
    ("**/a", "/x/a", True),
    ("**a", "a", True),
    ("/d/?", "/d/x", True),
    ("/d/?", "/d/", False),
    ("/d?x", "/d/x", False),
    ("/d/[ab]c", "/d/bc", True),
    ("/d/[!ab]c", "/d/bc", False),
    ("/d/[!ab]c", "/d/cc", True),
    ("/d[!a]c", "/d/c", False),
    ("/d/[a-c]", "/d/b", True),
    ("/d/[a-c]", "/d/-", False),
    ("/d/[a-]", "/d/-", True),
    ("/d/[*?]", "/d/*", True),
    ("/d/[*?]", "/d/x", False),
    ("/d/{a,bc}", "/d/bc", True),
    ("/d/{a,bc}", "/d/b", False),
    ("/d/{a*,b?}x", "/d/aaax", True),
    ("/d/a,b", "/d/a,b", True),
    ("/d/}", "/d/}", True),
    (r"/d/\*", "/d/*", True),
    (r"/d/\*", "/d/x", False),
    ("/d/a.b", "/d/aXb", False),
    ("/d/(a|b)+", "/d/a", False),
    ("/d/*", "/d/new\nline", True),
    ("/data/*/*/snapshots", "/data/ks/t-1/snapshots", True),
    ("/data/*/*/snapshots", "/data/ks/t-1/snapshots/x", False),
]


@pytest.mark.parametrize(("glob", "path", "wanted"), TABLE)
def test_globs(glob: str, path: str, wanted: bool) -> None:
    assert bool(compile_pattern(f"files:glob:{glob}", "").matches(path)) is wanted


@pytest.mark.parametrize("glob", ["/d/[", "/d/[]", "/d/[a/b]", "/d/{a,{b}}", "/d/{a", "/d/\\"])
def test_what_java_refuses_is_refused(glob: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        keep_pattern(f"glob:{glob}", for_directories=False)
    assert caught.value.code == "bad-pattern"


@pytest.mark.parametrize("text", ["*.db", "blob:x", "", "GLOB:x"])
def test_a_pattern_without_syntax_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        keep_pattern(text, for_directories=True)


@pytest.mark.parametrize("expression", ["(", r"\p{Alpha}+", "a{99999999999}"])
def test_a_regex_that_cannot_be_used_is_refused(expression: str) -> None:
    with pytest.raises(InvalidRequestError):
        keep_pattern(f"regex:{expression}", for_directories=False)


def test_a_regex_must_match_the_whole_path() -> None:
    pattern = compile_pattern("files:regex:.*/(?<name>a+)\\.tmp", "")
    assert pattern.matches("/d/aa.tmp")
    assert not pattern.matches("/d/aa.tmpx")


names = st.text(st.sampled_from("ab.*?[]{}\\,-! \n"), min_size=1, max_size=6)


@given(st.lists(names, min_size=1, max_size=4), st.lists(names, min_size=1, max_size=4))
def test_the_root_is_taken_literally(root: list[str], path: list[str]) -> None:
    """Whatever characters the path of a root has, `${ROOT}` is just that path."""
    where = "/" + "/".join(root)
    whole = where + "/" + "/".join(path)
    for kept in ("files:glob:${ROOT}/**", "files:regex:${ROOT}/.*"):
        pattern = compile_pattern(kept, where)
        assert pattern.matches(whole)
        assert not pattern.matches("/other" + whole)


@given(st.text(st.sampled_from("ab*?/"), max_size=8), st.text(st.sampled_from("ab/"), max_size=8))
def test_stars_and_marks(glob: str, path: str) -> None:
    """Against a matcher that tries every way."""
    assert bool(compile_pattern(f"files:glob:{glob}", "").matches(path)) is slowly(glob, path)


def slowly(glob: str, path: str) -> bool:
    if not glob:
        return not path
    if glob.startswith("**"):
        return any(slowly(glob[2:], path[at:]) for at in range(len(path) + 1))
    if glob[0] == "*":
        reach = path.find("/") if "/" in path else len(path)
        return any(slowly(glob[1:], path[at:]) for at in range(reach + 1))
    if not path or (glob[0] == "?" and path[0] == "/"):
        return False
    return (glob[0] == "?" or glob[0] == path[0]) and slowly(glob[1:], path[1:])


def test_both_kinds_of_pattern_hold_together() -> None:
    exclusions = Exclusions(
        ("*.log", "directories:glob:${ROOT}/*/snapshots", "files:regex:.*/t[0-9]+"), b"/data"
    )
    assert exclusions.match(b"x/a.log", is_directory=False)
    assert exclusions.match(b"ks/snapshots", is_directory=True)
    assert not exclusions.match(b"ks/snapshots", is_directory=False)
    assert not exclusions.match(b"ks/snapshots/a", is_directory=False), "only listing stops above"
    assert exclusions.covers(b"ks/snapshots/a", is_directory=False)
    assert exclusions.match(b"ks/t12", is_directory=False)
    assert not exclusions.covers(b"ks/other/a", is_directory=False)
    assert not exclusions.covers(b"", is_directory=True)


def test_a_name_outside_utf_8_is_matched_too() -> None:
    assert Exclusions(("files:glob:**/*.tmp",)).match(b"d/\xff.tmp", is_directory=False)
