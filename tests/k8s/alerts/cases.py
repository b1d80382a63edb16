"""For each alert: series at which it fires, what it then says, and series at which it has to be silent.

Series are in promtool's notation, one sample a minute: `0+60x20` is 0, 60, 120 and so on, 20 times more.
"""

from __future__ import annotations

from dataclasses import dataclass

Series = dict[str, str]

DAY = 24 * 60


@dataclass(frozen=True)
class Case:
    """One alert.

    Attributes:
        alert: Its name.
        fires: Series at which it fires at minute `at`.
        silent: Series at which it does not.
        labels: Of the alert that fires, besides severity.
        summary: That it fires with.
        at: Minute.
    """

    alert: str
    fires: Series
    silent: Series
    labels: dict[str, str]
    summary: str
    at: int = 60


def _rate(per_second: float, start: int = 0) -> str:
    return f"{start}+{per_second * 60:g}x400"


_ADS = '{flow="ads", pod="ads-0"}'
_POD = {"pod": "ads-0"}


def _decisions(won: float, **others: float) -> Series:
    return {
        f'datastreamx_decisions_total{{flow="ads", pod="ads-0", status="{status}"}}': _rate(value)
        for status, value in {"won": won, **others}.items()
    }


def _outcomes(**outcomes: float) -> Series:
    return {
        f'datastreamx_aggregator_outcomes_total{{aggregator="adriatic", pod="ads-0", outcome="{name}"}}': _rate(value)
        for name, value in outcomes.items()
    }


def _lag(flow: str, seconds: float) -> Series:
    return {
        f'datastreamx_source_lag_seconds{{flow="{flow}", pod="{flow}-0", partition="0"}}': "0x60",
        f'datastreamx_source_lag_seconds{{flow="{flow}", pod="{flow}-0", partition="1"}}': f"{seconds}x60",
    }


def _gauge(name: str, value: float, **labels: str) -> Series:
    inner = ", ".join(f'{key}="{text}"' for key, text in labels.items())
    return {f"{name}{{{inner}}}": f"{value:g}x400"}


def _notices(**results: float) -> Series:
    return {
        f'datastreamx_notices_total{{aggregator="adriatic", event="win", result="{name}"}}': _rate(value)
        for name, value in results.items()
    }


def _up(flow: str, processes: int, up: int) -> Series:
    return {
        f'datastreamx_processes{{flow="{flow}", pod="{flow}-0"}}': f"{processes}x60",
        **{f'datastreamx_worker_up{{flow="{flow}", pod="{flow}-{n}"}}': "1x60" for n in range(up)},
    }


def _day(won_yesterday: int, won_today: int) -> Series:
    """Of 100 decisions a minute; today begins an hour before the end of the second day."""
    won = f"0+{won_yesterday}x{DAY} {won_yesterday * DAY}+{won_today}x60"
    total = f"0+{100 - won_yesterday}x{DAY} {(100 - won_yesterday) * DAY}+{100 - won_today}x60"
    return {
        'datastreamx_decisions_total{flow="ads", status="won"}': won,
        'datastreamx_decisions_total{flow="ads", status="no_bid"}': total,
    }


def _auctions(within_ms: int) -> Series:
    """All auctions take up to half a second or up to a second."""
    fast = within_ms <= 500
    name = 'datastreamx_auction_latency_seconds_bucket{flow="ads", pod="ads-0", le="%s"}'
    return {
        name % "0.25": _rate(0),
        name % "0.5": _rate(10 if fast else 0),
        name % "1": _rate(10),
        name % "+Inf": _rate(10),
    }


_AGGREGATOR = {"aggregator": "adriatic"}

CASES = (
    Case(
        "NothingIsMeasured",
        fires={"up": "0x60"},
        silent=_up("ads", 1, 1),
        labels={},
        summary="No process of DatastreamX answers",
    ),
    Case(
        "ProcessMissing",
        fires=_up("ads", 4, 3),
        silent=_up("ads", 4, 4),
        labels={"flow": "ads"},
        summary="1 of the processes of ads are missing",
    ),
    Case(
        "ProcessMissing",
        # Nobody answers any more for a whole flow, and the other one is well.
        fires={name: f"{values.removesuffix('x60')}x20 stale" for name, values in _up("warehouse", 2, 2).items()}
        | _up("ads", 2, 2),
        # After a rescale from four cells to two.
        silent={name: f"{values.removesuffix('x60')}x20 stale" for name, values in _up("ads", 4, 4).items()}
        | {'datastreamx_processes{flow="ads", pod="ads-0", cells="two"}': "_x25 2x40"}
        | {f'datastreamx_worker_up{{flow="ads", pod="ads-{n}", cells="two"}}': "_x25 1x40" for n in range(2)},
        labels={"flow": "warehouse"},
        summary="2 of the processes of warehouse are missing",
    ),
    Case(
        "ProcessNotReady",
        fires=_gauge("datastreamx_worker_ready", 0, flow="ads", pod="ads-0"),
        silent=_gauge("datastreamx_worker_ready", 1, flow="ads", pod="ads-0"),
        labels={"flow": "ads", **_POD},
        summary="ads-0 has not been ready for 5 minutes",
    ),
    Case(
        "ProcessFailsAgainAndAgain",
        fires=_gauge("datastreamx_worker_recent_failures", 3, flow="ads", pod="ads-0"),
        silent=_gauge("datastreamx_worker_recent_failures", 2, flow="ads", pod="ads-0"),
        labels={"flow": "ads", **_POD},
        summary="ads-0 has failed 3 times lately",
    ),
    Case(
        "ProcessHung",
        fires={'datastreamx_worker_restarts_total{reason="hang", pod="ads-0"}': "0x40 1x20"},
        silent={'datastreamx_worker_restarts_total{reason="error", pod="ads-0"}': "0x40 1x20"},
        labels={"reason": "hang", **_POD},
        summary="A worker of ads-0 was killed because it hung",
    ),
    Case(
        "NoDurableSnapshot",
        fires={
            'datastreamx_epochs_total{pod="ads-0"}': "900x60",
            'datastreamx_worker_stage{pod="ads-0", stage="running"}': "1x60",
        },
        # One that loads its state has none to take.
        silent={
            'datastreamx_epochs_total{pod="ads-0"}': "0x60",
            'datastreamx_worker_stage{pod="ads-0", stage="restoring"}': "1x60",
            'datastreamx_epochs_total{pod="ads-1"}': _rate(1),
            'datastreamx_worker_stage{pod="ads-1", stage="running"}': "1x60",
        },
        labels=_POD,
        summary="ads-0 runs and takes no snapshot",
    ),
    Case(
        "RecoveryVolumeFills",
        fires=_gauge("datastreamx_recovery_free_bytes", 2e9, pod="ads-0")
        | _gauge("datastreamx_recovery_size_bytes", 10e9, pod="ads-0"),
        silent=_gauge("datastreamx_recovery_free_bytes", 4e9, pod="ads-0")
        | _gauge("datastreamx_recovery_size_bytes", 10e9, pod="ads-0"),
        labels=_POD,
        summary="The recovery volume of ads-0 is 80% full",
    ),
    Case(
        "SnapshotsOfVolumesMissing",
        fires=_gauge("kube_cronjob_status_last_successful_time", 0, cronjob="recovery-snapshots"),
        silent=_gauge("kube_cronjob_status_last_successful_time", 3600 * 4, cronjob="recovery-snapshots"),
        labels={"cronjob": "recovery-snapshots"},
        summary="No volume snapshots for 5h 0m 0s",
        at=300,
    ),
    Case("AdsBehind", fires=_lag("ads", 5), silent=_lag("ads", 1), labels=_POD, summary="ads-0 is 5s behind the boxes"),
    Case(
        "WarehouseBehind",
        fires=_lag("warehouse", 90),
        silent=_lag("warehouse", 30),
        labels={"pod": "warehouse-0"},
        summary="The tables are 1m 30s behind (warehouse-0)",
    ),
    Case(
        "KafkaWillForget",
        fires=_lag("warehouse", 90_000),
        silent=_lag("warehouse", 80_000),
        labels={"pod": "warehouse-0"},
        summary="warehouse-0 is 1d 1h 0m 0s behind",
    ),
    Case(
        "NoticesBehind",
        fires=_lag("notices", 45),
        silent=_lag("notices", 15),
        labels={"pod": "notices-0"},
        summary="Notices are 45s behind (notices-0)",
    ),
    Case(
        "KafkaUnwell",
        fires={'datastreamx_source_errors_total{pod="ads-0", reason="transport"}': _rate(0.5)},
        silent={'datastreamx_source_errors_total{pod="ads-0", reason="transport"}': _rate(0.05)},
        labels=_POD,
        summary="ads-0 waits for Kafka",
    ),
    Case(
        "NoEvents",
        fires={f"datastreamx_events_total{_ADS}": "500x60"} | _up("ads", 1, 1),
        silent={f"datastreamx_events_total{_ADS}": _rate(0.1)} | _up("ads", 1, 1),
        labels={},
        summary="No box has reported for 5 minutes",
    ),
    Case(
        "NoEvents",
        # Started anew, and nothing came since.
        fires=_up("ads", 1, 1),
        # Nothing is measured at all: that is another alert's.
        silent={"up": "0x60"},
        labels={},
        summary="No box has reported for 5 minutes",
    ),
    Case(
        "DeadLetters",
        fires={
            'datastreamx_dead_letters_total{flow="ads", reason="invalid"}': _rate(2),
            'datastreamx_source_records_total{flow="ads", partition="0"}': _rate(100),
        },
        silent={
            'datastreamx_dead_letters_total{flow="ads", reason="invalid"}': _rate(0.5),
            'datastreamx_source_records_total{flow="ads", partition="0"}': _rate(100),
        },
        labels={"reason": "invalid"},
        summary="2% of the events are set aside: invalid",
    ),
    Case(
        "BoxesRepeatThemselves",
        fires={
            f"datastreamx_duplicate_events_total{_ADS}": _rate(20),
            f"datastreamx_events_total{_ADS}": _rate(100),
        },
        silent={f"datastreamx_duplicate_events_total{_ADS}": _rate(5), f"datastreamx_events_total{_ADS}": _rate(100)},
        labels={},
        summary="20% of the events had been seen before",
        at=90,
    ),
    Case(
        "EventsLate",
        fires={f"datastreamx_late_events_total{_ADS}": _rate(10), f"datastreamx_events_total{_ADS}": _rate(100)},
        silent={f"datastreamx_late_events_total{_ADS}": _rate(1), f"datastreamx_events_total{_ADS}": _rate(100)},
        labels={},
        summary="10% of the events come too late to count",
        at=90,
    ),
    Case(
        "NoAdsWin",
        fires=_decisions(0, no_bid=10) | {f"datastreamx_opportunities_total{_ADS}": _rate(10)},
        # Nobody watches: no opportunities, and nothing is wrong.
        silent=_decisions(0) | {f"datastreamx_opportunities_total{_ADS}": _rate(0)},
        labels={},
        summary="There are opportunities, and no ad wins",
    ),
    Case(
        "NoAdsWin",
        # Since the start nothing has won, so there is no such series.
        fires={f"datastreamx_opportunities_total{_ADS}": _rate(10)},
        silent=_decisions(1) | {f"datastreamx_opportunities_total{_ADS}": _rate(10)},
        labels={},
        summary="There are opportunities, and no ad wins",
    ),
    Case(
        "FillRateHalved",
        fires=_day(60, 20),
        silent=_day(60, 40),
        labels={},
        summary="Only 20% of the opportunities are filled, half of yesterday",
        at=DAY + 60,
    ),
    Case(
        "AuctionsShed",
        fires=_decisions(10, shed=2),
        silent=_decisions(10),
        labels=_POD,
        summary="ads-0 sheds 2 opportunities a second",
    ),
    Case(
        "OpportunitiesExpire",
        fires=_decisions(95, expired=5),
        silent=_decisions(999, expired=1),
        labels=_POD,
        summary="5% of the opportunities of ads-0 expire",
    ),
    Case(
        "AuctionsSlow",
        fires=_auctions(1_000),
        silent=_auctions(500),
        labels=_POD,
        summary="1 % of the auctions of ads-0 take over 995ms",
    ),
    Case(
        "ExchangeRatesStale",
        fires=_gauge("datastreamx_rates_age_seconds", 40 * 3600, pod="ads-0"),
        silent=_gauge("datastreamx_rates_age_seconds", 30 * 3600, pod="ads-0"),
        labels=_POD,
        summary="The exchange rates are 1d 16h 0m 0s old",
    ),
    Case(
        "AggregatorTimesOut",
        # Who was not called cannot have timed out.
        fires=_outcomes(timeout=2, no_bid=8, not_selected=90),
        silent=_outcomes(timeout=1, no_bid=9),
        labels=_AGGREGATOR,
        summary="adriatic leaves 20% of its calls unanswered",
    ),
    Case(
        "AggregatorFails",
        fires=_outcomes(error=0.5, invalid_response=0.5, won=9),
        silent=_outcomes(error=0.2, won=9.8),
        labels=_AGGREGATOR,
        summary="10% of the calls of adriatic fail",
    ),
    Case(
        "AggregatorThrottled",
        fires=_gauge("datastreamx_aggregator_admitted", 0.1, aggregator="adriatic", pod="ads-0"),
        silent=_gauge("datastreamx_aggregator_admitted", 0.9, aggregator="adriatic", pod="ads-0"),
        labels=_AGGREGATOR,
        summary="adriatic gets only 10% of its calls",
    ),
    Case(
        "AggregatorBulkheadFull",
        fires=_outcomes(bulkhead=1, won=9, timeout=1),
        silent=_outcomes(bulkhead=0.01, won=9),
        labels=_AGGREGATOR,
        summary="adriatic has too many calls under way: 10% skipped",
    ),
    Case(
        "AggregatorWinsTooLate",
        fires=_decisions(10)
        | {'datastreamx_aggregator_late_total{aggregator="adriatic", answer="would_have_won"}': _rate(0.5)},
        silent=_decisions(10) | {'datastreamx_aggregator_late_total{aggregator="adriatic", answer="bid"}': _rate(0.5)},
        labels=_AGGREGATOR,
        summary="adriatic would win 5% more, were it faster",
    ),
    Case(
        "AggregatorConnectionsCold",
        fires=_outcomes(won=10) | {'datastreamx_aggregator_connections_total{aggregator="adriatic"}': _rate(1)},
        silent=_outcomes(won=10) | {'datastreamx_aggregator_connections_total{aggregator="adriatic"}': _rate(0.1)},
        labels=_AGGREGATOR,
        summary="10% of the calls of adriatic open a connection",
    ),
    Case(
        "NoticesFail",
        fires=_notices(failed=0.01, delivered=1),
        silent=_notices(delivered=1),
        labels=_AGGREGATOR,
        summary="9 notices were not taken by adriatic",
    ),
    Case(
        "NoticesUnconfirmed",
        fires=_notices(unconfirmed=0.1, delivered=1.9),
        # After a crash it is known where they come from.
        silent=_notices(unconfirmed=0.1, delivered=1.9)
        | {'datastreamx_worker_restarts_total{flow="notices", reason="signal"}': "0x30 1x30"},
        labels=_AGGREGATOR,
        summary="adriatic leaves 5% of its notices unconfirmed",
    ),
    Case(
        "BigQueryHeldBack",
        fires=_gauge("datastreamx_warehouse_breaker_open", 1, table="bids", pod="warehouse-0"),
        silent=_gauge("datastreamx_warehouse_breaker_open", 0, table="bids", pod="warehouse-0"),
        labels={"table": "bids"},
        summary="BigQuery has refused rows of bids for 5 minutes",
    ),
    Case(
        "RowsStayInvisible",
        fires={
            'datastreamx_warehouse_rows_total{table="bids"}': _rate(10),
            'datastreamx_warehouse_rows_flushed_total{table="bids"}': "0x60",
        },
        silent={
            'datastreamx_warehouse_rows_total{table="bids"}': _rate(10, start=50),
            'datastreamx_warehouse_rows_flushed_total{table="bids"}': _rate(10),
        },
        labels={"table": "bids"},
        summary="36k rows of bids are written and not visible",
    ),
    Case(
        "StreamsMadeAgainAndAgain",
        fires={'datastreamx_warehouse_streams_total{table="bids"}': "0+1x60"}
        | _gauge("datastreamx_processes", 4, flow="warehouse", pod="warehouse-0"),
        silent={'datastreamx_warehouse_streams_total{table="bids"}': "0x40 4x20"}
        | _gauge("datastreamx_processes", 4, flow="warehouse", pod="warehouse-0"),
        labels={"table": "bids"},
        summary="30 write streams for bids in half an hour",
    ),
)
