"""What may lie in the recovery store of each flow: its stateful steps, their keys, and what their values tell."""

from flows.recovery.steps.flows import FLOWS, steps_of
from flows.recovery.steps.step import Step

__all__ = ["FLOWS", "Step", "steps_of"]
