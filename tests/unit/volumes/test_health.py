"""Goal: the word tells what is the worst that is true, and the number never less than was lost.

Method: statuses made by hand and by hypothesis; invariants of volumes/health.py, and 50 of the
volumes' specification: healthy only if a flush asked for now could be answered.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.ids import VolumeName
from holdfast.volumes.control import DamagedRange, MetricsSnapshot, ScrubProgress, VolumeStatus
from holdfast.volumes.counters import BUCKETS_COUNT, Counters, OperationCounter
from holdfast.volumes.health import HealthWord, health_of
from holdfast.volumes.metrics import exposition
from holdfast.volumes.model import VolumeState

GOOD = VolumeStatus(
    name="db",
    volume_id="00",
    pid=1,
    state=VolumeState.HEALTHY,
    reason="",
    size_bytes=1 << 30,
    prepared_size_bytes=0,
    used_bytes=1 << 20,
    block_bytes=4096,
    role="primary",
    epoch=0,
    may_acknowledge=True,
    last_lsn=7,
    durable_lsn=5,
    checkpoint_lsn=3,
    log_size_bytes=1000,
    log_used_bytes=100,
    dirty_bytes=8192,
    checkpoint_age_ns=1_500_000_000,
    is_stalled=False,
    connections_count=2,
    listening=("nbd://127.0.0.1:1/db",),
)
ROT = ScrubProgress(
    state="done",
    damaged_bytes=4096,
    damage=(DamagedRange(place="extent", start=0, end=4096, what="check"),),
)


@pytest.mark.parametrize(
    ("changes", "word", "lost_bytes"),
    [
        ({}, HealthWord.HEALTHY, 0),
        ({"log_used_bytes": 899}, HealthWord.HEALTHY, 0),
        ({"log_used_bytes": 900}, HealthWord.STRAINED, 0),
        ({"is_stalled": True}, HealthWord.STRAINED, 0),
        ({"may_acknowledge": False, "is_stalled": True}, HealthWord.FENCED, 0),
        ({"scrub": ROT, "may_acknowledge": False}, HealthWord.DAMAGED, 4096),
        ({"state": "damaged", "reason": "log"}, HealthWord.DAMAGED, 0),
        ({"state": "poisoned", "reason": "flush failed", "scrub": ROT}, HealthWord.UNSAFE, 8192),
    ],
)
def test_first_rule_that_holds_gives_the_word(
    changes: dict[str, object], word: HealthWord, lost_bytes: int
) -> None:
    """Invariant 1."""
    health = health_of(replace(GOOD, **changes))  # type: ignore[arg-type]

    assert (health.word, health.lost_bytes) == (word, lost_bytes)
    assert bool(health.reason) == (word is not HealthWord.HEALTHY)


@given(
    st.sampled_from(list(VolumeState)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
    st.sampled_from([ScrubProgress(), ROT]),
)
def test_healthy_means_that_a_flush_can_be_answered(
    state: VolumeState, may: bool, stalled: bool, used: int, scrub: ScrubProgress
) -> None:
    """Invariants 2 and 3."""
    status = replace(
        GOOD,
        state=state,
        reason="why",
        may_acknowledge=may,
        is_stalled=stalled,
        log_used_bytes=used,
        scrub=scrub,
    )

    health = health_of(status)

    if health.word is HealthWord.HEALTHY:
        assert state not in (VolumeState.POISONED, VolumeState.DAMAGED)
        assert may
        assert not stalled
        assert not scrub.damaged_bytes
    if health.lost_bytes:
        assert health.word in (HealthWord.DAMAGED, HealthWord.UNSAFE)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1 << 60)), max_size=20))
def test_buckets_sum_to_the_count(added: list[tuple[int, int]]) -> None:
    """Invariants 1 and 2 of volumes/counters.py."""
    counter = OperationCounter()
    for count, duration_ns in added:
        counter.add(count, 10, duration_ns)

    assert sum(counter.buckets) == counter.count == sum(count for count, _ in added)
    for bits, count in enumerate(counter.buckets[: BUCKETS_COUNT - 1]):
        within = [n for n, ns in added if ns < 1 << bits and (ns >= 1 << (bits - 1) if bits else 1)]
        assert count == sum(within)


def test_metrics_tell_what_was_counted() -> None:
    counters = Counters()
    counters.write.add(3, 12288, 20_000)
    counters.stalls_count = 2
    snapshots = {
        VolumeName("db"): MetricsSnapshot(status=GOOD, counters=counters),
        VolumeName("idle"): None,
    }

    lines = exposition(snapshots).decode().splitlines()

    for expected in (
        'holdfast_volume_health{volume="db",word="healthy"} 1.0',
        'holdfast_volume_health{volume="idle",word="down"} 1.0',
        'holdfast_volume_bytes_total{operation="write",volume="db"} 12288.0',
        'holdfast_volume_stalls_total{volume="db"} 2.0',
        'holdfast_volume_log_used_ratio{volume="db"} 0.1',
        'holdfast_volume_checkpoint_age_seconds{volume="db"} 1.5',
        'holdfast_volume_undurable_records{volume="db"} 2.0',
        'holdfast_volume_connections{volume="db"} 2.0',
    ):
        assert expected in lines
    duration = 'holdfast_volume_operation_duration_seconds_bucket{le="%s",operation="write",'
    assert any(line.startswith(duration % "1.6384e-05") and line[-3:] == "0.0" for line in lines)
    assert any(line.startswith(duration % "3.2768e-05") and line[-3:] == "3.0" for line in lines)
