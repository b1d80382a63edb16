"""What a price is in the currency that an aggregator bid in. Pure."""

from __future__ import annotations

from datastreamx.model.auction import AggregatorOutcome


def in_bid_currency(outcome: AggregatorOutcome, price_micros: int, currency: str) -> tuple[int, str]:
    """A price of the auction in the currency of the aggregator's bids, as OpenRTB 2.6 (4.4) wants it in notices.

    A reply has one currency, so its best bid tells the rate of all. Without a rate the price stays as it is.

    Args:
        outcome: Of the aggregator that is to be told.
        price_micros: Millionths of `currency`.
        currency: The auction's.

    Returns:
        Millionths and the currency they are of.
    """
    offered_micros, compared_micros = outcome.offered_micros, outcome.price_micros
    if outcome.offered_currency in {None, currency} or not offered_micros or not compared_micros:
        return price_micros, currency
    return (price_micros * offered_micros + compared_micros // 2) // compared_micros, str(outcome.offered_currency)
