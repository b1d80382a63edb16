"""Well-formed answers whose offer nobody may accept."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from msgspec.structs import replace

from simulator.aggregators.dialects import vast
from simulator.aggregators.dialects.contract import Offer
from simulator.aggregators.modes.exchange import Exchange, Mode
from simulator.aggregators.modes.failures import CARELESS_PATH

NOT_NUMBERS = ("NaN", "Infinity", "-Infinity")
HUGE_PRICES = (
    "9223372036854.775808",  # 2^63 micros
    "1e300",
    "1e999999999",  # an integer of 400 MB, for who multiplies before looking
    "9" * 5_000,  # beyond what int() takes
)
UNASKED_CURRENCY = "XTS"
"""ISO 4217 keeps it for tests: no table of rates has it."""
BLOCKED_DOMAIN = "blocked.example"
"""Whose ad is offered in the mode `blocked_advertiser` to an auction that blocks nobody by name."""

Spoil = Callable[[Exchange, Offer], Offer]


async def wrong_id(exchange: Exchange) -> web.StreamResponse:
    """Answer somebody else's auction."""
    await exchange.wait()
    stranger = replace(exchange.ask, auction_id=f"not-{exchange.ask.auction_id}")
    return exchange.answer(replace(exchange, ask=stranger).some_bid())


def _wrong_imp(_exchange: Exchange, offer: Offer) -> Offer:
    return replace(offer, imp_id=f"not-{offer.imp_id}")


def _nan_price(exchange: Exchange, offer: Offer) -> Offer:
    return replace(offer, price=_picked(exchange, NOT_NUMBERS))


def _negative_price(_exchange: Exchange, offer: Offer) -> Offer:
    return replace(offer, price=f"-{offer.price}")


def _huge_price(exchange: Exchange, offer: Offer) -> Offer:
    return replace(offer, price=_picked(exchange, HUGE_PRICES))


def _wrong_currency(_exchange: Exchange, offer: Offer) -> Offer:
    return replace(offer, currency=UNASKED_CURRENCY)


def _http_creative(_exchange: Exchange, offer: Offer) -> Offer:
    ad = replace(offer.ad, url=offer.ad.url.replace("https://", "http://"))
    return replace(offer, ad=ad, creative="url" if offer.creative == "preloaded" else offer.creative)


def _long_creative(exchange: Exchange, offer: Offer) -> Offer:
    return replace(offer, ad=replace(offer.ad, duration_ms=exchange.ask.break_ms + 1_000))


def _blocked_advertiser(exchange: Exchange, offer: Offer) -> Offer:
    domain = _picked(exchange, exchange.ask.blocked or (BLOCKED_DOMAIN,))
    return replace(offer, ad=replace(offer.ad, advertiser_domain=domain))


def _bad_vast(exchange: Exchange, offer: Offer) -> Offer:
    """External entity from a file, one from the network, an external DTD, and entities that grow."""
    fetched = f"{exchange.server_url}{CARELESS_PATH}"
    laughs = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    prolog = _picked(
        exchange,
        (
            '<!DOCTYPE VAST [<!ENTITY e9 SYSTEM "file:///etc/passwd">]>',
            f'<!DOCTYPE VAST [<!ENTITY e9 SYSTEM "{fetched}">]>',
            f'<!DOCTYPE VAST SYSTEM "{fetched}">',
            f'<!DOCTYPE VAST [<!ENTITY e0 "ha">{laughs}]>',
        ),
    )
    document = vast.document(offer.ad, price=offer.price, currency=offer.currency)
    return replace(offer, document=prolog + document.replace("<AdTitle>", "<AdTitle>&e9;", 1))


def _picked(exchange: Exchange, choices: tuple[str, ...]) -> str:
    # The auction decides, so that a repeated request gets the same answer and a test can name the one it wants.
    return choices[int(exchange.plan.pick * len(choices))]


def _spoiling(spoil: Spoil) -> Mode:
    async def send(exchange: Exchange) -> web.StreamResponse:
        await exchange.wait()
        return exchange.answer(exchange.some_bid(lambda offer: spoil(exchange, offer)))

    return send


SPOILT: dict[str, Mode] = {
    "wrong_id": wrong_id,
    "wrong_imp": _spoiling(_wrong_imp),
    "nan_price": _spoiling(_nan_price),
    "negative_price": _spoiling(_negative_price),
    "huge_price": _spoiling(_huge_price),
    "wrong_currency": _spoiling(_wrong_currency),
    "bad_vast": _spoiling(_bad_vast),
    "http_creative": _spoiling(_http_creative),
    "long_creative": _spoiling(_long_creative),
    "blocked_advertiser": _spoiling(_blocked_advertiser),
}
