from __future__ import annotations

from pathlib import Path

import pytest
import typer

from datastreamx.cli.output import Exit
from datastreamx.cli.replay.moment import moment_ms
from datastreamx.cli.replay.report import lines
from datastreamx.cli.replay.watching import Pace, in_words
from flows.replaying.meter import Meter
from flows.replaying.run import Summary
from sources.kafka.bounds import Bounds
from tests.builders import T0, chunk, heartbeat
from tests.cli.running import Cli


@pytest.mark.parametrize(
    ("text", "wanted_ms"),
    [
        ("90s", T0 - 90_000),
        ("1.5h", T0 - 5_400_000),
        ("3d", T0 - 259_200_000),
        ("2023-11-14T22:13:19Z", T0 - 1_000),
        ("2023-11-14T22:13:19", T0 - 1_000),
        ("2023-11-14T23:13:19+01:00", T0 - 1_000),
        ("2023-11-14", T0 - 80_000_000),
    ],
)
def test_moment_is_a_time_or_a_while_ago(text: str, wanted_ms: int) -> None:
    assert moment_ms(text, T0) == wanted_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2 h", "-2h", "2h30m", "1700000000", "2024-01-01"])
def test_other_texts_are_no_moments(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moment_ms(text, T0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "--from"),
        (("--from", "soon"), "is no time"),
        (("--from", "2099-01-01"), "in the future"),
        (("--from", "1h", "--until", "2h"), "is not before"),
        (("--from", "1h", "--dataset", "anew", "--ordinal", "0"), "--ordinal chooses a store"),
    ],
)
def test_wrong_options_are_explained(cli: Cli, config_file: Path, options: tuple[str, ...], complaint: str) -> None:
    ended = cli("replay", "--config", str(config_file), *options)
    assert ended.code == Exit.USAGE
    assert complaint in " ".join(ended.err.replace("│", " ").split())


def test_live_dataset_is_refused(cli: Cli, config_file: Path) -> None:
    ended = cli("replay", "--config", str(config_file), "--from", "1h", "--dataset", "datastreamx")
    assert ended.code == Exit.USAGE
    assert "every row would be there twice" in ended.err


def test_pace_tells_speed_and_time_left() -> None:
    pace = Pace()
    assert (pace.per_second, pace.left_s(100)) == (0.0, None)
    for second in range(5):
        pace.note(10.0 + second, 20 * second)
    assert (pace.per_second, pace.left_s(100)) == (20.0, 1.0)
    assert pace.left_s(50) == 0


def test_pace_in_words() -> None:
    meter = Meter("box-events", {("box-events", 0): Bounds(0, 0, 180_000)})
    meter.passed([chunk(heartbeat(0), first_offset=0)])
    pace = Pace()
    for second in range(2):
        pace.note(second, 20 * second)
    assert in_words(pace, meter) == "20 records/s, at 2023-11-14T22:13:20Z, 2:29:59 left"


def test_summary_says_what_was_made() -> None:
    summary = Summary(
        result="recovery store x",
        is_finished=True,
        is_resumed=True,
        from_ms=None,
        until_ms=T0,
        events_read=1_000,
        rows={"box_events": 990},
        decisions_reused=3,
        decisions_expired=2,
        dead_letters=10,
        seconds=0.5,
        events_per_second=2_000,
        caveats=[],
    )
    assert lines(summary) == [
        "replayed 1,000 events from the beginning until 2023-11-14T22:13:20Z in 0.5 s (2,000 events/s), "
        "besides what was done before",
        "rows: 990 box_events; dead letters: 10",
        "opportunities: 3 were decided already, 2 had expired",
        "made: recovery store x",
    ]
