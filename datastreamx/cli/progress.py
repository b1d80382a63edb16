"""What a long command is doing, for a person who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datastreamx.cli.output import is_interactive, stderr


@contextmanager
def progress(first: str) -> Iterator[Callable[[str], None]]:
    """A line that tells what was done last, beginning with `first`; nothing where nobody watches."""
    if not is_interactive():
        yield lambda _: None
        return
    with stderr.status(f"{first} ...") as line:
        yield lambda step: line.update(f"{step} ...")
