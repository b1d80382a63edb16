"""Per-box state: what is viewed, what was viewed, what was shown; sessions, late events and opportunities."""

from operators.viewing.step import ViewingOut, viewing

__all__ = ["ViewingOut", "viewing"]
