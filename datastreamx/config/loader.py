"""From a TOML file to a `Config`, gathering every problem on the way.

msgspec stops at the first error, so each value is converted on its own and the errors are collected.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from datastreamx.config.checks import cross_checks
from datastreamx.config.secrets import Secret, resolve_secret
from datastreamx.config.structs import AggregatorConfig, Config
from datastreamx.errors import ConfigError

S = typing.TypeVar("S", bound=msgspec.Struct)

_MISSING = object()


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: The file cannot be read, is no TOML, or has problems: all of them are listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(path), [f"cannot be read: {reason}; give the right path with --config"]) from None
    return parse_config(text, str(path))


def parse_config(text: str, source: str = "configuration") -> Config:
    """Check configuration text; see `load_config`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"is not complete TOML: {error}; was it written only half?"]) from None
    problems: list[str] = []
    config = _convert_struct(Config, raw, "", problems)
    if config is None or problems:
        raise ConfigError(source, problems)
    problems = cross_checks(config)
    if problems:
        raise ConfigError(source, problems)
    return config


def sound_aggregators(path: Path) -> tuple[AggregatorConfig, ...]:
    """Those entries of `[[aggregators]]` that are sound by themselves, in a file that as a whole is not.

    With them, the adapters' problems can be told together with those of `load_config`. Raises nothing.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("aggregators")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return ()
    if not isinstance(entries, list):
        return ()
    # Without headers: no option depends on them, and a secret that is missing here would hide the options' problems.
    tables = [{**entry, "headers": {}} for entry in entries if isinstance(entry, dict)]
    converted = [_convert_struct(AggregatorConfig, table, "", []) for table in tables]
    return tuple(one for one in converted if one is not None)


def _convert_struct(kind: type[S], raw: object, path: str, problems: list[str]) -> S | None:
    if not isinstance(raw, Mapping):
        # Without the value: someone may have written a secret in place of its section.
        problems.append(f"{path}: expected a table ([{path}]), found {type(raw).__name__}")
        return None
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    before = len(problems)
    problems.extend(f"{_join(path, key)}: unknown key{_suggestion(key, fields)}" for key in raw if key not in fields)
    values: dict[str, Any] = {}
    for key, field in fields.items():
        value = raw.get(key, _MISSING)
        if value is not _MISSING:
            values[field.name] = _convert(hints[field.name], value, _join(path, key), problems)
        elif field.required:
            _report_missing(hints[field.name], _join(path, key), problems)
    return kind(**values) if len(problems) == before else None


def _convert(hint: Any, raw: object, path: str, problems: list[str]) -> Any:
    bare = _strip_optional(hint)
    if _is_struct(bare):
        return _convert_struct(bare, raw, path, problems)
    if bare is Secret:
        return _attempt(lambda: resolve_secret(raw), path, problems)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if origin is dict and arguments[1] is Secret and isinstance(raw, Mapping):
        return {key: _convert(Secret, value, _join(path, key), problems) for key, value in raw.items()}
    if origin is tuple and _is_struct(arguments[0]) and isinstance(raw, list):
        return tuple(_convert_struct(arguments[0], item, f"{path}[{i}]", problems) for i, item in enumerate(raw))
    return _attempt(lambda: msgspec.convert(raw, hint), path, problems)


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _attempt(convert: Callable[[], object], path: str, problems: list[str]) -> object:
    try:
        return convert()
    except (msgspec.ValidationError, ValueError) as error:
        problems.append(f"{path}: {str(error).replace('`', '')}")
        return None


def _report_missing(hint: Any, path: str, problems: list[str]) -> None:
    what = "section" if _is_struct(_strip_optional(hint)) else "key"
    problems.append(f"{path}: required {what} is missing; `datastreamx validate --example` shows one")


def _strip_optional(hint: Any) -> Any:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return members[0] if len(members) == 1 else hint
    return hint


def _suggestion(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
