from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.resources import survey
from datastreamx.cli.resources.report import Report, State, SystemReport, exit_code, hint, summary
from datastreamx.config import Config
from datastreamx.errors import CrashError, RetryableError
from tests.builders import config
from tests.cli.running import Cli


def system(state: State, *changes: str) -> SystemReport:
    problem = "why" if state in {"unusable", "unreachable"} else None
    return SystemReport(name="Kafka", address="a:1", state=state, changes=[*changes], problem=problem)


@pytest.mark.parametrize(
    ("kafka", "bigquery", "code"),
    [
        ("ready", "planned", Exit.OK),
        ("changed", "ready", Exit.OK),
        ("unusable", "ready", Exit.FAILED),
        ("ready", "unreachable", Exit.UNREACHABLE),
        ("unusable", "unreachable", Exit.UNREACHABLE),
    ],
)
def test_exit_code_is_that_of_the_worst_system(kafka: State, bigquery: State, code: Exit) -> None:
    assert exit_code(Report(kafka=system(kafka), bigquery=system(bigquery))) is code


def test_summary_counts_what_is_left_to_do_apart_from_what_was_done() -> None:
    planned = Report(kafka=system("planned", "a", "b"), bigquery=system("ready"))
    assert summary(planned) == "2 changes to make, nothing was changed."
    assert "datastreamx apply" in hint(planned)
    changed = Report(kafka=system("changed", "a"), bigquery=system("ready"))
    assert summary(changed) == "1 change made."
    assert "datastreamx run" in hint(changed)


def test_trouble_of_one_system_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_config: object) -> list[object]:
        raise RetryableError("no broker answers")

    def tables(_client: object, _config: object) -> list[object]:
        return ["create table x"]

    monkeypatch.setattr(survey, "plan_topics", unreachable)
    monkeypatch.setattr(survey, "plan_tables", tables)
    report = survey.plan_everything(local(config()))
    assert (report.kafka.state, report.kafka.problem) == ("unreachable", "no broker answers")
    assert (report.bigquery.state, report.bigquery.changes) == ("planned", ["create table x"])


def test_what_cannot_be_used_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_config: object) -> list[object]:
        raise CrashError("topic box-events has 3 partitions, 8 are configured")

    monkeypatch.setattr(survey, "apply_topics", wrong)
    monkeypatch.setattr(survey, "apply_tables", lambda _client, _config: [])
    report = survey.apply_everything(local(config()))
    assert report.kafka.state == "unusable"
    assert exit_code(report) is Exit.FAILED


def test_bigquery_that_refuses_connections_is_told_in_one_short_line(
    cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "plan_topics", lambda _config: [])
    ended = cli("plan", "--config", str(config_file), "--json")
    assert ended.code == Exit.UNREACHABLE
    assert ended.json["kafka"]["state"] == "ready"
    problem = ended.json["bigquery"]["problem"]
    assert problem == "BigQuery does not answer (Connection refused); `datastreamx doctor` tells more"


def local(configuration: Config) -> Config:
    return msgspec.structs.replace(
        configuration, bigquery=msgspec.structs.replace(configuration.bigquery, rest_endpoint="http://127.0.0.1:9")
    )
