"""Which calls the local BigQuery spoils, and how: a plan that can be replaced while the server runs.

Faults hit by count, not by chance, so that a run with the same calls in the same order sees the same faults.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import msgspec


class Method(StrEnum):
    """What can be spoiled; `rest` is every call to the REST API (tables, queries, load jobs)."""

    APPEND_ROWS = "append_rows"
    FLUSH_ROWS = "flush_rows"
    CREATE_WRITE_STREAM = "create_write_stream"
    FINALIZE_WRITE_STREAM = "finalize_write_stream"
    REST = "rest"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How calls to one method are spoiled. `N` in `*_every` hits every N-th call, 1 hits all, 0 none.

    Attributes:
        unavailable_every: Refused before anything happens: UNAVAILABLE, or HTTP 503.
        exhausted_every: Refused before anything happens because of a quota: RESOURCE_EXHAUSTED, or HTTP 429.
        drop_ack_every: Carried out, then the connection is cut without an answer (HTTP 503), so that the client cannot
            know.
        row_error_every: `append_rows` only: the first row of the request is called bad and nothing is written.
        delay_ms: Every call waits this long first.
        hang: Every call waits until the plan is replaced or the client gives up.
        hold_ack: Every call is carried out, and then its answer waits likewise.
    """

    unavailable_every: int = 0
    exhausted_every: int = 0
    drop_ack_every: int = 0
    row_error_every: int = 0
    delay_ms: int = 0
    hang: bool = False
    hold_ack: bool = False

    def __post_init__(self) -> None:
        """Refuse negative numbers, which would silently mean "never"."""
        for name in ("unavailable_every", "exhausted_every", "drop_ack_every", "row_error_every", "delay_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")

    def spoils(self, call: int) -> Spoil:
        """What happens to the `call`-th call, counted from 1."""
        if _hits(self.unavailable_every, call):
            return Spoil.UNAVAILABLE
        if _hits(self.exhausted_every, call):
            return Spoil.EXHAUSTED
        if _hits(self.row_error_every, call):
            return Spoil.ROW_ERROR
        if _hits(self.drop_ack_every, call):
            return Spoil.DROP_ACK
        return Spoil.NOTHING


class Spoil(StrEnum):
    """What becomes of one call."""

    NOTHING = "nothing"
    UNAVAILABLE = "unavailable"
    EXHAUSTED = "exhausted"
    ROW_ERROR = "row_error"
    DROP_ACK = "drop_ack"


@dataclass(frozen=True, slots=True)
class Call:
    """One counted call: what becomes of it, how long it waits first, whether it then hangs, and its answer waits."""

    method: Method
    spoil: Spoil
    delay_s: float
    hang: bool
    hold_ack: bool
    generation: int


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `Fault` per method; the default spoils nothing."""

    append_rows: Fault = Fault()
    flush_rows: Fault = Fault()
    create_write_stream: Fault = Fault()
    finalize_write_stream: Fault = Fault()
    rest: Fault = Fault()

    @classmethod
    def outage(cls) -> Self:
        """Everything answers UNAVAILABLE, as in a regional outage."""
        down = Fault(unavailable_every=1)
        return cls(down, down, down, down, down)

    def of(self, method: Method) -> Fault:
        """The fault that applies to `method`."""
        fault: Fault = getattr(self, method.value)
        return fault


class FaultReport(msgspec.Struct, frozen=True):
    """The plan in force, and what happened since it was set, by method.

    Attributes:
        held: Calls that were made to wait, by `hang` or, after they had been carried out, by `hold_ack`.
    """

    plan: FaultPlan
    calls: dict[str, int]
    spoiled: dict[str, int]
    held: dict[str, int]


class FaultInjector:
    """Holds the plan and counts the calls. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = 0
        self._set(FaultPlan())

    def replace(self, plan: FaultPlan) -> None:
        """Put `plan` in force, start counting anew, and let hanging calls go on."""
        with self._changed:
            self._set(plan)
            self._generation += 1
            self._changed.notify_all()

    def report(self) -> FaultReport:
        """The plan in force and its counters."""
        with self._changed:
            return FaultReport(self._plan, dict(self._calls), dict(self._spoiled), dict(self._held))

    def count(self, method: Method) -> Call:
        """Count one call and say what becomes of it."""
        with self._changed:
            fault = self._plan.of(method)
            self._calls[method] += 1
            spoil = fault.spoils(self._calls[method])
            if spoil is not Spoil.NOTHING or fault.hang or fault.hold_ack:
                self._spoiled[method] += 1
            self._held[method] += fault.hang
            return Call(method, spoil, fault.delay_ms / 1000, fault.hang, fault.hold_ack, self._generation)

    def carried_out(self, call: Call) -> None:
        """Note that `call` was carried out and only its answer is still to come."""
        with self._changed:
            if call.hold_ack and self._generation == call.generation:
                self._held[call.method] += 1

    def released(self, call: Call, timeout_s: float) -> bool:
        """Whether `call` need not hang any longer, because the plan was replaced; waits up to `timeout_s` for that."""
        return not call.hang or self._is_over(call, timeout_s)

    def answered(self, call: Call, timeout_s: float) -> bool:
        """Whether the answer of `call` need not wait any longer, likewise."""
        return not call.hold_ack or self._is_over(call, timeout_s)

    def _is_over(self, call: Call, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._generation != call.generation, timeout_s)

    def _set(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._calls = dict.fromkeys(map(str, Method), 0)
        self._spoiled = dict.fromkeys(map(str, Method), 0)
        self._held = dict.fromkeys(map(str, Method), 0)


def _hits(every: int, call: int) -> bool:
    return every > 0 and call % every == 0
