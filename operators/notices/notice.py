"""Which notices follow from decisions and impressions, and which of them may be sent. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import msgspec
from yarl import URL

from aggregators.money import decimal_text
from datastreamx.config import AggregatorConfig
from datastreamx.config.structs import NoticeEvent
from datastreamx.hosts import host_allowed
from datastreamx.model.auction import AggregatorOutcome, BidNotice, Decision, Outcome, WinningAd
from operators.impressions.join import Impression
from operators.impressions.prices import in_bid_currency
from operators.notices.macros import expand

URL_CHARS_MAX = 4_096
"""Before and after substitution. Longer ones are no notice that anybody would log."""
ID_CHARS_MAX = 256
"""Of the ids that aggregators give to bids and ads."""

_HTTPS_PORT = 443
_LOST_TO_HIGHER_BID = 102
_INTERNAL_ERROR = 1
_LOSS_CODES = {
    Outcome.WON: 0,
    Outcome.EXPIRED: 2,
    Outcome.NO_TIME: 2,
    Outcome.TIMEOUT: 2,
    Outcome.INVALID_RESPONSE: 3,
    Outcome.CURRENCY: 3,
    Outcome.OVERSIZE: 3,
    Outcome.BELOW_FLOOR: 100,
    Outcome.OUTBID: _LOST_TO_HIGHER_BID,
    Outcome.CLOSED_EARLY: _LOST_TO_HIGHER_BID,
    Outcome.UNSUITABLE: 200,
    Outcome.CREATIVE_REJECTED: 200,
    Outcome.ADVERTISER_BLOCKED: 205,
}
# Why a bid of a decision did not win; the others never have a bid.


class Notice(msgspec.Struct, frozen=True, array_like=True):
    """One HTTP GET that an aggregator is owed.

    Attributes:
        url: Where to, all macros substituted.
        partition: With `offset` the place in box-events of the event from which it follows.
        arose_ms: When the auction was decided, or the ad displayed.
    """

    auction_id: str
    aggregator: str
    bid_id: str
    event: NoticeEvent
    url: str
    partition: int
    offset: int
    arose_ms: int

    @property
    def id(self) -> str:
        """What makes it this notice and no other. The aggregator belongs to it: two may use the same bid id."""
        return f"{self.auction_id}/{self.event}/{self.aggregator}/{self.bid_id}"

    @property
    def key(self) -> bytes:
        """The id in 8 bytes; two of the thousands at hand are the same once in 10^12 times."""
        return blake2b(self.id.encode(), digest_size=8).digest()


def loss_code(outcome: Outcome) -> int:
    """Loss reason of OpenRTB 2.6 (list 5.25, the same as in OpenRTB 3.0); 1 "internal error" where none fits."""
    return _LOSS_CODES.get(outcome, _INTERNAL_ERROR)


class NoticeRules:
    """What each aggregator wants to hear, and where it may be told."""

    def __init__(self, aggregators: Sequence[AggregatorConfig]) -> None:
        self._aggregators: Mapping[str, AggregatorConfig] = {one.name: one for one in aggregators if one.notices}

    def of_decision(self, decision: Decision) -> Iterator[Notice]:
        """Win and loss notices.

        A loss notice names as clearing price and as price to win what the winner paid: of a break with several ads the
        cheapest winner, because that much would have sufficed. Without a winner both vanish. The winner of a single ad
        is told as price to win what would have sufficed: the best price of the others, or its floor.
        """
        for outcome in decision.outcomes:
            for notice in outcome.notices:
                event: NoticeEvent = "win" if notice.code is Outcome.WON else "loss"
                url = notice.urls.win if event == "win" else notice.urls.loss
                if url is not None and self._wants(outcome.aggregator, event):
                    yield Notice(
                        decision.auction_id,
                        outcome.aggregator,
                        notice.bid_id,
                        event,
                        _expanded(url, _decision_values(decision, outcome, notice)),
                        decision.partition,
                        decision.offset,
                        decision.decided_ms,
                    )

    def of_impression(self, impression: Impression) -> Notice | None:
        """Billing notice of a displayed ad."""
        display, push = impression.display, impression.push
        if push is None or push.billing is None or not self._wants(push.aggregator, "billing"):
            return None
        price = decimal_text(push.billing.price_micros)
        values = {
            **_common_values(push.auction_id, push.bid_id, Outcome.WON),
            "AUCTION_AD_ID": display.ad_id,
            "AUCTION_PRICE": price,
            "AUCTION_CURRENCY": push.billing.currency,
            "AUCTION_IMP_TS": str(display.shown_time_ms),
        }
        return Notice(
            push.auction_id,
            push.aggregator,
            push.bid_id,
            "billing",
            _expanded(push.billing.url, values),
            display.source_partition,
            display.source_offset,
            display.shown_time_ms,
        )

    def objection(self, notice: Notice) -> str | None:
        """Why the notice may not be sent; `None` if it may.

        The host name is judged here, the addresses behind it when they are resolved.
        """
        aggregator = self._aggregators.get(notice.aggregator)
        if aggregator is None:
            return f"aggregator {notice.aggregator} is not configured for notices any more"
        return _objection(notice, aggregator)

    def _wants(self, aggregator: str, event: NoticeEvent) -> bool:
        config = self._aggregators.get(aggregator)
        return config is not None and event in config.notices


def _expanded(url: str, values: Mapping[str, str]) -> str:
    """`url` with its macros substituted; as it is if it or a value is so long that it will be refused anyway."""
    if len(url) > URL_CHARS_MAX or any(len(value) > ID_CHARS_MAX for value in values.values()):
        return url
    return expand(url, values)


def _decision_values(decision: Decision, outcome: AggregatorOutcome, notice: BidNotice) -> dict[str, str]:
    values = _common_values(decision.auction_id, notice.bid_id, notice.code)
    if not decision.ads:
        return values
    own = next((ad for ad in decision.ads if ad.push_id == notice.push_id), None)
    paid = own or min(decision.ads, key=lambda ad: ad.price_micros)
    micros, currency = in_bid_currency(outcome, paid.price_micros, paid.currency)
    price = decimal_text(micros)
    to_win = _sufficient_micros(decision, outcome) if own else paid.price_micros
    return {
        **values,
        **({"AUCTION_AD_ID": own.ad_id} if own else {}),
        "AUCTION_PRICE": price,
        **({"AUCTION_MIN_TO_WIN": _in_bid_currency_text(outcome, to_win, paid)} if to_win is not None else {}),
        "AUCTION_CURRENCY": currency,
    }


def _in_bid_currency_text(outcome: AggregatorOutcome, price_micros: int, paid: WinningAd) -> str:
    return decimal_text(in_bid_currency(outcome, price_micros, paid.currency)[0])


def _sufficient_micros(decision: Decision, winner: AggregatorOutcome) -> int | None:
    """What would have won the one ad of a decision; `None` for a break of several, where no single price decides."""
    if len(decision.ads) != 1:
        return None
    others = (
        outcome.price_micros
        for outcome in decision.outcomes
        if outcome.code is Outcome.OUTBID and outcome.price_micros is not None
    )
    sufficient = max(winner.floor_micros or 0, *others, 0)
    # In a break, a dearer ad may have lost because it was too long.
    return sufficient if sufficient <= decision.ads[0].price_micros else None


def _common_values(auction_id: str, bid_id: str, code: Outcome) -> dict[str, str]:
    return {
        "AUCTION_ID": auction_id,
        "AUCTION_BID_ID": bid_id,
        "AUCTION_LOSS": str(loss_code(code)),
        "AUCTION_MULTIPLIER": "1",
    }


def _objection(notice: Notice, aggregator: AggregatorConfig) -> str | None:  # noqa: PLR0911  one line per rule
    text = notice.url
    if len(notice.bid_id) > ID_CHARS_MAX:
        return f"the bid id has more than {ID_CHARS_MAX} characters"
    if "${" in text:
        return f"an id has more than {ID_CHARS_MAX} characters, or the URL has a flawed macro"
    if len(text) > URL_CHARS_MAX:
        return f"the URL has more than {URL_CHARS_MAX} characters"
    # What differs between URL parsers is how they read the rest; a line break would even be a header of its own.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return "the URL holds characters that belong into none"
    try:
        # The same parser and object as for the request: what is judged is what is asked.
        url = URL(text, encoded=True)
        host, port = url.raw_host, url.port
    except ValueError as error:
        return f"the URL cannot be read: {error}"
    schemes = {"https"} if aggregator.notice_network == "public" else {"https", "http"}
    if url.scheme not in schemes:
        return f"the URL is not {' or '.join(sorted(schemes))}"
    if not host or url.user is not None or url.password is not None:
        return "the URL names no host, or a user"
    if aggregator.notice_network == "public" and port != _HTTPS_PORT:
        return f"port {port} is not that of https: an allowed host may serve other things on others"
    if not host_allowed(host, aggregator.notice_hosts):
        return f"host {host[:100]} is not in aggregators.{aggregator.name}.notice_hosts"
    return None
