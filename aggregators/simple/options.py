"""What a `simple` aggregator can be told."""

from __future__ import annotations

from typing import Literal

import msgspec


class SimpleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the dialect.

    Attributes:
        method: `GET` puts the fields into the query, `POST` sends them as JSON.
    """

    method: Literal["GET", "POST"] = "GET"
