"""OpenRTB 2.6 as two pure functions."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from aggregators.contract import Adapter, Answer, HttpCall, HttpReply, ReplyError
from aggregators.money import decimal_text, micros_of
from aggregators.openrtb.creative import creative_of, expand_known
from aggregators.openrtb.messages import (
    App,
    BidMessage,
    BidRequestMessage,
    BidResponse,
    Channel,
    Content,
    Data,
    Device,
    DurationFloor,
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
from aggregators.openrtb.objections import Asked, Objections
from aggregators.openrtb.options import OpenRtbOptions, split
from aggregators.options import read_options
from aggregators.replies import decode, decode_body, domain_of, gather, has_answer, notice_urls
from datastreamx.config import AggregatorConfig
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Bid, BidRequest, Outcome
from datastreamx.model.events import Consent

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
_ASKED = msgspec.json.Decoder(Asked)


class OpenRtbAdapter:
    """Adapter for one aggregator at `url`. What does not vary between requests is built once."""

    def __init__(self, url: str, options: OpenRtbOptions) -> None:
        self._url = url
        self._options = options
        self._device = _device(options)
        self._regs = Regs(coppa=options.coppa, gdpr=options.gdpr, us_privacy=options.us_privacy)
        self._network = _network(options)
        self._publisher = Publisher(id=options.publisher_id, name=options.publisher_name)
        self._mimes = split(options.mimes) or ()
        self._playable = frozenset(mime.lower() for mime in self._mimes)
        self._protocols = tuple(int(number) for number in options.protocols.split(","))
        self._blocked_categories = split(options.blocked_categories)
        self._blocked_advertisers = tuple(domain.lower() for domain in split(options.blocked_advertisers) or ())
        self._duration_floors = _duration_floors(options.duration_floors)
        self._floor_per_second = None if options.floor_per_second is None else Decimal(options.floor_per_second)
        self._objections = Objections(
            options, frozenset(self._blocked_advertisers), self._blocked_categories or (), self._duration_floors
        )

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
            device=self._device_of(request.consent),
            user=_user(request),
            source=self._source(request),
            regs=self._regs_of(request.consent),
            bcat=self._blocked_categories,
            cattax=self._options.category_taxonomy,
            # In one order whatever the order of the configuration, and each domain once.
            badv=tuple(sorted({*self._blocked_advertisers, *map(str.lower, request.blocked_advertisers)})) or None,
            test=1 if self._options.test else None,
            ext=RequestExt(stb=_stb(request)),
        )
        headers = {"content-type": "application/json", "accept": "application/json", "x-openrtb-version": "2.6"}
        return [HttpCall(method="POST", url=self._url, headers=headers, body=_ENCODER.encode(message))]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> Answer:
        """Every usable bid of all seats.

        Raises:
            ReplyError: See `aggregators.contract.Adapter`.
        """
        if not has_answer(reply):
            return Answer()
        response = decode_body(_RESPONSE, reply.body)
        offers = [(seat.seat or "", bid) for seat in response.seatbid or () for bid in seat.bid or ()]
        if not offers:
            return Answer(no_bid_reason=response.nbr)
        asked = _ASKED.decode(call.body or b"")
        if response.id != asked.id:
            raise _invalid(f"answers {(response.id or '')[:40]!r}, asked was {asked.id!r}")
        currency = response.cur or _DEFAULT_CURRENCY
        return gather(offers, lambda _, offer: self._bid(offer[1], offer[0], asked, currency))

    def _bid(self, offer: msgspec.Raw, seat: str, asked: Asked, currency: str) -> Bid:
        bid = decode(_BID, offer)
        if all(bid.impid != imp.id for imp in asked.imp):
            raise _invalid(f"impid {bid.impid[:40]!r} was not asked for")
        price_micros = micros_of(bytes(bid.price))
        places = {"IMP_ID": bid.impid, "SEAT_ID": seat, "AD_ID": bid.adid or ""}
        macros = {
            **places,
            "ID": asked.id,
            "BID_ID": bid.id,
            "PRICE": decimal_text(price_micros),
            "CURRENCY": currency,
        }
        creative = creative_of(bid, macros, self._playable)
        duration_ms = creative.duration_ms or (bid.dur * 1_000 if bid.dur else None)
        self._objections.raise_any(bid, asked, price_micros, currency, duration_ms)
        return Bid(
            bid_id=bid.id,
            price_micros=price_micros,
            currency=currency,
            ad_id=creative.ad_id,
            creative_url=creative.url,
            creative_hosts=creative.hosts,
            duration_ms=duration_ms,
            advertiser_domain=domain_of(bid.adomain[0]) if bid.adomain else None,
            notices=notice_urls(
                # Only the macros that nobody else knows the value of. Price and loss are known when the notice is sent.
                win=None if creative.is_served_by_nurl else expand_known(bid.nurl, places),
                loss=expand_known(bid.lurl, places),
                billing=expand_known(bid.burl, places),
            ),
        )

    def _imp(self, request: BidRequest) -> Imp:
        options = self._options
        has_floor = request.floor_micros > 0
        return Imp(
            id=IMP_ID,
            video=self._video(request),
            tagid=options.tag_id,
            bidfloor=Decimal(decimal_text(request.floor_micros)) if has_floor else None,
            bidfloorcur=request.currency if has_floor or self._duration_floors or self._floor_per_second else None,
            secure=1,
            ssai=options.ssai,
            exp=options.expiry_s,
            dt=request.opportunity_ms,
        )

    def _video(self, request: BidRequest) -> Video:
        options = self._options
        slot_s = request.slot_ms // 1_000
        is_pod = request.max_ads > 1
        return Video(
            mimes=self._mimes,
            minduration=options.min_duration_s,
            maxduration=min(slot_s, options.max_duration_s or slot_s),
            protocols=self._protocols,
            w=options.width_px,
            h=options.height_px,
            startdelay=_MID_ROLL,
            maxseq=request.max_ads if is_pod else None,
            poddur=slot_s if is_pod else None,
            podid=request.break_id or (IMP_ID if is_pod else None),
            mincpmpersec=self._floor_per_second if is_pod else None,
            durfloors=self._duration_floors or None,
            plcmt=_INSTREAM,
            linearity=_LINEAR,
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

    def _device_of(self, consent: Consent | None) -> Device:
        if consent is None or consent.lmt is None:
            return self._device
        return msgspec.structs.replace(self._device, lmt=consent.lmt)

    def _regs_of(self, consent: Consent | None) -> Regs | None:
        """What the box knows goes before what the deployment assumes."""
        regs = self._regs
        if consent is not None:
            regs = Regs(
                coppa=regs.coppa,
                gdpr=regs.gdpr if consent.gdpr is None else consent.gdpr,
                gpp=consent.gpp,
                gpp_sid=consent.gpp_sid,
                us_privacy=regs.us_privacy if consent.us_privacy is None else consent.us_privacy,
            )
        return None if regs == Regs() else regs

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
    path = f"aggregators.{config.name}.options"
    options = read_options(OpenRtbOptions, config.options, path)
    if options.floor_per_second is not None and options.duration_floors is not None:
        raise ConfigError(path, [f"{path}: floor_per_second and duration_floors exclude each other; keep one"])
    return OpenRtbAdapter(config.url, options)


def _user(request: BidRequest) -> User | None:
    stb = _stb(request)
    history = (("prev_channel", stb.prev_channel), ("last_ad", stb.last_ad))
    segments = tuple(Segment(name=name, value=value) for name, value in history if value is not None)
    user = User(
        id=request.box_key,
        consent=None if request.consent is None else request.consent.tcf,
        data=(Data(name="stb", segment=segments),) if segments else None,
    )
    return None if user == User() else user


def _stb(request: BidRequest) -> StbExt:
    return StbExt(trigger=request.trigger, prev_channel=request.last_channel_id, last_ad=request.last_ad_id)


def _device(options: OpenRtbOptions) -> Device:
    return Device(
        devicetype=_SET_TOP_BOX,
        make=options.device_make,
        model=options.device_model,
        os=options.device_os,
        language=options.language,
        geo=None if options.country is None else Geo(country=options.country),
    )


def _network(options: OpenRtbOptions) -> Network | None:
    network = Network(name=options.network_name, domain=options.network_domain)
    return None if network == Network() else network


def _duration_floors(option: str | None) -> tuple[DurationFloor, ...]:
    floors = []
    for entry in split(option) or ():
        seconds, _, price = entry.partition(":")
        shortest, _, longest = seconds.partition("-")
        floors.append(DurationFloor(mindur=int(shortest), maxdur=int(longest), bidfloor=Decimal(price)))
    return tuple(floors)


def _invalid(why: str) -> ReplyError:
    return ReplyError(Outcome.INVALID_RESPONSE, why)
