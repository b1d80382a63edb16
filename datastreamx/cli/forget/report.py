"""What is known about a box, what was erased, and what is left. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from datastreamx.cli.format import duration, plural


class TableRows(msgspec.Struct, frozen=True, kw_only=True):
    """The box's rows in one table.

    Attributes:
        rows: Found at first.
        oldest_ms: Partition time of the first one; unset if there is none.
        newest_ms: Of the last one.
        erased: How many were deleted; unset if nothing was to be.
        left: How many are there now; likewise.
    """

    name: str
    rows: int
    oldest_ms: int | None = None
    newest_ms: int | None = None
    erased: int | None = None
    left: int | None = None


class Remain(msgspec.Struct, frozen=True, kw_only=True):
    """A place outside the tables that still knows the box, or may.

    Attributes:
        place: Where.
        holds: What of it.
        until_ms: When it is gone by itself, at the latest; unset if nobody can tell from here.
        lasts: How long that takes, in words.
        remedy: What somebody has to do; empty if nothing.
    """

    place: str
    holds: str
    until_ms: int | None
    lasts: str
    remedy: str = ""


class PartnerKey(msgspec.Struct, frozen=True, kw_only=True):
    """Under which pseudonym an aggregator knows the box."""

    aggregator: str
    key: str


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run of the command.

    Attributes:
        box_keys: Pseudonyms of the box. Its raw id is not told.
        is_done: Rows were deleted, or there was none; else nothing was changed.
        heard_ms: When the box was last heard of, by our clock; unset if the tables know nothing of it.
        active_until_ms: Until then the flows may write more about it; unset if they will not.
        tables: All that can know a box.
        untouched: Tables of sums, which know none.
        remains: Where else there is something of it.
        partner_keys: What to name when aggregators are asked to erase it, too.
        bytes_read: By the questions, which an on-demand project pays for; the deletion reads and writes besides.
    """

    at_ms: int
    box_keys: list[str]
    is_done: bool
    heard_ms: int | None
    active_until_ms: int | None
    tables: list[TableRows]
    untouched: list[str]
    remains: list[Remain]
    partner_keys: list[PartnerKey]
    bytes_read: int

    @property
    def rows(self) -> int:
        """Found at first, in all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def left(self) -> int:
        """There now, in all tables."""
        return sum(table.left or 0 for table in self.tables)


def active_until_ms(heard_ms: int | None, at_ms: int, state_ttl_ms: int) -> int | None:
    """Until when the flows may write about a box: as long as its state lives; unset if that is over."""
    if heard_ms is None or heard_ms + state_ttl_ms <= at_ms:
        return None
    return heard_ms + state_ttl_ms


def with_result(found: Sequence[TableRows], erased: dict[str, int], after: Sequence[TableRows]) -> list[TableRows]:
    """`found` with what became of it."""
    left = {table.name: table.rows for table in after}
    return [msgspec.structs.replace(table, erased=erased.get(table.name, 0), left=left[table.name]) for table in found]


def notes(erasure: Erasure) -> list[str]:
    """What deserves attention, one line each with what to do."""
    told = []
    if erasure.active_until_ms is not None and erasure.heard_ms is not None:
        ago = duration(max(0, erasure.at_ms - erasure.heard_ms))
        wait = duration(erasure.active_until_ms - erasure.at_ms)
        told.append(
            f"it was heard of {ago} ago: keep it from sending, and run this again in {wait}, when its state is "
            "forgotten (viewing.state_ttl_ms); until then the flows may write about it"
        )
    if not erasure.rows:
        told.append("no table knows it: it was erased before, or its id, or privacy.box_key_secret, is another one")
    if erasure.left:
        told.append(
            f"{plural(erasure.left, 'row')} came in the meantime, or so lately that rows that belong to them may still "
            "be on their way: run this again"
        )
    return told


def as_json(erasure: Erasure) -> dict[str, object]:
    """The erasure with what follows from it."""
    plain: dict[str, object] = msgspec.to_builtins(erasure)
    return {**plain, "rows": erasure.rows, "left": erasure.left, "notes": notes(erasure)}
