"""The fleet as a process against the local broker, with this test in the part of the pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from datastreamx.config import load_config
from datastreamx.errors import DeadLetterError
from datastreamx.model.auction import Decision, WinningAd
from datastreamx.model.events import AdShown, BoxEvent, Power
from datastreamx.model.identity import push_id
from datastreamx.wire.decisions import encode_decision
from datastreamx.wire.events import decode_event
from datastreamx.wire.signing import SigningKey, sign_push
from simulator.broker import LocalBroker
from simulator.fleet import __main__ as command
from simulator.fleet import driver
from simulator.fleet.faults import FAULTS
from simulator.fleet.ledger import Ledger, read_ledger
from simulator.fleet.partitioner import partition_of
from simulator.processes import free_port

pytestmark = pytest.mark.integration

PARTITIONS = 4
CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
[events]
partitions = 4
[bigquery]
project = "test"
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "a"
adapter = "simple"
url = "http://127.0.0.1:1/"
"""
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path_factory.mktemp("broker")) as running:
        yield running


class Pipeline:
    """Reads box-events and answers with decisions; topics of its own, so that tests do not see each other."""

    def __init__(self, broker: LocalBroker, directory: Path, name: str) -> None:
        self.bootstrap = broker.bootstrap
        self.events, self.decisions = f"{name}-events", f"{name}-decisions"
        self.ledger_path = directory / "ledger.json"
        self.config_path = directory / "config.toml"
        self._fleets: list[subprocess.Popen[str]] = []
        topics = f'[topics]\nevents = "{self.events}"\ndecisions = "{self.decisions}"\n'
        self.config_path.write_text(CONFIG.format(bootstrap=self.bootstrap) + topics)

    def create_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topics = [NewTopic(name, PARTITIONS, 1) for name in (self.events, self.decisions)]
        for created in admin.create_topics(topics).values():
            created.result(10)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [
            "--config",
            str(self.config_path),
            "--ledger",
            str(self.ledger_path),
            "--boxes",
            "300",
            "--start-spread",
            "1",
            *arguments,
        ]
        fleet = subprocess.Popen(
            [sys.executable, "-m", "simulator.fleet", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._fleets.append(fleet)
        return fleet

    def close(self) -> None:
        """Leave no process behind, whatever the test did."""
        for fleet in self._fleets:
            fleet.kill()
            fleet.communicate()

    def read(self) -> Iterator[tuple[int, int, bytes, bytes | None]]:
        """Partition, offset, key and value of everything in the events topic, up to its end."""
        consumer = self.consumer()
        open_partitions = set(range(PARTITIONS))
        while open_partitions:
            message = consumer.poll(10.0)
            assert message is not None, f"no end of partitions {open_partitions}"
            error, partition, offset = message.error(), message.partition(), message.offset()
            assert partition is not None, error
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                open_partitions.discard(partition)
                continue
            assert offset is not None
            yield partition, offset, message.key() or b"", message.value()
        consumer.close()

    def consumer(self) -> Consumer:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test", "enable.partition.eof": True})
        consumer.assign([TopicPartition(self.events, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
        return consumer

    def finished_ledger(self, fleet: subprocess.Popen[str], code: int = 0) -> Ledger:
        """Ask the fleet to end and return its final books."""
        fleet.send_signal(signal.SIGTERM)
        out, err = fleet.communicate(timeout=DEADLINE_S)
        assert fleet.returncode == code, out + err
        return read_ledger(self.ledger_path)

    def await_ledger(self, fleet: subprocess.Popen[str], reached: Callable[[Ledger], bool]) -> None:
        ends_s = time.monotonic() + DEADLINE_S
        while not (self.ledger_path.exists() and reached(read_ledger(self.ledger_path))):
            assert fleet.poll() is None, fleet.communicate()
            assert time.monotonic() < ends_s, (
                read_ledger(self.ledger_path) if self.ledger_path.exists() else "no ledger"
            )
            time.sleep(0.05)


@pytest.fixture
def pipeline(broker: LocalBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    made = Pipeline(broker, tmp_path, request.node.name[5:40])
    made.create_topics()
    yield made
    made.close()


def decision(
    event: BoxEvent, number: int, timestamp_ms: int, *, deadline_ms: int, slot_ms: int, ads: int = 1
) -> Decision:
    def ad(place: int) -> WinningAd:
        return WinningAd(
            push_id=push_id(f"{number}", place),
            aggregator="a",
            bid_id=f"b-{place}",
            ad_id=f"ad-{number}-{place}",
            price_micros=1,
            currency="USD",
        )

    return Decision(
        auction_id=f"auction-{number}",
        box_id=event.box_id,
        box_key="k",
        partition=0,
        group=0,
        offset=number,
        emitted_ms=timestamp_ms,
        trigger="dwell",
        opportunity_ms=timestamp_ms,
        deadline_ms=deadline_ms,
        decided_ms=timestamp_ms,
        slot_ms=slot_ms,
        channel_id="ch01",
        last_channel_id=None,
        last_ad_id=None,
        break_id=None,
        status="won",
        push_id=push_id(f"{number}"),
        ads=tuple(map(ad, range(ads))),
        auction_us=1_000,
    )


def test_the_books_agree_with_the_log(pipeline: Pipeline) -> None:
    kinds = [kind for kind in FAULTS if kind]
    faults = ",".join(f"{kind}=0.05" for kind in kinds)
    fleet = pipeline.start("--speed-up", "100", "--faults", faults, "--seed", "3", "--drain-quiet", "0.2")
    pipeline.await_ledger(fleet, lambda ledger: ledger.events > 1_000 and len(ledger.faults) == len(kinds))
    ledger = pipeline.finished_ledger(fleet)
    log = list(pipeline.read())
    assert ledger.finished
    assert ledger.records_waiting == 0
    assert ledger.records_sent_again == 0
    assert len(log) == ledger.expected_rows + ledger.expected_dropped + sum(ledger.expected_dead_letters.values())
    for partition, acks in ledger.partitions.items():
        offsets = [offset for p, offset, _, _ in log if p == partition]
        assert (len(offsets), max(offsets)) == (acks.records, acks.max_offset)
    reasons, readable = Counter[str](), Counter[str]()
    for partition, _, key, value in log:
        assert partition == partition_of(key, PARTITIONS)
        try:
            event = decode_event(value or b"")
        except DeadLetterError as error:
            reasons[error.reason if value is not None else "no_value"] += 1
        else:
            readable[event.event_id] += 1
    for reason in ("malformed", "invalid", "unknown_type", "oversized", "no_value"):
        assert reasons[reason] == ledger.expected_dead_letters[reason], reason
    copies = sum(count - 1 for count in readable.values())
    assert copies == ledger.expected_dropped
    assert len(readable) + sum(reasons.values()) == ledger.events


def test_pushes_are_displayed_once_in_time_and_reported_in_the_sequence_of_the_box(pipeline: Pipeline) -> None:
    key = SigningKey.from_hex("5a" * 32, "key-1")
    argv = ["--drain-limit", "0.5", "--speed-up", "0.01", "--public-key", key.public_key.hex()]
    fleet = pipeline.start("--seed", "4", "--json", *argv)
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    consumer = pipeline.consumer()
    pushed: dict[str, int] = {}
    while len(pushed) < 60:
        message = consumer.poll(DEADLINE_S)
        assert message is not None, fleet.poll()
        if message.error() is not None:
            continue
        event = decode_event(message.value() or b"")
        if event.box_id in pushed or not isinstance(event, Power):
            continue
        number = pushed[event.box_id] = len(pushed)
        _, timestamp_ms = message.timestamp()
        answer = decision(
            event,
            number,
            timestamp_ms,
            deadline_ms=timestamp_ms + (60_000 if number % 3 else -1),
            # A hundred times as long at this pace, at which no box goes off in between.
            slot_ms=6_000 if number % 10 == 1 else 4,
            ads=2 if number % 5 == 0 else 1,
        )
        signed = sign_push(answer, key)
        for _ in range(2 if number % 4 == 0 else 1):
            producer.produce(pipeline.decisions, encode_decision(signed), event.box_id.encode())
        if number % 6 == 0:
            producer.produce(pipeline.decisions, encode_decision(answer), event.box_id.encode())
    producer.flush(10)
    consumer.close()
    pipeline.await_ledger(fleet, lambda books: books.pushes.distinct == 60 and books.displays_reported >= 42)
    fleet.send_signal(signal.SIGTERM)
    out, err = fleet.communicate(timeout=DEADLINE_S)
    assert fleet.returncode == 0, err
    ledger = msgspec.json.decode(out, type=Ledger)
    assert ledger == read_ledger(pipeline.ledger_path)
    pushes = ledger.pushes
    assert (pushes.received, pushes.distinct, pushes.duplicates, pushes.after_deadline) == (75, 60, 15, 20)
    assert pushes.forged == 10
    # Eight of the forty are breaks of two ads.
    assert (pushes.displayed, pushes.ads, pushes.ads_reported, pushes.ads_not_shown) == (40, 48, 48, 0)
    assert ledger.displays_reported == 48
    assert pushes.displaying == 0
    assert ledger.event_to_push_ms.samples == 60
    shown = shown_in_sequence(pipeline)
    displayed = {
        push_id(f"{number}", place): (box, number, place)
        for box, number in pushed.items()
        if number % 3
        for place in range(2 if number % 5 == 0 else 1)
    }
    assert set(shown) == set(displayed)
    for push, (box, number, place) in displayed.items():
        report = shown[push]
        assert report.box_id == box
        assert report.ad_id == f"ad-{number}-{place}"
        if number % 10 == 1:
            # The long ones are cut short by the end of the fleet.
            assert 0 < report.shown_ms < 600_000
        else:
            assert report.shown_ms == (200 if number % 5 == 0 else 400)


def shown_in_sequence(pipeline: Pipeline) -> dict[str, AdShown]:
    """Displays by push id, after a look at the counters of all boxes."""
    shown: dict[str, AdShown] = {}
    sequences: dict[str, list[int]] = defaultdict(list)
    for _, _, key, value in pipeline.read():
        event = decode_event(value or b"")
        assert key == event.box_id.encode()
        sequences[event.box_id].append(event.seq)
        if isinstance(event, AdShown):
            assert event.push_id not in shown
            shown[event.push_id] = event
    assert all(sequence == list(range(sequence[0], sequence[0] + len(sequence))) for sequence in sequences.values())
    return shown


def test_a_restarted_fleet_counts_on_and_ignores_the_pushes_of_the_run_before(pipeline: Pipeline) -> None:
    first = pipeline.start("--duration", "0.5", "--drain-quiet", "0")
    first.communicate(timeout=DEADLINE_S)
    before = read_ledger(pipeline.ledger_path)
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    event = next(decode_event(value or b"") for _, _, _, value in pipeline.read())
    old = decision(event, 1, before.started_ms, deadline_ms=before.started_ms + 1, slot_ms=1)
    producer.produce(pipeline.decisions, encode_decision(old), event.box_id.encode())
    producer.flush(10)
    second = pipeline.start("--drain-quiet", "0")
    pipeline.await_ledger(second, lambda ledger: ledger.pushes.of_earlier_runs == 1 and ledger.events > 10)
    after = pipeline.finished_ledger(second)
    assert after.started_ms > before.started_ms
    assert after.pushes.received == 0
    last: dict[str, int] = {}
    for _, _, _, value in pipeline.read():
        event = decode_event(value or b"")
        assert event.seq > last.get(event.box_id, -1)
        last[event.box_id] = event.seq


def test_a_rate_limit_holds_behaviour_back_and_event_time_stays_the_time_of_sending(pipeline: Pipeline) -> None:
    fleet = pipeline.start("--speed-up", "1000", "--rate-limit", "400", "--drain-quiet", "0")
    pipeline.await_ledger(fleet, lambda ledger: ledger.events > 800)
    ledger = pipeline.finished_ledger(fleet)
    seconds = (ledger.updated_ms - ledger.started_ms) / 1000
    assert ledger.events <= 400 * seconds
    assert ledger.slipped_ms > 0
    consumer = pipeline.consumer()
    delays_ms: list[int] = []
    while len(delays_ms) < 500:
        message = consumer.poll(10.0)
        assert message is not None
        if message.error() is None:
            delays_ms.append(message.timestamp()[1] - decode_event(message.value() or b"").event_time_ms)
    consumer.close()
    assert min(delays_ms) >= -1
    assert sorted(delays_ms)[250] <= 500


def test_a_broker_that_hangs_delays_events_and_loses_none(broker: LocalBroker, pipeline: Pipeline) -> None:
    fleet = pipeline.start("--speed-up", "100", "--drain-quiet", "0")
    pipeline.await_ledger(fleet, lambda ledger: ledger.events > 100)
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        pipeline.await_ledger(fleet, lambda ledger: ledger.records_waiting > 300)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    ledger = pipeline.finished_ledger(fleet)
    sequences: dict[bytes, list[int]] = defaultdict(list)
    for _, _, key, value in pipeline.read():
        sequences[key].append(decode_event(value or b"").seq)
    assert ledger.finished
    assert sum(map(len, sequences.values())) == ledger.events
    assert all(sequence == list(range(sequence[0], sequence[0] + len(sequence))) for sequence in sequences.values())


def test_a_fleet_without_broker_waits_for_it_and_can_be_stopped(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(bootstrap=f"127.0.0.1:{free_port()}"))
    stop = driver.StopRequest()
    options = driver.FleetOptions(ledger=tmp_path / "ledger.json", boxes=10, flush_limit_s=0.0, drain_limit_s=0.0)
    thread = threading.Thread(target=lambda: ended.append(driver.run_fleet(load_config(config), options, stop)))
    ended: list[Ledger] = []
    thread.start()
    stop.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert [ledger.events for ledger in ended] == [0]


def test_missing_topics_and_unusable_options_are_refused(
    broker: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Pipeline(broker, tmp_path, "absent")
    for argv, complaint in (
        (["--faults", "duplicates=1"], "neither one of none, some, many"),
        (["--public-key", "5a"], "the public key has 1 bytes, Ed25519 keys have 32"),
        (["--consent-share", "2"], "consent_share is 2.0"),
    ):
        unusable = absent.start(*argv)
        assert complaint in unusable.communicate(timeout=DEADLINE_S)[1]
        assert unusable.returncode == 2
    absent.close()
    monkeypatch.setattr(driver, "TOPIC_WAIT_S", 0.0)
    argv = ["--config", str(absent.config_path), "--ledger", str(absent.ledger_path), "--boxes", "1", "--quiet"]
    assert command.main(argv) == 2
    assert not absent.ledger_path.exists()
