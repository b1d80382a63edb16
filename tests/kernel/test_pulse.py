from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from datastreamx import pulse
from datastreamx.pulse import PIPE_VARIABLE, Pulse, Report


class Ear:
    """The other end of the pipe."""

    def __init__(self) -> None:
        self.fd, self.theirs = os.pipe()
        os.set_blocking(self.fd, False)

    def heard(self) -> list[Report]:
        try:
            lines = os.read(self.fd, 1_000_000).splitlines()
        except BlockingIOError:
            return []
        return [msgspec.json.decode(line, type=Report) for line in lines]


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    yield made
    os.close(made.fd)
    os.close(made.theirs)


@pytest.fixture(autouse=True)
def every_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 0.0)


def test_phases_are_told_once_and_in_order(ear: Ear) -> None:
    told = Pulse(ear.theirs)
    told.enter("restoring", "loading state")
    told.enter("restoring", "loading state")
    told.enter("running")
    assert [(one.phase, one.doing) for one in ear.heard()] == [("restoring", "loading state"), ("running", "")]


def test_a_source_that_is_asked_ends_the_restoring(ear: Ear) -> None:
    told = Pulse(ear.theirs)
    told.enter("restoring")
    told.ran()
    assert ear.heard()[-1].phase == "running"


def test_lags_of_readers_add_up_and_the_oldest_data_counts(ear: Ear) -> None:
    told = Pulse(ear.theirs)
    told.lag("a", 3, 2_000)
    told.lag("b", 4, 1_000)
    told.lag("a", 1, 500)
    told.snapshot_is_durable()
    told.beat()
    (report,) = ear.heard()
    assert (report.lag_records, report.lag_ms, report.epochs) == (5, 1_000, 1)


def test_beats_in_close_succession_are_one_report(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 60.0)
    told = Pulse(ear.theirs)
    for _ in range(100):
        told.beat()
    assert len(ear.heard()) == 1


def test_worker_whose_other_thread_hangs_says_nothing_but_that_it_gives_up(ear: Ear) -> None:
    told, organs = Pulse(ear.theirs), {"loop": True}
    told.watch(lambda: organs["loop"])
    told.beat()
    assert len(ear.heard()) == 1
    organs["loop"] = False
    told.beat()
    assert ear.heard() == []
    told.give_up()
    assert [one.hopeless for one in ear.heard()] == [True]


def test_pipe_that_nobody_empties_blocks_nobody(ear: Ear) -> None:
    told = Pulse(ear.theirs)
    for _ in range(10_000):
        told.beat()
    assert ear.heard()


def test_pipe_without_reader_ends_nobody() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Pulse(writer).beat()
    os.close(writer)


def test_pipe_is_named_by_the_environment_and_meant_for_one_process(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    os.set_inheritable(ear.theirs, True)
    monkeypatch.setenv(PIPE_VARIABLE, str(ear.theirs))
    told = Pulse.from_environment()
    told.beat()
    assert len(ear.heard()) == 1
    program = f"import os; os.write({ear.theirs}, b'x')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, close_fds=False).returncode
    assert PIPE_VARIABLE not in os.environ
    Pulse.from_environment().beat()
    assert ear.heard() == []
