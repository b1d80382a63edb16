from __future__ import annotations

from random import Random

import msgspec
import pytest

from datastreamx import metrics
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.snapshots import seal, unseal
from sinks.bigquery.rows import REQUEST_OVERHEAD_BYTES
from sinks.bigquery.transport import Reply, ReplyKind

from .bigquery_model import CLOCK_START_MS, PARENT, ROWS, Bench, Fault, batch

DOWN = Reply(ReplyKind.RETRY, "UNAVAILABLE: outage")
DENIED = Reply(ReplyKind.DOUBTFUL, "PERMISSION_DENIED: no")


def test_rows_become_visible_only_by_a_tick_after_their_snapshot() -> None:
    bench = Bench()
    bench.loader.write(batch(range(10)))
    bench.loader.tick()
    bench.loader.snapshot()
    bench.loader.write(batch(range(10, 20)))
    assert bench.server.visible_ids == []
    bench.loader.tick()
    bench.loader._poll_flushes()
    assert bench.server.visible_ids == list(range(10))
    assert "flush 0 9" in bench.server.calls


def test_rows_appended_after_the_snapshot_stay_invisible_until_theirs() -> None:
    bench = Bench()
    bench.loader.write(batch(range(5)))
    bench.loader.snapshot()
    bench.loader.write(batch(range(5, 9)))
    bench.loader.send()
    bench.loader._wait_for_acks(0)
    bench.loader.tick()
    bench.epoch()
    assert [call for call in bench.server.calls if call.startswith("flush")] == ["flush 0 4", "flush 0 8"]


def test_snapshot_waits_until_every_row_is_acknowledged() -> None:
    bench = Bench(linger_s=60.0)
    for start in range(0, 100, 10):
        bench.loader.write(batch(range(start, start + 10)))
    assert not bench.server.streams
    bench.loader.snapshot()
    (stream,) = bench.server.streams.values()
    assert stream.ids == list(range(100))
    assert len(stream.requests) == 1


@pytest.mark.parametrize("fault", [Fault.LOSE_ACK, Fault.CUT, Fault.REFUSE, Fault.HANG])
def test_requests_of_a_lost_connection_are_sent_again_at_the_same_offsets(fault: Fault) -> None:
    bench = Bench()
    bench.server.faults.extend([Fault.NONE, fault, Fault.NONE, fault])
    for start in range(0, 60, 10):
        bench.loader.write(batch(range(start, start + 10)))
    bench.epoch()
    assert bench.server.visible_ids == list(range(60))
    assert bench.server.calls.count("create") == 1
    assert bench.server.calls.count("connect") == 3


def test_rows_of_another_writer_are_never_taken_for_our_own() -> None:
    bench = Bench()
    bench.loader.write(batch([1]))
    bench.loader.snapshot()
    (stream,) = bench.server.streams.values()
    stream.ids.append(99)
    bench.loader.write(batch([2]))
    with pytest.raises(CrashError, match="another process appends"):
        bench.loader.snapshot()


def test_acknowledged_rows_that_vanished_stop_the_loader() -> None:
    bench = Bench()
    bench.loader.write(batch([1, 2]))
    bench.loader.snapshot()
    (stream,) = bench.server.streams.values()
    stream.ids.pop()
    bench.loader.write(batch([3]))
    with pytest.raises(CrashError, match="rows were lost on its side"):
        bench.loader.snapshot()


def test_bad_rows_become_dead_letters_and_the_rest_of_their_request_is_loaded() -> None:
    bench = Bench()
    bench.server.bad_ids = {2, 7, 30}
    for start in range(0, 40, 10):
        bench.loader.write(batch(range(start, start + 10)))
    bench.epoch()
    assert bench.server.visible_ids == [i for i in range(40) if i not in {2, 7, 30}]
    assert [(x.reason, x.detail, x.topic, x.partition, x.offset) for x in bench.letters.accepted] == [
        ("bigquery_row", "rows: spoiled", "box-events", 3, 1002),
        ("bigquery_row", "rows: spoiled", "box-events", 3, 1007),
        ("bigquery_row", "rows: spoiled", "box-events", 3, 1030),
    ]
    assert bench.letters.settled == 3
    assert bench.server.calls.count("create") == 1


def test_a_request_of_only_bad_rows_leaves_no_gap() -> None:
    bench = Bench()
    bench.server.bad_ids = {1, 2}
    bench.loader.write(batch([1, 2]))
    bench.loader.write(batch([3]))
    bench.epoch()
    assert bench.server.visible_ids == [3]


def test_bad_rows_after_a_lost_connection_move_the_rest_to_a_new_stream() -> None:
    """On the old stream the second request, moved up by two rows, would end right where its own late copy belongs."""
    bench = Bench(linger_s=60.0)
    bench.server.bad_ids = {0, 1}
    bench.server.faults.append(Fault.CUT)
    bench.loader.write(batch(range(50)))
    bench.loader.send()
    bench.loader.write(batch([50, 51]))
    bench.epoch()
    bench.server.deliver_all_strays()
    bench.loader.write(batch([52]))
    bench.epoch()
    assert sorted(bench.server.visible_ids) == list(range(2, 53))
    assert bench.server.calls.count("create") == 2


def test_requests_stay_below_the_limit_and_a_row_beyond_it_is_a_dead_letter() -> None:
    bench = Bench(linger_s=60.0, max_request_bytes=100_000)
    bench.loader.write(batch(range(500), note="x" * 1000))
    bench.loader.write(batch([500], note="y" * 90_000))
    bench.loader.write(batch([501], note="y"))
    bench.epoch()
    (stream,) = bench.server.streams.values()
    assert bench.server.visible_ids == [*range(500), 501]
    assert max(len(r.body) for r in stream.requests) <= 100_000 - REQUEST_OVERHEAD_BYTES
    assert len(stream.requests) < 10
    assert [(x.reason, x.offset) for x in bench.letters.accepted] == [("oversized", 1500)]


def test_memory_is_bounded_by_waiting_for_acknowledgements() -> None:
    bench = Bench(max_unacked_requests=2)
    for i in range(20):
        bench.loader.write(batch([i]))
        assert bench.loader._stream.unacked_requests <= 2


def test_a_box_that_lives_in_1970_cannot_spoil_a_request() -> None:
    bench = Bench(linger_s=60.0)
    bench.loader.write(batch([1]))
    bench.loader.write(batch([2], time_ms=86_400_000))
    bench.loader.write(batch([3], time_ms=CLOCK_START_MS + 400 * 86_400_000))
    bench.epoch()
    assert bench.server.visible_ids == [1]
    assert [(x.reason, x.offset, x.timestamp_ms) for x in bench.letters.accepted] == [
        ("bigquery_row", 1002, 86_400_000),
        ("bigquery_row", 1003, CLOCK_START_MS + 400 * 86_400_000),
    ]


def test_an_outage_is_waited_out_with_growing_pauses() -> None:
    bench = Bench()
    bench.server.outage = DOWN
    waits = 0

    def heal_after_an_hour() -> None:
        nonlocal waits
        waits += 1
        if bench.clock.now_ms() > CLOCK_START_MS + 3_600_000:
            bench.server.outage = None
        elif bench.clock.now_ms() > CLOCK_START_MS + 60_000:
            assert metrics.WAREHOUSE_BREAKER.labels(ROWS.name)._value.get() == 1

    bench.on_wait = heal_after_an_hour
    bench.loader.write(batch(range(5)))
    bench.epoch()
    assert bench.server.visible_ids == list(range(5))
    # 3,600 s at 15 to 30 s each, and the short ones at first.
    assert 120 <= bench.server.calls.count("create") <= 250
    assert waits >= 3_600 / 0.5
    assert metrics.WAREHOUSE_BREAKER.labels(ROWS.name)._value.get() == 0


def test_an_outage_does_not_block_writes_while_there_is_room() -> None:
    bench = Bench(max_unacked_requests=4)
    bench.server.outage = DOWN
    for i in range(4):
        bench.loader.write(batch([i]))
    assert bench.slept_s == []
    assert len(bench.server.calls) == 1


def test_waiting_can_be_given_up() -> None:
    class StopWaitingError(Exception):
        pass

    def stop() -> None:
        raise StopWaitingError

    bench = Bench()
    bench.server.outage = DOWN
    bench.on_wait = stop
    bench.loader.write(batch([1]))
    with pytest.raises(StopWaitingError):
        bench.loader.snapshot()


def test_permission_denied_is_tried_again_and_then_stops_the_loader() -> None:
    bench = Bench(doubtful_tries=5)
    bench.server.outage = DENIED
    bench.loader.write(batch([1]))
    with pytest.raises(CrashError, match=r"5 times in a row: PERMISSION_DENIED.*dataEditor"):
        bench.loader.snapshot()
    assert bench.server.calls.count("create") == 5


def test_permission_granted_in_time_goes_on() -> None:
    bench = Bench(doubtful_tries=5)
    bench.server.outage = DENIED

    def grant() -> None:
        if bench.server.calls.count("create") == 4:
            bench.server.outage = None

    bench.on_wait = grant
    bench.loader.write(batch([1]))
    bench.epoch()
    assert bench.server.visible_ids == [1]


def test_a_refusal_for_good_stops_the_loader_at_once() -> None:
    bench = Bench()
    bench.server.outage = Reply(ReplyKind.FATAL, "INVALID_ARGUMENT: schema")
    with pytest.raises(CrashError, match="INVALID_ARGUMENT: schema"):
        bench.loader.write(batch([1]))


def test_rows_of_another_schema_stop_the_loader() -> None:
    with pytest.raises(CrashError, match=r"Table\.arrow_schema"):
        Bench().loader.write(batch([1]).drop_columns(["note"]))


def test_a_restart_flushes_what_its_snapshot_left_and_drops_what_came_later() -> None:
    bench = Bench()
    bench.loader.write(batch(range(10)))
    state = bench.loader.snapshot()
    bench.loader.write(batch(range(10, 15)))
    bench.loader.send()
    bench.loader._wait_for_acks(0)
    bench.resume(state)
    bench.loader.write(batch(range(10, 20)))
    bench.epoch()
    assert sorted(bench.server.visible_ids) == list(range(20))
    assert bench.server.calls.count("create") == 2


def test_flushing_again_after_a_restart_is_harmless() -> None:
    bench = Bench()
    bench.loader.write(batch(range(10)))
    state = bench.epoch()
    bench.resume(state)
    bench.epoch()
    assert bench.server.visible_ids == list(range(10))
    assert bench.server.calls.count("flush 0 9") == 2


def test_a_restart_during_an_outage_flushes_on_later_ticks() -> None:
    bench = Bench()
    bench.loader.write(batch(range(10)))
    state = bench.loader.snapshot()
    bench.server.outage = DOWN
    bench.resume(state)
    for _ in range(100):
        bench.clock.advance(1_000)
        state = bench.epoch()
    flushes = bench.server.calls.count("flush 0 9")
    assert 5 <= flushes <= 15
    bench.resume(state)
    bench.server.outage = None
    bench.clock.advance(60_000)
    bench.epoch()
    assert bench.server.visible_ids == list(range(10))


def test_a_stream_that_expired_before_its_flush_stops_the_loader() -> None:
    bench = Bench()
    bench.loader.write(batch([1]))
    state = bench.loader.snapshot()
    bench.server.expire()
    with pytest.raises(CrashError, match="load the range again from Kafka"):
        bench.resume(state).tick()


def test_a_stream_is_finalized_only_when_no_durable_snapshot_names_it() -> None:
    bench = Bench()
    bench.loader.write(batch([1]))
    state = bench.loader.snapshot()
    bench.resume(state)
    # The flush of the resumed segment succeeds now, but the durable snapshot still names it.
    bench.loader.tick()
    assert "finalize 0" not in bench.server.calls
    bench.loader.snapshot()
    assert "finalize 0" not in bench.server.calls
    bench.loader.tick()
    bench.epoch()
    bench.epoch()
    assert bench.server.calls.count("finalize 0") == 1


def test_steady_state_creates_one_stream_and_no_flush_without_news() -> None:
    bench = Bench()
    for i in range(50):
        if i % 2:
            bench.loader.write(batch([i]))
        bench.epoch()
    assert bench.server.calls.count("create") == 1
    assert len([call for call in bench.server.calls if call.startswith("flush")]) == 25


def test_a_table_without_rows_costs_no_call() -> None:
    bench = Bench()
    bench.loader.write(batch([]))
    state = bench.epoch()
    bench.resume(state)
    bench.epoch()
    assert bench.server.calls == []


def test_one_flush_at_a_time_and_the_next_covers_all_that_was_proven_meanwhile() -> None:
    bench = Bench()
    bench.server.are_flushes_slow = True
    for i in range(10):
        bench.loader.write(batch([i]))
        bench.epoch()
    bench.server.are_flushes_slow = False
    bench.epoch()
    bench.epoch()
    assert [call for call in bench.server.calls if call.startswith("flush")] == ["flush 0 0", "flush 0 9"]
    assert bench.server.visible_ids == list(range(10))


def test_a_stream_that_expired_while_idle_is_replaced() -> None:
    bench = Bench()
    bench.loader.write(batch([1]))
    bench.epoch()
    bench.server.expire()
    bench.loader.write(batch([2]))
    bench.epoch()
    assert bench.server.visible_ids == [1, 2]
    assert bench.server.calls.count("create") == 2


def test_a_stream_that_expired_with_invisible_rows_is_not_replaced() -> None:
    bench = Bench(doubtful_tries=3)
    bench.loader.write(batch([1]))
    bench.loader.snapshot()
    bench.server.expire()
    bench.loader.write(batch([2]))
    with pytest.raises(CrashError, match="no such stream"):
        bench.loader.snapshot()


def test_an_idle_connection_that_was_closed_is_reopened_without_counting_as_failure() -> None:
    bench = Bench()
    bench.loader.write(batch([1]))
    bench.epoch()
    bench.loader._connection.cut()  # type: ignore[union-attr]
    failures = metrics.WAREHOUSE_ERRORS.labels(ROWS.name, "retry")._value.get()
    bench.loader.write(batch([2]))
    bench.epoch()
    assert bench.server.visible_ids == [1, 2]
    assert metrics.WAREHOUSE_ERRORS.labels(ROWS.name, "retry")._value.get() == failures


def test_state_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="cannot be read"):
        Bench().resume(seal(b"nonsense"))


def test_state_of_another_version_is_refused() -> None:
    state = seal(msgspec.msgpack.encode([1, PARENT, []]))
    with pytest.raises(StateMismatchError, match="version 1"):
        Bench().resume(state)


def test_state_of_another_table_is_refused() -> None:
    bench = Bench()
    state = bench.loader.snapshot()
    other = unseal(state, "sink").replace(b"projects/p/", b"projects/q/")
    assert other != state[-len(other) :]
    with pytest.raises(StateMismatchError, match=r"bigquery\.project"):
        bench.resume(seal(other))


@pytest.mark.parametrize("seed", range(300))
def test_every_row_is_visible_once_whatever_fails_and_whenever_it_crashes(seed: int) -> None:
    """Faults, late copies, bad rows and crashes at random; the source replays in other batches after each crash."""
    random = Random(seed)
    bench = Bench(random, max_request_bytes=100_000, max_unacked_requests=random.randint(1, 5))
    rows, crashes = 400, random.randint(0, 5)
    bench.server.bad_ids = set(random.sample(range(rows), random.choice([0, 0, 1, 6])))
    durable: tuple[int, bytes | None] = (0, None)
    position = 0
    while position < rows:
        step = min(random.randint(1, 40), rows - position)
        bench.server.faults.extend(random.choices(list(Fault), [12, 1, 1, 1, 1], k=3))
        bench.loader.write(batch(range(position, position + step), note="z" * random.choice([0, 0, 3000])))
        position += step
        bench.server.deliver_some_strays(random)
        if random.random() < 0.4:
            state = bench.loader.snapshot()
            if random.random() < 0.9:
                durable = (position, state)
                bench.loader.tick()
        if crashes and random.random() < 0.1:
            crashes -= 1
            position = durable[0]
            bench.resume(durable[1])
    bench.server.faults.clear()
    for _ in range(4):
        bench.clock.advance(60_000)
        bench.server.deliver_some_strays(random)
        bench.epoch()
    expected = [i for i in range(rows) if i not in bench.server.bad_ids]
    assert sorted(bench.server.visible_ids) == expected, f"seed {seed}"
    assert {x.offset - 1000 for x in bench.letters.accepted} == bench.server.bad_ids, f"seed {seed}"
