"""What the aggregator understands and says. Written from the protocols, not from our adapters, so that both are tested.

A dialect is strict about what it needs: a request without it is answered with 400 and counted.
"""

from __future__ import annotations

from simulator.aggregators.dialects.contract import Dialect
from simulator.aggregators.dialects.openrtb import OPENRTB
from simulator.aggregators.dialects.simple import SIMPLE
from simulator.aggregators.dialects.vasttag import VASTTAG

DIALECTS: dict[str, Dialect] = {"openrtb": OPENRTB, "simple": SIMPLE, "vasttag": VASTTAG}
