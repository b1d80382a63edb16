"""Rows on their way into columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import pyarrow as pa


class Rows(Protocol):
    """Rows of one table from one key group, sorted by (source_offset, ordinal), in whatever form they came about."""

    @property
    def num_rows(self) -> int:
        """How many; at least one."""

    def columns(self, later: Sequence[Any] = ()) -> pa.RecordBatch:
        """These rows and then later ones of the same table and key group, in the same form."""


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a chunk led to in one table. Columns are built once for many chunks, because they cost by the call."""

    table: str
    partition: int
    group: int
    rows: Rows
