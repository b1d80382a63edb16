"""Codes of the strings that boxes hold: ids of channels and ads."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from operators.viewing.kernel import NO_NAME
from operators.viewing.layout import Array, Int64s

_FEW_ROWS = 64
SWEEP_FIRST = 1_024


class NameTable:
    """Strings by code; grows at its end alone, so a code never means another string."""

    def __init__(self, texts: list[str | None]) -> None:
        self.texts = texts
        self._column = pa.array(texts, pa.string())

    def column(self, codes: Int64s) -> pa.Array:
        """Strings of many codes, null for `NO_NAME`."""
        if len(codes) < _FEW_ROWS:
            # Arrow's `take` costs more to call than this loop: 5 µs against 3.
            return pa.array([self.texts[code] for code in codes.tolist()], pa.string())
        if len(self._column) != len(self.texts):
            self._column = pa.array(self.texts, pa.string())
        return self._column.take(pa.array(codes))


class Names:
    """Strings of one key group and their codes.

    Strings come from outside, and those that no box holds any more would add up for ever: whenever the table has
    doubled, `is_due_for_sweep` asks the owner to `sweep` it. Then there is another table, and the old one lives as long
    as somebody has codes of it.
    """

    table: NameTable
    codes: dict[str, int]
    _sweep_at: int
    _packed: msgspec.Raw
    _packed_size: int

    def __init__(self) -> None:
        self._rebuild([None])

    def __len__(self) -> int:
        return len(self.table.texts)

    def code(self, text: str) -> int:
        """Code of `text`, a new one if need be."""
        found = self.codes.get(text)
        if found is None:
            texts = self.table.texts
            found = self.codes[text] = len(texts)
            texts.append(text)
        return found

    def text(self, code: int) -> str | None:
        """Invert `code`; `None` for `NO_NAME`."""
        return self.table.texts[code]

    def packed(self) -> msgspec.Raw:
        """MessagePack of all strings, in the order of their codes."""
        if self._packed_size != len(self):
            self._packed = msgspec.Raw(msgspec.msgpack.encode(self.table.texts[1:]))
            self._packed_size = len(self)
        return self._packed

    @property
    def is_due_for_sweep(self) -> bool:
        """Whether the table has doubled since the last sweep."""
        return len(self) > self._sweep_at

    def sweep(self, *held: Array) -> None:
        """Keep the codes that occur in these arrays, and rewrite the arrays to the new codes."""
        is_used = np.zeros(len(self), np.bool_)
        for codes in held:
            is_used[codes] = True
        is_used[NO_NAME] = True
        renumbered = np.cumsum(is_used) - 1
        for codes in held:
            codes[...] = renumbered[codes]
        self._rebuild([self.text(code) for code in np.flatnonzero(is_used).tolist()])

    def _rebuild(self, texts: list[str | None]) -> None:
        self.table = NameTable(texts)
        self.codes = {text: code for code, text in enumerate(texts) if text is not None}
        self._packed_size = 0
        self._sweep_at = max(SWEEP_FIRST, 2 * len(texts))
