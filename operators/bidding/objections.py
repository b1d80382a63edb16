"""Why a bid cannot win. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from datastreamx.hosts import host_allowed, in_domains, normal_host
from datastreamx.model.auction import Bid, Outcome
from operators.bidding.rates import Rates


class Objection(NamedTuple):
    """Why a bid cannot win: a code for tables, and a sentence for humans."""

    code: Outcome
    detail: str


class Price(NamedTuple):
    """What a bid is worth in the auction's currency.

    Attributes:
        micros: Millionths of that currency, rounded down.
        rate_id: Which exchange rates were used; `None` when none was needed.
    """

    micros: int
    rate_id: str | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a bid of one aggregator has to comply with in one auction.

    Attributes:
        floor_micros: Lowest acceptable price in the auction's currency.
        max_price_micros: Highest price that is believed.
        slot_ms: Length of the slot, or of the whole break.
        blocked: Advertiser domains that cannot win, nor those below them.
        separated: Advertisers that cannot win, as `advertiser_of` spells them. Those below them can: an aggregator that
            names `co.uk` as an advertiser must not shut out a country.
        creative_hosts: Hosts that creatives may come from; see `host_allowed`. Empty: any.
    """

    floor_micros: int
    max_price_micros: int
    slot_ms: int
    blocked: frozenset[str]
    separated: frozenset[str]
    creative_hosts: tuple[str, ...]


def price_of(bid: Bid, currency: str, rates: Rates | None, unusable: str | None) -> Price | Objection:
    """What the bid is worth in `currency`, or why that cannot be told.

    Args:
        bid: As offered.
        currency: The auction's.
        rates: Rates to convert with, if there are usable ones.
        unusable: Why there are none.
    """
    if bid.price_micros <= 0:
        return Objection(Outcome.INVALID_RESPONSE, "the price is not above zero")
    if bid.currency == currency:
        return Price(bid.price_micros)
    if rates is None:
        return Objection(Outcome.CURRENCY, f"price is in {bid.currency}, not {currency}; {unusable}")
    micros = rates.convert(bid.price_micros, bid.currency, currency)
    if micros is None:
        return Objection(Outcome.CURRENCY, f"price is in {bid.currency}, for which rates {rates.id} have no entry")
    return Price(micros, rates.id)


def objection(bid: Bid, price_micros: int, terms: Terms) -> Objection | None:
    """Why a bid of this price cannot win, or `None` if it can.

    An advertiser that the aggregator does not name is let through, although separation cannot be ensured then: much
    demand comes without a domain, and refusing it would cost more breaks than a rare repetition.
    """
    if price_micros < terms.floor_micros:
        return Objection(
            Outcome.BELOW_FLOOR, f"{price_micros} micros are below the floor of {terms.floor_micros} micros"
        )
    if price_micros > terms.max_price_micros:
        # In a first-price auction nobody would pay it, and it would keep every honest bid from winning.
        return Objection(Outcome.INVALID_RESPONSE, f"{price_micros} micros are above auction.max_price_micros")
    if price_micros <= 0:
        return Objection(Outcome.BELOW_FLOOR, "converted, the price is less than a millionth")
    return _objection_to_creative(bid, terms) or _objection_to_advertiser(bid, terms)


def advertiser_of(domain: str) -> str:
    """Whom a domain stands for: the same with and without `www.`."""
    return normal_host(domain).removeprefix("www.")


def _objection_to_creative(bid: Bid, terms: Terms) -> Objection | None:
    if not 0 < (1 if bid.duration_ms is None else bid.duration_ms) <= terms.slot_ms:
        detail = f"{bid.duration_ms or 'unknown'} ms do not fit the slot of {terms.slot_ms} ms"
        return Objection(Outcome.CREATIVE_REJECTED, detail)
    if not terms.creative_hosts:
        return None
    if bid.creative_url is not None and not bid.creative_hosts:
        return Objection(Outcome.CREATIVE_REJECTED, "the hosts of the creative are unknown, and only some are allowed")
    for host in bid.creative_hosts:
        if not host_allowed(host, terms.creative_hosts):
            return Objection(Outcome.CREATIVE_REJECTED, f"auction.creative_hosts does not have {host}")
    return None


def _objection_to_advertiser(bid: Bid, terms: Terms) -> Objection | None:
    domain = bid.advertiser_domain
    if domain is not None and (advertiser_of(domain) in terms.separated or in_domains(domain, terms.blocked)):
        return Objection(Outcome.ADVERTISER_BLOCKED, f"{bid.advertiser_domain} is blocked here")
    return None
