from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.prepare.render import lines
from datastreamx.cli.replay.command import STOPPED
from datastreamx.errors import RetryableError
from flows.prepare import PrepareReport
from tests.builders import CONFIG_TEXT
from tests.cli.running import Cli
from tests.flows.handovers import SUMMARY, Deployment


@dataclass
class Kafka:
    """What the group has committed, and whether somebody answers."""

    evidence: dict[tuple[str, int], object] = field(default_factory=dict)
    is_up: bool = True


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    made = Kafka()

    class Reader:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def evidence(self) -> dict[tuple[str, int], object]:
            if not made.is_up:
                raise RetryableError("no broker answers")
            return made.evidence

        def close(self) -> None:
            pass

    monkeypatch.setattr("flows.prepare.PartitionReader", Reader)
    return made


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "datastreamx.toml"
    path.write_text(
        f'{CONFIG_TEXT}\n[events]\npartitions = 6\n[recovery]\ndirectory = "{tmp_path / "recovery"}"\n'
        f'handover = "{tmp_path / "handover"}"\n[scaling]\ncells = 2\n'
    )
    return path


@pytest.mark.usefixtures("kafka")
@pytest.mark.parametrize("flow", ["ads", "warehouse", "notices"])
def test_prepare_of_the_very_first_start(cli: Cli, config_path: Path, flow: str) -> None:
    ended = cli("prepare", flow, "--config", str(config_path), "--ordinal", "1")
    assert (ended.code, ended.out) == (
        0,
        f"nothing to do: the flow {flow} never ran here, and begins with an empty store\n",
    )
    assert "prepare.done" in ended.err


@pytest.mark.usefixtures("kafka")
def test_prepare_as_json(cli: Cli, config_path: Path, tmp_path: Path) -> None:
    ended = cli("prepare", "ads", "--config", str(config_path), "--json")
    assert ended.json == {
        "flow": "ads",
        "outcome": "nothing",
        "reason": "the flow ads never ran here, and begins with an empty store",
        "store": str(tmp_path / "recovery" / "ads-0"),
        **dict.fromkeys(("keys", "taken_from", "set_aside", "replay")),
    }
    assert json.loads(ended.err)["event"] == "prepare.done"


def test_prepare_ends_with_code_4_when_kafka_does_not_answer(cli: Cli, config_path: Path, kafka: Kafka) -> None:
    kafka.is_up = False
    ended = cli("prepare", "ads", "--config", str(config_path))
    assert (ended.code, ended.err.splitlines()[-1]) == (Exit.UNREACHABLE, "error: no broker answers")


def test_prepare_that_is_stopped_while_it_rebuilds_ends_with_code_130(
    cli: Cli, config_path: Path, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = msgspec.structs.replace(SUMMARY, is_finished=False)
    monkeypatch.setattr("datastreamx.cli.prepare.command._rebuild", lambda *_: stopped)
    assert cli("prepare", "ads", "--config", str(config_path)).code == 0
    kafka.evidence = {("box-events", 0): object()}
    ended = cli("prepare", "ads", "--config", str(config_path))
    assert (ended.code, ended.out.splitlines()[0].split(":")[0]) == (STOPPED, "stopped")


def test_prepare_and_rescale_tell_of_what_is_handed_over(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(tmp_path / "site", "ads", 2)
    deployment.up()
    deployment.down()
    monkeypatch.setattr("flows.recovery.handed_rescale.ask_broker", deployment.ask)
    path = tmp_path / "datastreamx.toml"
    path.write_text(config_text(deployment, deployment.directory / "scratch"))
    planned = cli("rescale", "--config", str(path), "--cells", "3", "--handed-over", "--dry-run")
    assert planned.out.splitlines()[-1] == "Nothing was changed."
    assert "rescale.step" in planned.err
    ended = cli("rescale", "--config", str(path), "--cells", "3", "--handed-over")
    folder = deployment.directory / "handover"
    assert f"They wait in {folder}; `datastreamx prepare` takes each to its place." in ended.out
    assert ended.out.splitlines()[-1].startswith("Now set scaling.cells = 3")
    once_more = cli("rescale", "--config", str(path), "--cells", "3", "--handed-over", "--json").json
    assert (once_more["state"], once_more["handed_over"]) == ("nothing", None)


def config_text(deployment: Deployment, recovery: Path) -> str:
    recovery.mkdir(exist_ok=True)
    return (
        f'{CONFIG_TEXT}\n[events]\npartitions = 6\ngroups_per_partition = 2\n[recovery]\ndirectory = "{recovery}"\n'
        f'handover = "{deployment.directory / "handover"}"\n[scaling]\ncells = {deployment.cells}\n'
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {
                "outcome": "took_over",
                "reason": "it was handed over",
                "keys": 1234,
                "taken_from": "/h",
                "set_aside": "/b",
            },
            [
                "took over the store: it was handed over",
                "1,234 keys, from /h to /r/ads-0",
                "what was there before is in /b",
            ],
        ),
        ({"outcome": "rebuilt", "reason": "it was lost", "replay": SUMMARY}, ["rebuilt the store: it was lost"]),
    ],
)
def test_outcomes_are_told(changes: dict[str, Any], told: list[str]) -> None:
    report = PrepareReport(flow="ads", store="/r/ads-0", **changes)
    assert [str(line) for line in lines(report)][: len(told)] == told
