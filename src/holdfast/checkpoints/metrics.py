"""The metrics of all plans in Prometheus' words, from the catalogue; nothing is kept here."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast.checkpoints.model import CheckpointState
from holdfast.checkpoints.scheduling import Scheduler
from holdfast.checkpoints.service import Checkpoints


def exposition(facet: Checkpoints) -> bytes:
    """Return the metrics as the text that Prometheus scrapes; reads the catalogue."""
    registry = CollectorRegistry()
    registry.register(_Plans(facet))
    return generate_latest(registry)


class _Plans(Collector):
    def __init__(self, facet: Checkpoints) -> None:
        self._facet = facet

    def describe(self) -> list[Metric]:
        """Describe nothing in advance: that would read the catalogue."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each figure."""
        found = self._facet.catalogue.list_checkpoints()
        counts = GaugeMetricFamily(
            "holdfast_checkpoints",
            "Checkpoints, by state and by verdict of the last verification.",
            labels=["plan", "state", "verdict"],
        )
        kinds = Counter(
            (each.plan_name, each.state.value, each.verified.verdict.value if each.verified else "")
            for each in found
        )
        for labels, count in sorted(kinds.items()):
            counts.add_metric(list(labels), count)
        yield counts
        newest = GaugeMetricFamily(
            "holdfast_checkpoint_newest_timestamp_seconds",
            "When the newest available checkpoint was begun; absent if there is none.",
            labels=["plan"],
        )
        begun: dict[str, int] = {}
        for each in found:
            if each.state is CheckpointState.AVAILABLE:
                begun.setdefault(each.plan_name, each.created_ns)
        for plan, at_ns in sorted(begun.items()):
            newest.add_metric([plan], at_ns / 1e9)
        yield newest
        yield self._due()

    def _due(self) -> Metric:
        names = {str(plan.id): plan.name for plan in self._facet.catalogue.plans()}
        due = GaugeMetricFamily(
            "holdfast_checkpoint_schedule_next_timestamp_seconds",
            "When a schedule is due next; long past if nobody runs what is due.",
            labels=["schedule", "plan", "operation"],
        )
        for each in Scheduler(self._facet).schedules():
            plan = names.get(each.plan_id, each.plan_id)
            due.add_metric([each.id, plan, each.operation.value], each.next_ns / 1e9)
        return due
