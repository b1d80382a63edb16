"""The whole deployment at a glance: what each process answers, and what is made of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.status import brokers, peers
from datastreamx.cli.status.cells import Cell, Trouble, cell_notes, trouble, version_note, versions
from datastreamx.cli.status.peers import ask, ask_all, ask_peers, expected_cells
from datastreamx.cli.status.render import render
from datastreamx.cli.status.report import (
    BigQueryStatus,
    FlowStatus,
    KafkaStatus,
    Lag,
    ProcessStatus,
    Status,
    Store,
    as_json,
    diagnose,
    exit_code,
)
from datastreamx.cli.terminal import show
from datastreamx.clock import ManualClock, SystemClock
from datastreamx.supervisor import Status as Supervision
from datastreamx.supervisor import status_path
from datastreamx.supervisor.status import write_status
from datastreamx.supervisor.view import Exit as WorkerExit
from tests.builders import T0, config
from tests.cli.running import Cli

CRASHED = WorkerExit(at_ms=T0 - 10_000, code=1, reason="error")
PEERS = '[metrics]\nport = 9090\npeers = "http://{flow}-{ordinal}.{flow}:9090"\n'


def supervision(store: str = "ads-0", **changes: Any) -> Supervision:
    fields: dict[str, Any] = {
        "flow": store.partition("-")[0],
        "store": store,
        "version": "1.0.0",
        "at_ms": T0 - 500,
        "supervisor_pid": 1,
        "stage": "running",
        "since_ms": T0 - 90_000,
        "report_age_ms": 400,
        "snapshot_ms": T0 - 1_500,
        "lag_records": 12,
        "lag_ms": 300,
    }
    return Supervision(**{**fields, **changes})


def cell(name: str = "ads-0", **changes: Any) -> Cell:
    found = supervision(**{"store": name, **changes})
    return Cell(name=name, address=f"http://{name}.ads:9090", answered_ms=T0, supervisor=found)


def silent(name: str, problem: str = "Connection refused") -> Cell:
    return Cell(name=name, address=f"http://{name}.ads:9090", problem=problem)


def flow(name: str, *cells: Cell, lags: list[Lag] | None = None, processes: list[ProcessStatus] | None = None) -> Any:
    return FlowStatus(name=name, group="g", lags=lags or [], processes=processes or [], cells=[*cells])


def status(*flows: FlowStatus) -> Status:
    return Status(
        at_ms=T0 + 20_000, kafka=KafkaStatus(address="a:1"), bigquery=BigQueryStatus(address="p.d"), flows=[*flows]
    )


# What is wrong with one


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (cell(), None),
        (cell(recent_failures=1), None),
        (cell(snapshot_ms=None), None),
        (silent("ads-0"), Trouble("silent", "Connection refused")),
        (cell(store="ads-1"), Trouble("stranger", "ads-1 answers at http://ads-0.ads:9090")),
        (cell(at_ms=T0 - 10_001), Trouble("stuck", "its supervisor last looked around 10.0 s ago")),
        (
            cell(stage="given_up", unready="the worker has ended", last_exit=CRASHED),
            Trouble("given_up", "gave up: it ended with code 1"),
        ),
        (
            cell(stage="backing_off", recent_failures=2, unready="the worker has ended", last_exit=CRASHED),
            Trouble("failing", "failed 2 times lately; the last time it ended with code 1"),
        ),
        (cell(report_age_ms=5_001), Trouble("hang", "its worker has been silent for 5.0 s")),
        (
            cell(stage="restoring", report_age_ms=20_000, unready="the worker is restoring"),
            Trouble("unready", "the worker is restoring"),
        ),
        (cell(snapshot_ms=T0 - 61_000), Trouble("no_snapshot", "its last snapshot is 1 min 0 s old")),
    ],
    ids=lambda value: value.kind if isinstance(value, Trouble) else "",
)
def test_worst_trouble_of_a_process_is_told(found: Cell, expected: Trouble | None) -> None:
    assert trouble(found) == expected


def test_ages_are_by_the_clock_of_the_process_that_tells() -> None:
    ahead = cell(at_ms=T0 + 3_600_000, snapshot_ms=T0 + 3_599_000)
    assert ahead.snapshot_age_ms == 1_000
    assert trouble(ahead) is None


# Notes


def test_many_with_the_same_trouble_are_one_note() -> None:
    cells = [cell(f"ads-{n}") for n in range(8)] + [silent(f"ads-{n}") for n in range(8, 16)]
    assert cell_notes("ads", cells) == [
        "ads: no answer from 8 of 16 processes: ads-8, ads-9, ads-10, ads-11, ads-12, ads-13 and 2 more; are they "
        "running? Their logs tell why not"
    ]


def test_flow_that_is_silent_as_a_whole_is_told_with_the_reason() -> None:
    (note,) = cell_notes("ads", [silent("ads-0", "Name or service not known"), silent("ads-1", "timed out")])
    assert note.startswith("no process of ads answers, the first of 2 because of: Name or service not known; ")
    assert "metrics.peers" in note


def test_each_kind_of_trouble_has_a_note_but_for_starts() -> None:
    cells = [
        cell("ads-0"),
        cell("ads-1", store="ads-0"),
        cell("ads-2", at_ms=T0 - 60_000),
        cell("ads-3", stage="given_up", last_exit=CRASHED),
        cell("ads-4", recent_failures=3, last_exit=CRASHED),
        cell("ads-5", report_age_ms=9_000),
        cell("ads-6", stage="restoring", unready="the worker is restoring"),
        cell("ads-7", snapshot_ms=T0 - 90_000),
    ]
    notes = cell_notes("ads", cells)
    assert [f"ads-{n}" in note for n, note in zip((1, 2, 3, 4, 5, 7), notes, strict=True)] == [True] * 6
    assert "DATASTREAMX_ORDINAL" in notes[0]


def test_mixed_releases_are_told_once_for_all_flows() -> None:
    cells = [cell(f"ads-{n}", version="1.0.0") for n in range(3)]
    others = [cell("warehouse-0", version="1.1.0"), cell("warehouse-1", version=""), silent("warehouse-2")]
    assert version_note([*cells, others[2]]) is None
    assert version_note([*cells, *others]) == (
        "release 1.0.0 runs in 3 processes, 1.1.0 in warehouse-0, older in warehouse-1: "
        "an upgrade is under way, or was left half-way"
    )
    assert versions([*cells, *others]) == {"1.0.0": 3, "1.1.0": 1, "older": 1}
    found = diagnose(status(flow("ads", *cells), flow("warehouse", *others[:2])))
    assert sum("release 1.0.0" in note for note in found) == 1


# The report


def traces(name: str, *, refusal: str | None = None) -> ProcessStatus:
    store = Store(directory=f"recovery/{name}", files=4, bytes=4096, written_ms=T0 - 7_200_000)
    return ProcessStatus(name=name, store=store, refusal=refusal)


def test_traces_on_this_machine_of_a_process_that_answers_are_not_told_twice() -> None:
    found = flow("ads", cell("ads-0"), silent("ads-1"), processes=[traces("ads-0"), traces("ads-1")])
    assert [one.name for one in found.local] == ["ads-1"]
    assert [one["name"] for one in as_json(status(found))["flows"][0]["processes"]] == ["ads-0", "ads-1"]  # type: ignore[index]
    refused = flow("ads", cell("ads-0"), processes=[traces("ads-0", refusal="a page is damaged")])
    (note,) = diagnose(status(refused))
    assert "a page is damaged" in note


def test_process_that_does_not_answer_is_an_outage_and_one_that_is_ill_is_not() -> None:
    assert exit_code(status(flow("ads", cell("ads-0"), silent("ads-1")))) is Exit.UNREACHABLE
    assert exit_code(status(flow("ads", cell("ads-0"), cell("ads-1", store="ads-0")))) is Exit.OK


def test_json_has_every_process_with_its_trouble() -> None:
    found: Any = as_json(status(flow("ads", cell("ads-0"), silent("ads-1"))))
    well, ill = found["flows"][0]["cells"]
    assert (well["name"], well["trouble"], well["snapshot_age_ms"]) == ("ads-0", None, 1_000)
    assert (well["supervisor"]["lag_records"], well["supervisor"]["version"]) == (12, "1.0.0")
    assert (ill["supervisor"], ill["trouble"]) == (None, {"kind": "silent", "detail": "Connection refused"})
    assert found["versions"] == {"1.0.0": 1}


def lags(topic: str, partitions: int) -> list[Lag]:
    return [Lag(topic=topic, partition=n, committed=100, end=100 + n * 5, is_end_exact=True) for n in range(partitions)]


def deployment() -> Status:
    ads = [cell(f"ads-{n}", lag_records=n, restarts={"error": 1} if n == 9 else {}) for n in range(16)]
    ads[3] = silent("ads-3", "no answer within 2 s")
    ads[7] = cell("ads-7", stage="restoring", doing="loading state", unready="the worker is restoring: loading state")
    warehouse = [cell(f"warehouse-{n}") for n in range(16)]
    notices = [cell(f"notices-{n}") for n in range(16)]
    return status(
        flow("ads", *ads, lags=lags("box-events", 64)),
        flow("warehouse", *warehouse, lags=lags("box-facts", 64)),
        flow("notices", *notices, lags=lags("box-facts", 64)),
    )


def test_48_processes_fit_on_a_screen_and_the_unwell_stand_out(capsys: pytest.CaptureFixture[str]) -> None:
    show(*render(deployment()))
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 150
    assert (
        "Flow ads  lag 10,080\n  14 of 16 processes ready; lag at most 15 records, 300 ms; "
        "snapshots at most 1.0 s old; 1 restart; release 1.0.0\n"
    ) in out
    assert "  16 of 16 processes ready;" in out
    assert "  largest lag 315, in box-events[63]\n" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith(("  ads-", "  warehouse-"))}
    assert rows.keys() == {"ads-3", "ads-7"}
    assert rows["ads-3"].endswith("no answer within 2 s")
    assert "restoring: loading state, 1 min 29 s" in rows["ads-7"]
    assert "! ads: no answer from 1 of 16 processes: ads-3; " in out


def test_all_processes_and_partitions_are_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    show(*render(deployment(), all_cells=True))
    lines = capsys.readouterr().out.splitlines()
    for name in ("ads", "warehouse", "notices"):
        assert sum(line.startswith(f"  {name}-") for line in lines) == 16
    assert sum(line.startswith("  box-events ") for line in lines) == 64


# Asking


def test_every_flow_is_asked_at_every_ordinal() -> None:
    found = config(f"{PEERS}[scaling]\ncells = 3\n")
    assert [(one.name, one.address) for one in expected_cells(found, "warehouse")] == [
        (f"warehouse-{n}", f"http://warehouse-{n}.warehouse:9090") for n in range(3)
    ]


def test_processes_of_a_cluster_are_expected_under_its_names() -> None:
    found = config(f'{PEERS}[scaling]\nmode = "cluster"\naddresses = ["a:1", "b:1"]\n')
    assert [one.name for one in expected_cells(found, "ads")] == ["ads-cluster", "ads-cluster-peer-1"]


def test_nobody_is_asked_unless_it_is_configured_where() -> None:
    assert ask_peers(config(), SystemClock()) == {}


def test_one_that_never_answers_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ALL_TIMEOUT_S", 0.2)
    for_ever = threading.Event()

    def ask_one(asked: Cell) -> Cell:
        if asked.name == "ads-1":
            for_ever.wait(60)
        return cell(asked.name)

    try:
        found = ask_all([silent(f"ads-{n}") for n in range(3)], ask_one, SystemClock())
    finally:
        for_ever.set()
    assert [one.supervisor is not None for one in found] == [True, False, True]
    assert found[1].problem == "no answer within 0.2 s"


Answer = Callable[[str], tuple[int, bytes]]
"""Host header and port to status and body."""


@contextmanager
def http_server(answer: Answer, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Answers everything asked at `/status`; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/status"
            code, body = answer(self.headers["Host"])
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("code", "body", "problem"),
    [
        (404, b"{}", "answers with HTTP 404: another release?"),
        (200, b"<html>", "answers with something else: another release, or a stranger?"),
        (200, b'{"flow": "ads"}', "answers with something else: another release, or a stranger?"),
    ],
)
def test_what_is_no_status_is_a_problem_in_words(code: int, body: bytes, problem: str) -> None:
    with http_server(lambda _: (code, body)) as port:
        found = ask(Cell(name="ads-0", address=f"http://127.0.0.1:{port}"), ManualClock())
    assert (found.supervisor, found.problem) == (None, problem)


def test_reason_of_a_silence_is_told_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    clock = ManualClock()
    assert ask(Cell(name="a", address="http://127.0.0.1:9"), clock).problem == "Connection refused"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert ask(Cell(name="a", address=address), clock).problem == "no answer within 0.2 s"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Starts processes that can be asked by their names at one port, each at a loop-back address of its own."""
    addresses: dict[str, str] = {}
    stock = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(host, str) and host.endswith((".ads", ".warehouse", ".notices")):
            if host not in addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            host = addresses[host]
        return stock(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with ExitStack() as running:

        def start(**processes: Supervision) -> int:
            port = 0
            for number, (name, found) in enumerate(processes.items(), 2):
                body = msgspec.json.encode(found)
                host = f"127.0.0.{number}"
                port = running.enter_context(http_server(lambda _, body=body: (200, body), host, port))  # type: ignore[misc]
                addresses[f"{name.replace('_', '-')}.{name.partition('_')[0]}"] = host
            return port

        yield start


def well(store: str) -> Supervision:
    now_ms = SystemClock().now_ms()
    return supervision(store, at_ms=now_ms, since_ms=now_ms - 60_000, snapshot_ms=now_ms - 800)


def test_deployment_is_shown_with_who_is_missing_and_why(
    cli: Cli,
    config_file: Path,
    tmp_path: Path,
    cluster: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(brokers, "ANSWER_TIMEOUT_S", 0.5)
    port = cluster(ads_0=well("ads-0"), ads_1=well("ads-0"), warehouse_0=well("warehouse-0"))
    text = config_file.read_text(encoding="utf-8") + PEERS.replace("9090", str(port)) + "[scaling]\ncells = 2\n"
    config_file.write_text(f'{text}[recovery]\ndirectory = "{tmp_path}"\n', encoding="utf-8")
    ended = cli("status", "--config", str(config_file), "--json")
    assert ended.code == Exit.UNREACHABLE
    ads, warehouse = ended.json["flows"]
    assert [(one["name"], (one["trouble"] or {}).get("kind")) for one in ads["cells"] + warehouse["cells"]] == [
        ("ads-0", None),
        ("ads-1", "stranger"),
        ("warehouse-0", None),
        ("warehouse-1", "silent"),
    ]
    assert warehouse["cells"][1]["problem"] == "Name or service not known"
    # This machine has no trace of any process, and is no place where one should have left some.
    assert ads["processes"] == []
    shown = cli("status", "--config", str(config_file)).out
    assert "1 of 2 processes ready" in shown
    assert "no recovery store" not in shown


def test_notices_that_nobody_configured_are_shown_if_they_run(cluster: Callable[..., int]) -> None:
    port = cluster(notices_0=well("notices-0"))
    found = config(PEERS.replace("9090", str(port)))
    assert [*ask_peers(found, SystemClock())] == ["ads", "warehouse", "notices"]


def test_without_peers_traces_on_this_machine_are_told_as_ever(
    cli: Cli, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "ANSWER_TIMEOUT_S", 0.5)
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(f'{text}\n[recovery]\ndirectory = "{tmp_path}"\n', encoding="utf-8")
    write_status(status_path(tmp_path, "ads-0"), well("ads-0"))
    ended = cli("status", "--config", str(config_file))
    assert "ads-0  running, 1 min 0 s; 0 restarts; no recovery store" in ended.out
    assert "warehouse-0  no recovery store at" in ended.out
