"""How a history that went wrong is told: what does not hold, what was done last, and how to see it again."""

from __future__ import annotations

from tests.simulation.history import Outcome

_FAULTS = 15
_PROBLEMS = 3


def failure(outcome: Outcome, plant: str | None = None) -> str:
    """A paragraph for a human."""
    again = f"python -m tests.simulation --seed {outcome.seed} --trace" + (f" --plant '{plant}'" if plant else "")
    lines = [f"seed {outcome.seed}:"]
    for invariant, problems in outcome.broken.by_invariant.items():
        lines.append(f"  broken: {invariant} ({len(problems)} findings)")
        lines += [f"    {problem}" for problem in problems[:_PROBLEMS]]
    lines.append(f"  the last of {len(outcome.faults)} faults:")
    lines += [f"    {moment.at_ms:>8} ms  {moment.who}: {moment.what}" for moment in outcome.faults[-_FAULTS:]]
    lines.append(f"  again, with every step: {again}")
    return "\n".join(lines)
