from __future__ import annotations

from datastreamx.model.keygroup import group_of
from sources.kafka.chunks import chunks_of, runs_of
from tests.sources.fake_kafka import record


def test_a_partition_that_comes_twice_in_a_poll_is_one_run_in_log_order() -> None:
    messages = [
        record(5, partition=1),
        record(6, partition=1),
        record(0, partition=0),
        record(7, partition=1),
        record(0, partition=1, topic="other"),
    ]
    runs = runs_of(messages)
    assert [(run.topic, run.partition, [m.offset() for m in run.messages]) for run in runs] == [
        ("events", 1, [5, 6, 7]),
        ("events", 0, [0]),
        ("other", 1, [0]),
    ]


def test_a_run_is_split_by_key_group_and_every_column_stays_parallel() -> None:
    keys = [b"stb-%d" % n for n in range(50)]
    (run,) = runs_of([record(n, key=key, value=b"v%d" % n, timestamp_ms=n) for n, key in enumerate(keys)])
    chunks = chunks_of(run, 3)
    assert [chunk.group for chunk in chunks] == [0, 1, 2]
    for chunk in chunks:
        expected = [n for n, key in enumerate(keys) if group_of(key, 3) == chunk.group]
        assert chunk.offsets == expected
        assert chunk.timestamps_ms == expected
        assert chunk.keys == [keys[n] for n in expected]
        assert chunk.values == [b"v%d" % n for n in expected]


def test_only_groups_that_occur_make_a_chunk() -> None:
    (run,) = runs_of([record(0, key=b"stb-1")])
    assert [chunk.group for chunk in chunks_of(run, 64)] == [group_of(b"stb-1", 64)]


def test_a_record_without_key_goes_where_the_empty_key_goes() -> None:
    (run,) = runs_of([record(0, key=None), record(1, key=b"")])
    (chunk,) = chunks_of(run, 64)
    assert (chunk.group, chunk.keys) == (group_of(b"", 64), [None, b""])
