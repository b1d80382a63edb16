from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from datastreamx.config import AggregatorConfig
from datastreamx.model.auction import AggregatorOutcome, BidNotice, Decision, NoticeUrls, Outcome
from operators.impressions.join import Billing, Display, Impression, Push
from operators.notices.macros import expand
from operators.notices.notice import ID_CHARS_MAX, URL_CHARS_MAX, Notice, NoticeRules, loss_code
from tests.builders import T0, decision, outcome, winning_ad

AUCTION = "a" * 32
EVENTS = ("win", "loss", "billing")
ALL_MACROS = "id=${AUCTION_ID}&bid=${AUCTION_BID_ID}&p=${AUCTION_PRICE}&min=${AUCTION_MIN_TO_WIN}&loss=${AUCTION_LOSS}"


def aggregator(name: str = "alpha", **changes: Any) -> AggregatorConfig:
    fields: dict[str, Any] = {
        "name": name,
        "adapter": "simple",
        "url": "https://bid.example/",
        "notices": EVENTS,
        "notice_hosts": ("t.example", "*.t.example"),
    }
    return AggregatorConfig(**{**fields, **changes})


def rules(*aggregators: AggregatorConfig) -> NoticeRules:
    return NoticeRules(aggregators or (aggregator("alpha"), aggregator("beta")))


def urls(query: str = ALL_MACROS) -> NoticeUrls:
    return NoticeUrls(**{event: f"https://t.example/{event}?{query}" for event in EVENTS})


def bid(bid_id: str, code: Outcome, price_micros: int | None, query: str = ALL_MACROS, **changes: Any) -> BidNotice:
    return BidNotice(bid_id=bid_id, code=code, price_micros=price_micros, urls=urls(query), **changes)


def told(name: str, *bids: BidNotice, **changes: Any) -> AggregatorOutcome:
    return outcome(name, bids[0].code, notices=bids, currency="USD", price_micros=bids[0].price_micros, **changes)


def won_by_alpha(*others: AggregatorOutcome, query: str = ALL_MACROS) -> Decision:
    ad = winning_ad(AUCTION, 0, bid_id="bid-a", price_micros=2_500_000)
    alpha = told("alpha", bid("bid-a", Outcome.WON, 2_500_000, query, push_id=ad.push_id))
    return decision(alpha, *others, auction_id=AUCTION, ads=(ad,), partition=3, offset=77)


def said(notice: Notice) -> dict[str, str]:
    """Query of the URL, decoded."""
    return {name: values[0] for name, values in parse_qs(urlsplit(notice.url).query).items()}


# Which notices follow ----------------------------------------------------------------------------------------------


def test_winner_hears_what_it_pays_and_loser_why_and_what_the_winner_paid() -> None:
    beta = told("beta", bid("bid-b", Outcome.OUTBID, 2_000_000), bid("bid-c", Outcome.BELOW_FLOOR, 100))
    win, outbid, below = rules().of_decision(won_by_alpha(beta))
    assert said(win) == {"id": AUCTION, "bid": "bid-a", "p": "2.5", "min": "2", "loss": "0"}
    assert said(outbid) == {"id": AUCTION, "bid": "bid-b", "p": "2.5", "min": "2.5", "loss": "102"}
    assert said(below)["loss"] == "100"
    assert [urlsplit(one.url).path for one in (win, outbid, below)] == ["/win", "/loss", "/loss"]
    assert [(one.event, one.aggregator) for one in (win, outbid, below)] == [
        ("win", "alpha"),
        ("loss", "beta"),
        ("loss", "beta"),
    ]
    assert (win.partition, win.offset, win.arose_ms) == (3, 77, T0 + 100)


def test_every_ad_of_a_break_has_a_win_notice_with_its_own_price() -> None:
    ads = (
        winning_ad(AUCTION, 0, bid_id="x", price_micros=9_000_000),
        winning_ad(AUCTION, 1, bid_id="y", price_micros=4_000_000),
    )
    alpha = told(
        "alpha",
        *(bid(ad.bid_id, Outcome.WON, ad.price_micros, push_id=ad.push_id) for ad in ads),
        bid("z", Outcome.OUTBID, 3_000_000),
    )
    found = list(rules().of_decision(decision(alpha, auction_id=AUCTION, ads=ads)))
    assert [(said(one)["bid"], said(one)["p"]) for one in found] == [("x", "9"), ("y", "4"), ("z", "4")]
    assert [said(one).get("min") for one in found] == [None, None, "4"]


@pytest.mark.parametrize(
    ("floor", "others", "sufficient"),
    [
        (1_000_000, {Outcome.OUTBID: 2_000_000}, "2"),
        (2_100_000, {Outcome.OUTBID: 2_000_000}, "2.1"),
        (1_000_000, {Outcome.BELOW_FLOOR: 2_000_000}, "1"),
        (None, {}, "0"),
        # Too long for the break in which the winner is the only ad.
        (1_000_000, {Outcome.OUTBID: 3_000_000}, None),
    ],
)
def test_winner_hears_what_would_have_sufficed(
    floor: int | None, others: dict[Outcome, int], sufficient: str | None
) -> None:
    ad = winning_ad(AUCTION, 0, bid_id="bid-a", price_micros=2_500_000)
    alpha = told("alpha", bid("bid-a", Outcome.WON, 2_500_000, push_id=ad.push_id), floor_micros=floor)
    lost = [outcome(f"other{n}", code, price_micros=price) for n, (code, price) in enumerate(others.items())]
    (win,) = rules().of_decision(decision(alpha, *lost, auction_id=AUCTION, ads=(ad,)))
    assert said(win).get("min") == sufficient


def test_loser_of_an_auction_that_nobody_won_hears_no_price() -> None:
    beta = told("beta", bid("bid-b", Outcome.BELOW_FLOOR, 100))
    (loss,) = rules().of_decision(decision(beta))
    assert said(loss) == {"id": AUCTION, "bid": "bid-b", "loss": "100"}


def test_price_is_told_in_the_currency_of_the_bid() -> None:
    query = "p=${AUCTION_PRICE}&c=${AUCTION_CURRENCY}"
    beta = told(
        "beta", bid("bid-b", Outcome.OUTBID, 2_000_000, query), offered_micros=1_800_000, offered_currency="EUR"
    )
    win, loss = rules().of_decision(won_by_alpha(beta, query=query))
    assert (said(win), said(loss)) == ({"p": "2.5", "c": "USD"}, {"p": "2.25", "c": "EUR"})


@pytest.mark.parametrize(("events", "expected"), [(("win",), ["win"]), (("loss",), ["loss"]), (("billing",), [])])
def test_only_configured_events_are_told(events: Any, expected: list[str]) -> None:
    both = rules(aggregator("alpha", notices=events), aggregator("beta", notices=events))
    found = both.of_decision(won_by_alpha(told("beta", bid("bid-b", Outcome.OUTBID, 1))))
    assert [one.event for one in found] == expected


def test_aggregator_that_is_not_configured_hears_nothing() -> None:
    found = rules(aggregator("beta")).of_decision(won_by_alpha(told("beta", bid("bid-b", Outcome.OUTBID, 1))))
    assert [one.aggregator for one in found] == ["beta"]


def test_bid_without_an_address_for_the_event_has_no_notice() -> None:
    silent = BidNotice(bid_id="b", code=Outcome.OUTBID, price_micros=1, urls=NoticeUrls(win="https://t.example/w"))
    assert list(rules().of_decision(decision(told("beta", silent)))) == []


def impression(**changes: Any) -> Impression:
    billing = Billing("https://t.example/b?" + ALL_MACROS + "&at=${AUCTION_IMP_TS}", 2_250_000, "EUR")
    push = Push(AUCTION, "alpha", 2_500_000, "USD", "ch1", T0, "bid-a", billing)
    display = Display(T0 + 500, "key-1", f"push-{AUCTION}", "ad-1", 15_000, 3, 1, 99, 0)
    return Impression(display, msgspec.structs.replace(push, **changes))


def test_displayed_ad_is_billed_with_its_price_and_time() -> None:
    found = rules().of_impression(impression())
    assert found is not None
    assert said(found) == {
        "id": AUCTION,
        "bid": "bid-a",
        "p": "2.25",
        "loss": "0",
        "at": str(T0 + 500),
    }
    assert (found.event, found.aggregator, found.partition, found.offset) == ("billing", "alpha", 3, 99)


def test_display_without_push_or_address_or_wish_is_not_billed() -> None:
    unmatched = Impression(impression().display, None)
    assert rules().of_impression(unmatched) is None
    assert rules().of_impression(impression(billing=None)) is None
    assert rules(aggregator("alpha", notices=("win",))).of_impression(impression()) is None
    assert rules(aggregator("beta")).of_impression(impression()) is None


@pytest.mark.parametrize("code", Outcome)
def test_every_outcome_has_a_loss_code_of_the_specification(code: Outcome) -> None:
    assert loss_code(code) in {*range(11), *range(100, 105), *range(200, 214)}
    assert (loss_code(code) == 0) == (code is Outcome.WON)


# Macros -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/?p=${AUCTION_PRICE}&q=${AUCTION_PRICE}", "/?p=1.5&q=1.5"),
        ("/?p=%24%7BAUCTION_PRICE%7D", "/?p=1.5"),
        ("/?p=%24%7bAUCTION_PRICE%7d", "/?p=1.5"),
        ("/?p=${AUCTION_PRICE:B64}", "/?p=MS41"),
        ("/?p=%24%7BAUCTION_PRICE%3AB64%7D", "/?p=MS41"),
        ("/?p=%24%7BAUCTION_PRICE%3aB64%7D", "/?p=MS41"),
        ("/?b=${AUCTION_BID_ID}", "/?b=a%2Fb%26c%3D%3F%23%20%C3%A9%0D%0A"),
        ("/?s=${AUCTION_SEAT_ID}&x=1", "/?s=&x=1"),
        ("/?s=${anything at all}", "/?s="),
        ("/?s=${auction_price}", "/?s=1.5"),
        ("/?s=$AUCTION_PRICE&t={AUCTION_PRICE}", "/?s=$AUCTION_PRICE&t={AUCTION_PRICE}"),
        ("/?n=${N}", "/?n=%24%7BAUCTION_PRICE%7D"),
    ],
)
def test_macros_are_replaced_once_and_encoded_and_unknown_ones_vanish(url: str, expected: str) -> None:
    values = {"AUCTION_PRICE": "1.5", "AUCTION_BID_ID": "a/b&c=?# é\r\n", "N": "${AUCTION_PRICE}"}
    assert expand(url, values) == expected


def test_value_cannot_change_the_host() -> None:
    """A bid id is the aggregator's text, too; but the host that is judged is the one after substitution."""
    assert expand("https://${AUCTION_BID_ID}/x", {"AUCTION_BID_ID": "evil.example"}) == "https://evil.example/x"
    beta = bid("evil.example", Outcome.OUTBID, 1)
    named = msgspec.structs.replace(beta, urls=NoticeUrls(loss="https://${AUCTION_BID_ID}/x"))
    (loss,) = rules().of_decision(decision(told("beta", named)))
    assert "notice_hosts" in str(rules().objection(loss))


# What may be sent ----------------------------------------------------------------------------------------------------


def to(url: str, **changes: Any) -> Notice:
    return msgspec.structs.replace(Notice(AUCTION, "alpha", "bid-a", "win", url, 0, 0, T0), **changes)


@pytest.mark.parametrize(
    "url", ["https://t.example/w?a=b", "https://a.t.example:443/w", "https://T.EXAMPLE/", "https://t.example./"]
)
def test_allowed_hosts_are_told(url: str) -> None:
    assert rules().objection(to(url)) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://t.example/w",
        "ftp://t.example/w",
        "javascript:alert(1)",
        "//t.example/w",
        "/w",
        "",
        "https:///w",
        "https://evil.example/w",
        "https://evil-t.example/w",
        "https://t.example.evil.example/w",
        "https://t.example@evil.example/w",
        "https://user:pw@t.example/w",
        "https://t.example\\@evil.example/w",
        "https://t.example\r\nhost: evil/w",
        "https://t.example/w x",
        "https://t.example/é",
        "https://t.example:99999/w",
        "https://t.example:8443/w",
        "https://[::1/w",
        "https://127.0.0.1/w",
        "https://t.example/" + "x" * URL_CHARS_MAX,
    ],
)
def test_everything_else_is_refused_with_a_reason(url: str) -> None:
    assert rules().objection(to(url))


def test_plain_http_is_for_trials_only() -> None:
    trial = aggregator(notice_network="any", notice_hosts=("127.0.0.1",))
    assert rules(trial).objection(to("http://127.0.0.1:8080/w")) is None
    assert rules(trial).objection(to("http://t.example/w"))


def test_endless_bid_id_is_refused() -> None:
    assert "bid id" in str(rules().objection(to("https://t.example/w", bid_id="x" * (ID_CHARS_MAX + 1))))


def test_long_ids_and_urls_are_not_multiplied_by_macros() -> None:
    many = "${AUCTION_BID_ID}" * 1_000
    for bid_id, query in (("x" * 100_000, ALL_MACROS), ("x", many)):
        (loss,) = rules().of_decision(decision(told("beta", bid(bid_id, Outcome.OUTBID, 1, query))))
        assert len(loss.url) < 20_000
        assert rules().objection(loss)


def test_endless_opening_of_macros_is_read_in_one_go() -> None:
    hostile = "https://t.example/?" + "${%24%7B" * 100_000
    assert expand(hostile, {"AUCTION_PRICE": "1"}) == hostile
    assert rules().objection(to(hostile[:1_000]))


def test_international_host_is_compared_as_it_is_sent() -> None:
    german = aggregator(notice_hosts=("xn--bcher-kva.example",))
    assert rules(german).objection(to("https://xn--bcher-kva.example/w")) is None


def test_notice_of_an_aggregator_that_was_removed_is_refused() -> None:
    assert "not configured" in str(rules(aggregator("beta")).objection(to("https://t.example/w")))
