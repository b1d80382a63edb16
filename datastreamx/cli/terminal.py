"""Results as a person reads them, and what only a person wants to see."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table

from datastreamx.cli.output import is_interactive, say, stderr

# No line of ours is longer; a pipe has no width.
_PIPE_WIDTH = 100_000


def show(*results: RenderableType) -> None:
    """Results for a person, on standard output; in a pipe no line is broken."""
    console = Console(highlight=False)
    if console.is_terminal:
        for result in results:
            console.print(result, markup=False)
        return
    console = Console(highlight=False, width=_PIPE_WIDTH)
    with console.capture() as capture:
        for result in results:
            console.print(result, markup=False)
    # Tables are padded to equal width, which nobody sees but a diff.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in `numbers` are aligned to the right."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def indented(part: RenderableType) -> Padding:
    """`part`, two columns to the right."""
    return Padding(part, (0, 0, 0, 2), expand=False)


def next_step(message: str) -> None:
    """What to do next, for a person only."""
    if is_interactive():
        say(f"Next: {message}")


@contextmanager
def working(on: str) -> Iterator[None]:
    """Show that something takes its time, to a person only."""
    if not is_interactive():
        yield
        return
    with stderr.status(on):
        yield
