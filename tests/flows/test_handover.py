"""Stores that move between volumes: what is left, shared out anew and taken over, whatever is killed on the way."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from datastreamx.config import parse_config
from datastreamx.errors import ConfigError, CrashError, StaleStoreError, StateMismatchError
from flows.recovery.handed_rescale import rescale_handed_over
from flows.recovery.handover import leave
from flows.recovery.lock import locked
from flows.recovery.quarantine import quarantine, refusal_file
from flows.recovery.rescale import Rescale
from flows.recovery.swap import unfinished_rescale
from flows.replaying.marker import Marker, Order, Request, write_marker
from flows.replaying.span import Span
from flows.replaying.stores import Site
from sources.kafka.witness import Evidence
from tests.builders import CONFIG_TEXT
from tests.flows.handovers import Deployment, KilledError, Steps, killed_after

FLOWS = ("ads", "warehouse", "notices")


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def ads(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path / "site", "ads", 2)


@pytest.fixture(params=FLOWS)
def flow(tmp_path: Path, request: pytest.FixtureRequest) -> Deployment:
    return Deployment(tmp_path, request.param, 2)


def ids(deployment: Deployment) -> list[str]:
    return [copy.id for copy in deployment.handover.left().values()]


# The way from volume to volume ---------------------------------------------------------------------------------------


def test_state_that_was_shared_out_anew_again_and_again_is_what_it_was(flow: Deployment) -> None:
    """Four cells, six, four, six: the volumes of the fifth and sixth keep stores of six cells from the first time."""
    flow.cells = 4
    assert {report.outcome for report in flow.up()} == {"nothing"}
    for cells in (6, 4, 6):
        flow.down()
        before = flow.account()
        assert flow.reshard(cells).state == "done"
        flow.cells = cells
        for ordinal in range(cells):
            assert flow.prepare(ordinal).outcome == "took_over"
        assert flow.account() == before
        for ordinal in range(cells):
            flow.start(ordinal)
            flow.go_on(ordinal)
            assert flow.prepare(ordinal).outcome == "nothing"
            flow.start(ordinal)


def test_the_guard_refuses_the_stores_of_before(ads: Deployment) -> None:
    ads.up()
    ads.scale(3)
    ads.scale(2)
    ads.scale(3)
    (aside,) = ads.volume(2).glob("before-prepare-*")
    shutil.rmtree(ads.store(2))
    shutil.copytree(aside / "ads-2", ads.store(2))
    with pytest.raises(StaleStoreError, match="snapshots behind"):
        ads.start(2)


def test_a_cell_that_restarts_has_nothing_to_take(ads: Deployment) -> None:
    ads.up()
    ads.leave(0)
    before = ads.rows(0)
    report = ads.prepare(0)
    assert (report.outcome, report.reason) == ("nothing", "the store is in its place")
    ads.start(0)
    assert ads.rows(0) == before
    assert ids(ads) == []


def test_a_cluster_becomes_cells(tmp_path: Path) -> None:
    flow = Deployment(tmp_path, "warehouse", 2, mode="cluster")
    flow.up([0])
    assert flow.prepare(1).reason == "the first process of the cluster keeps the store of all"
    flow.leave(0)
    before = sum(value is not None for key, value in flow.rows(0).items() if key[0] != "warehouse.topics")
    assert flow.reshard(3).state == "done"
    flow.mode, flow.cells = "cells", 3
    assert {flow.prepare(ordinal).outcome for ordinal in range(3)} == {"took_over"}
    after = sum(
        value is not None for n in range(3) for key, value in flow.rows(n).items() if key[0] != "warehouse.topics"
    )
    assert after == before


def test_no_sqlite_file_is_opened_in_the_folder(flow: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def elsewhere(database: object, **options: object) -> sqlite3.Connection:
        assert "/handover/" not in str(database), database
        return connect(database, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", elsewhere)
    flow.up()
    flow.scale(3)
    files = {path.name for path in flow.handover.folder.rglob("*") if path.is_file()}
    assert {"shares.json", "backup.json"} <= files
    assert not [name for name in files if name.endswith(("-wal", "-shm"))]


def test_object_storage_will_do(flow: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """No locks, no fsync, and only single files are renamed."""
    inside = str(flow.directory / "handover")
    rename, flock = os.rename, fcntl.flock

    def path_of(handle: int) -> str:
        return str(Path(f"/proc/self/fd/{handle}").readlink())

    def fsync(handle: int) -> None:
        assert not path_of(handle).startswith(inside)

    def lock(handle: int, operation: int) -> None:
        assert not path_of(handle).startswith(inside)
        flock(handle, operation)

    def replace(old: Path, new: Path) -> None:
        assert not (str(new).startswith(inside) and Path(old).is_dir()), old
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(fcntl, "flock", lock)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, replace)
    flow.up()
    assert {report.outcome for report in flow.scale(3)} == {"took_over"}
    assert Path(inside, flow.flow, "shares.json").exists()


def test_what_is_taken_over_leaves_no_box_behind_in_the_folder(ads: Deployment) -> None:
    ads.up()
    ads.scale(3)
    assert [*ads.handover.folder.rglob("*.sqlite3")] == []


def test_a_volume_keeps_only_the_last_store_that_was_set_aside(ads: Deployment) -> None:
    ads.up()
    for cells in (3, 2, 3):
        ads.scale(cells)
    assert len([*ads.volume(0).glob("before-prepare-*")]) == 1


# Kills ---------------------------------------------------------------------------------------------------------------


def test_a_kill_at_any_step_of_leaving_leaves_all_or_nothing(ads: Deployment) -> None:
    ads.up()
    steps = Steps()
    ads.leave(0, steps)
    assert steps == ["checked", "copied ads-0", "recorded"]
    for number in range(len(steps)):
        ads.start(0)
        with pytest.raises(KilledError):
            ads.leave(0, killed_after(number))
        assert len(ids(ads)) == (number == len(steps) - 1)
        # Whatever was left, the start withdraws.
        ads.start(0)
        assert ids(ads) == []
    assert not [path.name for path in ads.volume(0).iterdir() if "left" in path.name]


def test_a_kill_at_any_step_of_a_re_shard_is_made_good_by_the_same_command(ads: Deployment) -> None:
    ads.up()
    ads.down()
    before = ads.account()
    steps = Steps()
    again(ads, "all").reshard(3, steps)
    assert steps[-2:] == ["handed over ads", "cleared up"]
    for number, step in enumerate(steps):
        one = again(ads, f"killed-{number}")
        with pytest.raises(KilledError):
            one.reshard(3, killed_after(number))
        is_over = number >= len(steps) - 2
        if not is_over:
            # Nothing has changed: the old cells may go on.
            assert {again(one, f"{number}-{n}").prepare(n).outcome for n in range(2)} == {"nothing"}, step
        elif step == "handed over ads":
            assert one.reshard(3, dry_run=True).state == "finished"
            assert len(ids(one)) == 2
        state = one.reshard(3).state
        assert state == ("done" if not is_over else "nothing" if step == "cleared up" else "finished"), step
        assert ids(one) == []
        one.cells = 3
        assert {one.prepare(ordinal).outcome for ordinal in range(3)} == {"took_over"}
        assert one.account() == before, step
        assert [*(one.directory / "scratch").glob(".handed-over")] == []


def again(deployment: Deployment, name: str) -> Deployment:
    """The same, elsewhere."""
    directory = deployment.directory.with_name(f"{deployment.directory.name}-{name}")
    shutil.copytree(deployment.directory, directory)
    return dataclasses.replace(deployment, directory=directory, proven={**deployment.proven}, rebuilt=[])


def _die_at(step: str, moment: str) -> None:
    if step == moment:
        raise KilledError(step)


@pytest.mark.parametrize("ordinal", [1, 2])
def test_a_kill_at_any_step_of_a_take_over_is_made_good_by_the_same_command(ads: Deployment, ordinal: int) -> None:
    """The second cell has a store to set aside, the third one has an empty volume."""
    ads.up()
    ads.down()
    ads.reshard(3)
    ads.cells = 3
    steps = Steps()
    whole = again(ads, "all")
    whole.prepare(ordinal, steps)
    assert steps[:2] == ["begun", "checked"]
    assert steps[-2:] == ["journal removed", "marked"]
    for number, step in enumerate(steps):
        one = again(ads, f"killed-{number}")
        with pytest.raises(KilledError):
            one.prepare(ordinal, killed_after(number))
        if unfinished_rescale(one.volume(ordinal)) is not None:
            with pytest.raises(StateMismatchError, match="datastreamx prepare"):
                one.start(ordinal)
        assert one.prepare(ordinal).outcome == ("nothing" if step == "marked" else "took_over")
        assert one.rows(ordinal) == whole.rows(ordinal)
        assert len([*one.volume(ordinal).glob("before-prepare-*")]) == (ordinal == 1)
        one.start(ordinal)
        one.go_on(ordinal)
        assert one.prepare(ordinal).outcome == "nothing"


def test_a_kill_between_the_swap_and_the_mark_takes_nothing_twice(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.reshard(3)
    ads.cells = 3
    with pytest.raises(KilledError):
        ads.prepare(1, lambda step: _die_at(step, "journal removed"))
    assert "ads-1" in ads.handover.handed(ads.handover.shares())
    (aside,) = ads.volume(1).glob("before-prepare-*")
    report = ads.prepare(1)
    assert (report.outcome, report.set_aside) == ("took_over", None)
    assert [*ads.volume(1).glob("before-prepare-*")] == [aside]
    assert "ads-1" not in ads.handover.handed(ads.handover.shares())


# Never twice ---------------------------------------------------------------------------------------------------------


def shared_out(deployment: Deployment) -> Path:
    """Three cells that run on what they took over; a copy of what was handed over."""
    deployment.up()
    deployment.down()
    deployment.reshard(3)
    kept = deployment.directory / "kept"
    shutil.copytree(deployment.handover.folder, kept)
    deployment.cells = 3
    deployment.up()
    return kept


def test_a_store_that_moved_on_is_not_replaced_when_the_mark_is_lost(ads: Deployment) -> None:
    kept = shared_out(ads)
    before = ads.rows(1)
    shutil.rmtree(ads.handover.folder)
    shutil.copytree(kept, ads.handover.folder)
    assert ads.prepare(1).set_aside is None
    assert ads.rows(1) == before


def test_what_was_taken_is_not_taken_when_the_volume_is_lost(ads: Deployment) -> None:
    shared_out(ads)
    ads.lose(1)
    assert ads.prepare(1).outcome == "rebuilt"
    assert ads.rebuilt == [1]


def test_what_was_taken_is_not_taken_when_volume_and_mark_are_lost(flow: Deployment) -> None:
    kept = shared_out(flow)
    shutil.rmtree(flow.handover.folder)
    shutil.copytree(kept, flow.handover.folder)
    flow.lose(1)
    with pytest.raises(StaleStoreError, match=r"not the one that the flow .* used last: .* snapshots behind"):
        flow.prepare(1)
    assert not flow.store(1).exists()
    assert unfinished_rescale(flow.volume(1)) is None


def test_what_was_left_does_not_outlive_the_next_start(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.start(1)
    with pytest.raises(StateMismatchError, match=r"lacks ads-1, of 2 cells of the flow ads: .*stopped cleanly"):
        ads.reshard(3)


def test_a_flow_does_not_start_as_long_as_what_it_left_cannot_be_withdrawn(ads: Deployment) -> None:
    ads.up()
    ads.leave(0)
    ads.handover.folder.rename(ads.directory / "away")
    ads.handover.folder.write_bytes(b"")
    with pytest.raises(CrashError, match="cannot be withdrawn"):
        ads.start(0)
    ads.handover.folder.unlink()
    (ads.directory / "away").rename(ads.handover.folder)
    ads.start(0)
    assert ids(ads) == []


def test_a_flow_that_left_nothing_starts_without_the_folder(ads: Deployment) -> None:
    ads.up()
    shutil.rmtree(ads.handover.folder)
    ads.handover.folder.write_bytes(b"")
    ads.start(0)


def test_a_copy_that_was_left_before_the_flow_went_on_is_not_shared_out(flow: Deployment) -> None:
    """As if it had not been withdrawn: Kafka knows better."""
    flow.up()
    flow.down()
    flow.go_on(1)
    with pytest.raises(StaleStoreError, match=r"is not the state that the flow .* used last"):
        flow.reshard(3)
    assert flow.handover.shares().cells == 2  # type: ignore[union-attr]


def test_a_cell_that_is_started_during_the_re_shard_stops_it(ads: Deployment) -> None:
    ads.up()
    ads.down()

    def on_step(step: str) -> None:
        if step == "recorded":
            ads.start(0)

    with pytest.raises(StateMismatchError, match="was started, or left anew"):
        ads.reshard(3, on_step)
    assert ads.handover.shares().cells == 2  # type: ignore[union-attr]


# Sharing out ---------------------------------------------------------------------------------------------------------


def test_all_flows_are_shared_out_by_one_command(tmp_path: Path) -> None:
    proven: dict[tuple[str, int], Evidence] = {}
    rng = random.Random(1)
    flows = [Deployment(tmp_path, name, 2, rng=rng, proven=proven) for name in ("ads", "warehouse")]
    for one in flows:
        one.up()
        one.down()
    report = flows[0].reshard(3)
    assert (report.state, report.flows_without_store) == ("done", ["notices"])
    assert report.handed_over == str(tmp_path / "handover")
    assert [line.store for line in report.after] == [f"{one.flow}-{n}" for one in flows for n in range(3)]
    for one in flows:
        one.cells = 3
        assert {report.outcome for report in one.up()} == {"took_over"}


def test_a_dry_run_changes_nothing(ads: Deployment) -> None:
    ads.up()
    ads.down()
    before = {path: path.read_bytes() for path in ads.handover.folder.rglob("*") if path.is_file()}
    report = ads.reshard(3, dry_run=True)
    assert (report.state, len(report.after), report.handed_over) == ("planned", 3, None)
    assert {path: path.read_bytes() for path in ads.handover.folder.rglob("*") if path.is_file()} == before


def test_as_many_cells_as_there_are_is_nothing_to_do(ads: Deployment) -> None:
    ads.up()
    ads.down()
    assert ads.reshard(2).state == "nothing"
    assert len(ids(ads)) == 2


def test_what_nobody_took_over_can_be_shared_out_back(ads: Deployment) -> None:
    ads.up()
    ads.down()
    before = ads.account()
    ads.reshard(5)
    ads.reshard(2)
    assert {ads.prepare(ordinal).outcome for ordinal in range(2)} == {"took_over"}
    assert ads.account() == before


def test_cells_that_were_never_started_are_shared_out_with_the_others(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.reshard(3)
    ads.cells = 3
    ads.up([0, 2])
    ads.leave(0)
    with pytest.raises(StateMismatchError, match="lacks ads-2"):
        ads.reshard(4)
    ads.leave(2)
    ads.reshard(4)
    ads.cells = 4
    assert {report.outcome for report in ads.up()} == {"took_over"}


def test_nothing_to_share_out_is_told(ads: Deployment) -> None:
    with pytest.raises(StateMismatchError, match="holds no state of ads, warehouse, notices"):
        ads.reshard(3)


def test_leftovers_of_two_kinds_are_told_if_nothing_says_which_counts(ads: Deployment) -> None:
    ads.up()
    ads.leave(0)
    rows = ads.rows(0)
    (ads.handover.folder / "shares.json").unlink()
    ads.cells = 3
    ads.write(2, {key: value for key, value in rows.items() if value is None})
    ads.leave(2)
    with pytest.raises(StateMismatchError, match="ads-0 of cells 2, ads-2 of cells 3"):
        ads.reshard(4)


def test_more_cells_than_partitions_are_refused(ads: Deployment) -> None:
    with pytest.raises(ConfigError, match="--cells"):
        ads.reshard(7)


def test_without_a_folder_there_is_nothing_to_share_out_from(ads: Deployment, tmp_path: Path) -> None:
    config = ads.config(tmp_path, handover=False)
    with pytest.raises(ConfigError, match=r"recovery\.handover is not set"):
        rescale_handed_over(Rescale(config, "cells", 3), ads.now)
    with pytest.raises(CrashError, match=r"recovery\.handover is not set"):
        leave(config, "ads", ads.place(0), ads.now)


def test_a_damaged_copy_is_not_shared_out(ads: Deployment) -> None:
    ads.up()
    ads.down()
    spoil(ads.handover.slot("ads-1") / "ads-1" / "part-0.sqlite3")
    with pytest.raises(StateMismatchError, match=r"handover/ads/left/ads-1/ads-1/part-0.sqlite3 is damaged"):
        ads.reshard(3)


def test_a_damaged_store_is_not_left(ads: Deployment) -> None:
    ads.up()
    spoil(ads.store(0) / "part-0.sqlite3")
    with pytest.raises(StateMismatchError, match="ads-0"):
        ads.leave(0)
    assert ids(ads) == []


def test_a_store_in_use_is_not_left(ads: Deployment) -> None:
    ads.up()
    with locked(ads.store(0)), pytest.raises(CrashError, match="is using the recovery store"):
        ads.leave(0)


def test_where_no_store_is_nothing_is_left(ads: Deployment) -> None:
    ads.volume(0).mkdir(parents=True)
    with pytest.raises(StateMismatchError, match="nothing to leave"):
        ads.leave(0)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


# Another number of cells than the state has --------------------------------------------------------------------------


def test_another_number_of_cells_without_a_re_shard_is_refused_before_anything_is_rebuilt(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.cells = 3
    for ordinal in range(3):
        with pytest.raises(StateMismatchError, match=r"2 cells, .* says 3 cells: .*rescale --cells 3 --mode cells"):
            ads.prepare(ordinal)
    assert ads.rebuilt == []


def test_the_old_number_of_cells_after_a_re_shard_is_refused(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.reshard(3)
    with pytest.raises(StateMismatchError, match="shared out to 3 cells"):
        ads.prepare(0)


def test_a_place_with_a_store_tells_how_the_state_is_shared_out(ads: Deployment) -> None:
    """The folder was configured later: the first start had nowhere to tell it."""
    ads.up()
    shutil.rmtree(ads.handover.folder)
    ads.lose(1)
    with pytest.raises(StateMismatchError, match=r"lost, or scaling was changed .*every other place"):
        ads.prepare(1)
    assert ads.prepare(0).outcome == "nothing"
    assert ads.prepare(1).outcome == "rebuilt"


# Lost stores ---------------------------------------------------------------------------------------------------------


def test_the_very_first_start_has_nothing_to_do(flow: Deployment) -> None:
    report = flow.prepare(0)
    assert (report.outcome, report.reason) == (
        "nothing",
        f"the flow {flow.flow} never ran here, and begins with an empty store",
    )
    assert (flow.rebuilt, flow.store(0).exists()) == ([], False)


@pytest.mark.parametrize("handover", [True, False])
def test_a_lost_store_of_the_ads_flow_is_rebuilt(ads: Deployment, *, handover: bool) -> None:
    ads.up()
    ads.lose(1)
    report = ads.prepare(1, handover=handover)
    assert (report.outcome, report.reason, ads.rebuilt) == ("rebuilt", "it was lost", [1])


def test_a_rebuild_that_was_stopped_is_told(ads: Deployment) -> None:
    ads.up()
    ads.lose(1)
    assert ads.prepare(1, ends=False).outcome == "stopped"
    assert ads.prepare(1).outcome == "rebuilt"


@pytest.mark.parametrize("name", ["warehouse", "notices"])
def test_a_lost_store_of_another_flow_is_left_to_the_guard(tmp_path: Path, name: str) -> None:
    flow = Deployment(tmp_path, name, 2)
    flow.up()
    flow.lose(1)
    report = flow.prepare(1)
    assert (report.outcome, flow.rebuilt) == ("nothing", [])
    assert "Lost or damaged recovery store" in report.reason
    with pytest.raises(StaleStoreError):
        flow.start(1)


def test_a_lost_store_that_was_left_before_is_taken_back(flow: Deployment) -> None:
    flow.up()
    flow.down()
    before = flow.rows(1)
    flow.lose(1)
    report = flow.prepare(1)
    assert (report.outcome, report.taken_from) == (
        "took_over",
        str(flow.handover.slot(f"{flow.flow}-1") / f"{flow.flow}-1"),
    )
    assert flow.rows(1) == before
    assert flow.prepare(1).outcome == "nothing"
    flow.start(1)
    assert f"{flow.flow}-1" not in flow.handover.left()


def test_a_kill_while_a_lost_store_is_taken_back_leaves_it_withdrawable(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.lose(1)
    with pytest.raises(KilledError):
        ads.prepare(1, lambda step: _die_at(step, "journal removed"))
    assert ads.prepare(1).outcome == "nothing"
    ads.start(1)
    assert "ads-1" not in ads.handover.left()


def test_an_old_copy_does_not_take_the_place_of_a_lost_store(flow: Deployment) -> None:
    """As if it had not been withdrawn."""
    flow.up()
    flow.down()
    flow.go_on(1)
    flow.lose(1)
    assert flow.prepare(1).outcome == ("rebuilt" if flow.flow == "ads" else "nothing")
    assert not [path for path in flow.volume(1).glob("*/part-*") if flow.flow != "ads"]


def test_a_refused_store_of_the_ads_flow_is_rebuilt(ads: Deployment) -> None:
    ads.up()
    quarantine(ads.store(1), "damaged", ads.now)
    report = ads.prepare(1)
    assert (report.outcome, report.reason, ads.rebuilt) == ("rebuilt", "it was refused", [1])


def test_a_store_whose_refusal_was_interrupted_is_moved_away_first(ads: Deployment) -> None:
    ads.up()
    moved_to = quarantine_file(ads)
    moved_to.rename(ads.store(1))
    assert ads.prepare(1).outcome == "rebuilt"
    assert moved_to.exists()


def quarantine_file(deployment: Deployment) -> Path:
    quarantine(deployment.store(1), "damaged", deployment.now)
    (moved_to,) = deployment.volume(1).glob("*.quarantine-*")
    return moved_to


@pytest.mark.parametrize("name", ["warehouse", "notices"])
def test_a_refused_store_of_another_flow_stays_refused(tmp_path: Path, name: str) -> None:
    flow = Deployment(tmp_path, name, 2)
    flow.up()
    quarantine(flow.store(1), "damaged", flow.now)
    with pytest.raises(StateMismatchError, match="Lost or damaged recovery store"):
        flow.prepare(1)
    assert refusal_file(flow.store(1)).exists()


def test_a_refused_store_is_replaced_by_what_was_left_of_it(flow: Deployment) -> None:
    """Bits that flip while it is stopped are found at the start, before the copy is withdrawn."""
    flow.up()
    flow.down()
    before = flow.rows(1)
    spoil(flow.store(1) / "part-0.sqlite3")
    with pytest.raises(StateMismatchError, match="will not be used"):
        flow.start(1)
    assert flow.prepare(1).outcome == "took_over"
    assert flow.rows(1) == before
    flow.start(1)


def test_a_rebuild_that_was_killed_while_it_moved_in_is_finished(ads: Deployment) -> None:
    ads.up()
    site = Site.of_store(ads.config(ads.volume(1)), ads.place(1))
    order = Order(Request(begin="beginning"), Span(from_ms=None, until_ms=1))
    write_marker(site.marker, Marker(order=order, rules="", is_done=True))
    assert ads.prepare(1).outcome == "rebuilt"


def test_a_replay_of_before_is_given_up_when_a_store_is_taken_over(ads: Deployment) -> None:
    ads.up()
    ads.down()
    ads.reshard(3)
    ads.cells = 3
    site = Site.of_store(ads.config(ads.volume(2)), ads.place(2))
    order = Order(Request(begin="beginning"), Span(from_ms=None, until_ms=1))
    write_marker(site.marker, Marker(order=order, rules=""))
    site.building.mkdir()
    assert ads.prepare(2).outcome == "took_over"
    assert not site.marker.exists()
    assert not site.building.exists()


def test_a_damaged_copy_is_not_taken_over(ads: Deployment) -> None:
    ads.up()
    ads.down()
    before = ads.rows(1)
    ads.reshard(3)
    (part,) = (ads.handover.folder / "made").glob("*/ads-1/part-0.sqlite3")
    spoil(part)
    ads.cells = 3
    with pytest.raises(StateMismatchError, match=r"handover/ads/made/.*/ads-1/part-0.sqlite3 is damaged"):
        ads.prepare(1)
    assert ads.rows(1) == before
    assert unfinished_rescale(ads.volume(1)) is None


def test_a_copy_whose_files_have_expired_counts_no_more(ads: Deployment) -> None:
    """A bucket may delete what is old, file by file."""
    ads.up()
    ads.down()
    ads.reshard(3)
    (part,) = (ads.handover.folder / "made").glob("*/ads-2/part-0.sqlite3")
    part.unlink()
    ads.cells = 3
    assert [ads.prepare(n).outcome for n in range(3)] == ["took_over", "took_over", "rebuilt"]
    for record in (ads.handover.folder / "made").glob("*/backup.json"):
        record.unlink()
    assert {ads.prepare(n).outcome for n in range(2)} == {"nothing"}
    ads.leave(0)
    (ads.handover.slot("ads-0") / "ads-0" / "part-0.sqlite3").unlink()
    assert ids(ads) == []


def test_a_store_in_use_is_not_prepared(ads: Deployment) -> None:
    ads.up()
    with locked(ads.store(0)), pytest.raises(CrashError, match="is using the recovery store"):
        ads.prepare(0)


@pytest.mark.parametrize(("directory", "handover"), [("data", "data"), ("data", "data/x"), ("data/x", "data")])
def test_the_folder_and_the_stores_lie_apart(directory: str, handover: str) -> None:
    with pytest.raises(ConfigError, match="lie within each other"):
        parse_config(f'{CONFIG_TEXT}[recovery]\ndirectory = "{directory}"\nhandover = "{handover}"\n')
