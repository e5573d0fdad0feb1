"""Goal: the invariants of files/migration/rules.py hold for every plan and every history.

Method: plans and histories are drawn, or spelt out where a boundary matters; decisions are compared
with what the invariant says in other words.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import (
    CapacityError,
    ConflictError,
    HoldfastError,
    IntegrityError,
    StateError,
    UnavailableError,
)
from holdfast.files.migration.model import Iteration, IterationState
from holdfast.files.migration.rules import (
    BACK_OFF_S_MAX,
    Again,
    GiveUp,
    Judgement,
    MetadataFinding,
    Succeeded,
    Tally,
    back_off_s,
    check_migration_deletions,
    decide_next,
    failed_in_a_row,
    is_curable,
    is_outage,
    judge_listed,
    judge_plans,
    may_delete_all,
    room_short,
    tally_made,
)
from holdfast.files.model import (
    FULL_FIDELITY,
    Action,
    CopyOutcome,
    CopyReport,
    DeleteLimit,
    Fidelity,
    PlanSummary,
    VerifyOutcome,
)
from holdfast.model.limits import DELETE_COUNT_FLOOR, DISK_RESERVE_BYTES
from holdfast.model.tree import FileKind, Space, Stat


def plan(
    counts: dict[Action, int] | None = None,
    *,
    fetch_bytes: int = 0,
    source_bytes: int = 0,
    source_entries: int = 10,
    target_entries: int = 10,
    failures: int = 0,
    room_bytes: int = 0,
) -> PlanSummary:
    return PlanSummary(
        counts=counts or {},
        fetch_bytes=fetch_bytes,
        room_bytes=room_bytes,
        source_entries=source_entries,
        source_bytes=max(source_bytes, fetch_bytes),
        target_entries=target_entries,
        goes_along=0,
        excluded=0,
        listing_failures=failures,
    )


def report(counts: dict[CopyOutcome, int]) -> CopyReport:
    return CopyReport(
        counts=counts,
        files_read=0,
        read_bytes=0,
        written_bytes=0,
        losses={},
        error_kinds={},
        duration_s=0.0,
        deletions_withheld=0,
    )


plans = st.lists(
    st.builds(
        lambda fetched, kept_bytes, others, failures: plan(
            {
                Action.FETCH: len(fetched),
                Action.DELETE: others,
                Action.SET_METADATA: others,
                Action.KEEP: 3,
            },
            fetch_bytes=sum(fetched),
            source_bytes=sum(fetched) + kept_bytes,
            failures=failures,
        ),
        st.lists(st.integers(0, 1 << 40), max_size=4),
        st.integers(0, 1 << 40),
        st.integers(0, 3),
        st.sampled_from((0, 0, 0, 1)),
    ),
    min_size=1,
    max_size=4,
)


@given(plans, st.integers(0, 5), st.floats(0, 1))
def test_success_is_of_whole_listings_and_of_nothing_or_little_left(
    some: list[PlanSummary], iteration: int, threshold: float
) -> None:
    """Invariants 1 and 2."""
    judged = judge_plans(some, iteration=iteration, max_iterations=3, threshold=threshold)
    wanted = sum(each.counts[Action.FETCH] for each in some)
    missing = sum(each.fetch_bytes for each in some)
    total = sum(each.source_bytes for each in some)

    if judged in (Judgement.EQUAL, Judgement.GOOD_ENOUGH):
        assert not any(each.listing_failures for each in some)
        assert not wanted or (total - missing) / total > threshold
    if threshold == 1.0:
        assert judged is not Judgement.GOOD_ENOUGH
    if judged is Judgement.DOWNLOAD:
        assert iteration < 3
        assert wanted
    if judged is Judgement.OVER:
        assert iteration >= 3
        assert wanted


def test_only_empty_entries_missing_are_fetched_whatever_the_threshold() -> None:
    """As Sidecar: with no byte missing the threshold is not asked."""
    empty = plan({Action.FETCH: 2, Action.MAKE_DIRECTORY: 1}, source_bytes=100)
    judged = judge_plans([empty], iteration=0, max_iterations=1, threshold=0.0)
    assert judged is Judgement.DOWNLOAD


def test_the_threshold_is_to_be_exceeded() -> None:
    missing = plan({Action.FETCH: 1}, fetch_bytes=10, source_bytes=100)
    for threshold, wanted in ((0.9, Judgement.DOWNLOAD), (0.89, Judgement.GOOD_ENOUGH)):
        judged = judge_plans([missing], iteration=0, max_iterations=1, threshold=threshold)
        assert judged is wanted


def passes(*states: IterationState, changed: int = 0) -> list[Iteration]:
    return [
        Iteration(iteration=number, state=state, entries_changed=changed)
        for number, state in enumerate(states)
    ]


@given(
    st.lists(
        st.sampled_from(
            (IterationState.DOWNLOAD_COMPLETE, IterationState.FAILED, IterationState.SUCCESS)
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 10),
    st.integers(0, 2),
    st.floats(0, 1),
)
def test_passes_end(states: list[IterationState], most: int, changed: int, draw: float) -> None:
    """However they go, no pass follows the one after the last that may download."""
    history = passes(*states, changed=changed)
    following = decide_next(history, most, draw)
    if states[-1] is IterationState.SUCCESS:
        assert following == Succeeded()
    elif len(history) > most:
        assert following == GiveUp()
    else:
        assert isinstance(following, Again)
        assert 0 <= following.after_s <= BACK_OFF_S_MAX


def test_a_clean_pass_is_followed_at_once_and_failures_ever_later() -> None:
    assert decide_next(passes(IterationState.DOWNLOAD_COMPLETE), 3, 0.5) == Again(after_s=0.0)
    waits = []
    for count in range(1, 12):
        history = passes(IterationState.DOWNLOAD_COMPLETE, *[IterationState.FAILED] * count)
        following = decide_next(history, 99, 1.0)
        assert isinstance(following, Again)
        waits.append(following.after_s)
        assert failed_in_a_row(history) == count
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == BACK_OFF_S_MAX


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_back_off_is_capped_and_never_nothing(failures: int, draw: float) -> None:
    assert 0.5 <= back_off_s(failures, draw) <= BACK_OFF_S_MAX


@pytest.mark.parametrize(
    ("kind", "curable"),
    [
        (UnavailableError, True),
        (IntegrityError, True),
        (ConflictError, True),
        (CapacityError, False),
        (StateError, False),
    ],
)
def test_what_no_pass_can_cure_ends_the_copy(kind: type[HoldfastError], curable: bool) -> None:
    """Invariant 3."""
    error = kind("x", code="x")
    assert is_curable(error) is curable
    assert is_outage(error) is (kind is UnavailableError)


def test_nothing_is_deleted_if_any_directory_went_ill() -> None:
    """Invariant 4."""
    fine, whole = report({CopyOutcome.SETTLED: 3, CopyOutcome.VANISHED: 1}), plan()
    assert may_delete_all([fine, fine], [whole, whole])
    for ill in (CopyOutcome.FAILED, CopyOutcome.CHANGED):
        assert not may_delete_all([fine, report({ill: 1})], [whole, whole])
    assert not may_delete_all([fine, fine], [whole, plan(failures=1)])


def test_the_limit_of_deletions_is_of_all_directories_together() -> None:
    many = plan({Action.DELETE: 600}, target_entries=700)
    names, limit = ("data/0", "data/1"), DeleteLimit()
    check_migration_deletions(names[:1], [many], limit, ())
    with pytest.raises(StateError) as caught:
        check_migration_deletions(names, [many, many], limit, ())
    assert caught.value.code == "too-many-deletions"
    assert caught.value.context["allowed"] == DELETE_COUNT_FLOOR
    check_migration_deletions(names, [many, many], DeleteLimit(count=1200), ())
    # Nothing is deleted where not all was listed, so nothing need be refused.
    check_migration_deletions(names, [many, plan({Action.DELETE: 900}, failures=1)], limit, ())


def test_a_directory_that_empties_is_refused_unless_allowed() -> None:
    emptied = plan({Action.DELETE: 1}, source_entries=0)
    with pytest.raises(StateError) as caught:
        check_migration_deletions(["hints/0"], [emptied], DeleteLimit(), ())
    assert caught.value.code == "source-empty"
    check_migration_deletions(["hints/0"], [emptied], DeleteLimit(), ["hints/0"])


def test_directories_on_one_file_system_share_its_room() -> None:
    half = plan(room_bytes=60)
    space = Space(free_bytes=DISK_RESERVE_BYTES + 100, free_files=None, block_bytes=4096)
    assert room_short([half, half], [1, 2], [space, space]) == {}
    assert room_short([half, half], [1, 1], [space, space]) == {1: 20}
    # A partial file of an earlier pass makes room, in whichever directory it lies.
    more = space._replace(free_bytes=space.free_bytes + 20)
    assert room_short([half, half], [1, 1], [space, more]) == {}


@given(st.lists(st.tuples(st.sampled_from(list(CopyOutcome)), st.integers(0, 1000))))
def test_every_outcome_is_counted_once(outcomes: list[tuple[CopyOutcome, int]]) -> None:
    files, size_bytes, failures, changed = tally_made(Iteration(iteration=0), outcomes)
    skipped = sum(outcome is CopyOutcome.SKIPPED for outcome, _ in outcomes)
    assert files + failures + changed + skipped == len(outcomes)
    settled = [size for outcome, size in outcomes if outcome is CopyOutcome.SETTLED]
    assert (files, size_bytes) == (len(settled), sum(settled))


def stat(
    kind: FileKind = FileKind.FILE, size: int = 1, mtime_ns: int = 5, mode: int = 0o644
) -> Stat:
    return Stat(kind, size, mtime_ns, 0, 1, 1, mode, 0, 0, 1, size)


SIDECAR = Fidelity(
    owner=False,
    xattrs=False,
    mode=False,
    links=False,
    mtime_unit_ns=1_000_000,
    directory_times=False,
)


@pytest.mark.parametrize(
    ("source", "target", "finding"),
    [
        (None, stat(), MetadataFinding.NOT_AT_SOURCE),
        (stat(), None, MetadataFinding.NOT_AT_DESTINATION),
        (stat(), stat(), MetadataFinding.MATCHED),
        (stat(), stat(mtime_ns=999_999, mode=0o600), MetadataFinding.MATCHED),
        (stat(), stat(mtime_ns=1_000_000), MetadataFinding.MISMATCH),
        (stat(), stat(size=2), MetadataFinding.MISMATCH),
        (stat(), stat(FileKind.DIRECTORY), MetadataFinding.MISMATCH),
        (
            stat(FileKind.DIRECTORY),
            stat(FileKind.DIRECTORY, mtime_ns=1 << 60),
            MetadataFinding.MATCHED,
        ),
        (stat(FileKind.FIFO), None, MetadataFinding.SPECIAL),
    ],
)
def test_metadata_are_compared_as_sidecar_does(
    source: Stat | None, target: Stat | None, finding: MetadataFinding
) -> None:
    assert judge_listed(source, target, SIDECAR) is finding


def test_what_a_holdfast_source_tells_beyond_that_counts_too() -> None:
    assert judge_listed(stat(), stat(mode=0o600), FULL_FIDELITY) is MetadataFinding.MISMATCH
    assert judge_listed(stat(), stat(mtime_ns=6), FULL_FIDELITY) is MetadataFinding.MISMATCH


def test_the_counters_are_sidecars() -> None:
    tally = Tally()
    for finding in MetadataFinding:
        tally.count_listed(finding)
    matched, mismatch = MetadataFinding.MATCHED, MetadataFinding.MISMATCH
    tally.count_listed(matched)
    tally.count_read(matched, VerifyOutcome.MATCHED, FileKind.FILE)
    tally.count_read(matched, VerifyOutcome.MATCHED, FileKind.DIRECTORY)
    tally.count_read(matched, VerifyOutcome.DIGEST_DIFFERS, FileKind.FILE)
    tally.count_read(mismatch, VerifyOutcome.DIGEST_DIFFERS, FileKind.FILE)
    tally.count_read(matched, VerifyOutcome.SOURCE_DAMAGED, FileKind.FILE)
    tally.count_read(matched, VerifyOutcome.FAILED, FileKind.FILE)
    tally.count_read(matched, VerifyOutcome.CHANGED, FileKind.FILE)
    tally.count_unlisted(2)
    found = tally.counters()

    assert found.files_not_found_at_source == 1
    assert found.files_not_found_at_destination == 1
    assert (found.metadata_matched, found.metadata_mismatches) == (2, 1)
    assert (found.digest_mismatches, found.digest_verification_failures) == (2, 4)
    assert found.files_matched == 1
    assert not found.is_good
    # Attributes differ although no listing showed it.
    tally.count_read(matched, VerifyOutcome.METADATA_DIFFERS, FileKind.FILE)
    assert tally.counters().metadata_mismatches == 2
    assert tally.counters().metadata_matched == 1
