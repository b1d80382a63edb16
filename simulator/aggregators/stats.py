"""What an aggregator has seen and done since it started."""

from __future__ import annotations

import msgspec


class Stats(msgspec.Struct, kw_only=True):
    """Counters; requests to `/_control`, `/_stats` and `/_notices` do not count.

    Attributes:
        requests: Requests for a bid, bad ones included.
        bad_requests: Those that broke the dialect.
        bids: Honest answers with a bid; spoilt ones do not count.
        ads: Ads in them: more than `bids` when breaks are filled by several.
        no_bids: Honest answers without one.
        in_flight: Requests not answered yet.
        hung_up: Requests whose client went away before the answer was ready.
        by_mode: Requests by the mode that applied, bad ones excluded.
        told_box: Requests that named the box.
        told_history: Requests with viewing history.
        told_consent: Requests with anything about the viewer's consent.
        careless: Requests that only a client makes which follows a redirect or resolves an XML entity.
        notices: Notices accepted, by event, repeats included.
        notice_repeats: Those of them that had been accepted before: each would be billed twice.
        notices_refused: Notices answered with 500 or not at all.
    """

    requests: int = 0
    bad_requests: int = 0
    bids: int = 0
    ads: int = 0
    no_bids: int = 0
    in_flight: int = 0
    hung_up: int = 0
    by_mode: dict[str, int] = msgspec.field(default_factory=dict)
    told_box: int = 0
    told_history: int = 0
    told_consent: int = 0
    careless: int = 0
    notices: dict[str, int] = msgspec.field(default_factory=dict)
    notice_repeats: int = 0
    notices_refused: int = 0
