from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.metrics import MetricWrapperBase

from datastreamx import metrics

ALL = {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}
EVERY_METRIC = pytest.mark.parametrize("metric", ALL.values(), ids=list(ALL))

BOUNDED_LABELS = {
    "aggregator",
    "answer",
    "event",
    "outcome",
    "partition",
    "reason",
    "result",
    "status",
    "step",
    "table",
    "topic",
    "trigger",
    "type",
}
"""Labels whose values are bounded by configuration or by an enumeration."""


def test_there_are_metrics() -> None:
    assert len(ALL) > 20


@EVERY_METRIC
def test_name_says_whose_it_is(metric: MetricWrapperBase) -> None:
    assert metric._name.startswith("datastreamx_")
    assert metric._documentation


@EVERY_METRIC
def test_labels_are_bounded_and_never_name_a_box(metric: MetricWrapperBase) -> None:
    assert set(metric._labelnames) <= BOUNDED_LABELS
    assert not any(label.startswith("box") for label in metric._labelnames)


def test_metrics_are_served() -> None:
    server, thread = metrics.serve_metrics("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as response:
            text = response.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "datastreamx_events_total" in text
