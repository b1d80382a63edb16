"""The part of OpenRTB 2.6 and AdCOM 1.0 that a linear set-top box needs.

Names are the specification's. A field that is `None` is left out. What has a default in the specification that differs
from ours (`at` is 2 there) is a required field here, because `omit_defaults` would leave it out.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class DurationFloor(_Message, frozen=True, kw_only=True):
    """`video.durfloors`: lowest CPM of an ad whose seconds are in a range, both ends included."""

    mindur: int
    maxdur: int
    bidfloor: Decimal


class Video(_Message, frozen=True, kw_only=True):
    """`imp.video`; durations in seconds, `startdelay` -1 is "mid-roll, position unknown".

    A dynamic pod (OpenRTB 2.6, 7.6) is one impression with `podid`, `poddur` and `maxseq`; several bids may answer it.
    Of `mincpmpersec` and `durfloors` only one may be given.
    """

    mimes: tuple[str, ...]
    minduration: int | None = None
    maxduration: int | None = None
    protocols: tuple[int, ...] | None = None
    w: int | None = None
    h: int | None = None
    startdelay: int | None = None
    maxseq: int | None = None
    poddur: int | None = None
    podid: str | None = None
    mincpmpersec: Decimal | None = None
    durfloors: tuple[DurationFloor, ...] | None = None
    plcmt: int | None = None
    linearity: int | None = None


class Imp(_Message, frozen=True, kw_only=True):
    """One slot, or a pod of several.

    `dt` is when it is shown, milliseconds since the epoch; `exp` how many seconds may pass until then; `bidfloor` CPM.
    """

    id: str
    video: Video
    tagid: str | None = None
    bidfloor: Decimal | None = None
    bidfloorcur: str | None = None
    secure: int | None = None
    ssai: int | None = None
    exp: int | None = None
    dt: int | None = None


class Channel(_Message, frozen=True, kw_only=True):
    """`content.channel`."""

    id: str | None = None


class Network(_Message, frozen=True, kw_only=True):
    """`content.network`."""

    name: str | None = None
    domain: str | None = None


class Content(_Message, frozen=True, kw_only=True):
    """`livestream` 1 means scheduled, linear television."""

    livestream: int | None = None
    language: str | None = None
    network: Network | None = None
    channel: Channel | None = None


class Publisher(_Message, frozen=True, kw_only=True):
    """`app.publisher`."""

    id: str | None = None
    name: str | None = None


class App(_Message, frozen=True, kw_only=True):
    """The program on the box; television is an app, never a site."""

    bundle: str | None = None
    name: str | None = None
    domain: str | None = None
    storeurl: str | None = None
    inventorypartnerdomain: str | None = None
    publisher: Publisher | None = None
    content: Content | None = None


class Geo(_Message, frozen=True, kw_only=True):
    """`device.geo`, country only."""

    country: str | None = None


class Device(_Message, frozen=True, kw_only=True):
    """`devicetype` 7 is a set-top box; `lmt` 1: the viewer limits ad tracking."""

    devicetype: int | None = None
    make: str | None = None
    model: str | None = None
    os: str | None = None
    language: str | None = None
    lmt: int | None = None
    geo: Geo | None = None


class Segment(_Message, frozen=True, kw_only=True):
    """One fact about the viewer."""

    name: str | None = None
    value: str | None = None


class Data(_Message, frozen=True, kw_only=True):
    """`user.data`: facts of one source."""

    name: str | None = None
    segment: tuple[Segment, ...] | None = None


class User(_Message, frozen=True, kw_only=True):
    """`id` is the pseudonym of the box, `consent` its TCF string."""

    id: str | None = None
    consent: str | None = None
    data: tuple[Data, ...] | None = None


class SupplyChainNode(_Message, frozen=True, kw_only=True):
    """`hp` 1: this node is paid."""

    asi: str
    sid: str
    hp: int
    rid: str | None = None


class SupplyChain(_Message, frozen=True, kw_only=True):
    """`source.schain`."""

    complete: int
    ver: str
    nodes: tuple[SupplyChainNode, ...]


class Source(_Message, frozen=True, kw_only=True):
    """`tid` is the id that all participants share."""

    tid: str | None = None
    schain: SupplyChain | None = None


class Regs(_Message, frozen=True, kw_only=True):
    """Legal frame: as the box knows it, else of the whole deployment."""

    coppa: int | None = None
    gdpr: int | None = None
    gpp: str | None = None
    gpp_sid: tuple[int, ...] | None = None
    us_privacy: str | None = None


class StbExt(_Message, frozen=True, kw_only=True):
    """`ext.stb`: OpenRTB has no field for these."""

    trigger: str | None = None
    prev_channel: str | None = None
    last_ad: str | None = None


class RequestExt(_Message, frozen=True, kw_only=True):
    """`ext` of the request."""

    stb: StbExt | None = None


class BidRequestMessage(_Message, frozen=True, kw_only=True):
    """The request as a whole; `tmax` in milliseconds, network included."""

    id: str
    imp: tuple[Imp, ...]
    at: int | None = None
    tmax: int | None = None
    cur: tuple[str, ...] | None = None
    app: App | None = None
    device: Device | None = None
    user: User | None = None
    source: Source | None = None
    regs: Regs | None = None
    bcat: tuple[str, ...] | None = None
    cattax: int | None = None
    badv: tuple[str, ...] | None = None
    test: int | None = None
    ext: RequestExt | None = None


class BidMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`seatbid.bid`; `price` stays the number's text until it becomes micros.

    `dur` and `exp` in seconds, 0 unknown; `slotinpod` 0 is any place; `cattax` 1 unless told.
    """

    id: Id
    impid: str
    price: msgspec.Raw
    adid: str | None = None
    crid: str | None = None
    adm: str | None = None
    nurl: str | None = None
    burl: str | None = None
    lurl: str | None = None
    adomain: list[str] | None = None
    cat: list[str] | None = None
    cattax: int | None = None
    dur: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    exp: int | None = None
    mtype: int | None = None
    slotinpod: int | None = None


class SeatBid(msgspec.Struct, frozen=True, kw_only=True):
    """Bids stay undecoded here, so that a malformed one does not spoil the others."""

    bid: list[msgspec.Raw] | None = None
    seat: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class BidResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A reply; all fields are optional, because `{}` is a valid no-bid. `cur` is USD unless told."""

    id: str | None = None
    seatbid: list[SeatBid] | None = None
    cur: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] | None = None
    nbr: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
