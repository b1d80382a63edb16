"""Which ad a bid stands for, where the box finds it, and whom it contacts for it."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from urllib.parse import quote

import msgspec

from aggregators.contract import ReplyError
from aggregators.openrtb.messages import BidMessage
from aggregators.replies import creative_id, host_of
from aggregators.vast import MAX_PUSHED_BYTES, VastAd, read_vast
from datastreamx.model.auction import Outcome

_MTYPE_VIDEO = 2
_MACRO = re.compile(r"\$\{AUCTION_([A-Z_]+)(?::([A-Z0-9]+))?\}")
# In addresses of notices: `operators.notices.macros` reads these spellings, too, so none may be left to vanish there.
_NOTICE_MACRO = re.compile(
    r"(?:\$|%24)(?:\{|%7B)AUCTION_([A-Z_]{1,32})(?:(?::|%3A)([A-Z0-9]{1,8}))?(?:\}|%7D)", re.IGNORECASE
)
_XML = re.compile(r"\s*<")


class Creative(msgspec.Struct, frozen=True, kw_only=True):
    """What a bid wants displayed.

    Attributes:
        url: Where the markup is; `None` when the box holds the ad already.
        hosts: Hosts that the box contacts.
        duration_ms: As the markup itself says; `None` if only the bid can tell.
        is_served_by_nurl: `nurl` is the markup's address, so it is no win notice.
    """

    ad_id: str
    url: str | None = None
    hosts: tuple[str, ...] = ()
    duration_ms: int | None = None
    is_served_by_nurl: bool = False


def creative_of(bid: BidMessage, macros: Mapping[str, str], mimes: Collection[str]) -> Creative:
    """The creative of a bid.

    In order (OpenRTB 2.6, 3.2.3 and 4.3): markup in `adm`, either an address or a VAST document; else `adid`, a
    preloaded ad; else the markup that `nurl` serves.

    Args:
        bid: As received.
        macros: Values of `${AUCTION_...}`, by what follows the underscore.
        mimes: Media types that the boxes play, lower case.

    Raises:
        ReplyError: `CREATIVE_REJECTED`: no video, no creative, or one that a box must not get.
    """
    if bid.mtype not in {None, _MTYPE_VIDEO}:
        raise _rejected(f"mtype {bid.mtype}, only video ({_MTYPE_VIDEO}) was asked for")
    if bid.adm:
        ad_id = creative_id(bid.crid or bid.adid)
        markup = expand(bid.adm, macros)
        if _XML.match(markup):
            ad = _inline(markup, mimes)
            return Creative(ad_id=ad_id, url=ad.address(), hosts=ad.hosts, duration_ms=ad.duration_ms)
        url = markup.strip()
        return Creative(ad_id=ad_id, url=url, hosts=(host_of(url),))
    if bid.adid:
        return Creative(ad_id=creative_id(bid.adid))
    if bid.nurl:
        url = expand(bid.nurl, macros)
        return Creative(ad_id=creative_id(bid.crid), url=url, hosts=(host_of(url),), is_served_by_nurl=True)
    raise _rejected("none of adm, adid and nurl")


def expand(markup: str, macros: Mapping[str, str]) -> str:
    """Substitute macros (OpenRTB 2.6, 4.4); unknown ones vanish, as the specification demands.

    It can be done as soon as the bid is read, because in a first-price auction the bid is what the winner pays.
    Values are percent-encoded: they end up in addresses, and come from the aggregator itself.

    Raises:
        ReplyError: `CREATIVE_REJECTED`: too long for a push, before or after.
    """
    if len(markup) > MAX_PUSHED_BYTES:
        # Before and not only after: a body full of macros grows a hundredfold.
        raise _too_long(len(markup))
    expanded = _MACRO.sub(lambda match: _value(macros.get(match[1], ""), match[2]), markup)
    size = len(expanded.encode())
    if size > MAX_PUSHED_BYTES:
        raise _too_long(size)
    return expanded


def expand_known(url: str | None, macros: Mapping[str, str]) -> str | None:
    """Substitute the given macros alone; the others stay for whoever knows them."""
    if not url or len(url) > MAX_PUSHED_BYTES:
        return url

    def replace(match: re.Match[str]) -> str:
        value = macros.get(match[1].upper())
        return match[0] if value is None else _value(value, match[2] and match[2].upper())

    return _NOTICE_MACRO.sub(replace, url)


def _value(value: str, encoding: str | None) -> str:
    if encoding == "B64":
        value = base64.b64encode(value.encode()).decode()
    elif encoding is not None:
        # In plain text it would be something else than what was asked for.
        return ""
    return quote(value, safe="")


def _inline(markup: str, mimes: Collection[str]) -> VastAd:
    try:
        ads = read_vast(markup.encode(), mimes)
        if len(ads) != 1:
            raise _rejected(f"VAST of {len(ads)} ads, a bid is for one")
        return ads[0]()
    except ReplyError as error:
        # The reply is fine, its creative is not.
        raise _rejected(error.detail) from None


def _too_long(length: int) -> ReplyError:
    return _rejected(f"markup of {length} bytes, {MAX_PUSHED_BYTES} fit into a push")


def _rejected(why: str) -> ReplyError:
    return ReplyError(Outcome.CREATIVE_REJECTED, why)
