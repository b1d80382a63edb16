"""VAST ad tags as two pure functions."""

from __future__ import annotations

import re
from urllib.parse import urldefrag

from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from aggregators.money import micros_of
from aggregators.options import read_options, suggestion
from aggregators.replies import creative_id, domain_of, gather, has_answer
from aggregators.vast import AdReader, VastPrice, read_vast
from aggregators.vasttag.macros import MACRO, expand, values_of
from aggregators.vasttag.options import VastTagOptions
from datastreamx.config import AggregatorConfig
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Bid, BidRequest, Outcome

MAX_BID_ID_CHARS = 512

_CURRENCY = re.compile(r"[A-Z]{3}")
# Only the names matter, for the check of the configuration.
_ANY_REQUEST = BidRequest(
    auction_id="",
    box_key=None,
    trigger="dwell",
    opportunity_ms=0,
    channel_id="",
    last_channel_id=None,
    last_ad_id=None,
    break_id=None,
    slot_ms=0,
    tmax_ms=0,
    floor_micros=0,
    currency="",
)


class VastTagAdapter:
    """Adapter for one tag at `url`."""

    def __init__(self, url: str, options: VastTagOptions) -> None:
        # A macro behind a fragment would never leave the process.
        self._url = urldefrag(url).url
        self._options = options
        self._mimes = frozenset(_entries(options.mimes.lower()))
        self._blocked_categories = frozenset(_entries(options.blocked_categories or ""))

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        """One call."""
        url = expand(self._url, values_of(request, self._options))
        return [HttpCall(method="GET", url=url, headers={"accept": "application/xml"})]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:  # noqa: ARG002  the reply says everything
        """A bid for each ad in the document.

        Raises:
            ReplyError: See `aggregators.contract.Adapter`.
        """
        if not has_answer(reply):
            return Answer()
        return gather(read_vast(reply.body, self._mimes), self._bid)

    def _bid(self, position: int, read: AdReader) -> Bid:
        ad = read()
        blocked = self._blocked_categories.intersection(ad.categories)
        if blocked:
            raise ReplyError(Outcome.CREATIVE_REJECTED, f"category {min(blocked)[:40]} is blocked")
        bid_id = ad.ad_id or str(position + 1)
        if len(bid_id) > MAX_BID_ID_CHARS:
            raise _invalid(f"an ad id of {len(bid_id)} characters, {MAX_BID_ID_CHARS} fit")
        price = _cpm(ad.price)
        return Bid(
            bid_id=bid_id,
            price_micros=micros_of(price.value.encode()),
            currency=price.currency,
            ad_id=creative_id(ad.creative_id or ad.ad_id),
            creative_url=ad.address(),
            creative_hosts=ad.hosts,
            duration_ms=ad.duration_ms,
            advertiser_domain=None if ad.advertiser is None else domain_of(ad.advertiser),
        )


def build_vasttag(config: AggregatorConfig) -> Adapter:
    """Adapter from configuration.

    Raises:
        ConfigError: The options or the macros of the address are wrong; lists every problem.
    """
    path = f"aggregators.{config.name}"
    problems = _macro_problems(config.url, path)
    try:
        options = read_options(VastTagOptions, config.options, f"{path}.options")
    except ConfigError as error:
        raise ConfigError(path, problems + error.problems) from None
    if problems:
        raise ConfigError(path, problems)
    return VastTagAdapter(config.url, options)


def _macro_problems(url: str, path: str) -> list[str]:
    known = values_of(_ANY_REQUEST, VastTagOptions())
    problems = [
        f"{path}.url: unknown macro {macro}{suggestion(macro, known)}"
        for macro in MACRO.findall(url)
        if macro not in known
    ]
    # A channel `..` in a path would lead somewhere else, and in a host a reply could say who is called next.
    if MACRO.search(url.partition("?")[0]):
        problems.append(f"{path}.url: a macro before the `?`; host and path are for the configuration alone to say")
    return problems


def _cpm(price: VastPrice | None) -> VastPrice:
    if price is None:
        raise _invalid("an ad without <Pricing>")
    if price.model != "CPM":
        raise _invalid(f"a price per {price.model[:20]!r}, only CPM can be compared")
    if not _CURRENCY.fullmatch(price.currency):
        raise _invalid(f"a price in {price.currency[:20]!r}, which is no currency code")
    return price


def _entries(option: str) -> list[str]:
    return [entry.strip() for entry in option.split(",") if entry.strip()]


def _invalid(why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, why)
