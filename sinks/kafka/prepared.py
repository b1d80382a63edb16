"""Something that takes time to make, made before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Prepared(Generic[T]):
    """Holds at most one `T` until somebody takes it.

    Bytewax builds a sink's part when its first item arrives. To connect only then would hold up the whole flow in mid
    run, and an idempotent producer needs up to a second more until it has its id and may send.

    Args:
        make: Makes a new one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._ready: T | None = None

    def prepare(self) -> None:
        """Make one now; raises what `make` does."""
        if self._ready is None:
            self._ready = self._make()

    def take(self) -> T:
        """The prepared one, or else a new one; it belongs to the caller."""
        ready, self._ready = self._ready, None
        return self._make() if ready is None else ready
