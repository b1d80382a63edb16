"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_CONFIG = Path("datastreamx.toml")

FlowName = Literal["ads", "warehouse", "notices"]

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="DATASTREAMX_CONFIG", help="Configuration file (TOML).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

FlowArgument = Annotated[FlowName, typer.Argument(help="Which flow.")]
OrdinalOption = Annotated[
    int | None,
    typer.Option(min=0, help="Number of this cell, or process of the cluster; else $DATASTREAMX_ORDINAL, else 0."),
]
JsonLogsOption = Annotated[bool, typer.Option("--json", help="Write logs as JSON lines.")]
AcceptStoreOption = Annotated[
    bool,
    typer.Option(
        "--accept-store",
        help="Go on with a recovery store that the broker knows to be old, foreign or gone. See docs/runbook.md first.",
    ),
]
