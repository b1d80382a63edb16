"""What a flow says when it cannot run: one error at the end that names what, where and the next step, and its code."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.cloud import bigquery

from datastreamx.cli.output import Exit
from datastreamx.model.events import Heartbeat
from datastreamx.tables import BIDS
from datastreamx.topics import apply_topics
from datastreamx.wire.events import encode_event
from simulator.processes import Child, free_port
from sinks.bigquery.schema import apply_tables, fields
from tests.integration.brokers import Broker, Record, produce
from tests.integration.oracle import expect
from tests.integration.pipeline import FlowName, Pipeline, Servers, environment, now_ms

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"

# Rust's panic hook writes where, what and how to get a backtrace; then comes an empty line.
NOISE_LINES = 4


@pytest.fixture
def pipeline(broker: Broker, servers: Servers, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(tmp_path, broker, servers) as made:
        yield made


@pytest.fixture(scope="module")
def stopped(broker: Broker, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline whose flows have run and left their stores."""
    with Pipeline(tmp_path_factory.mktemp("stopped"), broker, servers) as made:
        made.apply()
        made.start("ads", "warehouse")
        assert made.stop("ads", "warehouse") == {"ads": 0, "warehouse": 0}
        yield made


def last_words(pipeline: Pipeline, name: FlowName) -> tuple[int | None, str]:
    """Run a flow to its first failure: exit code and the error; nothing but the error may be long."""
    flow = pipeline.flows[name]
    argv = [*flow.argv, "--limit", "failures_max=1"]
    child = Child(flow.name, argv, log_path=flow.log_path, env=environment())
    with child:
        pipeline.wait_until(lambda: child.poll() is not None, f"flow {name} ends")
    # Where another start might have helped, the supervisor logs that it gives up.
    output = "".join(line for line in child.output().splitlines(keepends=True) if "component=supervisor" not in line)
    before, separator, error = output.rpartition("\nerror: ") if "\nerror: " in output else ("", "", output)
    assert separator or error.startswith("error: "), output
    noise = [line for line in before.splitlines() if "component=" not in line]
    assert len(noise) <= NOISE_LINES, output
    print(f"{name}: exit code {child.poll()}\nerror: {error.removeprefix('error: ')}")  # noqa: T201  shown on failure
    return child.poll(), error.removeprefix("error: ").rstrip("\n")


def assert_runbook_has_what_it_names(error: str) -> None:
    section = re.search(r'"([^"]+)" in docs/runbook\.md', error)
    assert section is not None, error
    assert f"### {section[1]}\n" in RUNBOOK.read_text(encoding="utf-8")


@contextmanager
def edited(pipeline: Pipeline, old: str, new: str) -> Iterator[None]:
    """Another configuration file for a while."""
    text = pipeline.config_path.read_text(encoding="utf-8")
    assert old in text
    pipeline.config_path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        pipeline.config_path.write_text(text, encoding="utf-8")


def heartbeats(count: int, partitions: int) -> list[Record]:
    at_ms = now_ms() - 60_000
    events = [Heartbeat(event_id="e", box_id=f"stb-{n}", seq=1, event_time_ms=at_ms) for n in range(count)]
    return [(n % partitions, event.box_id.encode(), encode_event(event)) for n, event in enumerate(events)]


@pytest.mark.parametrize(("name", "topic"), [("ads", "decisions"), ("warehouse", "facts")])
def test_missing_topic_is_named_with_the_command_that_makes_it(pipeline: Pipeline, name: FlowName, topic: str) -> None:
    apply_tables(pipeline.client, pipeline.config.bigquery)
    code, error = last_words(pipeline, name)
    assert code == Exit.FAILED
    assert error.startswith(
        f"topic {getattr(pipeline.config.topics, topic)} does not exist at {pipeline.broker.bootstrap}"
    )
    assert error.endswith("create it with `datastreamx apply`")


@pytest.mark.one_broker
def test_unreachable_broker_is_named_with_what_to_check(pipeline: Pipeline) -> None:
    bootstrap = f"127.0.0.1:{free_port()}"
    with edited(pipeline, pipeline.broker.bootstrap, bootstrap):
        code, error = last_words(pipeline, "ads")
    assert code == Exit.UNREACHABLE
    assert error.startswith(f"Kafka at {bootstrap} did not")
    assert "Connection refused" in error
    assert "Check kafka.bootstrap, kafka.security_protocol and the network; then start again" in error


@pytest.mark.one_broker
def test_file_that_was_written_only_half_is_refused(pipeline: Pipeline) -> None:
    text = pipeline.config_path.read_text(encoding="utf-8")
    pipeline.config_path.write_text(text[: text.index("rest_endpoint") + 20], encoding="utf-8")
    code, error = last_words(pipeline, "ads")
    assert code == Exit.CONFIG
    assert error.startswith(f"{pipeline.config_path} has 1 problem:\n  - is not complete TOML")
    assert error.endswith("was it written only half?")


@pytest.mark.one_broker
def test_file_that_ends_between_sections_is_refused_with_all_that_is_missing(pipeline: Pipeline) -> None:
    text = pipeline.config_path.read_text(encoding="utf-8")
    pipeline.config_path.write_text(text[: text.index("[bigquery]")], encoding="utf-8")
    code, error = last_words(pipeline, "warehouse")
    assert code == Exit.CONFIG
    assert [section for section in ("bigquery", "privacy", "aggregators") if f"- {section}: required" in error] == [
        "bigquery",
        "privacy",
        "aggregators",
    ]


@pytest.mark.one_broker
def test_table_without_partitioning_is_refused_with_a_remedy(pipeline: Pipeline) -> None:
    pipeline.apply()
    name = f"{pipeline.config.bigquery.project}.{pipeline.config.bigquery.dataset}.{BIDS.name}"
    pipeline.client.delete_table(name)
    pipeline.client.create_table(bigquery.Table(name, fields(BIDS.columns)))
    code, error = last_words(pipeline, "warehouse")
    assert code == Exit.FAILED
    assert f"{name}: is not partitioned by day of decided_time; copy its rows away, drop it" in error
    assert f"{name}: does not require a partition filter; run `bq update --require_partition_filter {name}`" in error


@pytest.mark.one_broker
@pytest.mark.parametrize(
    ("old", "new", "name", "told"),
    [
        ("groups_per_partition = 2", "groups_per_partition = 3", "ads", ("= 2, which is 3 now", "for ever")),
        ("groups_per_partition = 2", "groups_per_partition = 3", "warehouse", ("= 2, which is 3 now", "for ever")),
    ],
    ids=["ads-groups", "warehouse-groups"],
)
def test_store_of_another_configuration_is_refused(
    stopped: Pipeline, old: str, new: str, name: FlowName, told: tuple[str, ...]
) -> None:
    with edited(stopped, old, new):
        code, error = last_words(stopped, name)
    assert code == Exit.FAILED
    assert [words for words in (*told, "back") if words not in error] == []


@pytest.mark.one_broker
def test_other_number_of_partitions_is_refused(stopped: Pipeline) -> None:
    with edited(stopped, "\npartitions = 4", "\npartitions = 8"):
        code, error = last_words(stopped, "ads")
    assert code == Exit.FAILED
    assert "made for events.partitions = 4, which is 8 now and is fixed for ever: change it back" in error


@pytest.mark.one_broker
def test_damaged_store_is_set_aside_and_refused_until_somebody_decides(stopped: Pipeline, tmp_path: Path) -> None:
    shutil.copytree(stopped.directory / "recovery", tmp_path, dirs_exist_ok=True)
    store = tmp_path / "ads-0"
    for path in store.glob("part-*.sqlite3*"):
        path.write_bytes(b"\0garbage" * 4_096)
    with edited(stopped, str(stopped.directory / "recovery"), str(tmp_path)):
        for _ in range(2):
            code, error = last_words(stopped, "ads")
            assert code == Exit.FAILED
            assert error.startswith(f"recovery store {store}/part-0.sqlite3 is damaged: ")
            assert [
                words for words in ("datastreamx restore", "datastreamx replay", "begin anew") if words not in error
            ] == []
            assert not store.exists()
            assert len([*tmp_path.glob("ads-0.quarantine-*")]) == 1


def test_stranger_in_the_decision_log_stops_the_warehouse(pipeline: Pipeline) -> None:
    pipeline.apply()
    produce(pipeline.broker, pipeline.config.topics.decisions, [(0, b"stb-1", b'{"hello": "world"}')])
    code, error = last_words(pipeline, "warehouse")
    assert code == Exit.FAILED
    assert "is no decision: Object missing required field" in error
    assert "is another program writing" in error


@contextmanager
def tiny_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skips where mounting is not allowed."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.one_broker
def test_store_that_finds_no_room_is_told_and_leaves_no_half_store(pipeline: Pipeline) -> None:
    with (
        tiny_disk(pipeline.directory / "disk", "32k") as disk,
        edited(pipeline, str(pipeline.directory / "recovery"), str(disk)),
    ):
        code, error = last_words(pipeline, "ads")
        assert code == Exit.FAILED
        assert error.startswith(f"recovery store {disk}/ads-0 cannot be made: disk I/O error")
        assert "is the disk full or read-only?" in error
        assert [path for path in disk.iterdir() if path.is_dir()] == []


@pytest.mark.one_broker
def test_flow_whose_disk_fills_up_stops_and_goes_on_without_loss_once_there_is_room(pipeline: Pipeline) -> None:
    apply_topics(pipeline.config)
    topic, partitions = pipeline.config.topics.events, pipeline.config.events.partitions
    with (
        tiny_disk(pipeline.directory / "disk", "2m") as disk,
        edited(pipeline, str(pipeline.directory / "recovery"), str(disk)),
    ):
        produce(pipeline.broker, topic, heartbeats(10_000, partitions))
        code, error = last_words(pipeline, "ads")
        assert code == Exit.FAILED
        # "disk I/O error" or "database or disk is full": it depends on which file has to grow first.
        assert error.startswith(f"recovery store {disk}/ads-0 cannot be used: d")
        assert "make room and start again: the flow goes on at its last snapshot" in error

        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        pipeline.start("ads")
        produce(pipeline.broker, topic, heartbeats(10, partitions))
        expected = expect(pipeline.config, pipeline.read_events())
        pipeline.wait_until(lambda: pipeline.read_fact_positions().keys() >= expected.positions.keys(), "all facts")
        assert pipeline.stop("ads") == {"ads": 0}


def test_offset_that_has_expired_is_told_with_the_remedy(pipeline: Pipeline) -> None:
    cluster = pipeline.broker.require_cluster()
    pipeline.apply()
    topic, partitions = pipeline.config.topics.events, pipeline.config.events.partitions
    pipeline.start("ads")
    assert pipeline.stop("ads") == {"ads": 0}
    produce(pipeline.broker, topic, heartbeats(10 * partitions, partitions))
    cluster.delete_records_before(topic, 0, 5)
    code, error = last_words(pipeline, "ads")
    assert code == Exit.FAILED
    assert error.startswith(f"{topic}[0]: offset 0 is gone, the earliest that the broker still holds is 5: 5 records")
    assert "keep topics.retention_hours above the longest outage" in error
    assert_runbook_has_what_it_names(error)
