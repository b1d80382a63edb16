from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from aggregators.registry import build_adapters
from datastreamx.cli.output import Exit
from datastreamx.cli.validate import example_text
from datastreamx.config import AggregatorConfig, Config, parse_config
from tests.builders import CONFIG_TEXT
from tests.cli.running import Cli

KEY_VARIABLE = "DATASTREAMX_BOX_KEY_SECRET"

# Optional keys whose default is unset or empty: the example shows a value instead.
UNSET = {
    "kafka.sasl_mechanism",
    "kafka.sasl_username",
    "kafka.sasl_password",
    "kafka.oauth",
    "kafka.ssl_ca_file",
    "kafka.ssl_certificate_file",
    "kafka.ssl_key_file",
    "kafka.librdkafka",
    "auction.close_at_micros",
    "auction.floors",
    "auction.rates_file",
    "auction.blocked_advertisers",
    "auction.creative_hosts",
    "selection.order",
    "selection.weights",
    "selection.channel_groups",
    "push.signing_key",
    "push.signing_key_id",
    "bigquery.rest_endpoint",
    "bigquery.grpc_endpoint",
    "metrics.port",
    "metrics.peers",
    "recovery.handover",
}


def every_key_on(text: str) -> str:
    """The example with all its optional keys and tables switched on."""
    return re.sub(r"^#(?=\w+ = |\[\[)", "", text, flags=re.MULTILINE)


def sections(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def test_example_is_sound_as_it_stands(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    printed = cli("validate", "--example")
    assert printed.code == Exit.OK
    path = tmp_path / "example.toml"
    path.write_text(printed.out, encoding="utf-8")
    ended = cli("validate", "--config", str(path))
    assert ended.code == Exit.OK, ended.err
    assert "adriatic (openrtb), caspian (simple)" in ended.out


def test_example_without_its_secret_tells_what_to_export(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text(example_text(), encoding="utf-8")
    ended = cli("validate", "--config", str(path))
    assert ended.code == Exit.CONFIG
    assert f"environment variable {KEY_VARIABLE} is not set" in ended.err
    assert "1 problem:" in ended.err


def test_example_shows_every_key_that_exists_and_no_other() -> None:
    shown = tomllib.loads(every_key_on(example_text()))
    assert shown.keys() == sections(Config).keys()
    for name, field in sections(Config).items():
        kind = AggregatorConfig if name == "aggregators" else field.type
        table = shown[name][0] if name == "aggregators" else shown[name]
        assert table.keys() == sections(kind).keys(), name


def test_example_with_every_key_switched_on_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r'env = "(\w+)"', example_text()):
        monkeypatch.setenv(variable, "0123456789abcdef" * 4)
    # With the default protocol the keys of the others are refused.
    text = every_key_on(example_text()).replace('"plaintext"', '"sasl_ssl"')
    config = parse_config(text)
    assert [rule.floor_micros for rule in config.auction.floors] == [9_000_000]
    assert config.push.signing_key_id == "2026-01"


def test_example_shows_the_defaults_that_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    shown = tomllib.loads(every_key_on(example_text()))
    config: Any = parse_config(example_text())
    optional = [
        (section, key)
        for section, field in sections(Config).items()
        if section != "aggregators"
        for key, info in sections(field.type).items()
        if not info.required and f"{section}.{key}" not in UNSET
    ]
    assert optional
    for section, key in optional:
        default = getattr(getattr(config, section), key)
        assert shown[section][key] == ([*default] if isinstance(default, tuple) else default), f"{section}.{key}"


def test_example_builds_its_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    assert [*build_adapters(parse_config(example_text()).aggregators)] == ["adriatic", "caspian"]


def with_rates(directory: Path, rates: str | None) -> Path:
    """A sound configuration that names a file of rates, which may not exist."""
    file = directory / "rates.toml"
    if rates is not None:
        file.write_text(rates, encoding="utf-8")
    path = directory / "datastreamx.toml"
    path.write_text(f"{CONFIG_TEXT}\n[auction]\nrates_file = '{file}'\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rates", "problem"),
    [
        (None, "cannot be read"),
        ("as_of", "is not complete TOML"),
        ("as_of = 2020-01-31T06:00:00Z\n[rates]\nEUR = 1.1", "older than auction.rates_max_age_hours = 48"),
        ("as_of = 2020-01-31T06:00:00Z\n[rates]\nEUR = -1", "rates.EUR"),
    ],
)
def test_rates_that_no_flow_could_start_with_are_a_problem(
    cli: Cli, tmp_path: Path, rates: str | None, problem: str
) -> None:
    path = with_rates(tmp_path, rates)
    ended = cli("validate", "--config", str(path), "--json")
    assert ended.code == Exit.CONFIG
    (told,) = ended.json["problems"]
    assert told.startswith(f"auction.rates_file {tmp_path / 'rates.toml'}: ")
    assert problem in told


def test_fresh_rates_are_no_problem(cli: Cli, tmp_path: Path) -> None:
    path = with_rates(tmp_path, f"as_of = {datetime.now(UTC).isoformat()}\n[rates]\nEUR = 1.0842")
    assert cli("validate", "--config", str(path)).code == Exit.OK


def with_certificates(directory: Path, **files: Path) -> Path:
    """A sound configuration but for its certificates, maybe."""
    path = directory / "datastreamx.toml"
    lines = "\n".join(f"{key} = '{file}'" for key, file in files.items())
    path.write_text(f"{CONFIG_TEXT}{lines}\n", encoding="utf-8")
    return path


def test_certificates_that_no_flow_could_start_with_are_a_problem(cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate", encoding="utf-8")
    ended = cli("validate", "--config", str(with_certificates(tmp_path, ssl_ca_file=broken)), "--json")
    assert ended.code == Exit.CONFIG
    (told,) = ended.json["problems"]
    assert told.startswith("aggregators.alpha.ssl_ca_file")
    assert "cannot be used" in told


def test_each_certificate_file_that_cannot_be_read_is_named_beside_all_other_problems(cli: Cli, tmp_path: Path) -> None:
    files = {key: tmp_path / f"{key}.pem" for key in ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file")}
    path = with_certificates(tmp_path, **files)
    path.write_text(path.read_text(encoding="utf-8").replace("[kafka]", "[kafka]\nbotstrap = 'x'"), encoding="utf-8")
    ended = cli("validate", "--config", str(path), "--json")
    assert ended.code == Exit.CONFIG
    unknown, *told = ended.json["problems"]
    assert "did you mean bootstrap?" in unknown
    assert [problem.partition(" cannot be read")[0] for problem in told] == [
        f"aggregators.alpha.{key}: {file}" for key, file in files.items()
    ]


def test_sound_certificates_are_no_problem(cli: Cli, tmp_path: Path) -> None:
    authority, own = trustme.CA(), tmp_path / "own.pem"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(own)
    files = {"ssl_ca_file": tmp_path / "ca.pem", "ssl_certificate_file": own, "ssl_key_file": own}
    ended = cli("validate", "--config", str(with_certificates(tmp_path, **files)))
    assert ended.code == Exit.OK, ended.err


BROKEN = """
[kafka]
bootstrp = "x:1"
[bigquery]
project = "p"
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "a"
adapter = "openrtb"
url = "https://a"
headers = { key = { env = "NOT_SET_ANYWHERE" } }
[[aggregators]]
name = "b"
adapter = "simpel"
url = "https://b"
"""

PROBLEMS = (
    "kafka.bootstrp: unknown key; did you mean bootstrap?",
    "kafka.bootstrap: required key is missing",
    "aggregators[0].headers.key: environment variable NOT_SET_ANYWHERE is not set",
    "aggregators.a.options.publisher_id: required option is missing",
    "aggregators.b.adapter: unknown adapter 'simpel'; did you mean simple?",
)


def test_problems_of_file_secrets_and_adapters_come_together(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(BROKEN, encoding="utf-8")
    ended = cli("validate", "--config", str(path))
    assert ended.code == Exit.CONFIG
    assert [problem for problem in PROBLEMS if problem not in ended.err] == []


def test_json_lists_the_same_problems(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(BROKEN, encoding="utf-8")
    ended = cli("validate", "--config", str(path), "--json")
    assert ended.code == Exit.CONFIG
    assert ended.json["ok"] is False
    listed = "\n".join(ended.json["problems"])
    assert [problem for problem in PROBLEMS if problem not in listed] == []


@pytest.mark.parametrize("text", ["[kafka", "aggregators = 3", "aggregators = [3]", "[[aggregators]]\nname = 3"])
def test_a_mangled_file_is_reported_and_never_a_traceback(cli: Cli, tmp_path: Path, text: str) -> None:
    path = tmp_path / "mangled.toml"
    path.write_text(text, encoding="utf-8")
    ended = cli("validate", "--config", str(path))
    assert ended.code == Exit.CONFIG
    assert "problem" in ended.err


def test_secrets_are_never_printed(cli: Cli, config_file: Path) -> None:
    for arguments in (("validate",), ("validate", "--json")):
        ended = cli(*arguments, "--config", str(config_file))
        assert "0123456789abcdef" not in ended.out + ended.err
