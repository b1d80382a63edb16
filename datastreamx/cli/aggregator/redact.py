"""Keeps out of sight what may be a secret: what the configuration says, not what an auction says. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args
from urllib.parse import quote, quote_plus, unquote, urlsplit, urlunsplit

import msgspec

from datastreamx.cli.aggregator.report import Trouble
from datastreamx.config import AggregatorConfig, NoticeEvent

S = TypeVar("S", bound=msgspec.Struct)

HIDDEN = "***"

_ONE_MACRO = re.compile(r"[\[{]\w+[\]}]")
# A path says more than a query about what is asked for, so of it only that is hidden which nobody would make up.
_TOKEN = re.compile(r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[\w.~+=%-]{20,}")
_SECRET_NAME = re.compile(r"key|token|secret|auth|sig|pass|pwd|cred|session|cookie", re.IGNORECASE)
# Our own words, which stay readable even if somebody has chosen one of them for a secret.
_OWN_WORDS = frozenset({*get_args(Trouble), *get_args(NoticeEvent)})
_MIN_SECRET_CHARS = 4
_MIN_TOKEN_CHARS = 16
_MIN_WORD_CHARS = 8


def hidden_url(sent: str, configured: str) -> str:
    """The address of a request without what may be a secret of the configuration.

    Hidden are user and password, every value that the configured query spells out, and what looks like a token in the
    path. What the adapter has filled in is shown.
    """
    parts = urlsplit(sent)
    spelled_out = _pairs(configured)
    # What is filled in only in part keeps the rest of it.
    partly = {pair.partition("=")[0] for pair in spelled_out if not _ONE_MACRO.fullmatch(pair.partition("=")[2])}
    query = "&".join(
        _hidden_pair(pair) if pair in spelled_out or pair.partition("=")[0] in partly else pair for pair in _pairs(sent)
    )
    path = "/".join(HIDDEN if _TOKEN.fullmatch(part) else part for part in parts.path.split("/"))
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{HIDDEN}@{host}" if at else host, path, query, ""))


def hidden_headers(sent: Mapping[str, str], configured: Iterable[str] = ()) -> dict[str, str]:
    """Headers whose value is hidden if it is configured or sounds like a secret."""
    named = {name.lower() for name in configured}
    return {
        name: HIDDEN if name.lower() in named or _SECRET_NAME.search(name) else value for name, value in sent.items()
    }


def secrets_of(aggregator: AggregatorConfig) -> list[str]:
    """Texts that must not appear anywhere, wherever they come from: an aggregator may echo what it was sent."""
    found = {secret.reveal() for secret in aggregator.headers.values()}
    # `Bearer` is no secret, what follows it is.
    found |= {word for secret in found for word in secret.split() if len(word) >= _MIN_WORD_CHARS}
    parts = urlsplit(aggregator.url)
    found |= {part for part in (parts.username, parts.password) if part}
    found |= {part for part in parts.path.split("/") if _TOKEN.fullmatch(part)}
    for pair in _pairs(aggregator.url):
        name, is_named, value = pair.partition("=")
        if not is_named:
            name, value = "", name
        if _SECRET_NAME.search(name) or len(value) >= _MIN_TOKEN_CHARS:
            found |= {value, unquote(value)}
    # Shorter ones are words, and would hide half of the output.
    return [text for text in found if len(text) >= _MIN_SECRET_CHARS and not _ONE_MACRO.fullmatch(text)]


def scrubbed(document: S, secrets: Iterable[str]) -> S:
    """The same document with every secret in it hidden, also where it is written as in a URL or in JSON."""
    pattern = _pattern(secrets)
    return msgspec.convert(_scrub(msgspec.to_builtins(document), pattern), type(document)) if pattern else document


def hidden_text(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret hidden as in `scrubbed`: for one that is cut off before the document is whole."""
    pattern = _pattern(secrets)
    return pattern.sub(HIDDEN, text) if pattern else text


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters are written out."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def _pattern(secrets: Iterable[str]) -> re.Pattern[str] | None:
    spellings: set[str] = set()
    for secret in secrets:
        in_json = json.dumps(secret)[1:-1]
        # Some JSON writers escape slashes, and tokens in Base64 have some.
        spellings |= {secret, quote(secret, safe=""), quote_plus(secret), in_json, in_json.replace("/", "\\/")}
    # The longest first, or a part of it would leave the rest in sight. Case: `%2F` is `%2f`, too.
    ordered = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)), re.IGNORECASE) if ordered else None


def _scrub(value: Any, pattern: re.Pattern[str]) -> Any:
    match value:
        case str():
            return value if value in _OWN_WORDS else pattern.sub(HIDDEN, value)
        case list() | tuple():
            return [_scrub(one, pattern) for one in value]
        case dict():
            return {key: _scrub(one, pattern) for key, one in value.items()}
        case _:
            return value


def _pairs(url: str) -> list[str]:
    query = urlsplit(url).query
    return query.split("&") if query else []


def _hidden_pair(pair: str) -> str:
    name, is_named, _ = pair.partition("=")
    return f"{name}={HIDDEN}" if is_named else HIDDEN
