"""What an OpenRTB aggregator can be told about the publisher and its boxes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from aggregators.options import Text

Seconds = Annotated[int, msgspec.Meta(ge=1, le=3_600)]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=16_384)]
# Numbers separated by commas, because an option is a single value.
Numbers = Annotated[str, msgspec.Meta(pattern=r"^\d{1,3}(,\d{1,3})*$")]
# A CPM with at most six decimals: micros.
Price = Annotated[str, msgspec.Meta(pattern=r"^\d{1,6}(\.\d{1,6})?$")]
# MIN-MAX:PRICE, seconds and CPM.
Ranges = Annotated[
    str, msgspec.Meta(pattern=r"^\d{1,4}-\d{1,4}:\d{1,6}(\.\d{1,6})?(,\d{1,4}-\d{1,4}:\d{1,6}(\.\d{1,6})?)*$")
]


class OpenRtbOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the dialect. Lists are written with commas.

    Attributes:
        publisher_id: `app.publisher.id`, as the aggregator knows this operator.
        app_bundle: `app.bundle`.
        seller_domain: Domain of the `sellers.json` in which `publisher_id` is listed; with it a supply chain is sent.
        tag_id: `imp.tagid`, the aggregator's name of the placement.
        mimes: Media types that the boxes play.
        protocols: AdCOM "Creative Subtypes - Audio/Video": VAST 2, 3, 4, 4.1 and 4.2 inline by default. Wrappers are
            not among them, because nobody resolves them within an auction.
        min_duration_s: Shortest creative; a slot shorter than this is not offered.
        max_duration_s: Longest creative; unset: as long as the slot or the break.
        floor_per_second: `video.mincpmpersec` of breaks of several ads: lowest CPM per second of an ad.
        duration_floors: `video.durfloors`: lowest CPM by seconds, e.g. `0-15:4,16-30:7.5`. One of these two at most;
            both in the currency of the auction, and beside the floor that the auction has anyway.
        expiry_s: `imp.exp`: an ad may be displayed up to so long after its auction.
        ssai: `imp.ssai`: 1 all by the client, 2 stitched by the server with client tracking, 3 all by the server.
        blocked_categories: `bcat`, IAB Content Taxonomy codes of `category_taxonomy`.
        blocked_advertisers: `badv`, domains.
        country: `device.geo.country`, ISO 3166-1 alpha-3. Nothing finer is sent.
        language: `device.language` and `content.language`, ISO 639-1.
        gdpr: `regs.gdpr` where the box does not say; `us_privacy` likewise.
        test: Marks requests as tests that are not billed.
    """

    publisher_id: Text
    app_bundle: Text
    app_name: Text | None = None
    app_domain: Text | None = None
    store_url: Text | None = None
    publisher_name: Text | None = None
    inventory_partner_domain: Text | None = None
    seller_domain: Text | None = None
    network_name: Text | None = None
    network_domain: Text | None = None
    tag_id: Text | None = None
    mimes: Text = "video/mp4"
    protocols: Numbers = "2,3,7,11,13"
    width_px: Pixels = 1_920
    height_px: Pixels = 1_080
    min_duration_s: Seconds = 5
    max_duration_s: Seconds | None = None
    floor_per_second: Price | None = None
    duration_floors: Ranges | None = None
    expiry_s: Seconds | None = None
    ssai: Literal[1, 2, 3] | None = None
    blocked_categories: Text | None = None
    category_taxonomy: Annotated[int, msgspec.Meta(ge=1, le=999)] | None = None
    blocked_advertisers: Text | None = None
    device_make: Text | None = None
    device_model: Text | None = None
    device_os: Text | None = None
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] | None = None
    language: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2}$")] | None = None
    gdpr: Literal[0, 1] | None = None
    coppa: Literal[0, 1] | None = None
    us_privacy: Text | None = None
    test: bool = False


def split(value: str | None) -> tuple[str, ...] | None:
    """The entries of an option that is a list; `None` stays `None`, so that the field is left out."""
    return None if value is None else tuple(entry.strip() for entry in value.split(",") if entry.strip())
