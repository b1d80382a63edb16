from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from datastreamx.cli.app import app
from datastreamx.cli.output import Exit, fail
from datastreamx.errors import ConfigError
from tests.cli.running import Cli

ROOT = get_command(app)
assert isinstance(ROOT, TyperGroup)
# Those of a group by their two words.
COMMANDS = [
    words
    for name, command in ROOT.commands.items()
    for words in ([f"{name} {part}" for part in command.commands] if isinstance(command, TyperGroup) else [name])
]


def test_unknown_command_suggests_the_likely_one(cli: Cli) -> None:
    ended = cli("staus")
    assert ended.code == Exit.USAGE
    assert "Did you mean 'status'?" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    "arguments", [("run", "nope"), ("query",), ("status", "--nope"), ("explain", "b", "--last", "0")]
)
def test_wrong_usage_ends_with_a_message_and_code_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli(*arguments)
    assert ended.code == Exit.USAGE
    assert "Usage: datastreamx" in ended.err
    assert "Traceback" not in ended.err


def test_missing_configuration_ends_with_one_message_and_code_3(cli: Cli, tmp_path: Path) -> None:
    ended = cli("plan", "--config", str(tmp_path / "none.toml"))
    assert ended.code == Exit.CONFIG
    assert ended.err.startswith("error: ")
    assert "give the right path with --config" in ended.err
    assert "Traceback" not in ended.err


def test_option_that_does_not_fit_the_configuration_is_wrong_usage_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        fail(ConfigError("--cells", ["it is 7, and has to be 1 to 6"]))
    assert ended.value.code == Exit.USAGE
    assert capsys.readouterr().err == "error: --cells: it is 7, and has to be 1 to 6\n"


def test_installation_without_the_simulators_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simulator", None)
    ended = cli("bench")
    assert ended.code == Exit.FAILED
    assert ended.err.startswith("error: this command needs the simulators")


def test_ctrl_c_ends_with_code_130(cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datastreamx.config.load_config", interrupted)
    ended = cli("status", "--config", str(config_file))
    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_version_is_the_installed_one(cli: Cli) -> None:
    ended = cli("--version")
    assert (ended.code, ended.err) == (Exit.OK, "")
    assert ended.out.startswith("datastreamx 0.")


def test_help_documents_every_exit_code(cli: Cli) -> None:
    text = cli("--help").out
    assert all(f" {code.value} " in text for code in Exit), text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help(cli: Cli, command: str) -> None:
    ended = cli(*command.split(), "--help")
    assert ended.code == Exit.OK
    assert "Example" in ended.out
    assert f"datastreamx {command}" in ended.out.partition("Example")[2]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"run"}))
def test_every_command_that_answers_can_answer_in_json(cli: Cli, command: str) -> None:
    assert "--json" in cli(*command.split(), "--help").out


def test_help_loads_no_heavy_library() -> None:
    heavy = ("google.cloud", "confluent_kafka", "pyarrow", "bytewax", "aiohttp", "bqemulator")
    program = f"import sys; import datastreamx.cli.app; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_messages_go_to_standard_error_and_colours_to_nobody_but_terminals(cli: Cli, config_file: Path) -> None:
    ended = cli("validate", "--config", str(config_file))
    assert ended.code == Exit.OK
    assert "\x1b" not in ended.out + ended.err
    assert ended.err == ""
