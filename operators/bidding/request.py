"""What an aggregator is told of an opportunity: the privacy policy, field by field. Pure."""

from __future__ import annotations

from datastreamx.config import AggregatorConfig, PrivacyConfig
from datastreamx.model.auction import BidRequest, Opportunity
from datastreamx.model.events import Consent
from datastreamx.model.identity import partner_key
from operators.bidding.auction import Lot


def history_allowed(consent: Consent | None, config: PrivacyConfig) -> bool:
    """Whether the viewer's consent lets the previous channel and the last ad leave the house.

    Where the GDPR applies, a viewer who agrees but sends no consent string counts as one who does not: the aggregator
    could not prove the agreement. A viewer who limits ad tracking has said no to all of it.
    """
    if consent is not None and consent.lmt == 1:
        return False
    if config.history == "always":
        return True
    return consent is not None and consent.history and not _is_unproven(consent)


def pseudonym_allowed(consent: Consent | None) -> bool:
    """Whether aggregators may recognise the box.

    Not where that needs a consent that is not proven, nor against the viewer's wish to limit ad tracking.
    """
    return consent is None or (consent.lmt != 1 and not _is_unproven(consent))


def _is_unproven(consent: Consent) -> bool:
    """Whether the GDPR applies and no consent string says what the viewer agreed to."""
    return consent.gdpr == 1 and consent.tcf is None and consent.gpp is None


class RequestMaker:
    """Makes the bid requests of one aggregator.

    Args:
        aggregator: Whose; `withhold` matters here.
        privacy: Secret of the pseudonyms.
        currency: What prices and floors are in.
    """

    def __init__(self, aggregator: AggregatorConfig, privacy: PrivacyConfig, currency: str) -> None:
        self._name = aggregator.name
        self._secret = privacy.box_key_secret.reveal().encode()
        self._currency = currency
        self._sends_box_key = "box_key" not in aggregator.withhold
        self._sends_history = "history" not in aggregator.withhold
        self._sends_consent = "consent" not in aggregator.withhold

    def request(self, lot: Lot, tmax_ms: int) -> BidRequest:
        """What the adapter may know: never the raw box id, and a pseudonym that no other aggregator gets."""
        opportunity = lot.opportunity
        with_history = self._sends_history and lot.history_allowed
        return BidRequest(
            auction_id=opportunity.auction_id,
            box_key=self._box_key(opportunity),
            trigger=opportunity.trigger,
            opportunity_ms=opportunity.opportunity_ms,
            channel_id=opportunity.channel_id,
            last_channel_id=opportunity.last_channel_id if with_history else None,
            last_ad_id=opportunity.last_ad_id if with_history else None,
            break_id=opportunity.break_id,
            slot_ms=opportunity.slot_ms,
            tmax_ms=tmax_ms,
            floor_micros=lot.floors[self._name],
            currency=self._currency,
            max_ads=lot.max_ads,
            # Whose ad was displayed last is viewing history too. Without it an aggregator may bid in vain.
            blocked_advertisers=tuple(sorted(lot.blocked | lot.separated if with_history else lot.blocked)),
            consent=opportunity.consent if self._sends_consent else None,
        )

    def _box_key(self, opportunity: Opportunity) -> str | None:
        if not self._sends_box_key or not pseudonym_allowed(opportunity.consent):
            return None
        return partner_key(self._secret, self._name, opportunity.box_key)
