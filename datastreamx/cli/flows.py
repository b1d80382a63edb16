"""The option that names flows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Flow(StrEnum):
    """Every flow; Typer reads lists of an enumeration, but not of literals."""

    ADS = "ads"
    WAREHOUSE = "warehouse"
    NOTICES = "notices"


FlowsOption = Annotated[
    list[Flow] | None,
    typer.Option("--flow", help="Only this flow; may be repeated. Without it all that have a recovery store."),
]
BackedUpFlowsOption = Annotated[
    list[Flow] | None,
    typer.Option("--flow", help="Only this flow; may be repeated. Without it all in the backup."),
]
