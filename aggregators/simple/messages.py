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
        box: Pseudonym of the box.
        timeout_ms: An answer after this time is worthless.
        floor: Lowest acceptable CPM in `currency`.
    """

    id: str
    box: str
    channel: str
    slot_ms: int
    timeout_ms: int
    floor: Decimal
    currency: str
    last_channel: str | None = None
    last_ad: str | None = None


class SimpleReply(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered. Without `ad` and `price` it is a no-bid.

    Attributes:
        ad: Creative to display.
        price: CPM; kept as the number's text until it becomes micros.
        url: Where the creative is; absent when the box has it already.
        id: Echo of the request's id.
        bid: The aggregator's own id of the offer.
    """

    ad: Text | None = None
    price: msgspec.Raw = ABSENT
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] | None = None
    url: str | None = None
    id: str | None = None
    bid: Text | None = None
    duration_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)] | None = None
    advertiser: Text | None = None
