"""What a node counts, for Prometheus: its tasks as the journal has them, and its HTTP answers.

Figures of tasks are read from the journal at each scrape, so they are those of all processes. A
task has metrics of its own only until it ends: series do not pile up.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import UNFINISHED, Task

_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_TASKS_MAX: Final = 100

Measure = Callable[[Task], float | None]
_TASK_FIGURES: Final[dict[str, tuple[str, Measure]]] = {
    "entries_done": ("Entries done in the present stage.", lambda t: t.progress.entries_done),
    "entries_total": ("Entries of the present stage.", lambda t: t.progress.entries_total),
    "bytes_done": ("Bytes done in the present stage.", lambda t: t.progress.bytes_done),
    "bytes_total": ("Bytes of the present stage.", lambda t: t.progress.bytes_total),
    "rate_bytes_per_second": ("Bytes a second.", lambda t: t.progress.rate_bytes_per_s),
    "eta_seconds": ("Seconds left, as it goes now.", lambda t: t.progress.eta_s),
    "attempt": ("Number of the present attempt, from 1.", lambda t: t.attempt),
    "pass": ("Number of the present pass of a copy, from 0.", lambda t: _last(t, "iteration")),
    "pass_failures": (
        "Entries that failed in the present pass.",
        lambda t: _last(t, "downloadFailures"),
    ),
}


class NodeMetrics:
    """Counters of one node, in a registry of their own."""

    def __init__(self, journal: TaskJournal) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "holdfast_node_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "holdfast_node_request_duration_seconds",
            "Time to the head of the answer.",
            ["method", "route"],
            buckets=_BOUNDS_S,
            registry=self._registry,
        )
        self._ended = Counter(
            "holdfast_node_tasks_ended",
            "Tasks that ended here.",
            ["kind", "state"],
            registry=self._registry,
        )
        self._crashes = Counter(
            "holdfast_node_process_crashes",
            "Processes of this node that died unasked.",
            ["process"],
            registry=self._registry,
        )
        self._registry.register(_TaskCollector(journal))

    def watch_permits(self, in_use: Callable[[], int], capacity: int) -> None:
        """Show how many file requests are served, and how many may be."""
        for name, meaning, value in (
            ("file_requests_in_use", "File and digest requests being served.", in_use),
            ("file_requests_max", "File and digest requests served at once.", lambda: capacity),
        ):
            gauge = Gauge(f"holdfast_node_{name}", meaning, registry=self._registry)
            gauge.set_function(value)

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._durations.labels(method, route).observe(duration_s)

    def count_ended(self, task: Task) -> None:
        """Count a task that ended."""
        self._ended.labels(task.kind, task.state.value).inc()

    def count_crash(self, process: str) -> None:
        """Count a process that died unasked: `task` or `stream`."""
        self._crashes.labels(process).inc()

    def render(self) -> tuple[bytes, str]:
        """Return all of it as text, and its content type; reads the journal."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _TaskCollector(Collector):
    """The unfinished tasks, as of the moment of the scrape."""

    def __init__(self, journal: TaskJournal) -> None:
        self._journal = journal

    def describe(self) -> list[Metric]:
        """Describe nothing in advance: that would read the journal."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each figure."""
        tasks = [
            task
            for state in sorted(UNFINISHED)
            for task in self._journal.list_tasks(state=state, limit=_TASKS_MAX).tasks
        ]
        labels = ["task", "kind", "subject", "state", "stage"]
        for name, (meaning, measure) in _TASK_FIGURES.items():
            family = GaugeMetricFamily(f"holdfast_task_{name}", meaning, labels=labels)
            for task in tasks:
                value = measure(task)
                if value is not None:
                    family.add_metric(
                        [task.id, task.kind, task.subject, task.state.value, task.stage], value
                    )
            yield family


def _last(task: Task, member: str) -> float | None:
    iterations = task.detail.get("iterations")
    if not isinstance(iterations, list) or not iterations:
        return None
    last = iterations[-1]
    value = last.get(member) if isinstance(last, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
