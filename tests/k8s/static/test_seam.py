"""What all tests of the manifests stand on: tools that are pinned, and counts that add up."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.k8s import tools
from tests.k8s.tally import table, tally_of, totals
from tests.k8s.tools import ToolError, modules, tool

pytestmark = pytest.mark.k8s

FOLDER = Path(tools.__file__).parent


def test_tool_that_nobody_knows_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ToolError, match=r"no tool is called 'kubeconfirm'.*kubeconform"):
        tool("kubeconfirm")


def test_program_of_debian_that_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ToolError, match="apt-get install prometheus"):
        tool("promtool")


def test_tool_is_made_once_and_found_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps: list[list[str]] = []

    def make(command: list[str | Path], *, name: str, **_: object) -> str:
        words = [str(word) for word in command]
        steps.append(words)
        if "-o" in words:
            Path(words[words.index("-o") + 1]).write_text(name, encoding="utf-8")
        return "go1.26"

    monkeypatch.setattr(tools, "run", make)
    first = tool("kustomize")
    assert first.read_text(encoding="utf-8") == "kustomize"
    assert tool("kustomize") == first
    assert sum("build" in words for words in steps) == 1
    assert [path.name for path in first.parent.iterdir() if not path.name.endswith(".lock")] == ["kustomize"]


def test_environment_that_was_left_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(command: list[str | Path], *, name: str, **_: object) -> str:
        if "pip" in command:
            raise ToolError(name)
        (Path(command[-1]) / "bin").mkdir(parents=True)
        (Path(command[-1]) / "bin" / "checkov").touch()
        return ""

    monkeypatch.setattr(tools, "run", fail)
    for _ in range(2):
        with pytest.raises(ToolError, match="checkov"):
            tool("checkov")


def test_step_that_fails_tells_what_it_said() -> None:
    with pytest.raises(ToolError, match="no such thing"):
        tools.run(["sh", "-c", "echo no such thing >&2; exit 3"], name="a tool")


@pytest.mark.parametrize("name", ["requirements", "supply-chain"])
def test_lock_holds_what_is_asked_for_with_hashes(name: str) -> None:
    asked = re.findall(r"^([a-z0-9-]+)>=", (FOLDER / f"{name}.in").read_text(encoding="utf-8"), re.MULTILINE)
    lock = (FOLDER / f"{name}.lock").read_text(encoding="utf-8")
    pinned = re.findall(r"^([a-z0-9._-]+)==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert asked
    assert set(asked) <= set(pinned)
    assert len(pinned) == len(re.findall(r"^[a-z0-9._-]+==", lock, re.MULTILINE))


def test_module_with_another_checksum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (path, (version, _)), *_ = modules._MODULES.items()
    monkeypatch.setitem(modules._MODULES, path, (version, "h1:another"))
    with pytest.raises(ToolError, match="h1:another was expected"):
        modules.go_module(path)


def _report(when: str, properties: list[tuple[str, object]]) -> pytest.TestReport:
    return pytest.TestReport("a", ("a", 1, "a"), {}, "passed", None, when, user_properties=properties)  # type: ignore[arg-type]


def test_counts_of_all_tests_add_up_by_tool(request: pytest.FixtureRequest) -> None:
    count = tally_of(request.node)
    count("kubeconform", 2)
    count("kubeconform", 3)
    count("promtool check rules", 1)
    properties = [*request.node.user_properties]
    request.node.user_properties.clear()
    # Each phase of a test reports the same properties.
    reports = [_report(when, properties) for when in ("setup", "call", "teardown")]
    assert totals([*reports, "not a report"]) == Counter({"kubeconform": 5, "promtool check rules": 1})


def test_check_of_nothing_is_a_failure(request: pytest.FixtureRequest) -> None:
    with pytest.raises(AssertionError, match="checked nothing"):
        tally_of(request.node)("kubeconform", 0)


def test_table_has_a_line_for_each_tool() -> None:
    assert table(Counter({"b": 1234, "aa": 5})).splitlines() == ["aa        5 checks", "b     1,234 checks"]
