"""The supervisor's own metrics, beside those of its worker: a registry of its own, for the worker may be gone."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from datastreamx.supervisor.view import View


def exposition(view: View, now_s: float) -> bytes:
    """Text format of everything that the supervisor knows."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(_families(view, now_s)))
    return generate_latest(registry)


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _families(view: View, now_s: float) -> list[Metric]:
    restarts = CounterMetricFamily(
        "datastreamx_worker_restarts_total", "Starts of the worker after a failure", labels=["reason"]
    )
    counts = {"error": 0, "signal": 0, "hang": 0, "ended": 0, **dict(view.restarts)}
    for reason, count in counts.items():
        restarts.add_metric([reason], count)
    stage = GaugeMetricFamily("datastreamx_worker_stage", "1 for what the worker is doing", labels=["stage"])
    stage.add_metric([view.stage], 1)
    age_s = now_s - view.heard_s if view.pid is not None else 0.0
    return [
        restarts,
        stage,
        CounterMetricFamily(
            "datastreamx_epochs_total",
            "Snapshots of this worker that are durable",
            view.report.epochs if view.report else 0,
        ),
        GaugeMetricFamily("datastreamx_processes", "Processes that this flow has, as configured", view.processes),
        GaugeMetricFamily("datastreamx_worker_up", "1 while there is a worker", int(view.pid is not None)),
        GaugeMetricFamily("datastreamx_worker_ready", "1 while the worker does its job", int(view.unready is None)),
        GaugeMetricFamily("datastreamx_worker_report_age_seconds", "Age of the last sign of life", age_s),
        GaugeMetricFamily(
            "datastreamx_worker_recent_failures", "Failures that count towards giving up", view.recent_failures
        ),
        *_disk(view),
    ]


def _disk(view: View) -> list[Metric]:
    if view.disk_free_bytes is None or view.disk_size_bytes is None:
        return []
    return [
        GaugeMetricFamily("datastreamx_recovery_free_bytes", "Free where the recovery store is", view.disk_free_bytes),
        GaugeMetricFamily("datastreamx_recovery_size_bytes", "Size of that file system", view.disk_size_bytes),
    ]
