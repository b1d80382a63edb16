"""What all dialects over HTTP and JSON share: status, decoding and the form of a creative's address."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from aggregators.contract import HttpReply, ReplyError
from datastreamx.model.auction import Outcome

T = TypeVar("T")

MAX_URL_CHARS = 4_096
_FORBIDDEN_IN_URL = frozenset('"<>\\ ')
_MAX_DETAIL_CHARS = 200


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


def decode(decoder: msgspec.json.Decoder[T], document: bytes | msgspec.Raw) -> T:
    """Decode a reply or a part of it.

    Raises:
        ReplyError: `INVALID_RESPONSE`: no JSON, not of the promised types, not UTF-8, or nested too deeply.
    """
    try:
        return decoder.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # `from None`: the chain would keep the whole body alive for as long as the error.
        raise ReplyError(Outcome.INVALID_RESPONSE, str(error)[:_MAX_DETAIL_CHARS]) from None


def creative_address(url: str) -> str:
    """The address itself, if a box may be told to fetch it.

    Raises:
        ReplyError: `CREATIVE_REJECTED`: not an absolute https address, too long, or with characters that would break
            out of a log line or a document.
    """
    if len(url) > MAX_URL_CHARS:
        raise ReplyError(Outcome.CREATIVE_REJECTED, f"creative address has {len(url)} characters, {MAX_URL_CHARS} fit")
    if not url.isascii() or not url.isprintable() or not _FORBIDDEN_IN_URL.isdisjoint(url) or not _is_https(url):
        raise ReplyError(Outcome.CREATIVE_REJECTED, f"creative {url[:80]!r} is no plain https address")
    return url


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname)
