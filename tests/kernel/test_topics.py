from __future__ import annotations

import pytest

from datastreamx import topics
from datastreamx.errors import CrashError
from datastreamx.topics import plan_topics, wanted_topics
from tests.builders import config

CONFIG = config("[events]\npartitions = 6\n[topics]\nretention_hours = 2\nreplication_factor = 3\n")


def exists(monkeypatch: pytest.MonkeyPatch, counts: dict[str, int]) -> None:
    monkeypatch.setattr(topics, "_partition_counts", lambda _: counts)


def test_decisions_and_facts_have_the_partitions_of_the_events() -> None:
    assert {topic.name: topic.partitions for topic in wanted_topics(CONFIG)} == {
        "box-events": 6,
        "ad-decisions": 6,
        "box-facts": 6,
        "dead-letters": 1,
    }


def test_retention_and_replication_are_as_configured() -> None:
    for topic in wanted_topics(CONFIG):
        assert topic.settings["retention.ms"] == "7200000"
        assert topic.replication_factor == 3


def test_only_missing_topics_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    exists(monkeypatch, {"box-events": 6, "dead-letters": 1, "foreign": 40})
    assert [topic.name for topic in plan_topics(CONFIG)] == ["ad-decisions", "box-facts"]


def test_topics_with_other_partition_counts_are_refused_and_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    exists(monkeypatch, {"box-events": 8, "box-facts": 1})
    with pytest.raises(CrashError, match=r"box-events has 8 partitions, 6 are configured; topic box-facts has 1"):
        plan_topics(CONFIG)


def test_change_reads_as_what_will_be_done() -> None:
    assert str(wanted_topics(CONFIG)[0]) == "create topic box-events with 6 partitions, 3 replicas"
