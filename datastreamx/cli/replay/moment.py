"""Moments as a person writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import typer

BEGINNING = "beginning"

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def moment_ms(text: str, now_ms: int) -> int:
    """Epoch milliseconds of an ISO 8601 time (UTC if it names no zone) or of a time ago, such as `90s`, `2h` or `3d`.

    Raises:
        typer.BadParameter: It is neither, or lies in the future.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return now_ms - round(float(ago[1]) * _SECONDS[ago[2]] * 1000)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write for example 2026-11-23T06:00:00Z, or 2h for two hours ago"
        ) from None
    found_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if found_ms > now_ms:
        raise typer.BadParameter(f"{text!r} lies in the future; only what has happened can be replayed")
    return found_ms
