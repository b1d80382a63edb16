"""The macros of a tag and their values."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from aggregators.money import decimal_text
from aggregators.vasttag.options import VastTagOptions
from datastreamx.model.auction import BidRequest
from datastreamx.model.events import Consent

MACRO = re.compile(r"\[[A-Z]+\]|\{[a-z_]+\}")

# VAST 4.1, 6.1: what stands for a value that is not known, and for one that is not shared.
_UNKNOWN = "-1"
_WITHHELD = "-2"
_MID_ROLL = "2"
_INSTREAM = "1"
# AdCOM, "Creative Subtypes - Audio/Video".
_INLINE_VERSIONS = "3,7,11,13"
_ON_BEHALF_OF_A_BOX = "1"
_NOTHING_KNOWN = Consent()


def values_of(request: BidRequest, options: VastTagOptions) -> dict[str, str]:
    """Every known macro with its brackets, and its value before encoding."""
    consent = request.consent or _NOTHING_KNOWN
    box = request.box_key
    seconds = str(request.slot_ms // 1_000)
    max_ads = str(request.max_ads)
    return {
        "[CACHEBUSTING]": _eight_digits(request.auction_id),
        "[TIMESTAMP]": _timestamp(request.opportunity_ms),
        "[TRANSACTIONID]": _as_uuid(request.auction_id),
        "[DEVICEUUID]": box or _WITHHELD,
        "[IFA]": _as_uuid(box) if box else _WITHHELD,
        "[IFATYPE]": "ppid" if box else _WITHHELD,
        "[LIMITADTRACKING]": _number(consent.lmt) or _UNKNOWN,
        "[GDPRCONSENT]": consent.tcf or _UNKNOWN,
        "[REGULATIONS]": "gdpr" if consent.gdpr else _UNKNOWN,
        "[BREAKMAXDURATION]": seconds,
        "[BREAKMAXADLENGTH]": seconds,
        "[BREAKMAXADS]": max_ads,
        "[ADCOUNT]": max_ads,
        "[BREAKPOSITION]": _MID_ROLL,
        "[PLACEMENTTYPE]": _INSTREAM,
        "[ADTYPE]": "video",
        "[MEDIAMIME]": options.mimes,
        "[BLOCKEDADCATEGORIES]": options.blocked_categories or _UNKNOWN,
        "[APPBUNDLE]": options.app_bundle or _UNKNOWN,
        "[VASTVERSIONS]": _INLINE_VERSIONS,
        "[SERVERSIDE]": _ON_BEHALF_OF_A_BOX,
        "{auction}": request.auction_id,
        "{channel}": request.channel_id,
        "{trigger}": request.trigger,
        "{currency}": request.currency,
        "{duration}": seconds,
        "{duration_ms}": str(request.slot_ms),
        "{timeout_ms}": str(request.tmax_ms),
        "{max_ads}": max_ads,
        "{floor}": decimal_text(request.floor_micros),
        "{box}": box or "",
        "{break}": request.break_id or "",
        "{last_channel}": request.last_channel_id or "",
        "{last_ad}": request.last_ad_id or "",
        "{blocked}": ",".join(request.blocked_advertisers),
        "{gdpr}": _number(consent.gdpr),
        "{consent}": consent.tcf or "",
        "{gpp}": consent.gpp or "",
        "{gpp_sid}": ",".join(map(str, consent.gpp_sid or ())),
        "{us_privacy}": consent.us_privacy or "",
        "{lmt}": _number(consent.lmt),
    }


def expand(template: str, values: Mapping[str, str]) -> str:
    """The address with every macro replaced, percent-encoded."""
    return MACRO.sub(lambda match: quote(values[match[0]], safe=""), template)


def _eight_digits(auction_id: str) -> str:
    """As VAST wants it, but not random: a pure function cannot be, and a repeated question is the same question."""
    digest = hashlib.blake2b(auction_id.encode(), digest_size=8).digest()
    return f"{int.from_bytes(digest, 'big') % 10**8:08d}"


def _timestamp(epoch_ms: int) -> str:
    seconds, milliseconds = divmod(epoch_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def _as_uuid(hex_digits: str) -> str:
    """32 hex digits with dashes; anything else as it is."""
    try:
        return str(uuid.UUID(hex_digits))
    except ValueError:
        return hex_digits


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
