"""Numbers as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

_KIB = 1024
_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000


def duration(ms: int) -> str:
    """`850 ms`, `12.3 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`."""
    if ms < 0:
        return f"-{duration(-ms)}"
    if ms < _SECOND_MS:
        return f"{ms} ms"
    if ms < _MINUTE_MS:
        return f"{ms // 100 / 10:.1f} s"
    if ms < _HOUR_MS:
        return f"{ms // _MINUTE_MS} min {ms % _MINUTE_MS // _SECOND_MS} s"
    if ms < _DAY_MS:
        return f"{ms // _HOUR_MS} h {ms % _HOUR_MS // _MINUTE_MS} min"
    return f"{ms // _DAY_MS} d {ms % _DAY_MS // _HOUR_MS} h"


def size(count: float) -> str:
    """Bytes as `512 B`, `3.4 MiB`, `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KIB:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} TiB"


def cpm(price_micros: int, currency: str | None) -> str:
    """Price per thousand displays: `4.25 USD`."""
    return f"{price_micros / 1_000_000:.2f} {currency or ''}".rstrip()


def utc(ms: int) -> str:
    """`2026-01-31 12:00:00.123 UTC`."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{ms % 1000:03d} UTC"


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """`1 table`, `1,200 tables`."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def one_line(text: str) -> str:
    """Without line breaks and runs of spaces."""
    return " ".join(text.split())
