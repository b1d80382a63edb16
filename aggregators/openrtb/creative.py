"""Which ad a bid stands for, and where the box finds it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote

from aggregators.contract import ReplyError
from aggregators.openrtb.messages import BidMessage
from aggregators.replies import creative_address
from datastreamx.model.auction import Outcome

MAX_MARKUP_BYTES = 16_384
MAX_AD_ID_CHARS = 256
_MTYPE_VIDEO = 2
_MACRO = re.compile(r"\$\{AUCTION_([A-Z_]+)\}")
_VAST = re.compile(r"\s*(<\?xml|<VAST\b)", re.IGNORECASE)
_DOCTYPE = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


def creative_of(bid: BidMessage, macros: Mapping[str, str]) -> tuple[str, str | None]:
    """Ad id and address of the creative; the address is `None` when the box holds the ad already.

    In order (OpenRTB 2.6, 3.2.3 and 4.3): markup in `adm`, either an address or a VAST document; else `adid`, a
    preloaded ad; else the markup that `nurl` serves.

    Args:
        bid: As received.
        macros: Values of `${AUCTION_...}`, by what follows the underscore.

    Raises:
        ReplyError: `CREATIVE_REJECTED`: no video, no creative, or one that a box must not get.
    """
    if bid.mtype not in {None, _MTYPE_VIDEO}:
        raise _rejected(f"mtype {bid.mtype}, only video ({_MTYPE_VIDEO}) was asked for")
    if bid.adm:
        return _ad_id(bid.crid or bid.adid), _address_of_markup(bid.adm, macros)
    if bid.adid:
        return _ad_id(bid.adid), None
    if bid.nurl:
        return _ad_id(bid.crid), creative_address(_expand(bid.nurl, macros))
    raise _rejected("none of adm, adid and nurl")


def _ad_id(ad_id: str | None) -> str:
    if not ad_id:
        raise _rejected("markup without crid cannot be reviewed")
    if len(ad_id) > MAX_AD_ID_CHARS:
        raise _rejected(f"the ad id has {len(ad_id)} characters, {MAX_AD_ID_CHARS} fit")
    return ad_id


def _address_of_markup(adm: str, macros: Mapping[str, str]) -> str:
    if not _VAST.match(adm):
        return creative_address(_expand(adm.strip(), macros))
    if _DOCTYPE.search(adm):
        raise _rejected("VAST with a DOCTYPE or an ENTITY, the doors to XML attacks")
    document = _expand(adm, macros).encode()
    if len(document) > MAX_MARKUP_BYTES:
        raise _too_long(len(document))
    # Whole and not just its media file: the trackers in it are what the aggregator is paid by.
    return "data:application/xml;base64," + base64.b64encode(document).decode()


def _expand(markup: str, macros: Mapping[str, str]) -> str:
    """Substitute macros (OpenRTB 2.6, 4.4); unknown ones vanish, as the specification demands.

    It can be done as soon as the bid is read, because in a first-price auction the bid is what the winner pays.
    Values are percent-encoded: they end up in addresses, and come from the aggregator itself.
    """
    if len(markup) > MAX_MARKUP_BYTES:
        # Before and not only after: a body full of macros grows a hundredfold.
        raise _too_long(len(markup))
    return _MACRO.sub(lambda match: quote(macros.get(match[1], ""), safe=""), markup)


def _too_long(length: int) -> ReplyError:
    return _rejected(f"markup of {length} bytes, {MAX_MARKUP_BYTES} fit into a push")


def _rejected(why: str) -> ReplyError:
    return ReplyError(Outcome.CREATIVE_REJECTED, why)
