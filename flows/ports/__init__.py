"""What the flows touch of the outside world, as one value each: live, replayed and tested runs share the graph.

One module per flow, so that the ads flow does not load BigQuery's client and is back the sooner after a crash.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from datastreamx.config import Config, load_config
from datastreamx.errors import ConfigError
from datastreamx.place import Place
from datastreamx.pulse import Pulse

CONFIG_VARIABLE = "DATASTREAMX_CONFIG"


@dataclass(frozen=True)
class Process:
    """The process that a flow runs in.

    Attributes:
        config: Whole configuration.
        place: Its share of the work.
        pulse: Beats wherever the flow may spend long.
        stop: Ends the flow with a last snapshot when set.
        resources: What has to be closed after the flow goes onto this stack.
        accept_store: Go on with a recovery store that the broker knows to be old, foreign or gone.
    """

    config: Config
    place: Place = field(default_factory=Place)
    pulse: Pulse = field(default_factory=Pulse)
    stop: threading.Event = field(default_factory=threading.Event)
    resources: ExitStack = field(default_factory=ExitStack)
    accept_store: bool = False


def config_from_environment() -> Config:
    """Configuration that the environment names.

    Raises:
        ConfigError: It names none, or one that is not usable.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise ConfigError("the environment", [f"{CONFIG_VARIABLE} is not set; let it name the configuration file"])
    return load_config(Path(path))
