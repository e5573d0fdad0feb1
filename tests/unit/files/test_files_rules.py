"""The rules of a copy and of a verification, invariant by invariant.

Goal: each of the five invariants of files/rules.py, and every branch. Method: stats made by hand go
in, decisions are compared; pairs of kinds are gone through in full.
"""

import itertools
from collections import Counter
from typing import Any

import pytest

from holdfast.errors import InvalidRequestError, StateError
from holdfast.files.model import (
    DAMAGE,
    OPEN,
    Action,
    CopyOutcome,
    Decision,
    DeleteLimit,
    Fidelity,
    Pass,
    PlanSummary,
    Reason,
    Verdict,
    VerifyOutcome,
)
from holdfast.files.rules import (
    are_same_files,
    attempts_for,
    bytes_short,
    check_deletions,
    decide,
    decide_follower,
    decide_linked,
    decide_shared,
    deletions_allowed,
    is_racy,
    is_same_file,
    is_sampled,
    is_trusted,
    judge_digests,
    judge_metadata,
    judge_rest,
    may_delete,
    same_modes,
    sample_confidence,
    sample_fraction,
    trend_of,
    verdict_of,
)
from holdfast.model.limits import (
    ATTEMPTS_CHANGED_MAX,
    DELETE_COUNT_FLOOR,
    DISK_RESERVE_BYTES,
    FILE_BYTES_LARGE,
    RACY_NS,
)
from holdfast.model.tree import FileKind, Signature, Space, Stat, columns_of
from holdfast.proof.statement import VerificationMode

FILE = Stat(FileKind.FILE, 10, 100, 100, 7, 1, 0o644, 1, 2, 1, 4096)
DIRECTORY = FILE._replace(kind=FileKind.DIRECTORY, size_bytes=0)
SYMLINK = FILE._replace(kind=FileKind.SYMLINK, mode=0o777)
FIFO = FILE._replace(kind=FileKind.FIFO, size_bytes=0)
BY_KIND = {
    FileKind.FILE: FILE,
    FileKind.DIRECTORY: DIRECTORY,
    FileKind.SYMLINK: SYMLINK,
    FileKind.FIFO: FIFO,
    FileKind.SOCKET: FIFO._replace(kind=FileKind.SOCKET),
    FileKind.DEVICE: FIFO._replace(kind=FileKind.DEVICE),
}
MAKE = {
    FileKind.FILE: Action.FETCH,
    FileKind.DIRECTORY: Action.MAKE_DIRECTORY,
    FileKind.SYMLINK: Action.MAKE_SYMLINK,
}
SPECIAL = (FileKind.FIFO, FileKind.SOCKET, FileKind.DEVICE)
NO_OWNER = Fidelity(owner=False)
NO_SET_ID = Fidelity(set_id=False)


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(FileKind, FileKind)))
def test_every_pair_of_kinds(source: FileKind, target: FileKind, delete: bool) -> None:
    """Invariant 1: without `delete` a directory is never displaced."""
    found = decide(BY_KIND[source], BY_KIND[target], delete=delete)
    if source in SPECIAL:
        assert found == Decision(Action.SKIP, Reason.SPECIAL)
    elif source is target:
        assert found == Decision(Action.KEEP, Reason.SAME)
    elif target is FileKind.DIRECTORY and not delete:
        assert found == Decision(Action.REFUSE, Reason.WOULD_DELETE_TREE)
    else:
        directory = FileKind.DIRECTORY in (source, target)
        assert found == Decision(MAKE[source], Reason.KIND, target if directory else None)


@pytest.mark.parametrize("kind", FileKind)
def test_only_one_side(kind: FileKind) -> None:
    """Invariant 1: what only the target has stays unless deletion was asked for."""
    stat = BY_KIND[kind]
    assert decide(None, stat) == Decision(Action.KEEP, Reason.EXTRA)
    assert decide(None, stat, delete=True) == Decision(Action.DELETE, Reason.EXTRA)
    if kind not in SPECIAL:
        assert decide(stat, None) == Decision(MAKE[kind], Reason.MISSING)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (FILE, FILE._replace(size_bytes=11), Decision(Action.FETCH, Reason.SIZE)),
        (FILE, FILE._replace(mtime_ns=101), Decision(Action.FETCH, Reason.TIME)),
        (FILE, FILE._replace(mode=0o600), Decision(Action.SET_METADATA, Reason.METADATA)),
        (FILE, FILE._replace(uid=9), Decision(Action.SET_METADATA, Reason.METADATA)),
        (FILE, FILE._replace(gid=9), Decision(Action.SET_METADATA, Reason.METADATA)),
        (FILE, FILE._replace(ctime_ns=9, inode=9, device=9), Decision(Action.KEEP, Reason.SAME)),
        (
            DIRECTORY,
            DIRECTORY._replace(mtime_ns=1),
            Decision(Action.SET_METADATA, Reason.METADATA),
        ),
        (SYMLINK, SYMLINK._replace(mtime_ns=1), Decision(Action.SET_METADATA, Reason.METADATA)),
        (SYMLINK, SYMLINK._replace(mode=0), Decision(Action.KEEP, Reason.SAME)),
    ],
)
def test_same_kind(source: Stat, target: Stat, expected: Decision) -> None:
    assert decide(source, target) == expected
    assert not is_same_file(source, target) or expected == Decision(Action.KEEP, Reason.SAME)


@pytest.mark.parametrize("field", Stat._fields)
def test_same_file_is_so_in_all_that_a_copy_sets(field: str) -> None:
    values: list[Any] = list(FILE)
    values[Stat._fields.index(field)] = FileKind.SYMLINK if field == "kind" else 5
    changed = Stat(*values)
    same = field in ("ctime_ns", "inode", "device", "allocated_bytes")
    assert is_same_file(FILE, changed) is same
    assert not is_same_file(changed, changed) or field not in ("kind", "links_count")
    for pair in ((FILE, changed), (changed, FILE), (changed, changed)):
        columns = [columns_of([FILE, each, FILE]) for each in pair]
        assert are_same_files(*columns) is is_same_file(*pair)


def test_links_and_attributes_are_told_by_the_caller() -> None:
    assert decide(SYMLINK, SYMLINK, same_link=False) == Decision(
        Action.MAKE_SYMLINK, Reason.LINK_TARGET
    )
    assert decide(FILE, FILE, same_xattrs=False).action is Action.SET_METADATA


def test_what_the_target_cannot_keep_is_not_tried_again() -> None:
    other = FILE._replace(uid=9, gid=9)
    assert not same_modes(FILE, other, Fidelity())
    assert same_modes(FILE, other, NO_OWNER)
    assert decide(FILE, other, fidelity=NO_OWNER).action is Action.KEEP
    set_id = FILE._replace(mode=0o4755)
    assert same_modes(set_id, FILE._replace(mode=0o755), NO_SET_ID)
    assert not same_modes(set_id, FILE._replace(mode=0o755), Fidelity())
    assert not same_modes(FILE._replace(mode=0o1755), FILE._replace(mode=0o755), NO_SET_ID)
    assert Fidelity.after(["owner-not-kept", "xattr-not-kept", "set-id-bits-not-kept"]) == Fidelity(
        owner=False, xattrs=False, set_id=False
    )


KEPT = Decision(Action.KEEP, Reason.SAME)


@pytest.mark.parametrize("leader", [Action.KEEP, Action.SET_METADATA])
def test_follower_of_a_leader_that_stays(leader: Action) -> None:
    assert decide_follower(leader, same_inode=True, own=KEPT) == KEPT
    relinked = decide_follower(leader, same_inode=False, own=KEPT)
    assert relinked == Decision(Action.RELINK, Reason.LINK_GROUP)


def test_follower_of_a_leader_that_is_made_anew() -> None:
    """Its old inode is not the leader's new one, whatever it shares now."""
    own = Decision(Action.FETCH, Reason.KIND, FileKind.DIRECTORY)
    assert decide_follower(Action.FETCH, same_inode=True, own=own) == Decision(
        Action.RELINK, Reason.LINK_GROUP, FileKind.DIRECTORY
    )


@pytest.mark.parametrize("action", [Action.REFUSE, Action.SKIP])
def test_follower_that_is_refused_stays_refused(action: Action) -> None:
    """Invariant 1: linking would destroy what fetching may not."""
    own = Decision(action, Reason.WOULD_DELETE_TREE)
    assert decide_follower(Action.FETCH, same_inode=False, own=own) == own


def test_shared_inode_is_broken_up() -> None:
    assert decide_shared(KEPT).action is Action.FETCH
    assert decide_shared(Decision(Action.SET_METADATA, Reason.METADATA)).action is Action.FETCH
    refused = Decision(Action.REFUSE, Reason.WOULD_DELETE_TREE)
    assert decide_shared(refused) == refused


def summary(
    deletions: int,
    *,
    entries: int = 100,
    failures: int = 0,
    room_bytes: int = 0,
    goes_along: int = 0,
) -> PlanSummary:
    return PlanSummary(
        counts={Action.DELETE: deletions, Action.KEEP: 5},
        fetch_bytes=0,
        room_bytes=room_bytes,
        source_entries=5,
        source_bytes=0,
        target_entries=entries,
        goes_along=goes_along,
        excluded=0,
        listing_failures=failures,
    )


def refusal(plan: PlanSummary, limit: DeleteLimit, *, source_is_empty: bool = False) -> str:
    """Return the code of the refusal; empty where the plan may be carried out."""
    try:
        check_deletions(plan, limit, source_is_empty=source_is_empty, target_name="t")
    except StateError as error:
        return error.code
    return ""


def test_plans_that_delete_too_much_are_refused() -> None:
    """Invariants 2 and 3."""
    limit = DeleteLimit(count=10)
    assert refusal(summary(10), limit) == ""
    assert refusal(summary(11), limit) == "too-many-deletions"
    assert refusal(summary(1), limit, source_is_empty=True) == "source-empty"
    assert refusal(summary(1, failures=1), limit) == "listing-incomplete"
    assert refusal(summary(0, failures=1), limit, source_is_empty=True) == ""


@pytest.mark.parametrize(
    ("limit", "entries", "allowed"),
    [
        (DeleteLimit(), 10, DELETE_COUNT_FLOOR),
        (DeleteLimit(), 100_000, 10_000),
        (DeleteLimit(count=0), 100_000, 0),
        (DeleteLimit(count=7), 100_000, 7),
        (DeleteLimit(percent=50), 11, 5),
        (DeleteLimit(count=7, percent=50), 10, 5),
        (DeleteLimit(count=3, percent=50), 10, 3),
    ],
)
def test_deletions_allowed(limit: DeleteLimit, entries: int, allowed: int) -> None:
    """Invariant 2: with neither set the larger of the floor and the share, else the smaller."""
    assert deletions_allowed(limit, entries) == allowed


@pytest.mark.parametrize("outcome", CopyOutcome)
def test_nothing_is_deleted_after_a_failure_or_a_change(outcome: CopyOutcome) -> None:
    """Invariant 3."""
    expected = outcome not in (CopyOutcome.FAILED, CopyOutcome.CHANGED)
    assert may_delete({outcome: 1, CopyOutcome.SETTLED: 5}) is expected
    assert may_delete({outcome: 0})


def test_room() -> None:
    space = Space(free_bytes=DISK_RESERVE_BYTES + 100, free_files=None, block_bytes=4096)
    assert bytes_short(summary(0, room_bytes=100), space) == 0
    assert bytes_short(summary(0, room_bytes=101), space) == 1
    assert bytes_short(summary(0), Space(0, None, 4096)) == 0


def test_attempts() -> None:
    assert attempts_for(FILE_BYTES_LARGE - 1) == ATTEMPTS_CHANGED_MAX
    assert attempts_for(FILE_BYTES_LARGE) == 1


def test_trust_ends_with_any_part_of_the_signature() -> None:
    """Invariant 5."""
    known = Signature(1, 2, 3, 4)
    assert is_trusted(known, known)
    assert not is_trusted(None, known)
    for at in range(4):
        moved = list(known)
        moved[at] += 1
        assert not is_trusted(known, Signature(*moved))


def test_signature_that_is_too_young_is_racy() -> None:
    """Invariant 5: also where only mtime, or a time in the future, is young."""
    now_ns = 10 * RACY_NS
    old = now_ns - RACY_NS
    assert not is_racy(Signature(1, old, old, 1), now_ns)
    assert is_racy(Signature(1, old, old + 1, 1), now_ns)
    assert is_racy(Signature(1, old + 1, old, 1), now_ns)
    assert is_racy(Signature(1, 2 * now_ns, old, 1), now_ns)


def judged(
    source: Stat | None,
    target: Stat | None,
    *,
    one_way: bool = False,
    same_link: bool = True,
    same_xattrs: bool = True,
) -> VerifyOutcome | None:
    return judge_metadata(
        source,
        target,
        one_way=one_way,
        same_link=same_link,
        same_xattrs=same_xattrs,
        fidelity=Fidelity(),
    )


def test_metadata_is_judged() -> None:
    assert judged(None, FILE) is VerifyOutcome.MISSING_AT_SOURCE
    assert judged(None, FILE, one_way=True) is VerifyOutcome.EXTRA
    assert judged(FILE, None) is VerifyOutcome.MISSING_AT_TARGET
    assert judged(FIFO, None) is VerifyOutcome.SKIPPED
    assert judged(FILE, SYMLINK) is VerifyOutcome.METADATA_DIFFERS
    assert judged(FILE, FILE._replace(size_bytes=1)) is VerifyOutcome.METADATA_DIFFERS
    assert judged(FILE, FILE._replace(mode=0)) is None  # Its content is looked at first.
    assert judged(SYMLINK, SYMLINK) is VerifyOutcome.MATCHED
    assert judged(SYMLINK, SYMLINK, same_link=False) is VerifyOutcome.METADATA_DIFFERS
    assert judged(DIRECTORY, DIRECTORY) is VerifyOutcome.MATCHED
    assert judged(DIRECTORY, DIRECTORY, same_xattrs=False) is VerifyOutcome.METADATA_DIFFERS
    assert judged(DIRECTORY, DIRECTORY._replace(mode=0)) is VerifyOutcome.METADATA_DIFFERS


def test_rest_is_judged() -> None:
    for other in (FILE._replace(mtime_ns=1), FILE._replace(mode=0), FILE._replace(gid=9)):
        found = judge_rest(FILE, other, same_xattrs=True, fidelity=Fidelity())
        assert found is VerifyOutcome.METADATA_DIFFERS
    same = judge_rest(FILE, FILE, same_xattrs=True, fidelity=Fidelity())
    assert same is VerifyOutcome.MATCHED
    attributes = judge_rest(FILE, FILE, same_xattrs=False, fidelity=Fidelity())
    assert attributes is VerifyOutcome.METADATA_DIFFERS


def test_digests_are_judged() -> None:
    assert judge_digests(b"1", b"1", None) is VerifyOutcome.MATCHED
    assert judge_digests(b"1", b"1", b"2") is VerifyOutcome.MATCHED
    assert judge_digests(b"1", b"2", None) is VerifyOutcome.DIGEST_DIFFERS
    assert judge_digests(b"1", b"2", b"1") is VerifyOutcome.DIGEST_DIFFERS
    assert judge_digests(b"1", b"2", b"3") is VerifyOutcome.DIGEST_DIFFERS
    assert judge_digests(b"1", b"2", b"2") is VerifyOutcome.SOURCE_DAMAGED


@pytest.mark.parametrize("outcome", VerifyOutcome)
def test_verdict_of_one_other_outcome(outcome: VerifyOutcome) -> None:
    """Invariant 4: a single entry that is damaged or open decides."""
    counts = Counter({VerifyOutcome.MATCHED: 10, outcome: 1})
    found = verdict_of(counts, VerificationMode.FULL)
    if outcome in DAMAGE:
        assert found is Verdict.DAMAGED
    elif outcome in OPEN:
        assert found is Verdict.INCOMPLETE
    else:
        assert found is Verdict.PROVEN


def test_verdict_of_nothing_is_not_proven() -> None:
    """Invariant 4."""
    assert verdict_of({}, VerificationMode.FULL) is Verdict.INCOMPLETE
    assert verdict_of({VerifyOutcome.SKIPPED: 3}, VerificationMode.FULL) is Verdict.INCOMPLETE
    assert verdict_of({VerifyOutcome.MATCHED: 0}, VerificationMode.FULL) is Verdict.INCOMPLETE


def test_verdict_of_a_sample() -> None:
    counts = {VerifyOutcome.MATCHED: 1, VerifyOutcome.NOT_SAMPLED: 9}
    assert verdict_of(counts, VerificationMode.SAMPLE) is Verdict.SAMPLED
    counts[VerifyOutcome.DIGEST_DIFFERS] = 1
    assert verdict_of(counts, VerificationMode.SAMPLE) is Verdict.DAMAGED


def test_sample_is_the_same_for_one_seed_and_about_as_large_as_asked() -> None:
    paths = [b"%d" % number for number in range(4000)]
    drawn = {path for path in paths if is_sampled(path, 0.1, 1)}
    assert drawn == {path for path in paths if is_sampled(path, 0.1, 1)}
    assert drawn != {path for path in paths if is_sampled(path, 0.1, 2)}
    assert 300 < len(drawn) < 500
    assert drawn <= {path for path in paths if is_sampled(path, 0.2, 1)}
    assert all(is_sampled(path, 1.0, 1) for path in paths)
    assert not any(is_sampled(path, 0.0, 1) for path in paths)


def test_sample_fraction() -> None:
    assert sample_fraction(5, None, []) == 0.05
    assert sample_fraction(None, 1000, [60, 40]) == 1.0
    assert sample_fraction(None, 10, [0, 0]) == 1.0


def test_sample_never_exceeds_its_budget_but_by_a_first_bucket() -> None:
    assert sample_fraction(None, 100, [60, 40, 30, 10]) == 0.5
    assert sample_fraction(None, 99, [60, 40, 30, 10]) == 0.25
    assert sample_fraction(None, 35, [60, 40, 30, 10]) == 0.25


@pytest.mark.parametrize(
    ("percent", "size_bytes"), [(None, None), (5, 5), (0, None), (101, None), (None, 0), (-1, None)]
)
def test_sample_that_makes_no_sense(percent: float | None, size_bytes: int | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sample_fraction(percent, size_bytes, [100])
    assert caught.value.code == "bad-sample"


def test_sample_confidence_says_what_was_not_read() -> None:
    assert sample_confidence(7, 7) == "all 7 files were read"
    assert "100 of 1000 files" in sample_confidence(100, 1000)
    assert "63.40%" in sample_confidence(100, 1000)


def test_trend_predicts_from_the_share_of_time_the_source_had() -> None:
    """A pass of 10 s begun 100 s after the one before: a tenth of its work came up again."""
    before = Pass(1, 0, 1.0, 50.0, 100, 5000)
    now = Pass(2, 100_000_000_000, 2.0, 8.0, 10, 500)
    trend = trend_of(before, now)
    assert (trend.number, trend.files, trend.size_bytes) == (2, 10, 500)
    assert trend.size_bytes_before == 5000
    assert trend.final_pass_s == pytest.approx(2.0 + 8.0 * 0.1)


def test_trend_of_a_first_pass_predicts_nothing() -> None:
    assert trend_of(None, Pass(1, 0, 1.0, 50.0, 100, 5000)).final_pass_s is None


def test_trend_never_predicts_longer_than_the_pass_itself() -> None:
    before = Pass(1, 0, 1.0, 50.0, 100, 5000)
    assert trend_of(before, Pass(2, 0, 1.0, 3.0, 1, 1)).final_pass_s == 4.0


def test_what_goes_along_with_a_displaced_directory_counts_as_deleted() -> None:
    assert refusal(summary(600, goes_along=400), DeleteLimit()) == ""
    assert refusal(summary(600, goes_along=401), DeleteLimit()) == "too-many-deletions"


def test_metadata_is_not_set_through_an_inode_with_further_names() -> None:
    setting = Decision(Action.SET_METADATA, Reason.METADATA)
    made_anew = Decision(Action.FETCH, Reason.LINK_GROUP)
    assert decide_linked(setting, FILE._replace(links_count=2)) == made_anew
    assert decide_linked(setting, FILE._replace(links_count=1)) == setting
    keeping = Decision(Action.KEEP, Reason.SAME)
    assert decide_linked(keeping, FILE._replace(links_count=2)) == keeping
