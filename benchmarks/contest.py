"""Contestants in turns: every figure beside its yardstick in the same run.

A contestant is a command that does a stated amount of work once, in a process of its own, and prints what it took as
JSON. Processes start from nothing, so that no contestant inherits the heap of another; they take turns, so that a busy
minute of the machine hits all; and what is compared is the ratio within one turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.machine import Spread, spread
from flows.bench.effort import Effort
from flows.bench.machine import on_core

ROOT = Path(__file__).resolve().parent.parent


class Standing(msgspec.Struct, frozen=True):
    """One contestant over all turns.

    Attributes:
        per_s: Units per second.
        cpu_us: Microseconds of CPU per unit.
        peak_mib: Largest resident memory.
        speed: Units per second over those of the yardstick, turn by turn.
        cpu: Microseconds of CPU over those of the yardstick, turn by turn.
        more: The contestant's other figures.
    """

    name: str
    per_s: Spread
    cpu_us: Spread
    peak_mib: Spread
    speed: Spread
    cpu: Spread
    more: dict[str, Spread]


@dataclass(frozen=True)
class Contestant:
    """A name and the command that does its work once and prints an `Effort`.

    Attributes:
        core: The one core that it may use; `None`: all.
    """

    name: str
    argv: Sequence[str]
    core: int | None = 0
    environment: Mapping[str, str] | None = None


def tell(effort: Effort) -> None:
    """The contestant's last word."""
    sys.stdout.write(msgspec.json.encode(effort).decode() + "\n")


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """Command of a contestant that is a module of ours."""
    return (sys.executable, "-m", name, *arguments)


def compare(contestants: Sequence[Contestant], rounds: int, yardstick: str) -> list[Standing]:
    """Let all do their work `rounds` times, in turns.

    Raises:
        SystemExit: One of them failed; what it said goes to standard error.
    """
    efforts: dict[str, list[Effort]] = {one.name: [] for one in contestants}
    for number in range(rounds):
        for one in contestants:
            effort = run(one)
            efforts[one.name].append(effort)
            sys.stderr.write(
                f"  turn {number + 1} of {rounds}: {one.name} {effort.per_s:,.0f}/s, {effort.cpu_us:.2f} µs each\n"
            )
    return [standing(name, own, efforts[yardstick]) for name, own in efforts.items()]


def standing(name: str, own: Sequence[Effort], yardstick: Sequence[Effort]) -> Standing:
    """Medians and ends; ratios are taken turn by turn."""
    turns = list(zip(own, yardstick, strict=True))
    return Standing(
        name=name,
        per_s=spread([one.per_s for one in own]),
        cpu_us=spread([one.cpu_us for one in own]),
        peak_mib=spread([one.peak_mib for one in own]),
        speed=spread([one.per_s / other.per_s for one, other in turns]),
        cpu=spread([one.cpu_us / other.cpu_us for one, other in turns]),
        more={key: spread([one.more[key] for one in own]) for key in own[0].more},
    )


def run(one: Contestant) -> Effort:
    """One turn of one contestant.

    Raises:
        SystemExit: See `compare`.
    """
    with on_core(one.core):
        done = subprocess.run(  # noqa: S603 - our own command
            one.argv,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=None if one.environment is None else {**os.environ, **one.environment},
        )
    if done.returncode != 0:
        raise SystemExit(f"{one.name} failed with {done.returncode}: {' '.join(one.argv)}\n{done.stderr[-4000:]}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Effort)
