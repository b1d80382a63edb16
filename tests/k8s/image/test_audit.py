from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.image.audit import ACCEPTED, LOCKS, Audit, Exit, Finding, accepted_ids, audit, verdict
from tests.k8s.image.locks import read_lock
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s

TWO = frozenset({"one", "two"})
KNOWN = {"name": "one", "version": "1.0", "vulns": []}
BAD = {"name": "one", "version": "1.0", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "two", "skip_reason": "Dependency not found on PyPI and could not be audited: two (2.0)"}


def answer(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_package_without_advisory_is_clean() -> None:
    found = Audit(frozenset({"one"})).heard(answer(KNOWN))
    assert verdict(found, ()) == (Exit.CLEAN, "1 packages checked, 0 advisories, 0 count")


def test_advisory_fails_and_names_package_and_cure() -> None:
    code, text = verdict(Audit(frozenset({"one"})).heard(answer(BAD)), ())
    assert code == Exit.FOUND
    assert "one 1.0: PYSEC-1, CVE-1; fixed in 1.1" in text


@pytest.mark.parametrize("said", [answer(KNOWN, SKIPPED), answer(KNOWN), answer()])
def test_package_that_no_service_knows_is_not_checked(said: str) -> None:
    code, text = verdict(Audit(TWO).heard(said), ())
    assert code == Exit.NOT_CHECKED
    assert "NOT CHECKED" in text
    assert "of 2 packages" in text


def test_advisory_of_one_counts_though_another_was_not_checked() -> None:
    code, text = verdict(Audit(TWO).heard(answer(BAD, SKIPPED)), ())
    assert code == Exit.FOUND
    assert "NOT CHECKED for known vulnerabilities: 1 of 2" in text


def test_accepted_advisory_does_not_count_by_any_of_its_names() -> None:
    found = Audit(frozenset({"one"})).heard(answer(BAD))
    assert verdict(found, {"CVE-1"})[0] == Exit.CLEAN
    assert verdict(found, {"CVE-2"})[0] == Exit.FOUND


def test_acceptance_ends_with_its_day_and_needs_a_reason() -> None:
    text = '[[accepted]]\nid = "CVE-1"\nreason = "not called"\nuntil = 2027-01-31\n'
    assert accepted_ids(text, date(2027, 1, 31)) == {"CVE-1"}
    assert accepted_ids(text, date(2027, 2, 1)) == frozenset()
    for line in text.splitlines()[1:]:
        with pytest.raises(ValueError, match="has id, reason and until"):
            accepted_ids(text.replace(line, ""), date(2027, 1, 31))


def test_accepted_advisories_of_this_project_are_well_formed() -> None:
    accepted_ids(ACCEPTED.read_text(encoding="utf-8"), datetime.now(UTC).date())


def write_lock(path: Path) -> Path:
    path.write_text("".join(f"{name}==1.0 --hash=sha256:{64 * '0'}\n" for name in sorted(TWO)), encoding="utf-8")
    return path


def test_second_service_is_asked_about_what_the_first_did_not_know(tmp_path: Path) -> None:
    answers = {"first": answer(KNOWN, SKIPPED), "second": answer(KNOWN, {"name": "two", "version": "1.0", "vulns": []})}
    asked: list[str] = []

    def ask(options: Sequence[str]) -> str:
        asked.extend(name for name in answers if name in options)
        return answers[asked[-1]]

    lock = write_lock(tmp_path / "lock")
    assert verdict(audit([lock], [["first"], ["second"]], ask=ask), ())[0] == Exit.CLEAN
    assert asked == ["first", "second"]
    asked.clear()
    assert verdict(audit([lock], [["second"], ["first"]], ask=ask), ())[0] == Exit.CLEAN
    assert asked == ["second"]


def test_service_that_does_not_answer_checks_nothing(tmp_path: Path) -> None:
    def ask(_: Sequence[str]) -> str:
        raise OSError("no route to host")

    code, text = verdict(audit([write_lock(tmp_path / "lock")], [["first"]], ask=ask), ())
    assert code == Exit.NOT_CHECKED
    assert "2 of 2 packages\n  no route to host" in text


# The real pip-audit ------------------------------------------------------------------------------------------------


@contextmanager
def service(advisories: dict[str, str]) -> Iterator[str]:
    """Something that answers as OSV does; its address. It knows one advisory for some packages."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = query["package"]["name"]
            event = [{"introduced": "0"}, {"fixed": "999"}]
            advisory = {
                "id": advisories.get(name),
                "summary": "bad",
                "affected": [{"package": query["package"], "ranges": [{"type": "ECOSYSTEM", "events": event}]}],
            }
            body = json.dumps({"vulns": [advisory]} if name in advisories else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asking(address: str) -> list[list[str]]:
    return [["--vulnerability-service=osv", f"--osv-url={address}"]]


def test_vulnerable_package_of_the_lock_is_found_where_a_service_answers(tally: Tally) -> None:
    with service({"numba": "GHSA-test"}) as address:
        found = audit(services=asking(address))
    version = read_lock(LOCKS[0])["numba"].version
    assert found.findings == (Finding(f"numba {version}", ("GHSA-test",), ("999",)),)
    assert found.checked == {name for lock in LOCKS for name in read_lock(lock)}
    assert verdict(found, ())[0] == Exit.FOUND
    tally("pip-audit (advisories of our own)", len(found.checked))


def test_lock_is_clean_where_a_service_knows_nothing_bad_of_it() -> None:
    with service({}) as address:
        assert verdict(audit(services=asking(address)), ())[0] == Exit.CLEAN


def test_no_package_of_the_image_has_a_known_vulnerability(tally: Tally) -> None:
    found = audit()
    code, text = verdict(found, accepted_ids(ACCEPTED.read_text(encoding="utf-8"), datetime.now(UTC).date()))
    if found.checked:
        tally("pip-audit", len(found.checked))
    assert code != Exit.FOUND, text
    if code == Exit.NOT_CHECKED:
        pytest.skip(text)
