"""The `simple` dialect as two pure functions."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import parse_qs, urldefrag, urlencode, urlsplit

import msgspec

from aggregators.contract import Adapter, HttpCall, HttpReply, ReplyError
from aggregators.money import decimal_text, micros_of
from aggregators.options import read_options
from aggregators.replies import creative_address, decode, has_answer
from aggregators.simple.messages import ABSENT, SimpleReply, SimpleRequest
from aggregators.simple.options import SimpleOptions
from datastreamx.config import AggregatorConfig
from datastreamx.model.auction import Bid, BidRequest, Outcome

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_REPLY = msgspec.json.Decoder(SimpleReply)


class _IdOnly(msgspec.Struct, frozen=True):
    id: str


_ID = msgspec.json.Decoder(_IdOnly)


class SimpleAdapter:
    """Adapter for one aggregator at `url`."""

    def __init__(self, url: str, options: SimpleOptions) -> None:
        # A query behind a fragment would never leave the process.
        self._url = urldefrag(url).url
        self._options = options

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        """One call."""
        told = self._options.send_history
        message = SimpleRequest(
            id=request.auction_id,
            box=request.box_key,
            channel=request.channel_id,
            slot_ms=request.slot_ms,
            timeout_ms=request.tmax_ms,
            floor=Decimal(decimal_text(request.floor_micros)),
            currency=request.currency,
            last_channel=request.last_channel_id if told else None,
            last_ad=request.last_ad_id if told else None,
        )
        headers = {"accept": "application/json"}
        if self._options.method == "POST":
            headers["content-type"] = "application/json"
            return [HttpCall(method="POST", url=self._url, headers=headers, body=_ENCODER.encode(message))]
        fields = {key: value for key, value in msgspec.structs.asdict(message).items() if value is not None}
        separator = "&" if "?" in self._url else "?"
        return [HttpCall(method="GET", url=f"{self._url}{separator}{urlencode(fields)}", headers=headers)]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> list[Bid]:
        """The one offer in the answer, or none.

        Raises:
            ReplyError: See `aggregators.contract.Adapter`.
        """
        if not has_answer(reply):
            return []
        answer = decode(_REPLY, reply.body)
        price = bytes(answer.price)
        has_price = price != bytes(ABSENT)
        if answer.ad is None and not has_price:
            return []
        auction_id = _asked_id(call)
        if answer.id is not None and answer.id != auction_id:
            raise ReplyError(Outcome.INVALID_RESPONSE, f"answers {answer.id[:40]!r}, asked was {auction_id!r}")
        if not has_price:
            raise ReplyError(Outcome.INVALID_RESPONSE, "an ad without a price")
        if answer.currency is None:
            # Never assumed: a price in an unknown currency is a price a hundred times too high or too low.
            raise ReplyError(Outcome.INVALID_RESPONSE, "a price without a currency")
        if answer.ad is None:
            raise ReplyError(Outcome.CREATIVE_REJECTED, "a price without an ad")
        bid = Bid(
            bid_id=answer.bid or auction_id,
            price_micros=micros_of(price),
            currency=answer.currency,
            ad_id=answer.ad,
            creative_url=None if answer.url is None else creative_address(answer.url),
            duration_ms=answer.duration_ms,
            advertiser_domain=None if answer.advertiser is None else answer.advertiser.lower(),
        )
        return [bid]


def build_simple(config: AggregatorConfig) -> Adapter:
    """Adapter from configuration.

    Raises:
        ConfigError: The options are wrong.
    """
    return SimpleAdapter(config.url, read_options(SimpleOptions, config.options, f"aggregators.{config.name}.options"))


def _asked_id(call: HttpCall) -> str:
    if call.body is not None:
        return _ID.decode(call.body).id
    # The configured address may have an `id` of its own; ours comes after it.
    return parse_qs(urlsplit(call.url).query)["id"][-1]
