"""Topics that are read together: nothing waits for ever, nothing is lost, and neither runs away."""

from __future__ import annotations

import random
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from datastreamx.config import KafkaConfig
from sources.kafka import alignment
from sources.kafka.alignment import horizon_ms
from sources.kafka.positions import Layout
from sources.kafka.reader import PartitionReader
from sources.kafka.start import PartitionId, StartPosition
from tests.sources.fake_kafka import FakeConsumer, end, record

SLACK_MS = 1_000
POLL = 7
LAYOUT = Layout(topics=("facts", "decisions"), partitions=(0, 1), partition_count=2, groups_per_partition=2)


@pytest.mark.parametrize(
    ("reaches_ms", "expected"),
    [
        pytest.param([5_000, 9_000], 6_000, id="the oldest next record and the slack"),
        pytest.param([5_000, 0], 1_000, id="nothing known yet of the other one"),
        pytest.param([5_000, None], 6_000, id="the other one has ended"),
        pytest.param([None, None], None, id="both have ended"),
    ],
)
def test_nothing_beyond_the_slack_is_handed_on(reaches_ms: list[int | None], expected: int | None) -> None:
    assert horizon_ms(reaches_ms, SLACK_MS) == expected


class LogConsumer(FakeConsumer):
    """Reads logs in memory as the client does: fetches of any size from partitions that are not paused, in any order;
    an end is told once, and again after a pause.
    """

    def __init__(self, logs: dict[PartitionId, list[int]], rng: random.Random) -> None:
        super().__init__(topics={"facts": 2, "decisions": 2})
        self.logs = logs
        self._rng = rng
        self._at: dict[PartitionId, int] = dict.fromkeys(logs, 0)
        self._told: set[PartitionId] = set()
        self.toggles = 0

    def consume(self, count: int, timeout: float) -> list[Message]:
        self.clock.advance(max(1, round(timeout * 1000)))
        answer: list[Message] = []
        flowing = [one for one in self.logs if one not in self.paused]
        self._rng.shuffle(flowing)
        for one in flowing:
            topic, number = one
            size = min(count - len(answer), self._rng.randrange(POLL + 1), len(self.logs[one]) - self._at[one])
            answer += [
                record(offset, topic=topic, partition=number, timestamp_ms=self.logs[one][offset])
                for offset in range(self._at[one], self._at[one] + size)
            ]
            self._at[one] += size
            if len(answer) < count and self._at[one] == len(self.logs[one]) and one not in self._told:
                self._told.add(one)
                answer.append(end(self._at[one], topic=topic, partition=number))
        return answer

    def append(self, one: PartitionId, times_ms: list[int]) -> None:
        self.logs[one] += times_ms
        self._told.discard(one)

    def pause(self, partitions: list[TopicPartition]) -> None:
        super().pause(partitions)
        self.toggles += 1

    def resume(self, partitions: list[TopicPartition]) -> None:
        super().resume(partitions)
        self._told -= {(one.topic, one.partition) for one in partitions}


def reader_of(consumer: FakeConsumer, layout: Layout = LAYOUT, **options: Any) -> PartitionReader:
    reader = PartitionReader(
        KafkaConfig(bootstrap="broker:9092"),
        layout,
        client_id="test",
        group=None,
        outside=consumer.outside(),
        **options,
    )
    reader.start(StartPosition("beginning"))
    return reader


def log(rng: random.Random, step_ms: int) -> list[int]:
    """Times of a partition: empty, short, or with a pause of an hour somewhere."""
    length = rng.choice([0, 3, 200])
    times, now_ms = [], rng.randrange(1, 20_000)
    for _ in range(length):
        now_ms += rng.randrange(step_ms) + (3_600_000 if rng.random() < 0.01 else 0)
        times.append(now_ms)
    return times


@pytest.mark.parametrize("share_bytes", [0, 20, 10**6], ids=["pauses always", "pauses often", "never pauses"])
@pytest.mark.parametrize("seed", range(15))
def test_every_record_comes_out_in_order_and_no_topic_runs_away(
    monkeypatch: pytest.MonkeyPatch, seed: int, share_bytes: int
) -> None:
    monkeypatch.setattr(alignment, "SHARE_BYTES_MIN", 0)
    monkeypatch.setattr(alignment, "HELD_BYTES_MAX", share_bytes * len(LAYOUT.owned))
    rng = random.Random(seed)
    logs = {(topic, number): log(rng, rng.choice([1, 50, 900])) for topic, number in LAYOUT.owned}
    consumer = LogConsumer(logs, rng)
    reader = reader_of(consumer, slack_ms=SLACK_MS)
    seen: dict[PartitionId, int] = dict.fromkeys(logs, 0)
    additions = 3
    for _ in range(20_000):
        # What a topic still has to give bounds the other one; of what was just appended the reader does not know yet.
        bounds = {
            one: times[seen[one]] + SLACK_MS
            for one, times in logs.items()
            if seen[one] < len(times) and not reader._partitions[one].has_ended
        }
        for run in reader.poll(POLL):
            one = (run.topic, run.partition)
            other = ("decisions" if run.topic == "facts" else "facts", run.partition)
            assert [message.offset() for message in run.messages] == [
                *range(seen[one], seen[one] + len(run.messages))
            ], f"seed {seed}"
            newest = run.messages[-1].timestamp()[1]
            assert newest <= bounds.get(other, newest), f"seed {seed}: {one} ran away from {other}"
            seen[one] += len(run.messages)
            assert reader.positions[one] == seen[one], f"seed {seed}"
        # The oldest of what is held is always handed on with the next poll, so this cannot last.
        assert all(reader._partitions[one].is_holding for one in consumer.paused), f"seed {seed}"
        if reader.caught_up and all(seen[one] == len(logs[one]) for one in logs):
            if additions == 0:
                break
            additions -= 1
            start_ms = max(max(times, default=0) for times in logs.values()) + rng.choice([1, 7_200_000])
            for one in rng.sample([*logs], 3):
                consumer.append(one, [start_ms + n * 100 for n in range(rng.choice([1, 60]))])
    else:
        pytest.fail(f"seed {seed}: stuck at {reader.positions}, paused {consumer.paused}")


def ahead(times_ms: list[int]) -> dict[PartitionId, list[int]]:
    """Facts that wait for a long log of decisions."""
    empty: dict[PartitionId, list[int]] = {one: [] for one in LAYOUT.owned}
    return empty | {("facts", 0): times_ms, ("decisions", 0): [*range(1, 30_000, 100)]}


def test_a_snapshot_names_what_was_handed_on_and_not_what_was_fetched() -> None:
    consumer = LogConsumer(ahead([10_000, 10_001]), random.Random(3))
    reader = reader_of(consumer, slack_ms=SLACK_MS)
    while not reader._partitions["facts", 0].is_holding:
        reader.poll(POLL)
    assert reader.positions["facts", 0] == 0
    assert not reader.caught_up


def test_the_end_of_a_topic_that_was_paused_is_learned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record may have come during the pause: the other topic must not run away from it."""
    monkeypatch.setattr(alignment, "SHARE_BYTES_MIN", 0)
    monkeypatch.setattr(alignment, "HELD_BYTES_MAX", 0)
    consumer = LogConsumer(ahead([10_000]), random.Random(3))
    reader = reader_of(consumer, slack_ms=SLACK_MS)
    while ("facts", 0) not in consumer.paused:
        reader.poll(POLL)
    consumer.append(("facts", 0), [11_000])
    while ("facts", 0) in consumer.paused:
        reader.poll(POLL)
    assert not reader._partitions["facts", 0].has_ended


def test_clock_that_was_wrong_for_a_moment_lets_no_topic_run_away_ever_after() -> None:
    """A record from the future has passed, and the time goes on as before."""
    layout = Layout(topics=("facts", "decisions"), partitions=(0,), partition_count=2, groups_per_partition=2)
    consumer = FakeConsumer(topics={"facts": 2, "decisions": 2})
    reader = reader_of(consumer, layout, slack_ms=SLACK_MS)
    consumer.polls += [
        [record(0, topic="facts", timestamp_ms=10**9), end(0, topic="decisions")],
        [record(1, topic="facts", timestamp_ms=20)],
        [record(offset, topic="decisions", timestamp_ms=time) for offset, time in enumerate([20, 900, 5_000, 90_000])],
    ]
    handed_on = [[(run.topic, len(run.messages)) for run in reader.poll(POLL)] for _ in range(5)]
    assert handed_on == [[("facts", 1)], [("facts", 1)], [("decisions", 2)], [], []]


def test_an_error_about_no_partition_is_waited_out_whichever_partitions_are_read() -> None:
    """A coordinator that refuses the group, for one. It must not be taken for news of partition 0."""
    layout = Layout(topics=("facts", "decisions"), partitions=(1,), partition_count=2, groups_per_partition=2)
    consumer = FakeConsumer(topics={"facts": 2, "decisions": 2})
    reader = reader_of(consumer, layout, slack_ms=SLACK_MS)
    refused = Message(error=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert refused.partition() is None
    consumer.polls.append([refused, record(0, topic="facts", partition=1), end(0, topic="decisions", partition=1)])
    assert [(run.topic, len(run.messages)) for run in reader.poll(POLL)] == [("facts", 1)]


def test_little_is_held_without_a_pause() -> None:
    """Each pause costs what the client had fetched."""
    consumer = LogConsumer({one: [*range(1, 100_000, 20)] for one in LAYOUT.owned}, random.Random(2))
    reader = reader_of(consumer, slack_ms=SLACK_MS)
    while not reader.caught_up:
        reader.poll(POLL)
    assert consumer.toggles == 0


def test_without_a_slack_nothing_is_held() -> None:
    consumer = LogConsumer(ahead([10**9]), random.Random(1))
    reader = reader_of(consumer)
    while not reader.caught_up:
        reader.poll(POLL)
        assert not any(state.is_holding for state in reader._partitions.values())


def test_a_topic_that_ended_at_a_time_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "SHARE_BYTES_MIN", 0)
    monkeypatch.setattr(alignment, "HELD_BYTES_MAX", 0)
    consumer = LogConsumer(ahead([10_000, 10_001, 50_000, 50_001]), random.Random(4))
    reader = reader_of(consumer, slack_ms=SLACK_MS, until_ms=40_000)
    while not reader.caught_up:
        reader.poll(POLL)
    assert consumer.paused == {("facts", 0)}
    assert reader.positions["facts", 0] == 2
    assert reader.positions["decisions", 0] == 300
