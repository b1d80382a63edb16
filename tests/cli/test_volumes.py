"""`datastreamx snapshot-volumes` against a small API server that keeps claims and snapshots."""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from datastreamx.cli.output import Exit
from datastreamx.cli.volumes.account import Account, account_of
from datastreamx.cli.volumes.cluster import WAITS_S, Cluster, RefusedError
from datastreamx.cli.volumes.cycle import READY_WITHIN, by_claim, problem_of, snapshot_name, superfluous
from datastreamx.cli.volumes.objects import OWN_LABEL, Meta, Snapshot, SnapshotSource, SnapshotSpec, SnapshotStatus
from datastreamx.cli.volumes.turn import Turn, Wanted, take_turn
from datastreamx.clock import ManualClock
from datastreamx.errors import ConfigError, RetryableError
from tests.cli.running import Cli

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CLAIMS = "/api/v1/namespaces/tv/persistentvolumeclaims"
SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1/namespaces/tv/volumesnapshots"
WANTED = Wanted(selector="app.kubernetes.io/name=datastreamx", keep=2)

Answer = tuple[int, dict[str, Any]]


class ApiServer:
    """Keeps what it is given; `refuse` and `fail` say what goes wrong."""

    def __init__(self) -> None:
        self.claims: list[dict[str, Any]] = []
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.tokens: list[str] = []
        self.selectors: list[str] = []
        self.refuse: Callable[[str, str], int | None] = lambda _method, _path: None
        self.lost_answers = 0
        self.page_size = 500

    def add_claim(self, name: str, *, phase: str = "Bound", **metadata: str) -> None:
        self.claims.append({"metadata": {"name": name, **metadata}, "status": {"phase": phase}})

    def add_snapshot(
        self, claim: str, age: timedelta, *, ready: bool | None = True, own: bool = True, **more: Any
    ) -> str:
        name = f"{claim}-{age // timedelta(hours=1)}h"
        self.snapshots[name] = {
            "metadata": {
                "name": name,
                "creationTimestamp": f"{NOW - age:%Y-%m-%dT%H:%M:%SZ}",
                "labels": dict([OWN_LABEL]) if own else {},
            },
            "spec": {"source": {"persistentVolumeClaimName": claim}},
            **({} if ready is None else {"status": {"readyToUse": ready, **more}}),
        }
        return name

    def handle(self, method: str, path: str, body: bytes) -> Answer:
        parts = urlsplit(path)
        self.requests.append(f"{method} {parts.path.rpartition('/')[2]}")
        refusal = self.refuse(method, parts.path)
        if refusal is not None:
            return refusal, {"kind": "Status", "message": f"{method} {parts.path} is forbidden for tests"}
        if method == "GET":
            return 200, self._page(parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()})
        if method == "POST":
            snapshot = json.loads(body)
            if snapshot["metadata"]["name"] in self.snapshots:
                return 409, {"kind": "Status", "message": "already exists", "reason": "AlreadyExists"}
            self.snapshots[snapshot["metadata"]["name"]] = snapshot
            return 201, snapshot
        name = parts.path.rpartition("/")[2]
        if self.snapshots.pop(name, None) is None:
            return 404, {"kind": "Status", "message": "not found"}
        return 200, {"kind": "Status", "status": "Success"}

    def _page(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        self.selectors.append(query["labelSelector"])
        items = self.claims if path == CLAIMS else list(self.snapshots.values())
        assert path in {CLAIMS, SNAPSHOTS}
        start = int(query.get("continue", "0"))
        end = start + self.page_size
        more = {"continue": str(end)} if end < len(items) else {}
        return {"metadata": {"resourceVersion": "7", **more}, "items": items[start:end]}


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


def _serve(server: ApiServer, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            server.tokens.append(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = server.handle(self.command, self.path, body)
            if server.lost_answers:
                server.lost_answers -= 1
                self.close_connection = True
                return
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(encoded)))
            if status == 429:
                self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  the names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that http.server uses
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield http.server_port
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def address(server: ApiServer) -> Iterator[str]:
    for port in _serve(server):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def cluster(address: str, slept: list[float], tmp_path: Path) -> Cluster:
    (tmp_path / "token").write_text("one\n", encoding="utf-8")
    return Cluster(Account(address, "tv", tmp_path / "token", None), slept.append)


def _turn(cluster: Cluster, wanted: Wanted = WANTED) -> Turn:
    return take_turn(cluster, wanted, ManualClock(int(NOW.timestamp() * 1000)))


def test_every_volume_gets_one_snapshot_that_is_marked_as_own(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    server.add_claim("recovery-ads-1")
    turn = _turn(cluster, Wanted(selector=WANTED.selector, keep=2, snapshot_class="disks"))
    assert turn == Turn(made=["recovery-ads-0-20260131t120000z", "recovery-ads-1-20260131t120000z"])
    made = server.snapshots["recovery-ads-1-20260131t120000z"]
    assert made["spec"] == {
        "source": {"persistentVolumeClaimName": "recovery-ads-1"},
        "volumeSnapshotClassName": "disks",
    }
    assert made["metadata"]["labels"].items() >= {OWN_LABEL}
    assert server.selectors == [WANTED.selector, "=".join(OWN_LABEL)]


def test_without_a_class_that_of_the_driver_counts(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    (name,) = _turn(cluster).made
    assert "volumeSnapshotClassName" not in server.snapshots[name]["spec"]


def test_claim_without_a_volume_is_skipped(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    server.add_claim("recovery-ads-1", phase="Pending")
    server.add_claim("recovery-ads-2", deletionTimestamp="2026-01-31T11:00:00Z")
    turn = _turn(cluster)
    assert turn.skipped == ["recovery-ads-1", "recovery-ads-2"]
    assert len(turn.made) == 1
    assert not turn.problems


def test_no_volume_at_all_is_a_problem(cluster: Cluster) -> None:
    """A wrong selector would otherwise look like success for ever."""
    assert _turn(cluster).problems == [
        "no claim that matches app.kubernetes.io/name=datastreamx has a volume: there is nothing to take one of"
    ]


def test_oldest_beyond_the_number_to_keep_are_deleted(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    kept = [server.add_snapshot("recovery-ads-0", timedelta(hours=age)) for age in (1, 2)]
    old = [server.add_snapshot("recovery-ads-0", timedelta(hours=age)) for age in (3, 30)]
    turn = _turn(cluster)
    assert turn.deleted == old
    assert set(server.snapshots) == {*kept, *turn.made}


def test_snapshots_of_others_and_of_claims_that_are_gone_stay(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    for age in range(1, 9):
        server.add_snapshot("recovery-ads-0", timedelta(hours=age), own=False)
        server.add_snapshot("recovery-ads-9", timedelta(hours=age))
    assert not _turn(cluster).deleted
    assert len(server.snapshots) == 17


def test_usable_snapshots_stay_while_new_ones_fail(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    usable = [server.add_snapshot("recovery-ads-0", timedelta(hours=age)) for age in (50, 60)]
    failed = [
        server.add_snapshot("recovery-ads-0", timedelta(hours=age), ready=False, error={"message": "quota"})
        for age in (1, 2, 3, 4)
    ]
    turn = _turn(cluster)
    assert turn.deleted == failed[2:]
    assert set(usable) < set(server.snapshots)
    assert turn.problems == [f"recovery-ads-0: snapshot {failed[0]} has failed: quota"]


def test_nothing_is_deleted_of_a_volume_whose_new_snapshot_is_refused(server: ApiServer, cluster: Cluster) -> None:
    server.add_claim("recovery-ads-0")
    for age in range(1, 5):
        server.add_snapshot("recovery-ads-0", timedelta(hours=age))
    server.refuse = lambda method, _: 403 if method == "POST" else None
    turn = _turn(cluster)
    assert not turn.made
    assert not turn.deleted
    assert len(server.snapshots) == 4
    (problem,) = turn.problems
    assert "recovery-ads-0: no snapshot was made" in problem
    assert "k8s/components/snapshots/rights.yaml" in problem


def test_refused_deletion_is_told_and_the_other_volumes_go_on(server: ApiServer, cluster: Cluster) -> None:
    for claim in ("recovery-ads-0", "recovery-ads-1"):
        server.add_claim(claim)
        for age in (1, 2, 3):
            server.add_snapshot(claim, timedelta(hours=age))
    server.refuse = lambda _, path: 403 if path.endswith("ads-0-3h") else None
    turn = _turn(cluster)
    assert len(turn.made) == 2
    assert turn.deleted == ["recovery-ads-1-3h"]
    (problem,) = turn.problems
    assert problem.startswith("recovery-ads-0: recovery-ads-0-3h was not deleted: ")


def test_snapshot_that_somebody_else_has_deleted_counts_as_deleted(server: ApiServer, cluster: Cluster) -> None:
    server.refuse = lambda method, _: 404 if method == "DELETE" else None
    cluster.delete("recovery-ads-0-3h")
    assert server.requests == ["DELETE recovery-ads-0-3h"]


def test_cluster_without_snapshots_is_told_as_such(server: ApiServer, cluster: Cluster) -> None:
    server.refuse = lambda _, path: 404 if path == SNAPSHOTS else None
    with pytest.raises(RefusedError, match="does the cluster know volume snapshots"):
        _turn(cluster)


def test_busy_server_is_asked_again_when_it_says(server: ApiServer, cluster: Cluster, slept: list[float]) -> None:
    server.add_claim("recovery-ads-0")
    busy = iter([429, 503])
    server.refuse = lambda method, _: next(busy, None) if method == "POST" else None
    assert len(_turn(cluster).made) == 1
    assert slept == [7.0, WAITS_S[1]]


def test_lost_answer_makes_no_second_snapshot(server: ApiServer, cluster: Cluster) -> None:
    """The first attempt has made it; the second is told that it is there."""
    server.lost_answers = 1
    cluster.make({"metadata": {"name": "one"}})
    assert server.requests == ["POST volumesnapshots"] * 2
    assert list(server.snapshots) == ["one"]


def test_server_that_stays_unwell_is_given_up_after_all_attempts(
    server: ApiServer, cluster: Cluster, slept: list[float]
) -> None:
    server.refuse = lambda _method, _path: 500
    with pytest.raises(RetryableError, match="is unwell: HTTP 500"):
        _turn(cluster)
    assert slept == list(WAITS_S)


def test_nobody_listening_is_tried_again_too(slept: list[float], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one", encoding="utf-8")
    with pytest.raises(RetryableError, match="refused"):
        Cluster(Account("http://127.0.0.1:9", "tv", tmp_path / "token", None), slept.append).claims("a=b")
    assert slept == list(WAITS_S)


def test_all_pages_of_a_long_list_are_read(server: ApiServer, cluster: Cluster) -> None:
    server.page_size = 2
    for ordinal in range(5):
        server.add_claim(f"recovery-ads-{ordinal}")
    assert len(_turn(cluster).made) == 5


def test_token_is_read_for_each_request(server: ApiServer, cluster: Cluster, tmp_path: Path) -> None:
    """The kubelet replaces it while the pod runs."""
    cluster.claims("a=b")
    (tmp_path / "token").write_text("two", encoding="utf-8")
    cluster.claims("a=b")
    assert server.tokens == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("length", [1, 235, 236, 253])
def test_name_is_one_that_kubernetes_takes_however_long_the_claim_is(length: int) -> None:
    name = snapshot_name("a" * length, NOW)
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert name.endswith("-20260131t120000z")


def _snapshot(hours: int, *, ready: bool | None) -> Snapshot:
    return Snapshot(
        metadata=Meta(name=f"s{hours}", creation_timestamp=NOW - timedelta(hours=hours), labels=dict([OWN_LABEL])),
        spec=SnapshotSpec(source=SnapshotSource(persistent_volume_claim_name="c")),
        status=None if ready is None else SnapshotStatus(ready_to_use=ready),
    )


def test_newest_are_kept_in_whatever_order_they_are_listed() -> None:
    listed = [_snapshot(hours, ready=True) for hours in (3, 1, 4, 2)]
    (ordered,) = by_claim(listed).values()
    assert [snapshot.name for snapshot in superfluous(ordered, 2)] == ["s3", "s4"]


@pytest.mark.parametrize("ready", [None, False])
def test_snapshot_that_is_never_ready_is_a_problem_and_a_young_one_is_none(ready: bool | None) -> None:  # noqa: FBT001  a parameter of the test
    waiting = [_snapshot(0, ready=ready)]
    assert problem_of(waiting, NOW + READY_WITHIN) is None
    assert "is not ready" in str(problem_of(waiting, NOW + READY_WITHIN + timedelta(seconds=1)))


def test_earlier_failure_is_forgotten_once_a_newer_one_is_usable() -> None:
    assert problem_of([_snapshot(1, ready=True), _snapshot(2, ready=False)], NOW) is None


@pytest.fixture
def pod(server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What the kubelet gives a pod: variables, token, authority and namespace; the server speaks TLS."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("secret-token", encoding="utf-8")
    (tmp_path / "namespace").write_text("tv", encoding="utf-8")
    for port in _serve(server, tls):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        yield tmp_path


def test_command_in_a_pod_makes_snapshots_and_tells_what_it_did(cli: Cli, server: ApiServer, pod: Path) -> None:
    server.add_claim("recovery-ads-0")
    ended = cli("snapshot-volumes", "--keep", "3", "--credentials", str(pod), "--json")
    assert ended.code == Exit.OK
    assert ended.json["made"] == list(server.snapshots)
    assert set(server.tokens) == {"Bearer secret-token"}
    assert "secret-token" not in ended.out + ended.err


def test_command_fails_when_something_was_refused(cli: Cli, server: ApiServer, pod: Path) -> None:
    server.add_claim("recovery-ads-0")
    server.refuse = lambda method, _: 422 if method == "POST" else None
    ended = cli("snapshot-volumes", "--credentials", str(pod))
    assert ended.code == Exit.FAILED
    assert "error: recovery-ads-0: no snapshot was made: the API server refuses (HTTP 422)" in ended.err


def test_server_with_a_certificate_of_somebody_else_is_not_believed(pod: Path, server: ApiServer) -> None:
    trustme.CA().cert_pem.write_to_path(pod / "ca.crt")
    cluster = Cluster(account_of(os.environ, pod), lambda _: None)
    with pytest.raises(RetryableError, match="CERTIFICATE_VERIFY_FAILED"):
        cluster.claims("a=b")
    assert not server.tokens


def test_outside_of_a_pod_the_command_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    ended = cli("snapshot-volumes")
    assert ended.code == Exit.CONFIG
    assert "run this in a pod" in ended.err


def test_pod_without_a_token_is_told_what_its_manifest_lacks(tmp_path: Path) -> None:
    variables = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match="automountServiceAccountToken: true"):
        account_of(variables, tmp_path)


def test_address_of_version_6_is_bracketed(pod: Path) -> None:
    variables = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert account_of(variables, pod).address == "https://[fd00::1]:443"
