"""One run of `datastreamx forget`: count, perhaps delete, and look at what else there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from datastreamx.cli.forget.remains import TIME_TRAVEL_HOURS, remains
from datastreamx.cli.forget.report import Erasure, PartnerKey, active_until_ms, with_result
from datastreamx.cli.forget.retention import ask_retention
from datastreamx.cli.forget.rows import erase, survey
from datastreamx.cli.forget.statements import SUMS
from datastreamx.cli.format import duration
from datastreamx.cli.warehouse import Warehouse
from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.errors import CrashError
from datastreamx.model.identity import box_key, partner_key

STATEMENT_TIMEOUT_S = 900.0
"""A deletion may rewrite years of partitions. One that is cut off has changed nothing."""


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Attributes:
        box: Raw id; unset if only pseudonyms are known.
        keys: Further pseudonyms.
        is_meant: Delete, and do not only count.
        is_forced: Also if the box was heard of lately.
    """

    box: str | None
    keys: tuple[str, ...] = ()
    is_meant: bool = False
    is_forced: bool = False


def run(config: Config, wish: Wish, clock: Clock, on_step: Callable[[str], None] = lambda _: None) -> Erasure:
    """Do what is wished, and report.

    Raises:
        RetryableError: BigQuery is unwell; done again, the rest is erased.
        CrashError: BigQuery refuses; or the box was heard of lately, and nothing was changed.
    """
    secret = config.privacy.box_key_secret.reveal().encode()
    own = None if wish.box is None else box_key(secret, wish.box)
    keys = tuple(dict.fromkeys([*([] if own is None else [own]), *wish.keys]))
    warehouse = Warehouse(config.bigquery, timeout_s=STATEMENT_TIMEOUT_S)
    found = survey(warehouse, keys)
    now_ms = clock.now_ms()
    active_ms = active_until_ms(found.heard_ms, now_ms, config.viewing.state_ttl_ms)
    if wish.is_meant and not wish.is_forced and active_ms is not None and found.heard_ms is not None:
        raise CrashError(
            f"nothing was erased: the box was heard of {duration(now_ms - found.heard_ms)} ago, and the flows may "
            f"write about it for another {duration(active_ms - now_ms)} (viewing.state_ttl_ms). Keep it from "
            "sending and come back then; or use --force now, and come back nevertheless"
        )
    tables, bytes_read = found.tables, found.bytes_read
    if wish.is_meant:
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        erased = erase(warehouse, keys, found, now, lambda table: on_step(f"deleting from {table}"))
        on_step("counting again")
        after = survey(warehouse, keys)
        tables = with_result(found.tables, erased, after.tables)
        bytes_read += after.bytes_read
    partners = [
        PartnerKey(aggregator=one.name, key=partner_key(secret, one.name, own))
        for one in config.aggregators
        if own is not None and "box_key" not in one.withhold
    ]
    on_step("asking the brokers")
    hours = warehouse.time_travel_hours()
    return Erasure(
        at_ms=now_ms,
        box_keys=[*keys],
        is_done=wish.is_meant,
        heard_ms=found.heard_ms,
        active_until_ms=active_ms,
        tables=tables,
        untouched=[table.name for table in SUMS],
        remains=remains(
            config,
            ask_retention(config),
            TIME_TRAVEL_HOURS if hours is None else hours,
            partners,
            at_ms=now_ms,
            heard_ms=found.heard_ms,
        ),
        partner_keys=partners,
        bytes_read=bytes_read,
    )
