"""What the heads service counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self, pending_count: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "holdfast_heads_requests",
            "Requests answered.",
            ["method", "status"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "holdfast_heads_request_duration_seconds",
            "Time to answer, the store's included.",
            ["method"],
            buckets=_BOUNDS_S,
            registry=self.registry,
        )
        pending = Gauge(
            "holdfast_heads_pending_transactions",
            "Transactions that wait for their POST.",
            registry=self.registry,
        )
        pending.set_function(pending_count)

    def count(self, method: str, status: int, duration_s: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, str(status)).inc()
        self._durations.labels(method).observe(duration_s)
