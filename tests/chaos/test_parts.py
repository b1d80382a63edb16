"""What a campaign is made of, where it can be looked at without processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.clock import make_clocks
from tests.chaos.disk import mounted
from tests.chaos.journal import Entry, Journal
from tests.chaos.verdict import Verdict, _repeated
from tests.chaos.weather import Weather


def test_journal_tells_what_it_keeps() -> None:
    told: list[Entry] = []
    journal = Journal(told.append)
    journal.note("kill", "ads-0", "3 auctions in flight")
    journal.note("settled")
    assert journal.entries == told
    assert str(told[0]).endswith(" s  kill ads-0: 3 auctions in flight")
    assert str(told[1]).endswith(" s  settled")


def test_spell_ends_when_it_is_due_when_asked_to_and_when_another_one_comes() -> None:
    ended: list[str] = []
    weather = Weather(Journal())
    weather.begin("disk", "full", 0, lambda: ended.append("due"))
    weather.tend()
    assert ended == ["due"]
    weather.begin("bigquery", "503", 1000, lambda: ended.append("replaced"))
    weather.begin("bigquery", "429", 1000, lambda: ended.append("cleared"))
    weather.begin("network", "slow", 1000, lambda: ended.append("asked"))
    weather.tend()
    assert ended == ["due", "replaced"]
    assert not weather.is_calm("network")
    weather.end("network")
    assert weather.is_calm("network")
    weather.clear()
    assert ended == ["due", "replaced", "asked", "cleared"]
    assert weather.is_calm("bigquery")


def test_record_is_repeated_only_if_it_stood_there_before_the_stop() -> None:
    records: list[set[tuple[object, ...]]] = [{("a",)}, {("b",), ("c",)}, {("d",)}, {("c",), ("e",)}]
    assert list(_repeated("facts", 0, 2, records)) == [
        "1 facts of partition 0 written before a clean stop and again after it: ('c',)"
    ]
    assert list(_repeated("facts", 0, 3, records)) != []
    assert list(_repeated("facts", 0, 4, records)) == []
    assert list(_repeated("facts", 0, 1, records)) == []


def test_verdicts_sum_up_and_one_violation_is_enough() -> None:
    total, one = Verdict(), Verdict()
    one.figures["events"] = 5
    total.add(one)
    held_before = total.holds
    for _ in range(9):
        one.violations["events_lost"].add("lost", 2)
    total.add(one)
    assert (held_before, total.holds) == (True, False)
    assert total.figures["events"] == 10
    assert (total.violations["events_lost"].count, len(total.violations["events_lost"].examples)) == (18, 5)


def test_clock_of_a_running_process_steps_and_its_sleeps_stay(tmp_path: Path) -> None:
    clocks = make_clocks(tmp_path)
    if clocks is None:
        pytest.skip("there is no C compiler here")
    program = (
        "import datetime, sys, time\n"
        "for line in sys.stdin:\n"
        "    time.sleep(0.01)\n"
        "    seen = time.time(), datetime.datetime.now().timestamp(), time.clock_gettime(time.CLOCK_REALTIME)\n"
        "    print(*(round(at) for at in seen), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | clocks.environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset_s in (0, -37, 60, 0):
            clocks.set(offset_s)
            process.stdin.write("\n")
            process.stdin.flush()
            for seen in process.stdout.readline().split():
                assert abs(int(seen) - time.time() - offset_s) < 10
        process.stdin.close()


def test_full_disk_takes_no_byte_more_until_it_is_freed(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1024 * 1024) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        disk.fill()
        with pytest.raises(OSError, match="No space"):
            (disk.directory / "snapshot").write_bytes(bytes(8192))
        disk.free()
        (disk.directory / "snapshot").write_bytes(bytes(8192))
