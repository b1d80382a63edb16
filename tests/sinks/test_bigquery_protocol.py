from __future__ import annotations

from random import Random

import pytest
from google.cloud.bigquery_storage_v1 import types
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import StatusCode

from datastreamx.errors import CrashError
from sinks.bigquery.breaker import Backoff, Breaker
from sinks.bigquery.classify import classify
from sinks.bigquery.ledger import FlushLedger, FlushTarget
from sinks.bigquery.rows import Block, encode
from sinks.bigquery.stream import AppendStream
from sinks.bigquery.transport import BadRow, Reply, ReplyKind

from .bigquery_model import batch

OK = Reply(ReplyKind.OK)
_Code = types.StorageError.StorageErrorCode


def stream_of(*sizes: int) -> AppendStream:
    stream = AppendStream()
    for size in sizes:
        rows = batch(range(size))
        stream.add(Block(rows, encode(rows)))
    return stream


def offsets(stream: AppendStream) -> list[int]:
    return [request.offset for request in stream.take_sendable()]


def detail(code: int) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(types.StorageError.pb(types.StorageError(code=code)))
    return packed


class TestAppendStream:
    def test_requests_are_pipelined_at_consecutive_offsets(self) -> None:
        stream = stream_of(3, 4)
        assert offsets(stream) == [0, 3]
        stream.add(Block(batch([1]), b""))
        assert offsets(stream) == [7]
        assert stream.in_flight == 3

    def test_only_acknowledged_rows_count(self) -> None:
        stream = stream_of(3, 4)
        offsets(stream)
        stream.on_reply(OK)
        assert stream.acked_rows == 3
        assert stream.unacked_requests == 1

    def test_existing_rows_count_only_where_we_sent_before(self) -> None:
        stream = stream_of(3)
        offsets(stream)
        stream.on_connection_lost()
        assert offsets(stream) == [0]
        stream.on_reply(Reply(ReplyKind.ALREADY_EXISTS))
        assert stream.acked_rows == 3
        fresh = stream_of(3)
        offsets(fresh)
        with pytest.raises(CrashError, match="another process"):
            fresh.on_reply(Reply(ReplyKind.ALREADY_EXISTS))

    def test_rows_at_another_offset_than_asked_for_stop_everything(self) -> None:
        stream = stream_of(3)
        offsets(stream)
        with pytest.raises(CrashError, match="offset 5"):
            stream.on_reply(Reply(ReplyKind.OK, offset=5))

    def test_nothing_is_sent_until_all_requests_behind_a_refused_one_were_refused_too(self) -> None:
        stream = stream_of(3, 4, 5)
        offsets(stream)
        stream.on_reply(OK)
        refused = stream.on_reply(Reply(ReplyKind.BAD_ROWS, bad_rows=(BadRow(1, "no"), BadRow(3, "no"))))
        assert [row.rows.column("id").to_pylist() for row in refused] == [[1], [3]]
        assert offsets(stream) == []
        assert stream.is_draining
        stream.on_reply(Reply(ReplyKind.OUT_OF_RANGE))
        assert offsets(stream) == [3, 5]
        assert not stream.must_roll

    def test_a_request_that_moved_counts_as_never_sent(self) -> None:
        stream = stream_of(3, 4)
        offsets(stream)
        stream.on_reply(Reply(ReplyKind.BAD_ROWS, bad_rows=(BadRow(0, "no"),)))
        stream.on_reply(Reply(ReplyKind.OUT_OF_RANGE))
        offsets(stream)
        with pytest.raises(CrashError, match="another process"):
            stream.on_reply(Reply(ReplyKind.ALREADY_EXISTS))

    def test_an_accepted_request_behind_a_refused_one_stops_everything(self) -> None:
        stream = stream_of(3, 4)
        offsets(stream)
        stream.on_reply(Reply(ReplyKind.BAD_ROWS, bad_rows=(BadRow(0, "no"),)))
        with pytest.raises(CrashError, match="cannot be trusted"):
            stream.on_reply(OK)

    def test_a_connection_lost_while_rows_are_refused_moves_on_to_a_new_stream(self) -> None:
        stream = stream_of(3, 4)
        offsets(stream)
        stream.on_reply(Reply(ReplyKind.BAD_ROWS, bad_rows=(BadRow(0, "no"),)))
        stream.on_connection_lost()
        assert stream.must_roll
        assert offsets(stream) == []
        assert offsets(stream.roll()) == [0, 2]

    def test_refused_rows_on_a_connection_that_was_never_lost_stay_on_their_stream(self) -> None:
        stream = stream_of(3, 4)
        offsets(stream)
        stream.on_reply(OK)
        stream.on_connection_lost()
        offsets(stream)
        stream.on_reply(OK)
        stream.add(Block(batch(range(2)), b""))
        offsets(stream)
        stream.on_reply(Reply(ReplyKind.BAD_ROWS, bad_rows=(BadRow(0, "no"),)))
        assert not stream.must_roll

    def test_row_errors_without_rows_stop_everything(self) -> None:
        stream = stream_of(3)
        offsets(stream)
        with pytest.raises(CrashError, match="without a usable list"):
            stream.on_reply(Reply(ReplyKind.BAD_ROWS, bad_rows=(BadRow(3, "no"),)))

    def test_an_answer_to_nothing_stops_everything(self) -> None:
        with pytest.raises(CrashError, match="nothing was asked"):
            stream_of(3).on_reply(OK)


class TestFlushLedger:
    def test_marks_never_overtake_each_other(self) -> None:
        ledger = FlushLedger("t")
        ledger.open("s")
        ledger.acked("s", 10)
        ledger.prove()
        assert ledger.begin_flushes() == []
        ledger.snapshot()
        ledger.acked("s", 20)
        ledger.prove()
        assert ledger.begin_flushes() == [FlushTarget("s", 10)]
        assert ledger.flushed(FlushTarget("s", 10)) == 10
        ledger.prove()
        assert ledger.begin_flushes() == []

    def test_a_snapshot_lists_the_rest_of_a_partly_flushed_stream(self) -> None:
        ledger = FlushLedger("t")
        ledger.open("s")
        ledger.acked("s", 10)
        ledger.snapshot()
        ledger.prove()
        (target,) = ledger.begin_flushes()
        ledger.flushed(target)
        ledger.acked("s", 25)
        resumed = FlushLedger("t")
        resumed.restore(ledger.snapshot())
        (target,) = resumed.begin_flushes()
        assert target == FlushTarget("s", 25)
        assert resumed.flushed(target) == 15

    def test_a_failed_flush_begins_again(self) -> None:
        ledger = FlushLedger("t")
        ledger.open("s")
        ledger.acked("s", 1)
        ledger.snapshot()
        ledger.prove()
        (target,) = ledger.begin_flushes()
        assert ledger.begin_flushes() == []
        ledger.flush_failed(target)
        assert ledger.begin_flushes() == [target]


class TestBreaker:
    def test_pauses_double_up_to_the_longest_with_jitter_in_the_upper_half(self) -> None:
        backoff = Backoff(first_s=1.0, longest_s=8.0)
        random = Random(7)
        for failures, full_s in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10_000, 8.0)]:
            delays = [backoff.delay_s(failures, random) for _ in range(200)]
            assert full_s / 2 <= min(delays) < full_s * 0.6
            assert full_s * 0.9 < max(delays) <= full_s

    def test_it_opens_once_and_closes_once(self) -> None:
        breaker = Breaker(Backoff(1.0, 1.0), Random(1), failures_to_open=2)
        assert [breaker.failed(0.0) for _ in range(4)] == [False, True, False, False]
        assert breaker.is_open
        assert [breaker.succeeded() for _ in range(2)] == [True, False]
        assert not breaker.is_open

    def test_a_failure_holds_calls_back_until_its_pause_is_over(self) -> None:
        breaker = Breaker(Backoff(4.0, 4.0), Random(1))
        assert breaker.wait_s(100.0) == 0
        breaker.failed(100.0)
        wait_s = breaker.wait_s(100.0)
        assert 2.0 <= wait_s <= 4.0
        assert breaker.wait_s(100.0 + wait_s) == 0


class TestClassify:
    @pytest.mark.parametrize("code", list(StatusCode))
    def test_every_code_has_a_kind(self, code: StatusCode) -> None:
        expected = {
            StatusCode.OK: ReplyKind.OK,
            StatusCode.ALREADY_EXISTS: ReplyKind.ALREADY_EXISTS,
            StatusCode.OUT_OF_RANGE: ReplyKind.OUT_OF_RANGE,
            StatusCode.NOT_FOUND: ReplyKind.NOT_FOUND,
            StatusCode.PERMISSION_DENIED: ReplyKind.DOUBTFUL,
            StatusCode.UNAUTHENTICATED: ReplyKind.DOUBTFUL,
            StatusCode.INVALID_ARGUMENT: ReplyKind.FATAL,
            StatusCode.FAILED_PRECONDITION: ReplyKind.FATAL,
            StatusCode.UNIMPLEMENTED: ReplyKind.FATAL,
            StatusCode.DATA_LOSS: ReplyKind.FATAL,
        }
        assert classify(code.value[0]) is expected.get(code, ReplyKind.RETRY)

    @pytest.mark.parametrize(
        ("storage_code", "kind"),
        [
            (_Code.OFFSET_ALREADY_EXISTS, ReplyKind.ALREADY_EXISTS),
            (_Code.STREAM_NOT_FOUND, ReplyKind.NOT_FOUND),
            (_Code.SCHEMA_MISMATCH_EXTRA_FIELDS, ReplyKind.DOUBTFUL),
            (_Code.STREAM_FINALIZED, ReplyKind.FATAL),
        ],
    )
    def test_the_storage_error_goes_before_the_code(self, storage_code: int, kind: ReplyKind) -> None:
        assert classify(StatusCode.INVALID_ARGUMENT.value[0], [detail(storage_code)]) is kind

    def test_an_unknown_detail_leaves_the_code(self) -> None:
        assert classify(StatusCode.UNAVAILABLE.value[0], [AnyMessage(), detail(0)]) is ReplyKind.RETRY
