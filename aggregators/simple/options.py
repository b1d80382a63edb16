"""What a `simple` aggregator can be told."""

from __future__ import annotations

from typing import Literal

import msgspec


class SimpleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the dialect.

    Attributes:
        method: `GET` puts the fields into the query, `POST` sends them as JSON.
        send_history: Whether the last channel and the last ad are sent; they are viewing history.
    """

    method: Literal["GET", "POST"] = "GET"
    send_history: bool = True
