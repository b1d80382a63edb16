"""Lock files of pip: what they fix, and what they would have to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^\s;]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Locked:
    """One package of a lock.

    Attributes:
        version: The only one that is installed.
        hashes: SHA-256 of its files, any of which may be.
    """

    version: str
    hashes: frozenset[str]


def read_lock(path: Path) -> dict[str, Locked]:
    """What a lock fixes, by canonical name."""
    text = path.read_text(encoding="utf-8")
    entries = [*_ENTRY.finditer(text)]
    ends = [*(entry.start() for entry in entries[1:]), len(text)]
    return {
        canonicalize_name(entry["name"]): Locked(entry["version"], frozenset(_HASH.findall(text, entry.end(), end)))
        for entry, end in zip(entries, ends, strict=True)
    }


def needed(requirements: list[str]) -> set[str]:
    """Canonical names of all packages that `requirements` and what they require want here; all must be installed."""
    found: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for text in requirements if _applies(requirement := Requirement(text), "")]
    while waiting:
        requirement, _ = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            inner = [Requirement(text) for text in requires(name) or ()]
            waiting += [(one, extra) for one in inner if _applies(one, extra)]
    return {name for name, _ in found}


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
