"""A replay from its beginning, or from where a crash has left it, to its end. In this process, without a supervisor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import msgspec

from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.log import get_logger
from datastreamx.place import Place
from flows.ports import Process
from flows.replaying.marker import Marker, Order, digest_of, read_marker, require_same, write_marker
from flows.replaying.meter import Meter
from flows.replaying.span import Span
from flows.replaying.stores import Site
from flows.replaying.tally import Tally
from flows.run import keep_panics_short, stop_on_signals

_log = get_logger("replay")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay has done, in this process.

    Attributes:
        result: Recovery store or dataset.
        is_finished: Whether nothing is left to do; else the same command goes on.
        is_resumed: An earlier process had begun; what it did is not counted here.
        from_ms: Unset: from the beginning of the log.
        events_read: Records of box-events.
        rows: By table: written to box-facts, or to the dataset.
        decisions_reused: Opportunities whose decision stood in the log.
        decisions_expired: Opportunities that were past without one, and were recorded as expired.
        dead_letters: Records that cannot be processed.
        caveats: What is not exact.
    """

    result: str
    is_finished: bool
    is_resumed: bool
    from_ms: int | None
    until_ms: int
    events_read: int
    rows: dict[str, int]
    decisions_reused: int
    decisions_expired: int
    dead_letters: int
    seconds: float
    events_per_second: int
    caveats: list[str]


class Work(Protocol):
    """One kind of replay."""

    @property
    def site(self) -> Site:
        """Where it builds."""

    @property
    def result(self) -> str:
        """What it makes, in words."""

    def prepare(self) -> None:
        """Refuse what must not be overwritten, and make what is missing; called once, before a replay begins."""

    def survey(self, span: Span) -> tuple[Meter, list[str]]:
        """Ask the broker what there is to read, and what of it is not exact."""

    def run(self, process: Process, span: Span, meter: Meter) -> None:
        """Read to the end of the span, or until `process.stop` is set."""

    def rows(self, tally: Tally) -> dict[str, int]:
        """Rows made so far, by table."""


Watch = Callable[[Meter], AbstractContextManager[None]]
"""Shows how far a replay is, as long as its context is open."""


def replay(config: Config, place: Place, work: Work, order: Order, watch: Watch) -> Summary:
    """Replay until it is done, or until SIGTERM or SIGINT, after which the same command goes on. In the main thread.

    Args:
        config: Whole configuration.
        place: Share of the work.
        work: What is made.
        order: What was asked for; an unfinished replay goes on with what that meant when it began.
        watch: Shows the progress.

    Raises:
        StateMismatchError: There is a store already, or an unfinished replay of something else.
        DatastreamXError: What stopped the replay.
    """
    keep_panics_short()
    stop = threading.Event()
    stop_on_signals(stop)
    site = work.site
    with site.locked():
        found = read_marker(site.marker)
        marker = _resumed(found, order, config, site) if found else _begun(order, config, work)
        span = marker.order.span
        tally, started_s = Tally(), time.monotonic()
        meter, caveats = work.survey(span)
        for caveat in caveats:
            _log.warning("replay.not_exact", detail=caveat)
        _log.info("replay.resumed" if found else "replay.begun", result=work.result, records=meter.total)
        if not marker.is_done:
            with ExitStack() as resources, watch(meter):
                spare_garbage_collection()
                work.run(Process(config, place, stop=stop, resources=resources), span, meter)
            if not stop.is_set():
                write_marker(site.marker, msgspec.structs.replace(marker, is_done=True))
        if not stop.is_set():
            site.install()
    seconds = time.monotonic() - started_s
    return Summary(
        result=work.result,
        is_finished=not stop.is_set(),
        is_resumed=found is not None,
        from_ms=span.from_ms,
        until_ms=span.until_ms,
        events_read=meter.events,
        rows=work.rows(tally),
        decisions_reused=tally.reused,
        decisions_expired=tally.expired,
        dead_letters=tally.dead_letters,
        seconds=round(seconds, 3),
        events_per_second=round(meter.events / seconds),
        caveats=caveats,
    )


def _begun(order: Order, config: Config, work: Work) -> Marker:
    work.site.require_vacancy()
    work.prepare()
    work.site.clear()
    marker = Marker(order=order, rules=digest_of(config))
    write_marker(work.site.marker, marker)
    return marker


def _resumed(found: Marker, order: Order, config: Config, site: Site) -> Marker:
    require_same(found, order.request, digest_of(config), site.marker)
    if not found.is_done:
        site.require_vacancy()
    return found
