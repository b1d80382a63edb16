"""Results as a person reads them, and what only a person wants to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from datastreamx.cli.output import is_interactive, say, stderr

# No line of ours is longer; a pipe has no width.
_PIPE_WIDTH = 100_000


def show(*results: RenderableType) -> None:
    """Results for a person, on standard output; in a pipe no line is broken."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    for result in results:
        console.print(result, markup=False)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in `numbers` are aligned to the right."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


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
