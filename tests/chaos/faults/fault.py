"""What all faults have in common."""

from __future__ import annotations

from random import Random
from typing import NamedTuple, Protocol

from tests.chaos.rig import Rig


class Struck(NamedTuple):
    """What a fault did.

    Attributes:
        where: What it struck, and how.
        met: What was going on there.
    """

    where: str
    met: str = ""


class Fault(Protocol):
    """A kind of fault."""

    def strike(self, rig: Rig, rng: Random) -> Struck:
        """Do it now; `rng` decides where and how, and nobody else draws from it.

        On return every process runs or is being started; what is in force for a while is in `rig.weather`.
        """
