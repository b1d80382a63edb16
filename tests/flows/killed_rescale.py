"""A rescale to three cells that kills itself: `python -m tests.flows.killed_rescale RECOVERY_DIRECTORY STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from flows.recovery.rescale import Rescale, rescale
from tests.flows.test_rescale import NOW, configured


def main() -> None:
    def on_step(step: str) -> None:
        if step == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

    rescale(Rescale(configured(Path(sys.argv[1])), "cells", 3), NOW, on_step)


if __name__ == "__main__":
    main()
