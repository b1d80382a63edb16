from __future__ import annotations

import contextlib
import json
import tomllib
import typing
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.config import Config, load_config, parse_config
from datastreamx.config.checks import OWNED_LIBRDKAFKA_KEYS
from datastreamx.config.loader import sound_aggregators
from datastreamx.config.secrets import Secret, resolve_secret
from datastreamx.errors import ConfigError, CrashError
from tests.builders import CONFIG_TEXT

SECRET = "correct-horse-battery"  # noqa: S105 - it stands for a real one, to be looked for in messages


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.problems


def the_problem(text: str) -> str:
    (problem,) = problems_of(text)
    return problem


def test_smallest_file_is_enough() -> None:
    config = parse_config(CONFIG_TEXT)
    assert config.kafka.bootstrap == "127.0.0.1:9"
    assert config.aggregators[0].name == "alpha"


def test_every_problem_is_reported_at_once() -> None:
    text = """
        kafak = 1
        [kafka]
        security_protocol = "telnet"
        [events]
        partitions = 0
        chunk_record = 5
        [viewing]
        dwell_ms = "15s"
        [privacy]
        box_key_secret = { env = "NOT_THERE_AT_ALL" }
        [[aggregators]]
        name = "Alpha"
        adapter = "simple"
        url = "ftp://a"
        [[aggregators]]
    """
    where = [problem.split(":", 1)[0] for problem in problems_of(text)]
    assert sorted(where) == [
        "aggregators[0].name",
        "aggregators[0].url",
        "aggregators[1].adapter",
        "aggregators[1].name",
        "aggregators[1].url",
        "bigquery",
        "events.chunk_record",
        "events.partitions",
        "kafak",
        "kafka.bootstrap",
        "kafka.security_protocol",
        "privacy.box_key_secret",
        "viewing.dwell_ms",
    ]


def test_error_names_the_file_and_counts_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "ads.toml"
    path.write_text(CONFIG_TEXT + "[events]\npartitions = 0\nchunk_records = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path} has 2 problems:\n  - events.partitions: ")
    assert isinstance(caught.value, CrashError)


def test_unknown_key_is_answered_with_the_nearest_known_one() -> None:
    assert the_problem(CONFIG_TEXT + "[events]\npartitons = 4") == (
        "events.partitons: unknown key; did you mean partitions?"
    )


def test_unknown_key_that_resembles_none_is_answered_with_all() -> None:
    assert the_problem(CONFIG_TEXT + "[metrics]\nzzz = 4") == "metrics.zzz: unknown key; known are host, peers, port"


def test_missing_file_is_reported_with_its_path_and_the_option(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=r"none\.toml.*\n.*No such file.*--config"):
        load_config(path)


def test_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_every_half_written_file_is_refused() -> None:
    whole = CONFIG_TEXT.rstrip()
    for end in range(len(whole)):
        with pytest.raises(ConfigError):
            parse_config(whole[:end])


def test_text_cut_within_a_value_is_called_half_written() -> None:
    assert the_problem(CONFIG_TEXT[:-10]).endswith("was it written only half?")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return json.dumps(value)


_PLAIN = st.text(alphabet=st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=20)
_SCALARS = st.none().map(lambda _: 0) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _PLAIN
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_PLAIN, inner, max_size=3))
_KEYS = st.sampled_from(
    [*Config.__struct_fields__, "bootstrap", "project", "box_key_secret", "name", "url", "adapter", "headers", "env"]
)
_DOCUMENTS = st.dictionaries(_KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=6)


@settings(max_examples=300, deadline=None)
@given(_DOCUMENTS)
def test_any_toml_is_a_configuration_or_a_config_error(document: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in document.items())
    with contextlib.suppress(ConfigError):
        parse_config(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text)


# Secrets ------------------------------------------------------------------------------------------------------------


def with_secret(entry: str) -> str:
    return CONFIG_TEXT.replace('"0123456789abcdef"', entry)


def test_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOX_SECRET", SECRET)
    config = parse_config(with_secret('{ env = "BOX_SECRET" }'))
    assert config.privacy.box_key_secret.reveal() == SECRET


def test_secret_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    config = parse_config(with_secret(f"{{ file = {json.dumps(str(path))} }}"))
    assert config.privacy.box_key_secret.reveal() == SECRET


def test_secrets_are_never_shown() -> None:
    config = parse_config(
        CONFIG_TEXT.replace("0123456789abcdef", SECRET)
        .replace("[kafka]\n", f'[kafka]\nsasl_password = "{SECRET}"\n')
        .replace('adapter = "simple"\n', f'adapter = "simple"\nheaders = {{ Authorization = "{SECRET}" }}\n')
    )
    revealed = config.aggregators[0].headers["Authorization"].reveal()
    assert revealed == SECRET
    shown = [repr(config), str(config), f"{config.privacy.box_key_secret}", repr(msgspec.structs.asdict(config))]
    assert not any(SECRET in text for text in shown)


@pytest.mark.parametrize(
    "text",
    [
        CONFIG_TEXT.replace('[privacy]\nbox_key_secret = "0123456789abcdef"', "").replace(
            "\n[kafka]", f'privacy = "{SECRET}"\n[kafka]'
        ),
        with_secret(f'["{SECRET}"]'),
        with_secret(f'{{ enf = "{SECRET}" }}'),
        with_secret(f'"{SECRET}"\nbox_key_secert = "{SECRET}"'),
        with_secret(f'"{SECRET * 5}"'),
        with_secret(f'"{SECRET}'),
        CONFIG_TEXT + f'headers = "{SECRET}"',
        CONFIG_TEXT + f'headers = {{ key = ["{SECRET}"] }}',
    ],
    ids=[
        "in-place-of-the-section",
        "list",
        "unknown-reference",
        "mistyped-key",
        "too-long",
        "half",
        "headers",
        "header",
    ],
)
def test_no_error_message_shows_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_secret_from_an_unset_or_empty_variable_is_a_problem_with_its_name(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BOX_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("BOX_SECRET", value)
    assert "environment variable BOX_SECRET is not set or empty; export it" in the_problem(
        with_secret('{ env = "BOX_SECRET" }')
    )


def test_secret_of_other_bytes_than_utf8_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\xff" * 20)
    assert "is not UTF-8" in the_problem(with_secret(f"{{ file = {json.dumps(str(path))} }}"))
    monkeypatch.setenv("BOX_SECRET", "\udcff" * 20)
    assert "BOX_SECRET is not UTF-8" in the_problem(with_secret('{ env = "BOX_SECRET" }'))


def test_secret_file_that_is_missing_or_empty_is_a_problem_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    entry = with_secret(f"{{ file = {json.dumps(str(path))} }}")
    assert f"file {path} cannot be read (No such file or directory)" in the_problem(entry)
    path.write_text("\n")
    assert f"file {path} is empty" in the_problem(entry)


@pytest.mark.parametrize("raw", ["", 5, [], {}, {"env": 5}, {"env": "A", "file": "B"}, {"env": "A", "default": "B"}])
def test_anything_else_is_no_secret(raw: object) -> None:
    with pytest.raises(ValueError, match="expected text"):
        resolve_secret(raw)


def test_secrets_compare_by_value_and_hash_alike() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


# Checks across keys -------------------------------------------------------------------------------------------------

_SASL = '[kafka]\nsecurity_protocol = "sasl_ssl"\n'


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t + "[viewing]\nsession_gap_ms = 60000", "viewing.session_gap_ms (60000) must exceed"),
        (lambda t: t + "[viewing]\nstate_ttl_ms = 1859999", "viewing.state_ttl_ms (1859999) must be at least"),
        (lambda t: t + "[viewing]\ndecision_budget_ms = 330", "viewing.decision_budget_ms (330) must exceed"),
        (lambda t: t + "[auction]\ntimeout_ms = 29", "aggregators.alpha is given 29 ms"),
        (lambda t: t[: t.index("[[aggregators]]")].replace("\n[kafka]", "aggregators = []\n[kafka]"), "at least one"),
        (lambda t: t + t[t.index("[[aggregators]]") :], "the name 'alpha' is used 2 times"),
        (lambda t: t.replace("[kafka]\n", _SASL), "kafka.sasl_mechanism is missing"),
        (
            lambda t: t.replace(
                "[kafka]\n", '[kafka]\nsasl_mechanism = "PLAIN"\nsasl_username="u"\nsasl_password="p"\n'
            ),
            "set sasl_ssl or drop sasl_mechanism",
        ),
        (lambda t: t.replace("[kafka]\n", _SASL + 'sasl_mechanism = "OAUTHBEARER"\n'), "kafka.oauth is missing"),
        (lambda t: t.replace("[kafka]\n", _SASL + 'sasl_mechanism = "PLAIN"\n'), "kafka.sasl_username and"),
        (lambda t: t + '[topics]\nfacts = "box-events"', "'box-events' serves 2 purposes"),
        (lambda t: t.replace("0123456789abcdef", "short"), "privacy.box_key_secret has 5 bytes, 16 to 64 are needed"),
        (lambda t: t.replace("0123456789abcdef", "x" * 65), "privacy.box_key_secret has 65 bytes"),
    ],
)
def test_values_that_contradict_each_other_are_refused(change: Callable[[str], str], expected: str) -> None:
    assert expected in the_problem(change(CONFIG_TEXT))


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("http://{flow}-{ordinal}.{flow}:9090", None),
        ("https://[fd00::{ordinal}]:9090", "needs {flow} and {ordinal}"),
        ("http://{flow}:9090", "needs {flow} and {ordinal}"),
        ("http://{flow}-{ordinal}-{zone}:9090", "knows no other placeholders"),
        ("http://{flow}-{ordinal:03d}:9090", "knows no other placeholders"),
        ("http://{flow}-{ordinal!r}:9090", "knows no other placeholders"),
        ("http://{}-{}:9090", "knows no other placeholders"),
        ("http://{flow-{ordinal}:9090", "metrics.peers"),
        ("http://{flow}-{ordinal}", "no http or https address of a host and a port"),
        ("http://{flow}-{ordinal}:9090/", "with nothing else"),
        ("http://{flow}-{ordinal}:9090?x", "with nothing else"),
        ("http://{flow}-{ordinal}:{ordinal}x", "with nothing else"),
        ("http://me:secret@{flow}-{ordinal}:9090", "with nothing else"),
        ("ftp://{flow}-{ordinal}:9090", "no http or https address"),
        ("{flow}-{ordinal}:9090", "no http or https address"),
    ],
)
def test_peers_are_asked_at_an_address_for_each_flow_and_ordinal(peers: str, expected: str | None) -> None:
    text = f'{CONFIG_TEXT}[metrics]\nport = 9090\npeers = "{peers}"\n'
    if expected is None:
        assert parse_config(text).metrics.peers == peers
    else:
        problem = the_problem(text)
        assert expected in problem
        assert 'write for example "http://{flow}-{ordinal}.{flow}:9090"' in problem


@pytest.mark.parametrize("port", ["", "port = 0"])
def test_peers_without_a_fixed_port_could_never_be_asked(port: str) -> None:
    text = f'{CONFIG_TEXT}[metrics]\n{port}\npeers = "http://{{flow}}-{{ordinal}}:9090"\n'
    assert "metrics.peers needs a fixed metrics.port" in the_problem(text)


@pytest.mark.parametrize("key", OWNED_LIBRDKAFKA_KEYS)
def test_property_on_which_exactly_once_rests_is_not_up_to_the_configuration(key: str) -> None:
    text = CONFIG_TEXT.replace("[kafka]\n", f'[kafka]\nlibrdkafka = {{ "{key}" = "1" }}\n')
    assert "exactly-once delivery rests on it; remove it" in the_problem(text)


def test_all_contradictions_are_reported_at_once() -> None:
    text = CONFIG_TEXT.replace("0123456789abcdef", "short") + '[topics]\nfacts = "box-events"\n'
    assert len(problems_of(text + "[viewing]\nsession_gap_ms = 1\nstate_ttl_ms = 1\ndecision_budget_ms = 1")) == 5


def test_sound_aggregators_are_found_in_a_file_that_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "ads.toml"
    path.write_text(CONFIG_TEXT.replace("[kafka]", "[kafak]") + '[[aggregators]]\nname = "BAD"\n')
    assert [aggregator.name for aggregator in sound_aggregators(path)] == ["alpha"]
    path.write_text("aggregators = 7")
    assert sound_aggregators(path) == ()
    path.write_text("[")
    assert sound_aggregators(path) == ()
    assert sound_aggregators(tmp_path / "none.toml") == ()


# The documented example ---------------------------------------------------------------------------------------------


def _example() -> str:
    return resources.files("datastreamx.config").joinpath("example.toml").read_text(encoding="utf-8")


def _uncommented(text: str) -> dict[str, Any]:
    lines = [
        line[1:] if line.startswith("#") and not line.startswith(("# ", "#\n")) else line for line in text.split("\n")
    ]
    return tomllib.loads("\n".join(line for line in lines if line != "#"))


def _fields(kind: type[msgspec.Struct]) -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    for section, hint in typing.get_type_hints(kind).items():
        struct = next((arg for arg in typing.get_args(hint) if isinstance(arg, type)), hint)
        if issubclass(struct, msgspec.Struct):
            for found in msgspec.structs.fields(struct):
                yield section, found


def test_documented_example_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTREAMX_BOX_KEY_SECRET", SECRET)
    parse_config(_example())


def _documented() -> dict[str, dict[str, Any]]:
    documented = _uncommented(_example())
    return {name: table[0] if isinstance(table, list) else table for name, table in documented.items()}


def test_example_documents_every_key_there_is() -> None:
    assert {(section, found.name) for section, found in _fields(Config)} == {
        (section, key) for section, table in _documented().items() for key in table
    }


def test_documented_defaults_are_the_defaults() -> None:
    documented = _documented()
    differing = {
        (section, found.name): (documented[section][found.name], found.default)
        for section, found in _fields(Config)
        if not found.required
        and found.default not in {None, msgspec.NODEFAULT, ()}
        and documented[section][found.name] != found.default
    }
    assert differing == {}
