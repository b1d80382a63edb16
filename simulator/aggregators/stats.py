"""What an aggregator has seen and done since it started."""

from __future__ import annotations

import msgspec


class Stats(msgspec.Struct, kw_only=True):
    """Counters; requests to `/_control` and `/_stats` do not count.

    Attributes:
        requests: Requests for a bid, bad ones included.
        bad_requests: Those that broke the dialect.
        bids: Honest answers with a bid; spoilt ones do not count.
        no_bids: Honest answers without one.
        in_flight: Requests not answered yet.
        hung_up: Requests whose client went away before the answer was ready.
        by_mode: Requests by the mode that applied, bad ones excluded.
    """

    requests: int = 0
    bad_requests: int = 0
    bids: int = 0
    no_bids: int = 0
    in_flight: int = 0
    hung_up: int = 0
    by_mode: dict[str, int] = msgspec.field(default_factory=dict)
