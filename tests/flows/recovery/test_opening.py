"""Every start: whose store it is, that it is sound and nobody else's; and what is left of an unfinished epoch."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from bytewax.inputs import AbortExecution

from datastreamx.errors import CrashError, DamagedStoreError, DatastreamXError, StaleStoreError, StateMismatchError
from datastreamx.place import Place
from flows.panics import sqlite_failure
from flows.recovery import part
from flows.recovery.lock import locked
from flows.recovery.manifest import FILE, manifest_of, read_manifest
from flows.recovery.opening import holds_nothing, open_store, opened_store
from flows.recovery.pickles import write_pickle
from flows.recovery.quarantine import refusal_file
from flows.recovery.steps import FLOWS, steps_of
from flows.recovery.store import read_store
from operators.viewing.snapshot import VERSION
from tests.builders import config
from tests.flows.logs import cut, draw_logs
from tests.flows.recovery.ads_store import CLOCK, Items, Site, settings
from tests.flows.recovery.flow import copy, run
from tests.flows.test_step_ids import GOLDEN

SEED = 7
ITEMS: Items = cut(draw_logs(SEED, records=60), SEED)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(settings(tmp_path / "recovery"), Place())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that a flow has stopped on twice."""
    made = Site(settings(tmp_path_factory.mktemp("template")), Place())
    for half in (1, 2):
        made.run(ITEMS, half * len(ITEMS) // 2)
    return made.store


@pytest.fixture
def used(site: Site, template: Path) -> Site:
    """With such a store."""
    copy(template, site.store)
    return site


def execute(store: Path, sql: str, *arguments: object) -> None:
    with closing(sqlite3.connect(store / "part-0.sqlite3", isolation_level=None)) as connection:
        connection.execute(sql, arguments)


# Making and resuming ------------------------------------------------------------------------------------------------


def test_first_start_makes_a_store_that_tells_whose_it_is(site: Site) -> None:
    site.open()
    assert read_manifest(site.store) == manifest_of("ads", site.config, site.place)
    assert read_store(site.store).is_empty
    assert [path.name for path in site.store.parent.iterdir() if path.name.startswith(".")] == []


def test_half_made_store_is_made_anew(site: Site) -> None:
    unfinished = site.store.with_name(".ads-0.unfinished")
    unfinished.mkdir(parents=True)
    (unfinished / "part-0.sqlite3").write_bytes(b"half")
    site.open()
    assert read_store(site.store).is_empty
    assert not unfinished.exists()


def test_store_that_cannot_be_made_says_what_to_do(site: Site) -> None:
    site.store.parent.parent.mkdir(parents=True, exist_ok=True)
    site.store.parent.write_text("in the way")
    with pytest.raises(CrashError, match=r"disk full or read-only"):
        site.open()


def fail_with(error: DatastreamXError, site: Site, seen: str, last: int = 100_000) -> None:
    """One start in place of the ads flow's, which fails as soon as its source is `seen` there for the fourth time."""
    met = 0

    def fail(place: str, _: str) -> None:
        nonlocal met
        met += place.startswith(seen)
        if met >= (1 if seen == "numbers" else 4):
            raise error

    with opened_store("ads", site.config, site.place, CLOCK):
        try:
            run(site.store, last, seen=fail)
        except Exception as wrapped:  # Bytewax chooses its kind
            raise error from wrapped


def test_start_that_is_refused_leaves_no_store_where_none_was(site: Site) -> None:
    with pytest.raises(StaleStoreError, match="the flow ran before"):
        fail_with(StaleStoreError("it is empty although the flow ran before"), site, "numbers")
    assert [path.name for path in site.store.parent.iterdir()] == ["ads-0.lock"]
    site.open()


def test_empty_store_that_a_killed_start_has_left_goes_with_the_next_refused_one(site: Site) -> None:
    site.open()
    with pytest.raises(StaleStoreError):
        fail_with(StaleStoreError("it is empty although the flow ran before"), site, "numbers")
    assert not site.store.exists()


def test_start_that_fails_keeps_what_was_durable_before(used: Site) -> None:
    before = used.read()
    with pytest.raises(CrashError, match="no broker"), opened_store("ads", used.config, used.place, CLOCK):
        raise CrashError("no broker")
    assert used.read() == before


def test_first_start_that_fails_keeps_what_it_has_made_durable(site: Site) -> None:
    with pytest.raises(CrashError, match="no broker"):
        fail_with(CrashError("no broker"), site, "snapshot")
    assert not read_store(site.store).is_empty


def test_store_that_lost_all_since_the_last_start_is_not_taken_for_an_empty_one(used: Site) -> None:
    assert not holds_nothing(used.store)
    used.open()
    execute(used.store, "DELETE FROM snaps")
    for table in ("exs", "fronts", "commits"):
        execute(used.store, f"DELETE FROM {table}")  # noqa: S608  our own names
    assert used.read().is_empty
    assert not holds_nothing(used.store)


def test_store_of_a_flow_is_resumed_from(used: Site) -> None:
    before = used.read()
    used.open()
    assert used.read().rows == before.rows
    assert {row.step_id for row in before.rows} >= {"ads.events", "ads.viewing.state"}


@pytest.mark.parametrize("flow", FLOWS)
def test_guard_knows_every_stateful_step_of_the_flow_and_no_other(flow: str) -> None:
    steps = dict(line.split() for line in (GOLDEN / f"{flow}.steps.txt").read_text().splitlines())
    stateful = {step for step, kind in steps.items() if kind in {"input", "stateful_batch", "output"}}
    assert {step.step_id for step in steps_of(flow, config(), Place())} == stateful


def test_all_processes_of_a_cluster_but_the_first_have_an_empty_folder(tmp_path: Path) -> None:
    made = settings(tmp_path / "recovery")
    keeper, peer = (Site(made, Place("cluster", ordinal, 2, ("a:1", "b:1"))) for ordinal in (0, 1))
    keeper.open()
    peer.open()
    assert read_manifest(keeper.store).mode == "cluster"
    assert [*peer.store.iterdir()] == []
    (peer.store / "part-0.sqlite3").write_bytes(b"")
    with pytest.raises(StateMismatchError, match="only process 0"):
        peer.open()


# What an unfinished epoch leaves ------------------------------------------------------------------------------------


def ghost(store: Path) -> str:
    """Leave a row of an epoch that never ended, as a kill does; returns its key."""
    contents = read_store(store)
    (key, *_) = [row.state_key for row in contents.rows if row.step_id == "bare.counts" and not row.is_discarded]
    sql = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES ('bare.counts', ?, ?, ?)"
    execute(store, sql, key, contents.resume_epoch, write_pickle(b"999"))
    return key


def value_after_one_more_run(store: Path, key: str) -> bytes | None:
    """Some epochs that do not touch the key; then what a resume would find."""

    snapshots = 0

    def seen(place: str, _: str) -> None:
        nonlocal snapshots
        snapshots += place == "snapshot"
        if place == "batch" and snapshots > 6:
            raise AbortExecution

    run(store, 100_000, seen=seen)
    return read_store(store).by_key["bare.counts", key].value


def test_row_of_an_unfinished_epoch_never_counts(tmp_path: Path) -> None:
    """Bytewax alone would take it over as soon as that epoch is durable, without the items that led to it."""
    store = tmp_path / "store"
    open_store(store)
    run(store, 16)
    key = ghost(store)
    assert read_store(store).unfinished == 1
    open_store(store)
    contents = read_store(store)
    assert contents.unfinished == 0
    assert contents.by_key["bare.counts", key].value == value_after_one_more_run(store, key)


def test_bytewax_alone_takes_over_a_row_of_an_unfinished_epoch(tmp_path: Path) -> None:
    """If this ever fails, Bytewax has mended it, and deleting the rows before a start is no longer needed."""
    store = tmp_path / "store"
    open_store(store)
    run(store, 16)
    key = ghost(store)
    assert value_after_one_more_run(store, key) == b"999"


# Whose it is --------------------------------------------------------------------------------------------------------


def test_store_without_a_manifest_is_foreign(used: Site) -> None:
    (used.store / FILE).unlink()
    with pytest.raises(StateMismatchError, match=rf"no {FILE}: another program made it"):
        used.open()
    assert used.store.exists()


MISMATCHES: dict[str, tuple[dict[str, object], str]] = {
    "format": ({"format": 9}, "format is 9, this program reads 1"),
    "flow": ({"flow": "notices"}, "flow notices, not to ads"),
    "cells": ({"cells": 4}, r"scaling\.cells = 4, which is 1 now.*`datastreamx rescale`"),
    "mode": ({"mode": "cluster"}, r"scaling\.mode cluster, which is cells now.*`datastreamx rescale`"),
    "ordinal": ({"ordinal": 3}, "cell 3, not to 0"),
    "topic": ({"topics": {"events": "e", "decisions": "ad-decisions"}}, r"topic e, and topics\.events is box-events"),
    "partitions": ({"partitions": 9}, r"events\.partitions = 9, which is 2 now"),
    "groups": ({"groups_per_partition": 9}, r"events\.groups_per_partition = 9, which is 2 now"),
    "version": (
        {"steps": {"ads.viewing.state": 1}},
        rf"ads\.viewing\.state have version 1, this program reads {VERSION}",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_mismatch_names_both_values_and_moves_nothing(name: str, used: Site) -> None:
    changes, message = MISMATCHES[name]
    path = used.store / FILE
    content = {**msgspec.json.decode(path.read_bytes()), **changes}
    path.write_bytes(msgspec.json.encode(content))
    before = used.read()
    with pytest.raises(StateMismatchError, match=message):
        used.open()
    assert used.read() == before
    assert not refusal_file(used.store).exists()


# What is not sound --------------------------------------------------------------------------------------------------

_ONE = "(SELECT min(rowid) FROM snaps WHERE step_id = 'ads.viewing.state')"

DAMAGE: dict[str, tuple[str, str]] = {
    "a source row is gone": ("DELETE FROM snaps WHERE step_id = 'ads.events'", "no row of the last epoch"),
    "a source row is old": (
        "UPDATE snaps SET snap_epoch = snap_epoch - 1 WHERE step_id = 'ads.events'",
        "its newest is of epoch",
    ),
    "a state row is gone": ("DELETE FROM snaps WHERE rowid = ONE", "was there at the last start, and is gone"),
    "a step is unknown": ("UPDATE snaps SET step_id = 'ads.x' WHERE rowid = ONE", "does not belong to this flow"),
    "a key is not ours": (
        "UPDATE snaps SET state_key = 'p009g0' WHERE rowid = ONE",
        "does not belong to this flow",
    ),
    "a key is another's": (
        "UPDATE snaps SET ser_change = (SELECT ser_change FROM snaps WHERE rowid = ONE) "
        "WHERE step_id = 'ads.viewing.state' AND rowid != ONE",
        "holds the value of",
    ),
    "a value is gone": ("UPDATE snaps SET ser_change = X'80044e2e' WHERE rowid = ONE", "has no value"),
    "a key was discarded": ("UPDATE snaps SET ser_change = NULL WHERE rowid = ONE", "has no value"),
    "a seal is broken": (
        "UPDATE snaps SET ser_change = CAST(substr(ser_change, 1, length(ser_change) - 3) || X'aa' || "
        "substr(ser_change, -2) AS BLOB) WHERE rowid = ONE",
        "wrong checksum",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_set_aside(name: str, used: Site) -> None:
    sql, message = DAMAGE[name]
    execute(used.store, sql.replace("ONE", _ONE))
    with pytest.raises(StateMismatchError, match=message):
        used.open()
    assert not used.store.exists()
    assert refusal_file(used.store).exists()


def quarantined(site: Site) -> Path:
    (moved,) = site.store.parent.glob("ads-0.quarantine-*")
    return moved


def test_refusal_lasts_until_somebody_decides(used: Site) -> None:
    before = used.read()
    execute(used.store, "DELETE FROM snaps WHERE step_id = 'ads.events'")
    for _ in range(3):
        with pytest.raises(StateMismatchError) as raised:
            used.open()
        for choice in ("datastreamx restore", "datastreamx replay", "begin anew", "no row of the last epoch"):
            assert choice in str(raised.value)
        assert str(quarantined(used)) in str(raised.value)
        assert not used.store.exists()
    assert len(read_store(quarantined(used)).rows) == len(before.rows) - 1
    refusal_file(used.store).unlink()
    used.open()
    assert used.read().is_empty


def test_refusal_is_finished_if_the_process_was_killed_before_it_moved_the_store(used: Site) -> None:
    execute(used.store, "DELETE FROM snaps WHERE step_id = 'ads.events'")
    with pytest.raises(StateMismatchError):
        used.open()
    quarantined(used).rename(used.store)
    with pytest.raises(StateMismatchError, match="no row of the last epoch"):
        used.open()
    assert not used.store.exists()


def test_store_in_an_unreadable_state_of_refusal_is_not_opened(used: Site) -> None:
    refusal_file(used.store).write_bytes(b"{")
    with pytest.raises(StateMismatchError, match="no longer tells"):
        used.open()
    assert used.store.exists()


def test_store_that_cannot_be_read_now_stays_where_it_is(used: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_READ"
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(part, "connect", fail)
        with pytest.raises(CrashError, match="not known to be damaged") as raised:
            used.open()
    assert not isinstance(raised.value, DamagedStoreError)
    used.open()


# Never two ----------------------------------------------------------------------------------------------------------

_HOLD = """
import sys
from pathlib import Path
from flows.recovery.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_told_who_holds_the_store(used: Site) -> None:
    argv = [sys.executable, "-c", _HOLD, str(used.store)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CrashError, match=rf"process {holder.pid} is using .*never run two"):
            used.open()
        holder.kill()
    used.open()


def test_lock_is_held_while_the_store_is_in_use(used: Site) -> None:
    with (
        opened_store("ads", used.config, used.place, CLOCK),
        pytest.raises(CrashError, match=f"process {os.getpid()} is using"),
        locked(used.store),
    ):
        pass
    with locked(used.store):
        pass


def test_panic_of_sqlite_is_put_into_words() -> None:
    panic = RuntimeError('SqliteFailure(Error { code: DiskFull, extended_code: 13 }, Some("database or disk is full"))')
    outer = RuntimeError("wrapped")
    outer.__cause__ = panic
    assert sqlite_failure(outer) == "database or disk is full (DiskFull)"
    assert sqlite_failure(RuntimeError("other")) is None
