"""Secrets: written as a reference, read once, never printed."""

from __future__ import annotations

import os
from pathlib import Path


class Secret:
    """A value that must not appear in logs, tracebacks or dumps."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; call it only where it leaves for its destination."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


def resolve_secret(raw: object) -> Secret:
    """Read what a secret's entry in the file refers to.

    Args:
        raw: Text, `{"env": NAME}` or `{"file": PATH}`.

    Raises:
        ValueError: The reference leads nowhere, or to nothing; the message names it and says what to do.
    """
    match raw:
        case str() if raw:
            return Secret(raw)
        case {"env": str() as name, **rest} if not rest:
            value = os.environ.get(name, "")
            if not value:
                raise ValueError(f"environment variable {name} is not set or empty; export it before the start")
            return Secret(_utf8(value, f"environment variable {name}"))
        case {"file": str() as name, **rest} if not rest:
            try:
                value = Path(name).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"file {name} cannot be read ({error.strerror}); create it or fix the path") from None
            except UnicodeDecodeError:
                raise ValueError(f"file {name} is not UTF-8; write the secret into it as text") from None
            if not value:
                raise ValueError(f"file {name} is empty; write the secret into it")
            return Secret(value)
        case _:
            raise ValueError('expected text, { env = "NAME" } or { file = "PATH" }')


def _utf8(value: str, origin: str) -> str:
    """`value`, unless the environment held other bytes, which Python passes on as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{origin} is not UTF-8; write the secret into it as text") from None
    return value
