"""What the flows touch of the outside world, as one value each: live, replayed and tested runs share the graph.

One module per flow, so that the ads flow does not load BigQuery's client and is back the sooner after a crash.
"""

from __future__ import annotations

import os
from pathlib import Path

from datastreamx.config import Config, load_config
from datastreamx.errors import ConfigError

CONFIG_VARIABLE = "DATASTREAMX_CONFIG"


def config_from_environment() -> Config:
    """Configuration that the environment names.

    Raises:
        ConfigError: It names none, or one that is not usable.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise ConfigError("the environment", [f"{CONFIG_VARIABLE} is not set; let it name the configuration file"])
    return load_config(Path(path))
