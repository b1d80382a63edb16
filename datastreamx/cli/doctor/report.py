"""Findings, and what they mean. Pure: everything that was measured comes in as a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from rich.console import RenderableType
from rich.text import Text

from datastreamx.cli.format import duration, plural, size
from datastreamx.cli.output import Exit

State = Literal["ok", "warn", "fail", "skip"]
Cause = Literal["config", "unreachable", "other"]

WANTED_PYTHON = (3, 11)
MIN_FREE_BYTES = 100 << 20
LOW_FREE_BYTES = 1 << 30
# The Date header has whole seconds, and the answer was some way to us.
CLOCK_WARN_MS = 1_500
# Connections to Kafka and BigQuery, stores, logs.
OTHER_FILES = 256


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    Attributes:
        what: What was checked.
        detail: What was found.
        remedy: What to do; empty when there is nothing to do.
        cause: Of a failure, for the exit code.
    """

    what: str
    state: State
    detail: str
    remedy: str = ""
    cause: Cause = "other"


def python_version(found: tuple[int, int]) -> Finding:
    """Whether Bytewax's wheel fits this interpreter."""
    text = ".".join(map(str, found))
    if found == WANTED_PYTHON:
        return Finding(what="Python", state="ok", detail=text)
    wanted = ".".join(map(str, WANTED_PYTHON))
    return Finding(what="Python", state="fail", detail=f"{text}, {wanted} is needed", remedy=f"use Python {wanted}")


def disk(directory: str, free_bytes: int) -> Finding:
    """Whether the recovery stores have room."""
    what, detail = "Recovery disk", f"{size(free_bytes)} free for {directory}"
    remedy = "free or add space: without it no snapshot can be written and the flow stops"
    if free_bytes < MIN_FREE_BYTES:
        return Finding(what=what, state="fail", detail=detail, remedy=remedy)
    if free_bytes < LOW_FREE_BYTES:
        return Finding(what=what, state="warn", detail=detail, remedy=remedy)
    return Finding(what=what, state="ok", detail=detail)


def clock(ahead_ms: int | None, of_whom: str, decision_budget_ms: int) -> Finding:
    """Whether this machine's clock lets deadlines be met.

    Args:
        ahead_ms: How far this clock is ahead of a server's, 0 within the precision; `None`: no server told its time.
        of_whom: That server.
        decision_budget_ms: `viewing.decision_budget_ms`: with a clock further off every auction is late, or every push.
    """
    if ahead_ms is None:
        return Finding(what="Clock", state="skip", detail="no server told its time")
    if abs(ahead_ms) <= CLOCK_WARN_MS:
        return Finding(what="Clock", state="ok", detail=f"agrees with {of_whom}")
    detail = f"{duration(abs(ahead_ms))} {'ahead of' if ahead_ms > 0 else 'behind'} {of_whom}"
    state: State = "fail" if abs(ahead_ms) > max(decision_budget_ms, CLOCK_WARN_MS) else "warn"
    return Finding(
        what="Clock", state=state, detail=detail, remedy="synchronise the clock (NTP, chrony): deadlines rest on it"
    )


def clock_ahead_ms(sent_ms: int, received_ms: int, server_ms: int) -> int:
    """How far our clock is surely ahead of a server's (negative: behind) that said `server_ms`, whole seconds.

    The server meant any moment of that second, and said it at any moment between sending and receiving.
    """
    if sent_ms > server_ms + 999:
        return sent_ms - (server_ms + 999)
    return min(0, received_ms - server_ms)


def open_files(limit: int, concurrency: int, aggregators: int) -> Finding:
    """Whether as many connections may be open as auctions may need."""
    needed = concurrency * aggregators + OTHER_FILES
    detail = f"{limit:,} open files allowed, up to {needed:,} needed"
    if limit >= needed:
        return Finding(what="Open files", state="ok", detail=detail)
    return Finding(
        what="Open files",
        state="warn",
        detail=f"{detail} (auction.concurrency for {plural(aggregators, 'aggregator')})",
        remedy=f"raise the limit (ulimit -n {needed}) or lower auction.concurrency",
    )


def exit_code(findings: Iterable[Finding]) -> Exit:
    """A wrong configuration before what does not answer, before all other failures; warnings are none."""
    causes = {finding.cause for finding in findings if finding.state == "fail"}
    if "config" in causes:
        return Exit.CONFIG
    if "unreachable" in causes:
        return Exit.UNREACHABLE
    return Exit.FAILED if causes else Exit.OK


def render(findings: list[Finding]) -> list[RenderableType]:
    """One line per finding, remedies below, a summary at the end."""
    width = max(len(finding.what) for finding in findings)
    styles: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
    lines: list[RenderableType] = []
    for finding in findings:
        lines.append(
            Text.assemble((f"{finding.state:<5}", styles[finding.state]), f"{finding.what:<{width}}  {finding.detail}")
        )
        if finding.remedy:
            lines.append(Text(f"     {'':<{width}}  -> {finding.remedy}", styles[finding.state]))
    return [*lines, Text(summary(findings))]


def summary(findings: list[Finding]) -> str:
    """The last line."""
    failed = sum(finding.state == "fail" for finding in findings)
    warned = sum(finding.state == "warn" for finding in findings)
    checks = plural(len(findings), "check")
    if failed:
        return f"{checks}: {failed} failed" + (f", {plural(warned, 'warning')}" if warned else "") + "."
    return f"{checks}: {plural(warned, 'warning')}, nothing that must be fixed." if warned else f"{checks}: all well."
