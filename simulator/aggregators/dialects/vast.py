"""VAST 4.0 documents, as a creative within a bid or as a whole answer."""

from __future__ import annotations

from simulator.aggregators.catalogue import Ad

NO_AD = '<VAST version="4.0"/>'


def document(ad: Ad, *, price: str | None = None, currency: str = "USD") -> str:
    """An inline ad with one media file and an impression tracker; with a price if it is a bid by itself."""
    seconds = ad.duration_ms // 1_000
    clock = f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    pricing = "" if price is None else f'<Pricing model="CPM" currency="{currency}"><![CDATA[{price}]]></Pricing>'
    return (
        f'<VAST version="4.0"><Ad id="{ad.ad_id}"><InLine><AdSystem>simulator</AdSystem><AdTitle>{ad.ad_id}</AdTitle>'
        f"<Impression><![CDATA[https://{ad.advertiser_domain}/shown?price=${{AUCTION_PRICE}}]]></Impression>"
        f"<Advertiser>{ad.advertiser_domain}</Advertiser>{pricing}"
        f'<Creatives><Creative id="{ad.ad_id}" adId="{ad.ad_id}">'
        f'<UniversalAdId idRegistry="simulator" idValue="{ad.ad_id}">{ad.ad_id}</UniversalAdId>'
        f"<Linear><Duration>{clock}</Duration><MediaFiles>"
        '<MediaFile delivery="progressive" type="video/mp4" width="1920" height="1080">'
        f"<![CDATA[{ad.url}]]></MediaFile>"
        "</MediaFiles></Linear></Creative></Creatives></InLine></Ad></VAST>"
    )
