"""The metrics of all volumes in Prometheus' words, made from snapshots of their processes.

Nothing is kept here: the counters live in the data processes and begin anew when one does, which
Prometheus' rates expect.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from holdfast.model.ids import VolumeName
from holdfast.volumes.control import MetricsSnapshot, VolumeStatus
from holdfast.volumes.counters import BUCKETS_COUNT, Counters, OperationCounter
from holdfast.volumes.health import DOWN, HealthWord, health_of

Snapshots = Mapping[VolumeName, MetricsSnapshot | None]
"""None of a volume that is not served."""

_FIRST_BUCKET: Final = 13
"""Its bound is 8 microseconds; all below is one bucket."""
_OPERATIONS: Final = ("read", "write", "flush", "trim")
_GAUGES: Final[tuple[tuple[str, str], ...]] = (
    ("size_bytes", "Size that clients see."),
    ("used_bytes", "Held on the medium by the data, the log not counted."),
    ("log_size_bytes", "Size of the log."),
    ("log_used_bytes", "Of the log, what no checkpoint has freed yet."),
    ("dirty_bytes", "Data that is in the log and not yet in its place."),
    ("connections_count", "Open connections of front ends."),
    ("last_lsn", "Last record of the log."),
    ("durable_lsn", "Last record known to survive loss of power."),
    ("checkpoint_lsn", "Last record that is in its place."),
    ("epoch", "Epoch of the fence."),
)
_COUNTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("connections_count", "connections_taken", "Connections taken."),
    ("pauses_count", "pauses", "Times a connection was slowed because the log filled."),
    ("stalls_count", "stalls", "Times a connection waited because the log was full."),
    ("stalls_failed_count", "stalls_failed", "Of these, waits that ended in an error."),
    ("checkpoints_count", "checkpoints", "Checkpoints made."),
    ("syncs_count", "log_flushes", "Flushes of the log."),
)
_DURATIONS: Final[tuple[tuple[str, str, str], ...]] = (
    ("stalled_ns", "stalled_seconds", "Time connections waited because the log was full."),
    ("checkpoint_ns", "checkpoint_seconds", "Time checkpoints took."),
    ("sync_ns", "log_flush_seconds", "Time flushes of the log took."),
)


def exposition(snapshots: Snapshots) -> bytes:
    """Return the metrics as the text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Volumes(snapshots))
    return generate_latest(registry)


class _Volumes(Collector):
    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """Yield every family, each with all volumes."""
        yield self._health()
        yield self._lost()
        served = {name: found for name, found in self._snapshots.items() if found is not None}
        statuses = {name: found.status for name, found in served.items()}
        counters = {name: found.counters for name, found in served.items()}
        yield from _gauges(statuses)
        yield from _operations(counters)
        yield from _sums(counters)

    def _health(self) -> Metric:
        family = GaugeMetricFamily(
            "holdfast_volume_health", "1 for the word that holds.", labels=["volume", "word"]
        )
        for name, found in self._snapshots.items():
            health = health_of(found.status) if found else DOWN
            for word in HealthWord:
                family.add_metric([name, word], float(word is health.word))
        return family

    def _lost(self) -> Metric:
        family = GaugeMetricFamily(
            "holdfast_volume_lost_bytes", "Lost or maybe lost, at most.", labels=["volume"]
        )
        for name, found in self._snapshots.items():
            family.add_metric([name], health_of(found.status).lost_bytes if found else 0)
        return family


def _gauges(statuses: Mapping[VolumeName, VolumeStatus]) -> Iterator[Metric]:
    for field, meaning in _GAUGES:
        family = GaugeMetricFamily(
            f"holdfast_volume_{field.removesuffix('_count')}", meaning, labels=["volume"]
        )
        for name, status in statuses.items():
            family.add_metric([name], float(getattr(status, field)))
        yield family
    yield _gauge(
        "log_used_ratio",
        "Share of the log in use.",
        {n: s.log_used_bytes / (s.log_size_bytes or 1) for n, s in statuses.items()},
    )
    yield _gauge(
        "checkpoint_age_seconds",
        "Age of the oldest record that is not in its place; 0 without one.",
        {n: s.checkpoint_age_ns / 1e9 for n, s in statuses.items()},
    )
    yield _gauge(
        "undurable_records",
        "Records that the next flush would make durable.",
        {n: float(s.last_lsn - s.durable_lsn) for n, s in statuses.items()},
    )


def _gauge(name: str, meaning: str, values: Mapping[VolumeName, float]) -> Metric:
    family = GaugeMetricFamily(f"holdfast_volume_{name}", meaning, labels=["volume"])
    for volume, value in values.items():
        family.add_metric([volume], value)
    return family


def _operations(counters: Mapping[VolumeName, Counters]) -> Iterator[Metric]:
    labels = ["volume", "operation"]
    sizes = CounterMetricFamily("holdfast_volume_bytes", "Bytes asked for.", labels=labels)
    failures = CounterMetricFamily("holdfast_volume_errors", "Requests failed.", labels=labels)
    durations = HistogramMetricFamily(
        "holdfast_volume_operation_duration_seconds",
        "From taking a request to sending its answer.",
        labels=labels,
    )
    for name, counted in counters.items():
        for operation in _OPERATIONS:
            counter: OperationCounter = getattr(counted, operation)
            sizes.add_metric([name, operation], counter.size_bytes)
            failures.add_metric([name, operation], counter.errors_count)
            durations.add_metric([name, operation], _buckets(counter), counter.duration_ns / 1e9)
    yield from (sizes, failures, durations)


def _buckets(counter: OperationCounter) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    total = 0
    for bits, count in enumerate(counter.buckets[: BUCKETS_COUNT - 1]):
        total += count
        if bits >= _FIRST_BUCKET:
            found.append((str((1 << bits) / 1e9), total))
    return [*found, ("+Inf", counter.count)]


def _sums(counters: Mapping[VolumeName, Counters]) -> Iterator[Metric]:
    for fields, factor in ((_COUNTS, 1.0), (_DURATIONS, 1e-9)):
        for field, word, meaning in fields:
            family = CounterMetricFamily(f"holdfast_volume_{word}", meaning, labels=["volume"])
            for name, counted in counters.items():
                family.add_metric([name], getattr(counted, field) * factor)
            yield family
