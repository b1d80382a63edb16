"""`datastreamx aggregator`, against real servers in their own processes."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from aggregators import cases
from aggregators.contract import HttpCall, HttpReply
from datastreamx.cli.aggregator.observed import Exchange, bid_told, exchange_told
from datastreamx.cli.aggregator.probe import AUCTION_PREFIX
from datastreamx.cli.aggregator.redact import hidden_headers, hidden_url, printable, scrubbed, secrets_of
from datastreamx.cli.aggregator.render import timeline
from datastreamx.cli.aggregator.report import MAX_BODY_CHARS, CaseFailure, CasesTold, PhasesTold
from datastreamx.cli.output import Exit
from datastreamx.config import parse_config
from datastreamx.model.auction import Bid, NoticeUrls
from operators.bidding.auction import Offer
from simulator.aggregators.handle import LocalAggregator
from tests.cli.running import Cli, Ended

# None of these is a secret of anybody.
HEADER_TOKEN = "Hdr0123456789abcdef"  # noqa: S105  see above
URL_TOKEN = "Url0123456789abcdef"  # noqa: S105  likewise
BOX_KEY_SECRET = "0123456789abcdef-box"  # noqa: S105  likewise

HEAD = f"""
[kafka]
bootstrap = "127.0.0.1:9"
[bigquery]
project = "test"
[privacy]
box_key_secret = "{BOX_KEY_SECRET}"
[viewing]
decision_budget_ms = 60000
"""

Ask = Callable[..., Ended]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalAggregator]]:
    directory = tmp_path_factory.mktemp("aggregators")
    made = {
        "openrtb": LocalAggregator("openrtb", "openrtb", log_dir=directory, profile="instant"),
        "simple": LocalAggregator("simple", "simple", log_dir=directory, profile="instant"),
        "tls": LocalAggregator("tls", "simple", log_dir=directory, profile="instant", tls=True),
    }
    try:
        for server in made.values():
            server.start()
        yield made
    finally:
        for server in made.values():
            server.stop()


@pytest.fixture
def ask(cli: Cli, tmp_path: Path, servers: dict[str, LocalAggregator]) -> Iterator[Ask]:
    """Tests `alpha`, which is one of the servers in the given behaviour."""
    untouched = {name: server.control() for name, server in servers.items()}

    def run(server: str, *options: str, entry: str = "", auction: str = "", **behaviour: Any) -> Ended:
        chosen = servers[server]
        if behaviour:
            chosen.control(**behaviour)
        path = written(tmp_path, chosen.url, chosen.dialect, entry=entry, auction=auction)
        return cli("aggregator", "test", "alpha", "-c", str(path), *options)

    yield run
    for name, behaviour in untouched.items():
        servers[name].control(**{key: getattr(behaviour, key) for key in behaviour.__struct_fields__})


def written(directory: Path, url: str, dialect: str, *, entry: str = "", auction: str = "") -> Path:
    """A configuration with the aggregator `alpha`. Times out late, so that a slow machine fails no test."""
    options = 'options = { publisher_id = "pub-1", app_bundle = "tv.example" }' if dialect == "openrtb" else ""
    timeout = "" if "timeout_ms" in entry else "timeout_ms = 20000"
    text = f"""{HEAD}
[auction]
{auction}
[[aggregators]]
name = "alpha"
adapter = "{dialect}"
url = "{url}?token={URL_TOKEN}&v=2"
headers = {{ Authorization = "Bearer {HEADER_TOKEN}" }}
{options}
{timeout}
{entry}
"""
    path = directory / "datastreamx.toml"
    path.write_text(text, encoding="utf-8")
    return path


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_a_bid_that_can_win_ends_well_and_shows_all_of_the_exchange(ask: Ask) -> None:
    ended = ask(
        "openrtb", notices=True, entry='notices = ["win"]\nnotice_hosts = ["127.0.0.1"]\nnotice_network = "any"'
    )
    assert ended.code == Exit.OK, ended.out + ended.err
    found = len(cases.paths("openrtb", "exemplary")) + len(cases.paths("openrtb", "supplemental"))
    for said in (
        f"openrtb: {found} of {found} pass",
        "POST http://127.0.0.1:",
        "marked as a test",
        '"test": 1,',
        "status 200",
        "a new connection",
        "first byte",
        "can win",
        "alpha: 1 bid can win, the best at ",
    ):
        assert said in ended.out, said
    assert re.search(r"win +sent +http://127\.0\.0\.1", ended.out)
    assert re.search(r"loss +not sent", ended.out)


def test_json_is_one_document_that_says_the_same(ask: Ask) -> None:
    ended = ask("openrtb", "--json", "--slot-s", "90", "--floor", "0.5", "--channel", "ch7")
    told = ended.json
    assert (ended.code, ended.err, told["ok"], told["exit_code"]) == (Exit.OK, "", True, Exit.OK)
    assert told["cases"]["total"] == told["cases"]["passed"] > 0
    probe = told["probe"]
    assert (probe["outcome"], probe["marked"], probe["timeout_ms"]) == ("won", True, 20_000)
    assert (probe["channel_id"], probe["slot_ms"], probe["floor_micros"]) == ("ch7", 90_000, 500_000)
    assert probe["auction_id"].startswith(AUCTION_PREFIX)
    assert len(probe["auction_id"]) == 32
    assert len(probe["bids"]) > 1, "a break is filled by several ads"
    assert all(bid["can_win"] and bid["price_micros"] > 500_000 for bid in probe["bids"])
    (exchange,) = probe["exchanges"]
    assert exchange["reply"]["status"] == 200
    assert exchange["reply"]["body_bytes"] == len(exchange["reply"]["body"])
    phases = probe["phases"]
    assert not phases["connection_reused"]
    assert 0 < phases["connect_us"] < phases["first_byte_us"] <= phases["total_us"]


def test_a_probe_tells_no_viewing_history_and_a_box_that_is_none(ask: Ask, servers: dict[str, LocalAggregator]) -> None:
    before = servers["openrtb"].stats()
    ended = ask("openrtb", "--json", entry="consent_required = true", auction='blocked_advertisers = ["x.example"]')
    after = servers["openrtb"].stats()
    assert ended.code == Exit.OK
    assert (after.requests - before.requests, after.told_box - before.told_box) == (1, 1)
    assert after.told_history == before.told_history
    assert "datastreamx-test" not in ended.out


def test_an_honest_no_bid_ends_well(ask: Ask) -> None:
    ended = ask("simple", fill_rate=0)
    assert ended.code == Exit.OK
    assert "alpha: an honest no-bid after " in ended.out
    assert "not marked as a test" in ended.out


def test_silence_is_no_answer(ask: Ask) -> None:
    ended = ask("simple", mode="silent", entry="timeout_ms = 50", auction="late_grace_ms = 50")
    assert ended.code == Exit.UNREACHABLE
    assert "no answer within 50 ms, nor in the grace period" in ended.out
    assert "-> raise aggregators.alpha.timeout_ms" in ended.out


def test_an_answer_after_the_time_is_shown_and_no_success(ask: Ask) -> None:
    ended = ask("simple", "--json", mode="slow", slow_ms=200, entry="timeout_ms = 50", auction="late_grace_ms = 30000")
    probe = ended.json["probe"]
    assert ended.code == Exit.FAILED
    assert (probe["outcome"], probe["answered_late"], probe["late_outcome"]) == ("timeout", True, "won")
    assert probe["bids"][0]["can_win"]
    assert "too late: a bid after " in ended.json["verdict"]


def test_a_refused_connection_says_where_nobody_listens(cli: Cli, tmp_path: Path) -> None:
    path = written(tmp_path, f"http://127.0.0.1:{free_port()}/bid", "simple")
    ended = cli("aggregator", "test", "alpha", "-c", str(path))
    assert ended.code == Exit.UNREACHABLE
    assert "alpha: nobody listens there" in ended.out
    assert "-> check host and port in aggregators.alpha.url" in ended.out


def test_an_untrusted_certificate_is_told_with_its_remedy(ask: Ask) -> None:
    ended = ask("tls", "--json")
    assert ended.code == Exit.UNREACHABLE
    assert ended.json["probe"]["trouble"] == "untrusted"
    assert "aggregators.alpha.ssl_ca_file" in ended.json["remedy"]


def test_a_trusted_certificate_is_all_that_tls_needs(ask: Ask, servers: dict[str, LocalAggregator]) -> None:
    ended = ask("tls", entry=f"ssl_ca_file = '{servers['tls'].ca_file}'")
    assert ended.code == Exit.OK, ended.out
    assert "https://" in ended.out


@pytest.mark.parametrize(
    ("behaviour", "options", "auction", "verdict", "remedy"),
    [
        ({"mode": "garbage"}, (), "", "invalid_response after ", "the dialect's README"),
        ({"mode": "http_500"}, (), "", "HTTP status 500", "the partner's server failed"),
        ({"mode": "redirect"}, (), "", "HTTP status 302", "redirects are not followed"),
        ({"mode": "oversized"}, (), "", "oversize after ", "auction.max_response_bytes"),
        ({"currency": "EUR"}, (), "", "1 bid, none can win", "set auction.rates_file"),
        ({"respects_floor": False}, ("--floor", "900"), "", "below the floor", "`--floor 0`"),
        ({}, (), 'creative_hosts = ["cdn.example.com"]', "auction.creative_hosts does not have", "auction.creative_"),
    ],
    ids=lambda value: "" if isinstance(value, str | tuple) else "-".join(map(str, value.values())),
)
def test_what_no_auction_could_use_fails_and_says_what_to_do(  # noqa: PLR0917  one parameter per column
    ask: Ask, behaviour: dict[str, Any], options: tuple[str, ...], auction: str, verdict: str, remedy: str
) -> None:
    ended = ask("simple", "--json", *options, auction=auction, **behaviour)
    assert ended.code == ended.json["exit_code"] == Exit.FAILED
    assert verdict in ended.json["verdict"]
    assert remedy in ended.json["remedy"]


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("behaviour", [{}, {"mode": "http_500"}, {"mode": "garbage"}])
def test_secrets_are_in_no_output(ask: Ask, options: tuple[str, ...], behaviour: dict[str, Any]) -> None:
    ended = ask("simple", *options, **behaviour)
    assert "token=***&v=***&id=" in ended.out
    assert "authorization" in ended.out
    for secret in (HEADER_TOKEN, URL_TOKEN, BOX_KEY_SECRET):
        assert secret not in ended.out + ended.err


class Echo(BaseHTTPRequestHandler):
    """Refuses every request and repeats all of it, as servers do in their error pages."""

    def do_GET(self) -> None:  # the name that the base class looks for
        body = f"{self.requestline}\n{self.headers}".encode()
        self.send_response(401)
        self.send_header("X-Echo", self.headers["Authorization"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  named by the base class
        pass


@contextmanager
def echoing() -> Iterator[int]:
    """Port of a server that serves `Echo`."""
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_headers_shown_are_those_sent_and_an_echo_betrays_nothing(cli: Cli, tmp_path: Path) -> None:
    with echoing() as port:
        path = written(tmp_path, f"http://127.0.0.1:{port}/bid", "simple")
        ended = cli("aggregator", "test", "alpha", "-c", str(path), "--json")
    assert ended.code == Exit.FAILED
    assert "aggregators.alpha.headers" in ended.json["remedy"]
    (exchange,) = ended.json["probe"]["exchanges"]
    request_line, *echoed = exchange["reply"]["body"].splitlines()
    assert request_line.startswith("GET /bid?token=***&v=2&id=")
    received = {line.partition(":")[0].lower() for line in echoed if line}
    shown = {name.lower() for name in exchange["request"]["headers"]}
    assert received - shown == {"host", "user-agent"}, "what the HTTP client adds by itself"
    assert shown <= received
    assert HEADER_TOKEN not in ended.out
    assert URL_TOKEN not in ended.out


def test_a_host_that_no_notice_may_go_to_is_told(ask: Ask) -> None:
    ended = ask("simple", "--json", notices=True, entry='notices = ["win"]\nnotice_hosts = ["track.example.com"]')
    notices = {one["event"]: one for one in ended.json["probe"]["bids"][0]["notices"]}
    assert ended.code == Exit.OK
    assert {event: one["wanted"] for event, one in notices.items()} == {"win": True, "loss": False, "billing": False}
    assert "the URL is not https" in notices["win"]["objection"]
    loose = ask("simple", "--json", entry='notices = ["win"]\nnotice_hosts = ["t.example"]\nnotice_network = "any"')
    assert "notice_hosts" in loose.json["probe"]["bids"][0]["notices"][0]["objection"]


@pytest.mark.parametrize(
    ("network", "url", "objection"),
    [
        ("public", "https://10.0.0.1/win?price=${AUCTION_PRICE}", "10.0.0.1"),
        ("any", "https://10.0.0.1/win?price=${AUCTION_PRICE}", None),
        ("public", "https://t.example/win", None),
    ],
)
def test_an_address_of_the_own_network_is_no_place_for_a_notice(network: str, url: str, objection: str | None) -> None:
    entry = f"""
[[aggregators]]
name = "alpha"
adapter = "simple"
url = "https://a.example/bid"
notices = ["win"]
notice_hosts = ["10.0.0.1", "t.example"]
notice_network = "{network}"
"""
    (alpha,) = parse_config(HEAD + entry).aggregators
    bid = Bid(bid_id="b", price_micros=1, currency="USD", ad_id="ad", notices=NoticeUrls(win=url))
    (notice,) = bid_told(Offer(bid=bid, aggregator="alpha", price_micros=1, rate_id=None, rank=(b"", 0)), alpha).notices
    assert notice.objection is None if objection is None else objection in (notice.objection or "")


def test_a_dialect_needs_no_configuration_and_asks_nobody(cli: Cli, tmp_path: Path) -> None:
    ended = cli("aggregator", "test", "simple", "-c", str(tmp_path / "none.toml"), "--json")
    assert ended.code == Exit.OK
    assert (ended.json["aggregator"], ended.json["probe"]) == (None, None)


def test_no_probe_sends_nothing(ask: Ask, servers: dict[str, LocalAggregator]) -> None:
    before = servers["simple"].stats().requests
    ended = ask("simple", "--no-probe")
    assert ended.code == Exit.OK
    assert "nobody was asked" in ended.out
    assert servers["simple"].stats().requests == before


def test_an_unknown_name_lists_the_known_ones(cli: Cli, config_file: Path) -> None:
    ended = cli("aggregator", "test", "nope", "-c", str(config_file))
    assert ended.code == Exit.USAGE
    assert "'nope'" in ended.err
    for known in ("alpha", *cases.dialects()):
        assert known in ended.err


def test_wrong_options_of_the_aggregator_are_a_configuration_error(cli: Cli, tmp_path: Path) -> None:
    path = written(tmp_path, "http://127.0.0.1:9/bid", "simple", entry='options = { metod = "GET" }')
    ended = cli("aggregator", "test", "alpha", "-c", str(path))
    assert ended.code == Exit.CONFIG
    assert "did you mean method?" in ended.err


def test_a_failing_case_is_shown_with_its_diff_although_the_probe_went_well(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    diff = "the call's url is not as expected\n--- expected\n+++ found\n-a\n+b"
    results = {"folder": [], "exemplary/get": [diff], "exemplary/post": []}
    monkeypatch.setattr(cases, "run_dialect", lambda _dialect: results)
    ended = ask("simple")
    assert ended.code == Exit.FAILED
    assert "1 of 2 pass" in ended.out
    assert "exemplary/get failed" in ended.out
    assert "\n  -a\n  +b\n" in ended.out
    assert "alpha: exemplary/get failed; the probe: 1 bid can win" in ended.out


def test_list_tells_aggregators_and_dialects(cli: Cli, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "https://user:Pass0rd@ads.example.com:8443/bid",
        "simple",
        entry='timeout_ms = 123\nnotices = ["win", "loss"]\nnotice_hosts = ["t.example"]\nwithhold = ["history"]',
    )
    told = cli("aggregator", "list", "-c", str(path), "--json").json
    assert told["aggregators"] == [
        {
            "name": "alpha",
            "dialect": "simple",
            "host": "ads.example.com:8443",
            "timeout_ms": 123,
            "notices": ["win", "loss"],
            "withhold": ["history"],
        }
    ]
    assert [one["name"] for one in told["dialects"]] == cases.dialects()
    ended = cli("aggregator", "list", "-c", str(path))
    assert ended.code == Exit.OK
    assert re.search(r"alpha +simple +ads\.example\.com:8443 +123 ms +win, loss +history", ended.out)
    assert "Pass0rd" not in ended.out


@pytest.mark.parametrize(
    ("sent", "configured", "shown"),
    [
        ("https://a.example/b?k=1&id=7", "https://a.example/b?k=1", "https://a.example/b?k=***&id=7"),
        ("https://a.example/b?c=ch1&k=x", "https://a.example/b?c={channel}&k=x", "https://a.example/b?c=ch1&k=***"),
        ("https://a.example/b?c=x-ch1", "https://a.example/b?c=x-[CHANNEL]", "https://a.example/b?c=***"),
        ("https://a.example/b?TOKEN", "https://a.example/b?TOKEN", "https://a.example/b?***"),
        ("https://u:p@a.example/b", "https://u:p@a.example/b", "https://***@a.example/b"),
        (
            "https://a.example/v1/1a2b3c4d5e6f7a8b9c0d1e2f/bid",
            "https://a.example/v1/1a2b3c4d5e6f7a8b9c0d1e2f/bid",
            "https://a.example/v1/***/bid",
        ),
    ],
)
def test_of_an_address_only_what_an_auction_fills_in_is_shown(sent: str, configured: str, shown: str) -> None:
    assert hidden_url(sent, configured) == shown


def test_headers_are_hidden_by_origin_and_by_name() -> None:
    sent = {"accept": "a", "X-Seat": "s", "Set-Cookie": "c", "x-api-key": "k"}
    assert hidden_headers(sent, ["x-seat"]) == {
        "accept": "a",
        "X-Seat": "***",
        "Set-Cookie": "***",
        "x-api-key": "***",
    }


def test_a_secret_is_hidden_wherever_it_is_echoed_and_however_it_is_spelt() -> None:
    entry = """
[[aggregators]]
name = "alpha"
adapter = "simple"
url = "https://user:pa%20ss@a.example/bid?sig=se%2Fcret&mime=video/mp4"
headers = { Authorization = 'Bearer a"b c/d 0123456789' }
"""
    (alpha,) = parse_config(HEAD + entry).aggregators
    echoes = [
        '{"you sent": "Bearer a\\"b c/d 0123456789"}',
        "0123456789",
        "se%2Fcret",
        "se/cret",
        "se%2fcret",
        '{"sig": "se\\/cret"}',
        "pa%20ss",
        "video/mp4",
    ]
    document = CasesTold(dialect="d", total=1, passed=0, failures=[CaseFailure(case="c", problems=echoes)])
    (failure,) = scrubbed(document, secrets_of(alpha)).failures
    assert failure.problems == [
        '{"you sent": "***"}',
        *("***", "***", "***", "***"),
        '{"sig": "***"}',
        "***",
        "video/mp4",
    ]


def test_the_end_of_a_long_reply_shows_no_half_of_a_secret() -> None:
    entry = f"""
[[aggregators]]
name = "alpha"
adapter = "simple"
url = "https://a.example/bid"
headers = {{ Authorization = "{HEADER_TOKEN}" }}
"""
    (alpha,) = parse_config(HEAD + entry).aggregators
    call = HttpCall(method="GET", url="https://a.example/bid")
    body = b" " * (MAX_BODY_CHARS - len(HEADER_TOKEN) + 1) + HEADER_TOKEN.encode()
    told = exchange_told(Exchange(call, {}, HttpReply(status=200, body=body)), alpha)
    assert told.reply is not None
    assert told.reply.body.strip() == "***"


def test_a_reply_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\n\x07é") == "a\\x1b[2Jb\\r\n\\x07é"


def test_time_line_is_to_scale_and_marks_the_end_of_the_wait() -> None:
    phases = PhasesTold(
        dns_us=10_000, connect_us=10_000, first_byte_us=40_000, total_us=40_100, connection_reused=False
    )
    name, connect, head, body, total = timeline(phases, 30)
    drawn = [line.split("ms  ")[1] for line in (name, connect, head, body)]
    assert [len(line.rstrip("| ")) for line in drawn] == [12, 24, 48, 49]
    assert {line.index("|") for line in (drawn[0], drawn[1])} == {36}
    assert "40.1 ms  of 30 ms" in total
    failed = PhasesTold(dns_us=None, connect_us=None, first_byte_us=None, total_us=5, connection_reused=False)
    assert [line.split()[0] for line in timeline(failed, 300)] == ["connecting", "total"]
