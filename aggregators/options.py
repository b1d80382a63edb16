"""From the free-form `options` of an aggregator to the strict struct of its adapter."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from datastreamx.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


def read_options(kind: type[S], raw: Mapping[str, str | int | bool], path: str) -> S:
    """Options of type `kind`.

    Args:
        kind: Frozen struct whose fields are the known options.
        raw: As configured.
        path: Where the options stand in the configuration; problems begin with it.

    Raises:
        ConfigError: Unknown, missing or wrong options; all of them are listed.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    problems = [f"{path}.{key}: unknown option{suggestion(key, fields)}" for key in raw if key not in fields]
    values: dict[str, object] = {}
    for key, field in fields.items():
        if key in raw:
            try:
                values[field.name] = msgspec.convert(raw[key], hints[field.name])
            except msgspec.ValidationError as error:
                problems.append(f"{path}.{key}: {str(error).replace('`', '')}, found {raw[key]!r}")
        elif field.required:
            problems.append(f"{path}.{key}: required option is missing; the adapter's README says what it means")
    if problems:
        raise ConfigError(path, problems)
    return kind(**values)


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown word: the likely meant one, else all known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
