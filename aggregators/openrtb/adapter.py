"""OpenRTB 2.6 as two pure functions."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from aggregators.contract import Adapter, HttpCall, HttpReply, ReplyError
from aggregators.money import decimal_text, micros_of
from aggregators.openrtb.creative import creative_of
from aggregators.openrtb.messages import (
    App,
    BidMessage,
    BidRequestMessage,
    BidResponse,
    Channel,
    Content,
    Data,
    Device,
    Geo,
    Imp,
    Network,
    Publisher,
    Regs,
    RequestExt,
    Segment,
    Source,
    StbExt,
    SupplyChain,
    SupplyChainNode,
    User,
    Video,
)
from aggregators.openrtb.options import OpenRtbOptions, split
from aggregators.options import read_options
from aggregators.replies import decode, has_answer
from datastreamx.config import AggregatorConfig
from datastreamx.model.auction import Bid, BidRequest, Outcome

MAX_BIDS = 64
MAX_DOMAIN_CHARS = 253
IMP_ID = "1"

_FIRST_PRICE = 1
_SET_TOP_BOX = 7
_LINEAR = 1
_INSTREAM = 1
_MID_ROLL = -1
_DEFAULT_CURRENCY = "USD"

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_RESPONSE = msgspec.json.Decoder(BidResponse)
_BID = msgspec.json.Decoder(BidMessage)


class _AskedImp(msgspec.Struct, frozen=True):
    id: str


class _Asked(msgspec.Struct, frozen=True):
    id: str
    imp: list[_AskedImp]


_ASKED = msgspec.json.Decoder(_Asked)


class OpenRtbAdapter:
    """Adapter for one aggregator at `url`. What does not vary between requests is built once."""

    def __init__(self, url: str, options: OpenRtbOptions) -> None:
        self._url = url
        self._options = options
        self._device = _device(options)
        self._regs = _regs(options)
        self._network = _network(options)
        self._publisher = Publisher(id=options.publisher_id, name=options.publisher_name)
        self._mimes = split(options.mimes) or ()
        self._protocols = tuple(int(number) for number in options.protocols.split(","))
        self._blocked_categories = split(options.blocked_categories)
        self._blocked_advertisers = split(options.blocked_advertisers)

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        """One call; none when the slot is shorter than the shortest creative."""
        if request.slot_ms < self._options.min_duration_s * 1_000:
            return []
        message = BidRequestMessage(
            id=request.auction_id,
            imp=(self._imp(request),),
            at=_FIRST_PRICE,
            tmax=request.tmax_ms,
            cur=(request.currency,),
            app=self._app(request),
            device=self._device,
            user=self._user(request),
            source=self._source(request),
            regs=self._regs,
            bcat=self._blocked_categories,
            cattax=self._options.category_taxonomy,
            badv=self._blocked_advertisers,
            test=1 if self._options.test else None,
            ext=RequestExt(stb=self._stb(request)),
        )
        headers = {"content-type": "application/json", "accept": "application/json", "x-openrtb-version": "2.6"}
        return [HttpCall(method="POST", url=self._url, headers=headers, body=_ENCODER.encode(message))]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> list[Bid]:
        """Every usable bid of all seats.

        One flawed bid does not spoil the others of an exchange that answers for many buyers; only when bids were
        offered and none is usable the reply is an error, that of the first.

        Raises:
            ReplyError: See `aggregators.contract.Adapter`.
        """
        if not has_answer(reply):
            return []
        response = decode(_RESPONSE, reply.body)
        offers = [(seat.seat or "", bid) for seat in response.seatbid or () for bid in seat.bid or ()]
        if not offers:
            return []
        if len(offers) > MAX_BIDS:
            raise _invalid(f"{len(offers)} bids, at most {MAX_BIDS} are read")
        asked = _ASKED.decode(call.body or b"")
        if response.id != asked.id:
            raise _invalid(f"answers {(response.id or '')[:40]!r}, asked was {asked.id!r}")
        imp_ids = {imp.id for imp in asked.imp}
        bids: list[Bid] = []
        first_error: ReplyError | None = None
        for seat, offer in offers:
            try:
                bids.append(_read_bid(offer, seat, asked.id, imp_ids, response.cur or _DEFAULT_CURRENCY))
            except ReplyError as error:
                first_error = first_error or error
        if not bids and first_error is not None:
            raise first_error
        return bids

    def _imp(self, request: BidRequest) -> Imp:
        options = self._options
        video = Video(
            mimes=self._mimes,
            minduration=options.min_duration_s,
            maxduration=request.slot_ms // 1_000,
            protocols=self._protocols,
            w=options.width_px,
            h=options.height_px,
            startdelay=_MID_ROLL,
            podid=request.break_id,
            plcmt=_INSTREAM,
            linearity=_LINEAR,
        )
        has_floor = request.floor_micros > 0
        return Imp(
            id=IMP_ID,
            video=video,
            tagid=options.tag_id,
            bidfloor=Decimal(decimal_text(request.floor_micros)) if has_floor else None,
            bidfloorcur=request.currency if has_floor else None,
            secure=1,
            ssai=options.ssai,
            dt=request.opportunity_ms,
        )

    def _app(self, request: BidRequest) -> App:
        options = self._options
        content = Content(
            livestream=1, language=options.language, network=self._network, channel=Channel(id=request.channel_id)
        )
        return App(
            bundle=options.app_bundle,
            name=options.app_name,
            domain=options.app_domain,
            storeurl=options.store_url,
            inventorypartnerdomain=options.inventory_partner_domain,
            publisher=self._publisher,
            content=content,
        )

    def _user(self, request: BidRequest) -> User:
        stb = self._stb(request)
        history = (("prev_channel", stb.prev_channel), ("last_ad", stb.last_ad))
        segments = tuple(Segment(name=name, value=value) for name, value in history if value is not None)
        return User(id=request.box_key, data=(Data(name="stb", segment=segments),) if segments else None)

    def _stb(self, request: BidRequest) -> StbExt:
        if not self._options.send_history:
            return StbExt(trigger=request.trigger)
        return StbExt(trigger=request.trigger, prev_channel=request.last_channel_id, last_ad=request.last_ad_id)

    def _source(self, request: BidRequest) -> Source:
        seller, auction_id = self._options.seller_domain, request.auction_id
        if seller is None:
            return Source(tid=auction_id)
        node = SupplyChainNode(asi=seller, sid=self._options.publisher_id, hp=1, rid=auction_id)
        return Source(tid=auction_id, schain=SupplyChain(complete=1, ver="1.0", nodes=(node,)))


def build_openrtb(config: AggregatorConfig) -> Adapter:
    """Adapter from configuration.

    Raises:
        ConfigError: The options are wrong; lists every problem.
    """
    return OpenRtbAdapter(
        config.url, read_options(OpenRtbOptions, config.options, f"aggregators.{config.name}.options")
    )


def _read_bid(offer: msgspec.Raw, seat: str, auction_id: str, imp_ids: set[str], currency: str) -> Bid:
    bid = decode(_BID, offer)
    if bid.impid not in imp_ids:
        raise _invalid(f"impid {bid.impid[:40]!r} was not asked for")
    price_micros = micros_of(bytes(bid.price))
    macros = {
        "ID": auction_id,
        "BID_ID": bid.id,
        "IMP_ID": bid.impid,
        "SEAT_ID": seat,
        "AD_ID": bid.adid or "",
        "PRICE": decimal_text(price_micros),
        "CURRENCY": currency,
    }
    ad_id, creative_url = creative_of(bid, macros)
    return Bid(
        bid_id=bid.id,
        price_micros=price_micros,
        currency=currency,
        ad_id=ad_id,
        creative_url=creative_url,
        duration_ms=bid.dur * 1_000 if bid.dur else None,
        advertiser_domain=bid.adomain[0][:MAX_DOMAIN_CHARS].lower() or None if bid.adomain else None,
    )


def _device(options: OpenRtbOptions) -> Device:
    return Device(
        devicetype=_SET_TOP_BOX,
        make=options.device_make,
        model=options.device_model,
        os=options.device_os,
        language=options.language,
        geo=None if options.country is None else Geo(country=options.country),
    )


def _regs(options: OpenRtbOptions) -> Regs | None:
    regs = Regs(coppa=options.coppa, gdpr=options.gdpr, us_privacy=options.us_privacy)
    return None if regs == Regs() else regs


def _network(options: OpenRtbOptions) -> Network | None:
    network = Network(name=options.network_name, domain=options.network_domain)
    return None if network == Network() else network


def _invalid(why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, why)
