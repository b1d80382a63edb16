from __future__ import annotations

import random
from pathlib import Path

import pytest

from datastreamx.cli.rescale.render import render
from datastreamx.config import load_config
from flows.recovery.lock import locked
from flows.recovery.rescale import RescaleReport, StoreLine
from flows.recovery.reshard import places_with_store
from tests.builders import CONFIG_TEXT
from tests.cli.running import Cli
from tests.flows import stores as made_up


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """Configuration of two cells, whose ads and warehouse flows have stores."""
    path = tmp_path / "datastreamx.toml"
    path.write_text(
        f'{CONFIG_TEXT}\n[events]\npartitions = 6\n[recovery]\ndirectory = "{tmp_path / "recovery"}"\n'
        "[scaling]\ncells = 2\n"
    )
    config = load_config(path)
    for flow in ("ads", "warehouse"):
        stores = made_up.stores(flow, config, places_with_store("cells", 2), random.Random(1))
        made_up.write(Path(config.recovery.directory), flow, config, stores)
    return path


def directory(config_path: Path) -> Path:
    return Path(load_config(config_path).recovery.directory)


def test_rescale_tells_what_moved_and_what_to_do_next(cli: Cli, config_path: Path) -> None:
    ended = cli("rescale", "--config", str(config_path), "--cells", "3")
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    keys = 2 * 2 * 2 + 2
    assert any(line.startswith(f"ads ads-1 1, 4 {keys} ") for line in lines), ended.out
    assert "notices: no recovery store here, nothing to share out" in lines
    assert any(line.startswith("The old stores are in") and "before-rescale-" in line for line in lines)
    assert lines[-1] == "Now set scaling.cells = 3 in the configuration, then start every process of each flow."
    assert (directory(config_path) / "warehouse-2" / "store.json").exists()


def test_rescale_as_json(cli: Cli, config_path: Path) -> None:
    told = cli("rescale", "--config", str(config_path), "--cells", "1", "--flow", "ads", "--json").json
    assert (told["state"], told["mode"], told["cells"]) == ("done", "cells", 1)
    assert [store["store"] for store in told["before"]] == ["ads-0", "ads-1"]
    assert told["after"] == [
        {
            "flow": "ads",
            "store": "ads-0",
            "partitions": [0, 1, 2, 3, 4, 5],
            "keys": 2 * 2 * 6 + 2,
            "state_bytes": told["after"][0]["state_bytes"],
        }
    ]


def test_dry_run_changes_nothing(cli: Cli, config_path: Path) -> None:
    ended = cli("rescale", "--config", str(config_path), "--cells", "3", "--dry-run")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "Nothing was changed.")
    assert sorted(path.name for path in directory(config_path).iterdir() if path.is_dir()) == [
        *("ads-0", "ads-1"),
        *("warehouse-0", "warehouse-1"),
    ]


def test_cluster_names_its_settings(cli: Cli, config_path: Path) -> None:
    ended = cli("rescale", "--config", str(config_path), "--cells", "2", "--mode", "cluster")
    assert 'set scaling.mode = "cluster" and 2 scaling.addresses' in ended.out
    assert (directory(config_path) / "ads-cluster").is_dir()


def test_a_store_in_use_is_told(cli: Cli, config_path: Path) -> None:
    with locked(directory(config_path) / "ads-1"):
        ended = cli("rescale", "--config", str(config_path), "--cells", "3")
    assert ended.code == 1
    assert "is using the recovery store" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--cells", "7"], 2, "error: --cells: it is 7, and has to be 1 to events.partitions (6)"),
        (["--cells", "0"], 2, "--cells"),
        ([], 2, "--cells"),
        (["--cells", "2", "--flow", "news"], 2, "news"),
        (["--cells", "3", "--flow", "notices"], 1, "holds no recovery store of notices"),
    ],
)
def test_what_cannot_be_is_refused(cli: Cli, config_path: Path, arguments: list[str], code: int, says: str) -> None:
    ended = cli("rescale", "--config", str(config_path), *arguments)
    assert (ended.code, says in ended.err) == (code, True), ended


def test_many_partitions_are_told_in_short() -> None:
    line = StoreLine(flow="ads", store="ads-0", partitions=[*range(0, 64, 2)], keys=1, state_bytes=1)
    report = RescaleReport(state="nothing", mode="cells", cells=2, before=[line])
    text = "".join(str(column._cells) for part in render(report) for column in getattr(part, "columns", []))
    assert "0, 2, 4, 6, 8, 10 ... 62 (32)" in text
