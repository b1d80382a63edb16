"""The documents name files, commands, metrics and codes; here all of these have to exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from aggregators.registry import build_adapters
from benchmarks.__main__ import NAMES
from datastreamx import metrics
from datastreamx.cli.aggregator.command import aggregator
from datastreamx.cli.app import app
from datastreamx.config import parse_config
from datastreamx.model.auction import Outcome
from datastreamx.supervisor.metrics import exposition
from datastreamx.supervisor.view import View
from datastreamx.tables import TABLES, Table
from datastreamx.wire.dead_letters import REASONS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "aggregators").rglob("*.md")],
    key=str,
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
AUCTION = (ROOT / "docs" / "auction.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(?:^|[\s/])datastreamx ([a-z][a-z-]*)(?: (ads|warehouse|notices|test|list)\b)?", re.MULTILINE)
_PROOF = re.compile(r"\[`(test_\w+)`\]\(([^)\s]+)\)")
_TOP_LEVEL = {path.name for path in ROOT.iterdir()}


def names_of(documents: Iterable[Path]) -> list[str]:
    return [str(document.relative_to(ROOT)) for document in documents]


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(text) if found == language]


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """`datastreamx COMMAND [FLOW or SUBCOMMAND]` in code, inline or fenced."""
    found = set()
    for text in texts:
        code = [*_CODE.findall(prose(text)), *(body for _, body in _FENCE.findall(text))]
        for part in code:
            for match in _COMMAND.finditer(part):
                found.add(tuple(word for word in match.groups() if word))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_relative_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in _LINK.findall(prose(text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_path_in_code_exists(document: Path) -> None:
    for code in _CODE.findall(prose(document.read_text(encoding="utf-8"))):
        is_path = re.fullmatch(r"[\w.\-]+(/[\w.\-]+)+/?", code) and code.split("/")[0] in _TOP_LEVEL
        if is_path:
            assert (ROOT / code).exists(), f"{code}: no such file"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_test_that_proves_something_exists_where_it_is_said_to_be(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name, target in _PROOF.findall(text):
        source = (document.parent / target).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{target} has no {name}"


def test_every_semantic_of_the_auction_names_the_test_that_proves_it() -> None:
    """A test that is named without its place could be gone unnoticed."""
    compared = AUCTION.partition("\n## Compared")[2].partition("\n## ")[0]
    rows = [line for line in compared.splitlines() if line.startswith("|") and "|---" not in line]
    heads = [line for line in rows if line.endswith("| Proved by |")]
    assert heads
    assert [line for line in rows if line not in heads and not _PROOF.search(line)] == []
    assert re.findall(r"(?<!\[)`test_\w+`", AUCTION) == []


def test_every_page_below_docs_is_linked_from_the_readme_or_an_index() -> None:
    linked = {
        (document.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for target in _LINK.findall(prose(document.read_text(encoding="utf-8")))
    }
    assert [page for page in (ROOT / "docs").rglob("*.md") if page not in linked] == []


def test_the_configuration_in_the_readme_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(README, "toml")
    for name in re.findall(r'env = "(\w+)"', example):
        monkeypatch.setenv(name, "0123456789abcdef")
        assert re.search(rf"^export .*\b{name}=", README, re.MULTILINE), f"{name} is not told to be exported"
    config = parse_config(example)
    assert [*build_adapters(config.aggregators)] == [one["name"] for one in tomllib.loads(example)["aggregators"]]


def defined_metrics() -> dict[str, str]:
    """Kind by name, of workers and supervisors."""
    worker = [
        family
        for one in vars(metrics).values()
        if isinstance(one, Counter | Gauge | Histogram)
        for family in one.describe()
    ]
    view = View(looked_s=0.0, disk_free_bytes=0, disk_size_bytes=0)
    supervisor = text_string_to_metric_families(exposition(view, 0.0).decode())
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type for family in [*worker, *supervisor]
    }


def test_every_metric_is_described() -> None:
    for name, kind in defined_metrics().items():
        assert re.search(rf"^\| `{name}` \| {kind} \|", ARCHITECTURE, re.MULTILINE), f"{name} has no row"


def test_no_document_names_a_metric_that_does_not_exist() -> None:
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"`(datastreamx_[a-z_]+)", document.read_text(encoding="utf-8"))
        if not name.endswith("_")
    }
    assert named - defined_metrics().keys() == set()


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.label)
def test_every_outcome_code_is_described(outcome: Outcome) -> None:
    assert f"| {int(outcome)} | `{outcome.label}` |" in AUCTION


@pytest.mark.parametrize("reason", REASONS)
def test_every_dead_letter_reason_is_described(reason: str) -> None:
    assert f"| `{reason}` |" in ARCHITECTURE


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_table_is_described_with_its_partition_and_clusters(table: Table) -> None:
    clusters = ", ".join(f"`{column}`" for column in table.cluster_by)
    row = next(line for line in ARCHITECTURE.splitlines() if line.startswith(f"| `{table.name}` |"))
    assert f"| `{table.partition_by}` | {clusters} |" in row


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        name
        for document in DOCUMENTS
        for text in [document.read_text(encoding="utf-8")]
        for code in [*_CODE.findall(prose(text)), *(body for _, body in _FENCE.findall(text))]
        for name in re.findall(r"^make ([a-z0-9_-]+)", code, re.MULTILINE)
    }
    targets |= {f"bench-{name}" for name in NAMES} | {"bench-"}
    assert {"demo", "test", "check", "test-kafka", "bench-state"} <= named
    assert named - targets == set()


def test_commands_in_the_documents_exist() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined]  # the root is a group
    named = commands(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert {("demo",), ("validate",), ("plan",), ("apply",), ("aggregator", "test"), ("aggregator", "list")} <= named
    assert {("run", "ads"), ("run", "warehouse"), ("run", "notices")} <= named
    assert set(get_command(aggregator).commands) == {"test", "list"}  # type: ignore[attr-defined]  # likewise
    assert {command[0] for command in named} - known == set()


def test_every_command_is_mentioned() -> None:
    commands_ = get_command(app).commands  # type: ignore[attr-defined]  # as above
    known = {name for name, command in commands_.items() if not command.hidden}
    named = commands(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert known - {command[0] for command in named} == set()
