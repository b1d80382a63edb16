from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from datastreamx.config import Config, load_config
from flows.recovery.reshard import places_with_store
from sources.kafka.positions import Positions
from tests.builders import CONFIG_TEXT
from tests.cli.running import Cli, Ended
from tests.flows import stores as made_up


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """Configuration of two cells, whose ads and warehouse flows have stores."""
    path = tmp_path / "datastreamx.toml"
    path.write_text(f'{CONFIG_TEXT}\n[recovery]\ndirectory = "{tmp_path / "recovery"}"\n[scaling]\ncells = 2\n')
    config = load_config(path)
    for flow in ("ads", "warehouse"):
        stores = made_up.stores(flow, config, places_with_store("cells", 2), random.Random(1))
        made_up.write(Path(config.recovery.directory), flow, config, stores)
    return path


@pytest.fixture
def run(cli: Cli, config_path: Path) -> Cli:
    def run(*arguments: str) -> Ended:
        return cli(arguments[0], "--config", str(config_path), *arguments[1:])

    return run


@pytest.fixture
def copy(run: Cli, tmp_path: Path) -> Path:
    assert run("backup", "--to", str(tmp_path / "copy")).code == 0
    return tmp_path / "copy"


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker says that all flows went on since the backup."""

    def ask(_: Config, flow: str, __: Positions) -> str:
        return f"{flow} went on"

    monkeypatch.setattr("flows.recovery.restore.ask_broker", ask)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker knows of nothing newer."""
    monkeypatch.setattr("flows.recovery.restore.ask_broker", lambda *_: None)


def test_backup_tells_what_it_copied(run: Cli, tmp_path: Path) -> None:
    ended = run("backup", "--to", str(tmp_path / "copy"))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].startswith("4 stores, ")
    assert (tmp_path / "copy" / "backup.json").exists()


def test_backup_as_json_is_its_record(run: Cli, tmp_path: Path) -> None:
    told = run("backup", "--to", str(tmp_path / "copy"), "--flow", "ads", "--json").json
    assert [store["store"] for store in told["stores"]] == ["ads-0", "ads-1"]
    assert (told["stores"][1]["mode"], told["stores"][1]["cells"], told["stores"][1]["ordinal"]) == ("cells", 2, 1)


def test_backup_into_a_folder_with_something_in_it_fails(run: Cli, copy: Path) -> None:
    ended = run("backup", "--to", str(copy))
    assert (ended.code, "is not empty" in ended.err) == (1, True)


@pytest.mark.usefixtures("current")
def test_restore_puts_back_what_was_lost(run: Cli, copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "recovery")
    ended = run("restore", "--from", str(copy))
    assert (ended.code, ended.err) == (0, "")
    assert "the flow did no more since" in ended.out
    assert "--accept-store" not in ended.out
    assert (tmp_path / "recovery" / "warehouse-1" / "store.json").exists()


@pytest.mark.usefixtures("current")
def test_restore_over_something_needs_force(run: Cli, copy: Path) -> None:
    ended = run("restore", "--from", str(copy))
    assert (ended.code, "--force sets aside what is there" in ended.err) == (1, True)
    ended = run("restore", "--from", str(copy), "--force")
    assert (ended.code, "What was there before is in" in ended.out) == (0, True)


@pytest.mark.usefixtures("old")
def test_restore_of_an_old_ads_store_says_what_follows(run: Cli, copy: Path) -> None:
    ended = run("restore", "--from", str(copy), "--flow", "ads", "--force")
    assert ended.code == 0
    assert "decisions are read back, not made again" in ended.out
    assert "`datastreamx run ads --accept-store`, this once" in ended.out


@pytest.mark.usefixtures("old")
def test_restore_of_an_old_warehouse_store_needs_consent(run: Cli, copy: Path) -> None:
    ended = run("restore", "--from", str(copy), "--force")
    assert ended.code == 1
    assert (
        "warehouse-0: warehouse went on. Rows that are in BigQuery already would be loaded a second time" in ended.err
    )
    told = run("restore", "--from", str(copy), "--force", "--accept-duplicates", "--json").json
    assert {store["age"] for store in told["stores"]} == {"old"}


@pytest.mark.usefixtures("current")
def test_restore_for_another_number_of_cells_names_the_rescale(run: Cli, copy: Path, config_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("cells = 2", "cells = 3"))
    ended = run("restore", "--from", str(copy), "--flow", "ads", "--force")
    assert "before a start run `datastreamx rescale --cells 3 --mode cells`" in ended.out


def test_restore_from_a_folder_that_is_no_backup_fails(run: Cli, tmp_path: Path) -> None:
    ended = run("restore", "--from", str(tmp_path))
    assert (ended.code, "is no backup" in ended.err) == (1, True)
