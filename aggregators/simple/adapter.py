"""The `simple` dialect as two pure functions."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import parse_qs, urldefrag, urlencode, urlsplit

import msgspec

from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from aggregators.money import decimal_text, micros_of
from aggregators.options import read_options
from aggregators.replies import decode, decode_body, domain_of, gather, has_answer, host_of, notice_urls
from aggregators.simple.messages import ABSENT, SimpleAd, SimpleReply, SimpleRequest
from aggregators.simple.options import SimpleOptions
from datastreamx.config import AggregatorConfig
from datastreamx.model.auction import Bid, BidRequest, Outcome
from datastreamx.model.events import Consent

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_REPLY = msgspec.json.Decoder(SimpleReply)
_AD = msgspec.json.Decoder(SimpleAd)
_NOTHING_KNOWN = Consent()


class _Asked(msgspec.Struct, frozen=True):
    """What of our own request is needed to judge the reply."""

    id: str
    max_ads: int = 1


_ASKED = msgspec.json.Decoder(_Asked)


class SimpleAdapter:
    """Adapter for one aggregator at `url`."""

    def __init__(self, url: str, options: SimpleOptions) -> None:
        # A query behind a fragment would never leave the process.
        self._url = urldefrag(url).url
        self._options = options

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        """One call."""
        consent = request.consent
        told = consent or _NOTHING_KNOWN
        message = SimpleRequest(
            id=request.auction_id,
            box=request.box_key,
            channel=request.channel_id,
            slot_ms=request.slot_ms,
            timeout_ms=request.tmax_ms,
            floor=Decimal(decimal_text(request.floor_micros)),
            currency=request.currency,
            last_channel=request.last_channel_id,
            last_ad=request.last_ad_id,
            max_ads=request.max_ads if request.max_ads > 1 else None,
            block=",".join(request.blocked_advertisers) or None,
            consent_history=None if consent is None else int(consent.history),
            gdpr=told.gdpr,
            tcf=told.tcf,
            gpp=told.gpp,
            us_privacy=told.us_privacy,
        )
        headers = {"accept": "application/json"}
        if self._options.method == "POST":
            headers["content-type"] = "application/json"
            return [HttpCall(method="POST", url=self._url, headers=headers, body=_ENCODER.encode(message))]
        fields = {key: value for key, value in msgspec.structs.asdict(message).items() if value is not None}
        separator = "&" if "?" in self._url else "?"
        return [HttpCall(method="GET", url=f"{self._url}{separator}{urlencode(fields)}", headers=headers)]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
        """The offers in the answer.

        Raises:
            ReplyError: See `aggregators.contract.Adapter`.
        """
        if not has_answer(reply):
            return Answer()
        answer = decode_body(_REPLY, reply.body)
        asked = _asked(call)
        if answer.ads is None:
            return Answer() if _is_empty(answer) else gather([answer], lambda _, ad: _read(ad, asked.id, asked.id))
        if asked.max_ads == 1:
            raise _invalid("`ads`, but one ad was asked for")
        _check_echo(answer.id, asked.id)
        currency: str | None = None

        def read(position: int, raw: msgspec.Raw) -> Bid:
            nonlocal currency
            bid = _read(decode(_AD, raw), asked.id, f"{asked.id}-{position + 1}")
            if bid.currency != (currency or bid.currency):
                # Notices tell prices in the currency of the reply, as if it had one.
                raise _invalid(f"a price in {bid.currency} beside one in {currency}")
            currency = bid.currency
            return bid

        return gather(answer.ads, read)


def build_simple(config: AggregatorConfig) -> Adapter:
    """Adapter from configuration.

    Raises:
        ConfigError: The options are wrong.
    """
    return SimpleAdapter(config.url, read_options(SimpleOptions, config.options, f"aggregators.{config.name}.options"))


def _is_empty(ad: SimpleAd) -> bool:
    return ad.ad is None and bytes(ad.price) == bytes(ABSENT)


def _read(ad: SimpleAd, auction_id: str, default_bid_id: str) -> Bid:
    _check_echo(ad.id, auction_id)
    price = bytes(ad.price)
    if price == bytes(ABSENT):
        raise _invalid("an ad without a price")
    if ad.currency is None:
        # Never assumed: a price in an unknown currency is a price a hundred times too high or too low.
        raise _invalid("a price without a currency")
    if ad.ad is None:
        raise ReplyError(Outcome.CREATIVE_REJECTED, "a price without an ad")
    return Bid(
        bid_id=ad.bid or default_bid_id,
        price_micros=micros_of(price),
        currency=ad.currency,
        ad_id=ad.ad,
        creative_url=ad.url,
        creative_hosts=() if ad.url is None else (host_of(ad.url),),
        duration_ms=ad.duration_ms,
        advertiser_domain=None if ad.advertiser is None else domain_of(ad.advertiser),
        notices=notice_urls(win=ad.win_url, loss=ad.loss_url, billing=ad.bill_url),
    )


def _check_echo(echoed: str | None, auction_id: str) -> None:
    if echoed is not None and echoed != auction_id:
        raise _invalid(f"answers {echoed[:40]!r}, asked was {auction_id!r}")


def _asked(call: HttpCall) -> _Asked:
    if call.body is not None:
        return _ASKED.decode(call.body)
    # The configured address may have an `id` of its own; ours comes after it.
    query = parse_qs(urlsplit(call.url).query)
    return _Asked(id=query["id"][-1], max_ads=int(query.get("max_ads", ["1"])[-1]))


def _invalid(why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, why)
