"""SIGTERM for commands that no supervisor starts."""

from __future__ import annotations

import signal


def ends_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what was begun is taken back, exit code 130.

    The kernel does not deliver it to the first process of a container that has no handler for it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
