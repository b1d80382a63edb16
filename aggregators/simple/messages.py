"""The wire format of the `simple` dialect."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

ABSENT = msgspec.Raw(b"null")
"""`Raw | None` would accept null alone, so an absent price stands as the text `null`."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class SimpleRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked; also the names and the order of the query parameters.

    Attributes:
        id: The auction's id; an answer may echo it.
        box: Pseudonym of the box; left out when it is withheld.
        timeout_ms: An answer after this time is worthless.
        floor: Lowest acceptable CPM in `currency`.
        max_ads: Most ads that may fill `slot_ms`; left out for one.
        block: Domains of advertisers that cannot win, separated by commas.
        consent_history: 1 when the viewer agrees that viewing history is used for ads, 0 when not; left out when the
            box said nothing, like all that follows.
        gdpr: 1 when the GDPR applies.
        tcf: Consent string of IAB's Transparency and Consent Framework.
        gpp: String of IAB's Global Privacy Platform.
    """

    id: str
    box: str | None = None
    channel: str
    slot_ms: int
    timeout_ms: int
    floor: Decimal
    currency: str
    last_channel: str | None = None
    last_ad: str | None = None
    max_ads: int | None = None
    block: str | None = None
    consent_history: int | None = None
    gdpr: int | None = None
    tcf: str | None = None
    gpp: str | None = None
    us_privacy: str | None = None


class SimpleAd(msgspec.Struct, frozen=True, kw_only=True):
    """One offer; without `ad` and `price` none.

    Attributes:
        ad: Creative to display.
        price: CPM; kept as the number's text until it becomes micros.
        url: Where the creative is; absent when the box has it already.
        id: Echo of the request's id.
        bid: The aggregator's own id of the offer.
        win_url: Told when the offer won; `loss_url` when it did not; `bill_url` when the ad was displayed.
    """

    ad: Text | None = None
    price: msgspec.Raw = ABSENT
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] | None = None
    url: str | None = None
    id: str | None = None
    bid: Text | None = None
    duration_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)] | None = None
    advertiser: Text | None = None
    win_url: str | None = None
    loss_url: str | None = None
    bill_url: str | None = None


class SimpleReply(SimpleAd, frozen=True, kw_only=True):
    """What is answered: one offer by its own fields, or several in `ads`.

    Attributes:
        ads: Undecoded, so that a flawed one does not spoil the others. Only when several ads were asked for.
    """

    ads: list[msgspec.Raw] | None = None
