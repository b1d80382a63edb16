"""The result of a campaign, for people and for programs."""

from __future__ import annotations

import msgspec

from tests.chaos.campaign import Result
from tests.chaos.verdict import PROMISES


def as_text(result: Result) -> str:
    """The verdict: what happened, one line for each promise, and how to repeat it."""
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(result.struck.items()))
    lines = [f"seed {result.seed}, {result.kills} kills in {result.duration_s:.0f} s: {faults}"]
    if result.skipped:
        lines.append(f"cannot be had here: {', '.join(result.skipped)}")
    lines.append(", ".join(f"{count} {name}" for name, count in result.verdict.figures.items()))
    for name, words in PROMISES.items():
        found = result.verdict.violations[name]
        mark = "FAIL" if found.examples else "ok  " if result.error is None else "?   "
        lines.append(f"  {mark}  {words}: {found.count}")
        lines += [f"          {example}" for example in found.examples]
    if result.error is not None:
        lines.append(f"the campaign could not go on: {result.error}")
    if not result.holds:
        lines.append(f"files: {result.directory}\nrepeat it: {result.command}")
    return "\n".join(lines)


def as_json(result: Result) -> str:
    """Everything, as one JSON object."""
    body = msgspec.to_builtins(result) | {"holds": result.holds, "kills": result.kills}
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
