"""DatabaseManager.metrics() for Prometheus: a collector for a process that has a registry, and the text for others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import peewee as pw

from ..errors import MissingExtra, PresgenError

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError:
    raise MissingExtra("prometheus-client", "prometheus") from None

if TYPE_CHECKING:
    from ..manager import DatabaseManager

__all__ = ["JobsCollector", "exposition"]

logger = logging.getLogger("database")

_UP: Final = ("presgen_up", "Whether the database has answered (1) or not (0).")

# The help of each gauge that is one value of metrics(), by that value's key. Prometheus keeps `total` for counters.
_GAUGES: Final = {
    "total_users": "Users.",
    "active_users": "Users that are active.",
    "total_voice_clones": "Voice clones.",
    "failed_jobs_today": "Failed jobs that were created today (UTC).",
    "oldest_pending_seconds": "Age of the pending job that was created first; 0 without one.",
    "oldest_claimable_seconds": "How long the job that has been due for longest has waited; 0 without one.",
    "expired_leases": "Running jobs whose lease has expired.",
    "attempts": "Attempts that the unfinished jobs have used.",
    "retrying_jobs": "Pending jobs that have been attempted before.",
    "dead_tuples": "Dead rows of the jobs' table (PostgreSQL).",
    "oldest_snapshot_seconds": "Age of the oldest transaction that keeps vacuum from removing dead rows (PostgreSQL).",
}
# An empty queue is no missing value: alerts and graphs want a number.
_ZERO_WITHOUT_A_JOB: Final = ("oldest_pending_seconds", "oldest_claimable_seconds")
_QUANTILES: Final = {"0.5": "p50", "0.95": "p95"}


class JobsCollector(Collector):
    """Asks the manager's database at every scrape: `REGISTRY.register(JobsCollector(manager))`.

    A database that does not answer is `presgen_up 0` and a line in the log, never an exception.
    """

    def __init__(self, manager: DatabaseManager) -> None:
        self._manager = manager

    def describe(self) -> Iterator[Metric]:
        """No metrics: registering the collector asks no database."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        try:
            metrics = self._manager.metrics()
        except (PresgenError, pw.PeeweeException) as error:
            logger.warning("No metrics: %s", str(error).strip().partition("\n")[0])
            yield GaugeMetricFamily(*_UP, value=0)
            return
        yield GaugeMetricFamily(*_UP, value=1)
        yield from _families(metrics)


def exposition(manager: DatabaseManager) -> bytes:
    """The metrics in Prometheus' text format; for a file, a pipe, or an HTTP server that has no registry."""
    registry = CollectorRegistry()
    registry.register(JobsCollector(manager))
    return generate_latest(registry)


def _families(metrics: Mapping[str, Any]) -> Iterator[Metric]:
    for name, text in _GAUGES.items():
        value = metrics[name]
        if value is None and name in _ZERO_WITHOUT_A_JOB:
            value = 0
        if value is not None:
            yield GaugeMetricFamily(f"presgen_{name.removeprefix('total_')}", text, value=value)
    jobs = metrics["jobs_by_status"].items()
    yield _labelled("presgen_jobs", "Jobs.", {(status,): count for status, count in jobs}, "status")
    stages = metrics["stage_seconds"].items()
    yield _labelled(
        "presgen_stage_seconds",
        "Time that jobs spent in a stage, of the latest events.",
        {(stage, quantile): found[key] for stage, found in stages for quantile, key in _QUANTILES.items()},
        "stage",
        "quantile",
    )
    yield _labelled(
        "presgen_stage_samples",
        "Stays in a stage from which its quantiles come.",
        {(stage,): found["count"] for stage, found in stages},
        "stage",
    )
    pool = metrics["pool"]
    yield _labelled(
        "presgen_pool_connections",
        "Connections of this process's pool.",
        {(state,): pool[state] for state in ("in_use", "idle")},
        "state",
    )
    yield GaugeMetricFamily(
        "presgen_pool_max_connections", "Connections that this process may open.", value=pool["max_connections"]
    )
    yield GaugeMetricFamily("presgen_pool_waiting", "Threads that wait for a connection.", value=pool["waiting"])
    yield CounterMetricFamily(
        "presgen_pool_waited_seconds", "Time that threads have waited for a connection.", value=pool["waited_seconds"]
    )
    events = CounterMetricFamily("presgen_pool_events", "What happened to connections.", labels=("event",))
    for event in ("created", "recycled", "dead", "timeouts"):
        events.add_metric((event,), pool[event])
    yield events


def _labelled(name: str, text: str, values: Mapping[tuple[str, ...], float | None], *labels: str) -> GaugeMetricFamily:
    """A family with a sample for each value that there is."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for labelled, value in values.items():
        if value is not None:
            family.add_metric(labelled, value)
    return family
