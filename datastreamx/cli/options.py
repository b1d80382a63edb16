"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("datastreamx.toml")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="DATASTREAMX_CONFIG", help="Configuration file (TOML).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
