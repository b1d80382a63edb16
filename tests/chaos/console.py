"""A campaign on the command line: what happens on standard error, the verdict on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

from datastreamx.cli.ending import ends_on_sigterm
from tests.chaos.journal import Entry


class Ended(Protocol):
    """A campaign that has ended."""

    error: str | None

    @property
    def holds(self) -> bool:
        """Whether every promise was kept to the end."""
        ...


R = TypeVar("R", bound=Ended)


def play(command: str, campaign: Callable[[Callable[[Entry], None]], R], render: Callable[[R], str]) -> int:
    """Play it, tell what happens, and write the verdict; the exit code.

    Args:
        command: What repeats it.
        campaign: Takes what is called with everything that happens.
        render: The verdict as text.

    Returns:
        0: every promise was kept. 1: one was broken. 2: the campaign could not go on.
    """
    # Like Ctrl-C, so that nothing stays behind.
    ends_on_sigterm()
    sys.stderr.write(f"{command}\n")
    result = campaign(_tell)
    sys.stdout.write(f"{render(result)}\n")
    if result.error is not None:
        return 2
    return 0 if result.holds else 1


def _tell(entry: Entry) -> None:
    sys.stderr.write(f"{entry}\n")
    sys.stderr.flush()
