"""The result of a campaign, for people and for programs."""

from __future__ import annotations

import os

import msgspec

from tests.chaos.verdict import PROMISES as OF_DATA
from tests.k8s.podlet.campaign.campaign import Result
from tests.k8s.podlet.campaign.story import PROMISES

_SHOWN = 5


def as_text(result: Result) -> str:
    """The verdict: what each story measured, one line for each promise, and how to repeat it."""
    load = " and ".join(f"{one:.1f}" for one in result.load)
    lines = [f"seed {result.seed}, {result.duration_s:.0f} s, load {load} on {os.cpu_count()} cores"]
    for story in result.stories:
        lines.append(story.name)
        lines += [f"        {name}: {figure}" for name, figure in story.figures.items()]
        for promise, found in story.broken.items():
            lines += _line(PROMISES[promise], len(found), found)
    if result.verdict is not None:
        lines.append("in the end: " + ", ".join(f"{count} {name}" for name, count in result.verdict.figures.items()))
        for name, words in OF_DATA.items():
            one = result.verdict.violations[name]
            lines += _line(words, one.count, one.examples)
    if result.error is not None:
        lines.append(f"the campaign could not go on: {result.error}")
    if not result.holds:
        lines.append(f"files: {result.directory}")
    return "\n".join([*lines, f"repeat it: {result.command}"])


def as_json(result: Result) -> str:
    """Everything, as one JSON object."""
    body = msgspec.to_builtins(result) | {"holds": result.holds}
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def _line(words: str, count: int, found: list[str]) -> list[str]:
    head = f"  {'FAIL' if found else 'ok  '}  {words}" + (f": {count}" if found else "")
    return [head, *(f"          {example}" for example in found[:_SHOWN])]
