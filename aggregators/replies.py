"""What dialects over HTTP share: status, safe JSON, addresses, and the rule for flawed bids beside good ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from aggregators.contract import Answer, HttpReply, ReplyError
from datastreamx.model.auction import Bid, NoticeUrls, Outcome

T = TypeVar("T")

MAX_BIDS = 64
MAX_URL_CHARS = 4_096
MAX_AD_ID_CHARS = 256
MAX_JSON_DEPTH = 32
MAX_JSON_VALUES = 20_000
"""Far above 64 bids with every field of the specification, far below what makes decoding slow."""

_MAX_DETAIL_CHARS = 200
_FORBIDDEN_IN_URL = frozenset('"<>\\ ')
# A dot is demanded and a last label of digits refused: neither `localhost` nor an address of the viewer's own network
# is a place for a creative. An underscore is no letter of a host name, but some trackers have it.
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!\d+\Z)[a-z0-9-]{2,63}\Z")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)(?:[^\s./:@]{1,63}\.)+[^\s./:@]{2,63}\Z")
# Possessive, and with an optional end, so that the scan stays linear whatever is thrown at it.
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+', re.DOTALL)
_JSON_BRACKET = re.compile(rb"[\[\]{}]")


def has_answer(reply: HttpReply) -> bool:
    """Whether the reply carries a document; false for 204, the honest no-bid.

    Raises:
        ReplyError: `ERROR`: any status other than 200 and 204. Redirects are errors too: following one would send a
            viewer's data to a host that nobody configured.
    """
    if reply.status == HTTPStatus.OK:
        return True
    if reply.status == HTTPStatus.NO_CONTENT:
        return False
    raise ReplyError(Outcome.ERROR, f"HTTP status {reply.status}; the dialect knows 200 and 204")


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode the body of a reply, after a look at its shape.

    Raises:
        ReplyError: `INVALID_RESPONSE`: as `decode`, or deeper than `MAX_JSON_DEPTH`, or more than `MAX_JSON_VALUES`.
    """
    _check_shape(body)
    return decode(decoder, body)


def decode(decoder: msgspec.json.Decoder[T], document: bytes | msgspec.Raw) -> T:
    """Decode a part of a body that `decode_body` has seen.

    Raises:
        ReplyError: `INVALID_RESPONSE`: no JSON, not of the promised types, not UTF-8, or half of a surrogate pair.
    """
    try:
        return decoder.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # `from None`: the chain would keep the whole body alive for as long as the error.
        raise ReplyError(Outcome.INVALID_RESPONSE, str(error)[:_MAX_DETAIL_CHARS]) from None


def gather(offers: Sequence[T], read: Callable[[int, T], Bid]) -> Answer:
    """Read every offer of a reply, so that a flawed one does not spoil the others.

    Args:
        offers: As decoded.
        read: From position and offer to a bid; raises `ReplyError` for a flawed one.

    Raises:
        ReplyError: `INVALID_RESPONSE`: more than `MAX_BIDS` offers. Or the error of the first, if all are flawed.
    """
    if len(offers) > MAX_BIDS:
        raise ReplyError(Outcome.INVALID_RESPONSE, f"{len(offers)} bids, at most {MAX_BIDS} are read")
    bids: dict[str, Bid] = {}
    refused: list[ReplyError] = []
    for position, offer in enumerate(offers):
        try:
            bid = read(position, offer)
            if bid.bid_id in bids:
                # Notices and bills are told apart by the bid's id.
                raise ReplyError(Outcome.INVALID_RESPONSE, f"bid id {bid.bid_id[:40]!r} is used twice")  # noqa: TRY301  an error like those of `read`
        except ReplyError as error:
            refused.append(error)
        else:
            bids[bid.bid_id] = bid
    if refused and not bids:
        raise refused[0]
    return Answer(tuple(bids.values()), None, tuple(refused))


def creative_id(ad_id: str | None) -> str:
    """Id of a creative, which boxes and reviewers know it by.

    Raises:
        ReplyError: `CREATIVE_REJECTED`: missing, overlong, or with characters that break out of a line.
    """
    if not ad_id:
        raise ReplyError(Outcome.CREATIVE_REJECTED, "markup without an id of the creative cannot be reviewed")
    if len(ad_id) > MAX_AD_ID_CHARS or not ad_id.isprintable():
        raise ReplyError(
            Outcome.CREATIVE_REJECTED,
            f"ad id {ad_id[:40]!r} of {len(ad_id)} characters; {MAX_AD_ID_CHARS} printable ones fit",
        )
    return ad_id


def host_of(url: str) -> str:
    """Host of an address that a box may be told to fetch, lower case.

    Raises:
        ReplyError: `CREATIVE_REJECTED`: not an absolute https address of a named host, too long, with a user name, or
            with characters that would break out of a log line or a document.
    """
    if len(url) > MAX_URL_CHARS:
        raise ReplyError(Outcome.CREATIVE_REJECTED, f"creative address has {len(url)} characters, {MAX_URL_CHARS} fit")
    if not url.isascii() or not url.isprintable() or not _FORBIDDEN_IN_URL.isdisjoint(url):
        raise _no_address(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _no_address(url) from None
    if parts.scheme != "https" or "@" in parts.netloc or not is_host(host):
        raise _no_address(url)
    return host


def is_host(name: str) -> bool:
    """Whether `name` is a full host name in lower case: no address in digits, no bare word."""
    return _HOST.match(name) is not None


def notice_urls(win: str | None, loss: str | None, billing: str | None) -> NoticeUrls | None:
    """Addresses for notices, macros untouched; `None` without any.

    Whether a notice may go there (scheme, host, network) is for the sender to judge: it knows the configuration, and a
    refused notice is told there. Only what no address can be is left out here: empty, overlong, or unprintable.
    """
    kept = [url if url and len(url) <= MAX_URL_CHARS and _is_line(url) else None for url in (win, loss, billing)]
    return NoticeUrls(win=kept[0], loss=kept[1], billing=kept[2]) if any(kept) else None


def domain_of(name: str) -> str | None:
    """An advertiser's domain in lower case, or `None` if `name` is not one."""
    domain = name.strip().rstrip(".").lower()
    return domain if domain.isprintable() and _DOMAIN.match(domain) else None


def _check_shape(body: bytes) -> None:
    """Bound depth and number of values before anything is built from them.

    The counts are upper bounds that cost microseconds. Only a reply beyond them is looked at without its strings.
    """
    openings = body.count(b"[") + body.count(b"{")
    values = openings + body.count(b",")
    if openings <= MAX_JSON_DEPTH and values <= MAX_JSON_VALUES:
        return
    skeleton = _JSON_STRING.sub(b"", body)
    values = skeleton.count(b"[") + skeleton.count(b"{") + skeleton.count(b",")
    if values > MAX_JSON_VALUES:
        raise ReplyError(Outcome.INVALID_RESPONSE, f"{values} values, at most {MAX_JSON_VALUES} are read")
    depth = 0
    for bracket in _JSON_BRACKET.findall(skeleton):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            raise ReplyError(Outcome.INVALID_RESPONSE, f"nested deeper than {MAX_JSON_DEPTH} levels")


def _is_line(url: str) -> bool:
    return url.isascii() and url.isprintable() and _FORBIDDEN_IN_URL.isdisjoint(url)


def _no_address(url: str) -> ReplyError:
    return ReplyError(Outcome.CREATIVE_REJECTED, f"creative {url[:80]!r} is no plain https address")
