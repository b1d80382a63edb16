"""All kinds of faults by name, and how often each comes."""

from __future__ import annotations

from tests.chaos.faults.fault import Fault
from tests.chaos.faults.kills import (
    CleanStopping,
    Hang,
    Kill,
    KillAll,
    KillAtBigQuery,
    KillInResume,
    KillInSnapshot,
    KillWorker,
    Pause,
)
from tests.chaos.faults.storage import DamagedStore, DiskFull, Rescale, StaleStore
from tests.chaos.faults.surroundings import (
    AggregatorMisbehaves,
    BigQueryFails,
    BrokerRestart,
    ClockStep,
    LeaderMove,
    NetworkFails,
)

KILLS: dict[str, tuple[int, Fault]] = {
    "kill": (5, Kill()),
    "kill_worker": (4, KillWorker()),
    "kill_all": (1, KillAll()),
    "kill_in_snapshot": (3, KillInSnapshot()),
    "kill_in_resume": (2, KillInResume()),
    "kill_at_bigquery": (4, KillAtBigQuery()),
    "stop": (2, CleanStopping()),
}
"""What ends processes: weight and fault. These are counted."""

OTHERS: dict[str, tuple[int, Fault]] = {
    "pause": (3, Pause()),
    "bigquery": (3, BigQueryFails()),
    "aggregator": (3, AggregatorMisbehaves()),
    "network": (4, NetworkFails()),
    "disk_full": (1, DiskFull()),
    "damaged_store": (1, DamagedStore()),
    "stale_store": (1, StaleStore()),
    "clock_step": (1, ClockStep()),
    "broker_restart": (1, BrokerRestart()),
    "leader_move": (1, LeaderMove()),
    "rescale": (1, Rescale()),
    "rescale_killed": (1, Rescale(is_killed=True)),
    "hang": (1, Hang()),
}
"""What comes in addition."""

ONCE = {"hang"}
"""Kinds of which one in a campaign is enough: each takes half a minute."""

FAULTS: dict[str, Fault] = {name: fault for kinds in (KILLS, OTHERS) for name, (_, fault) in kinds.items()}
