"""What is wrong with a route."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Cut = Literal["none", "black_hole", "one_way", "half_open", "reset"]


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be changed while the proxy runs; the default spoils nothing.

    Attributes:
        cut: `black_hole`: nothing passes in either direction, and whoever connects hears nothing. `one_way`: requests
            pass, answers do not. Both let go of what they held when they end, as TCP does after a network was away.
            `half_open`: the server's side of every connection is closed and the client is not told; it gets a reset
            when this ends. `reset`: every connection is reset, and every new one.
        delay_ms: Every piece of data takes this much longer, in each direction; the order stays.
        bytes_per_s: At most, in each direction of each connection; 0 is no limit.
    """

    cut: Cut = "none"
    delay_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0
    bytes_per_s: Annotated[int, Meta(ge=0)] = 0


class RouteReport(msgspec.Struct, frozen=True, kw_only=True):
    """A route as it is now.

    Attributes:
        links: Connections that are open.
        accepted: Connections since the start.
        resets: Connections that were reset, also because the server could not be reached.
        bytes_up: Passed on to the server; `bytes_down` to clients.
    """

    condition: Condition
    links: int
    accepted: int
    resets: int
    bytes_up: int
    bytes_down: int
