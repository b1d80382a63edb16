from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from datastreamx.errors import CrashError
from flows.recovery.opening import make_store
from flows.recovery.part import PAGE_BYTES, PATTERN, connect
from flows.recovery.store import part_files, read_store
from flows.recovery.writer import write_store
from simulator.processes import free_port
from tests.flows.toy_flow import KEYS, SOURCE, expected, key_of

START = 1_000
SUMS = {key_of(number): 10_000_000 + number for number in range(KEYS)}


def run_toy(store: Path, last: int, *cluster: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.flows.toy_flow", str(store), str(last), *cluster]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def kill_after(store: Path, snapshots: int) -> None:
    """SIGKILL once the flow has taken so many; the last of them may not be durable."""
    with run_toy(store, 10_000_000) as process:
        assert process.stdout is not None
        seen = [*islice(process.stdout, snapshots)]
        process.kill()
    assert len(seen) == snapshots, "the flow ended by itself"


def values(store: Path) -> dict[tuple[str, str], bytes | None]:
    return {key: row.value for key, row in read_store(store).by_key.items()}


def test_bytewax_resumes_from_a_written_store_and_again_after_kills(tmp_path: Path) -> None:
    store = tmp_path / "toy-0"
    write_store(store, "toy", expected(START, SUMS, START))
    stood_at = START
    for snapshots in (4, 7, 5):
        kill_after(store, snapshots)
        held = values(store)
        now = int(held[SOURCE] or b"")
        assert now > stood_at
        stood_at = now
        assert held == {**expected(START, SUMS, now), ("toy.nowhere", "sink"): None}
    last = stood_at + 1_000
    with run_toy(store, last) as process:
        process.communicate()
    assert process.returncode == 0
    assert values(store) == {**expected(START, SUMS, last), ("toy.nowhere", "sink"): None}


def test_a_cluster_resumes_from_a_written_store(tmp_path: Path) -> None:
    """One process keeps the store, the other one has an empty folder; both have keys."""
    store, peer = tmp_path / "toy-cluster", tmp_path / "toy-cluster-peer-1"
    write_store(store, "toy", expected(START, SUMS, START))
    peer.mkdir()
    for last in (START + 500, START + 900):
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        with run_toy(store, last, "0", *addresses) as one, run_toy(peer, last, "1", *addresses) as other:
            one.communicate()
            other.communicate()
        assert (one.returncode, other.returncode) == (0, 0)
        assert values(store) == {**expected(START, SUMS, last), ("toy.nowhere", "sink"): None}


def test_a_written_store_reads_back_as_it_was_given(tmp_path: Path) -> None:
    rows = {
        ("ads.events", "reader-00"): b"",
        ("ads.viewing.state", "p000g0"): b"x" * 1_000_000,
        ("ads.viewing.state", "p001g1"): b"\x00\xff",
        ("ads.viewing.other.deep", "p000g0"): b"y",
        ("ads.push", "ad-push"): b"z",
    }
    write_store(tmp_path / "ads-0", "ads", rows)
    contents = read_store(tmp_path / "ads-0")
    assert {key: row.value for key, row in contents.by_key.items()} == rows
    assert (len(part_files(tmp_path / "ads-0")), contents.unfinished, contents.is_empty) == (1, 0, False)


def test_a_store_without_rows_is_one_without_a_snapshot(tmp_path: Path) -> None:
    write_store(tmp_path / "made", "ads", {})
    (tmp_path / "new").mkdir()
    init_db_dir(tmp_path / "new", 1)
    made, new = read_store(tmp_path / "made"), read_store(tmp_path / "new")
    assert (made.rows, made.is_empty) == (new.rows, new.is_empty)
    assert len(part_files(tmp_path / "made")) == len(part_files(tmp_path / "new"))


def test_a_store_that_exists_is_not_touched(tmp_path: Path) -> None:
    write_store(tmp_path / "ads-0", "ads", {("ads.events", "reader-00"): b"1"})
    with pytest.raises(CrashError, match="cannot be written"):
        write_store(tmp_path / "ads-0", "ads", {("ads.events", "reader-00"): b"2"})
    assert values(tmp_path / "ads-0") == {("ads.events", "reader-00"): b"1"}


def test_new_stores_have_large_pages_and_can_be_read(tmp_path: Path) -> None:
    make_store(tmp_path / "made", None)
    write_store(tmp_path / "written", "flow", {("flow.step", "key"): b"value"})
    for name in ("made", "written"):
        (path,) = (tmp_path / name).glob(PATTERN)
        read_store(tmp_path / name)  # refuses a file that does not say that it has a log
        with closing(connect(path, mode="ro")) as connection:
            assert connection.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
