"""Which series a PromQL expression asks for: enough of the language to find metric names and labels, no more.

promtool has checked before that the expressions are PromQL; here they are only taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# Labels beside an operator: they are no series.
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+-?\w+|@\s*[\w.()]+")
_NAME = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^{}]*\}|\()?")
_LABEL = re.compile(r"([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*\"(\d+)\"")
_WORDS = frozenset({"and", "or", "unless", "bool", "group_left", "group_right", "by", "without", "on", "ignoring"})


@dataclass(frozen=True, slots=True)
class Selector:
    """One metric that an expression names.

    Attributes:
        metric: Its name.
        labels: Label, operator and value of each matcher.
    """

    metric: str
    labels: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> Iterator[Selector]:
    """Every metric of an expression, as often as it is named."""
    strings: list[str] = []

    def set_aside(match: re.Match[str]) -> str:
        strings.append(match[0][1:-1])
        return f'"{len(strings) - 1}"'

    text = _RANGE.sub(" ", _GROUPING.sub(" ", _STRING.sub(set_aside, expression)))
    for match in _NAME.finditer(text):
        name, behind = match[1], match[2] or ""
        is_number = match.start() > 0 and text[match.start() - 1].isdigit()
        if behind != "(" and name not in _WORDS and not is_number and not _is_inside(text, match.start()):
            yield Selector(
                name, tuple((label[1], label[2], strings[int(label[3])]) for label in _LABEL.finditer(behind))
            )


def grouped_labels(expression: str) -> set[str]:
    """Labels that an expression adds up by, or matches two sides on."""
    return {
        label.strip()
        for match in _GROUPING.finditer(_STRING.sub('""', expression))
        for label in match[1].split(",")
        if label.strip()
    }


def _is_inside(text: str, place: int) -> bool:
    """Whether a name is a label in braces, and no metric."""
    return text.rfind("{", 0, place) > text.rfind("}", 0, place)
