"""The end of a replay, for a person."""

from __future__ import annotations

from datastreamx.cli.output import say
from datastreamx.cli.terminal import next_step
from flows.replaying.run import Summary
from flows.replaying.span import iso


def tell(summary: Summary) -> None:
    """Say on standard error what was done and what to do next."""
    for line in lines(summary):
        say(line)
    if not summary.is_finished:
        next_step("the same command goes on from here")


def lines(summary: Summary) -> list[str]:
    """What was done, line by line."""
    what = "replayed" if summary.is_finished else "stopped; so far replayed"
    rows = ", ".join(f"{count:,} {table}" for table, count in summary.rows.items()) or "none"
    found = [
        f"{what} {summary.events_read:,} events from {iso(summary.from_ms)} until {iso(summary.until_ms)} in "
        f"{summary.seconds:.1f} s ({summary.events_per_second:,} events/s)"
        + (", besides what was done before" if summary.is_resumed else ""),
        f"rows: {rows}; dead letters: {summary.dead_letters:,}",
    ]
    if summary.decisions_reused or summary.decisions_expired:
        found.append(
            f"opportunities: {summary.decisions_reused:,} were decided already, "
            f"{summary.decisions_expired:,} had expired"
        )
    if summary.is_finished:
        found.append(f"made: {summary.result}")
    return found
