"""A test of an aggregator for a person. Pure."""

from __future__ import annotations

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from datastreamx.cli.aggregator.redact import printable
from datastreamx.cli.aggregator.report import (
    BidTold,
    CasesTold,
    ExchangeTold,
    Listed,
    NoticeTold,
    PhasesTold,
    ProbeTold,
    Tested,
)
from datastreamx.cli.format import cpm, duration, plural, size, utc
from datastreamx.cli.terminal import indented, table

WIDTH = 48
"""Characters of the time line."""

_MAX_BODY_LINES = 80
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def render(tested: Tested, now_ms: int) -> list[RenderableType]:
    """Cases, probe, verdict."""
    parts = _cases(tested.cases)
    if tested.probe is not None:
        parts += [Text(), *_probe(tested.probe, now_ms)]
    style = "green" if tested.ok else "red"
    parts += [Text(), Text(printable(tested.verdict), f"bold {style}")]
    if tested.remedy:
        parts.append(Text(f"-> {printable(tested.remedy)}", style))
    return parts


def render_list(listed: Listed) -> list[RenderableType]:
    """Aggregators, then dialects."""
    configured = table("Aggregator", "Dialect", "Host", "Timeout", "Notices", "Withheld", numbers=("Timeout",))
    for one in listed.aggregators:
        configured.add_row(
            *map(Text, (one.name, one.dialect, one.host, f"{one.timeout_ms} ms")),
            *(Text(", ".join(names) or "none") for names in (one.notices, one.withhold)),
        )
    known = table("Dialect", "Exemplary", "Supplemental", numbers=("Exemplary", "Supplemental"))
    for dialect in listed.dialects:
        known.add_row(Text(dialect.name), str(dialect.exemplary), str(dialect.supplemental))
    return [configured, Text(), known]


def timeline(phases: PhasesTold, timeout_ms: int) -> list[str]:
    """One line per phase, to one scale; `|` is where an auction stops waiting.

    Args:
        phases: Those that were not measured are left out.
        timeout_ms: End of the wait. Not drawn if it is more than twice the time that was needed.
    """
    total_us, limit_us = max(phases.total_us, 1), timeout_ms * 1000
    end_us = max(total_us, limit_us) if limit_us <= 2 * total_us else total_us
    resolved_us = phases.dns_us or 0
    connected_us = resolved_us + (phases.connect_us or 0)
    spans = [
        ("name lookup", 0, phases.dns_us and resolved_us),
        ("connect", resolved_us, phases.connect_us and connected_us),
    ]
    if phases.first_byte_us is None:
        is_open = phases.connection_reused or phases.connect_us is not None
        spans.append(("waiting" if is_open else "connecting", connected_us, total_us))
    else:
        spans += [("first byte", connected_us, phases.first_byte_us), ("body", phases.first_byte_us, total_us)]
    limit_at = round(limit_us * WIDTH / end_us) if limit_us <= end_us else None
    lines = [
        f"{label:<11} {(until_us - since_us) / 1000:>8.1f} ms  {_drawn(since_us, until_us, end_us, limit_at)}"
        for label, since_us, until_us in spans
        if until_us is not None
    ]
    return [*lines, f"{'total':<11} {phases.total_us / 1000:>8.1f} ms  of {timeout_ms} ms in an auction"]


def _drawn(since_us: int, until_us: int, end_us: int, limit_at: int | None) -> str:
    since, until = (round(moment * WIDTH / end_us) for moment in (since_us, until_us))
    # What was measured is seen, however short.
    line = list(" " * since + "#" * max(1, until - since))
    if limit_at is not None:
        line += " " * (limit_at + 1 - len(line))
        line[limit_at] = "|"
    return "".join(line)


def _cases(cases: CasesTold) -> list[RenderableType]:
    style = "red" if cases.failures else "green"
    parts: list[RenderableType] = [
        Text.assemble(("Cases", "bold"), f"  {cases.dialect}: ", (f"{cases.passed} of {cases.total} pass", style))
    ]
    for failure in cases.failures:
        parts += [Text(), Text(f"{failure.case} failed", "red")]
        parts += [indented(_diff(problem)) for problem in failure.problems]
    return parts


def _diff(problem: str) -> Text:
    text = Text()
    for line in printable(problem).splitlines():
        text.append(f"{line}\n", _DIFF_STYLES.get(line[:1], ""))
    text.right_crop(1)
    return text


def _probe(probe: ProbeTold, now_ms: int) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text.assemble(("Probe", "bold"), f"  {probe.aggregator} at {utc(now_ms)}, auction {probe.auction_id}"),
        indented(Text(_terms(probe), "dim")),
    ]
    for exchange in probe.exchanges:
        parts += [Text(), *_exchange(exchange, probe.phases)]
    if probe.phases is not None:
        parts += [Text(), Text("Time", "bold"), indented(Text("\n".join(timeline(probe.phases, probe.timeout_ms))))]
    if probe.bids or probe.flawed:
        parts += [Text(), Text("Bids", "bold"), indented(_bids(probe))]
    notices = [(bid, notice) for bid in probe.bids for notice in bid.notices]
    if notices:
        parts += [Text(), Text("Notices it asks for (a test sends none)", "bold"), indented(_notices(notices))]
    return parts


def _terms(probe: ProbeTold) -> str:
    ads = f"up to {plural(probe.max_ads, 'ad')}" if probe.max_ads > 1 else "one ad"
    marked = "marked as a test" if probe.marked else "not marked as a test: the dialect cannot say so"
    floor = cpm(probe.floor_micros, probe.currency)
    told = "" if probe.tmax_ms is None else f", told to answer within {probe.tmax_ms} ms"
    return (
        f"channel {printable(probe.channel_id)}, {duration(probe.slot_ms)} for {ads}, floor {floor} CPM{told}\n"
        f"no viewing history; {marked}"
    )


def _exchange(exchange: ExchangeTold, phases: PhasesTold | None) -> list[RenderableType]:
    request, reply = exchange.request, exchange.reply
    parts: list[RenderableType] = [
        Text("Request", "bold"),
        indented(Text(printable(f"{request.method} {request.url}"))),
        indented(_headers(request.headers)),
    ]
    if request.body is not None:
        parts.append(indented(_body(request.body)))
    parts += [Text(), Text("Reply", "bold")]
    if reply is None:
        begun = phases is not None and phases.first_byte_us is not None
        return [*parts, indented(Text("it had begun, but is not whole" if begun else "none", "yellow"))]
    connection = "" if phases is None else f", {'an open' if phases.connection_reused else 'a new'} connection"
    parts.append(indented(Text(f"status {reply.status}, {size(reply.body_bytes)}{connection}")))
    parts.append(indented(_headers(reply.headers)))
    return [*parts, indented(_body(reply.body))] if reply.body else parts


def _headers(headers: dict[str, str]) -> Text:
    return Text(printable("\n".join(f"{name}: {value}" for name, value in headers.items())), "dim")


def _body(body: str) -> Text:
    lines = printable(_pretty(body)).splitlines()
    left = len(lines) - _MAX_BODY_LINES
    return Text(
        "\n".join(lines[:_MAX_BODY_LINES] + ([f"... {plural(left, 'more line')}, see --json"] if left > 0 else []))
    )


def _pretty(body: str) -> str:
    """JSON with one value per line; anything else, and JSON that is broken, as it is."""
    try:
        # Decoded first: the formatter looks neither at syntax nor at depth.
        msgspec.json.decode(body)
        return msgspec.json.format(body, indent=2)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return body


def _bids(probe: ProbeTold) -> Table:
    made = table("Bid", "CPM", "Ad", "Length", "Verdict", "Why", numbers=("CPM", "Length"))
    for bid in probe.bids:
        made.add_row(
            Text(printable(bid.bid_id)),
            _price(bid, probe.currency),
            Text(printable(f"{bid.ad_id} ({bid.advertiser_domain or 'advertiser not named'})")),
            "" if bid.duration_ms is None else duration(bid.duration_ms),
            Text("can win", "green") if bid.can_win else Text(bid.code or "", "red"),
            Text(printable(bid.detail or (f"rates {bid.rate_id}" if bid.rate_id else ""))),
        )
    for flawed in probe.flawed:
        made.add_row("", "", "", "", Text(flawed.code, "red"), Text(printable(flawed.detail)))
    return made


def _price(bid: BidTold, currency: str) -> Text:
    offered = cpm(bid.offered_micros, bid.offered_currency)
    if bid.price_micros is None or bid.offered_currency == currency:
        return Text(printable(offered))
    return Text(printable(f"{cpm(bid.price_micros, currency)} ({offered})"))


def _notices(notices: list[tuple[BidTold, NoticeTold]]) -> Table:
    made = table("Bid", "Event", "In production", "Address")
    for bid, notice in notices:
        if notice.objection is not None:
            told = Text(printable(f"never: {notice.objection}"), "red" if notice.wanted else "yellow")
        elif notice.wanted:
            told = Text("sent", "green")
        else:
            told = Text("not sent: not in its `notices`", "dim")
        # The reply above has the rest.
        address, has_query, _ = notice.url.partition("?")
        made.add_row(
            Text(printable(bid.bid_id)), notice.event, told, Text(printable(f"{address}{has_query and '?...'}"))
        )
    return made
