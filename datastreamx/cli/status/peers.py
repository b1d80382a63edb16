"""Ask every process of a deployment how it is, all at once."""

from __future__ import annotations

import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException

import msgspec

from datastreamx.cli.status.cells import Cell
from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.place import Place
from datastreamx.supervisor import Status as Supervision

FLOWS = ("ads", "warehouse", "notices")

ANSWER_TIMEOUT_S = 2.0
"""For each step of one answer: a connection, the next bytes."""

ALL_TIMEOUT_S = 10.0
"""For everybody together. Name resolution knows no time-out of ours."""

AT_A_TIME = 64
_ANSWER_BYTES_MAX = 65_536

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past the proxy of the environment, which does not know the names of a cluster."""


def ask_peers(config: Config, clock: Clock) -> dict[str, list[Cell]]:
    """What each process answers, by flow and in the order of the ordinals; empty unless `metrics.peers` is set.

    The notices flow is asked in any case, and left out if it is not configured and does not answer. Raises nothing but
    for a bug.
    """
    if config.metrics.peers is None:
        return {}
    targets = {flow: expected_cells(config, flow) for flow in FLOWS}
    everybody = [cell for cells in targets.values() for cell in cells]
    answers = iter(ask_all(everybody, lambda cell: ask(cell, clock), clock))
    found = {flow: [next(answers) for _ in cells] for flow, cells in targets.items()}
    wants_notices = any(aggregator.notices for aggregator in config.aggregators)
    if not wants_notices and all(cell.supervisor is None for cell in found["notices"]):
        del found["notices"]
    return found


def expected_cells(config: Config, flow: str) -> list[Cell]:
    """All processes of `flow` that there have to be, not asked yet."""
    scaling, template = config.scaling, config.metrics.peers or ""
    count = scaling.cells if scaling.mode == "cells" else len(scaling.addresses)
    return [
        Cell(
            name=Place(scaling.mode, ordinal, count).store_name(flow),
            address=template.format(flow=flow, ordinal=ordinal),
        )
        for ordinal in range(count)
    ]


def ask(cell: Cell, clock: Clock) -> Cell:
    """`cell` with what answers at its address, or with the reason why nothing does."""
    try:
        with _DIRECT.open(f"{cell.address}/status", timeout=ANSWER_TIMEOUT_S) as reply:
            body = reply.read(_ANSWER_BYTES_MAX)
        found = msgspec.json.decode(body, type=Supervision)
    except urllib.error.HTTPError as error:
        with error:
            return msgspec.structs.replace(cell, problem=f"answers with HTTP {error.code}: another release?")
    except (OSError, HTTPException) as error:
        return msgspec.structs.replace(cell, problem=_reason(error))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return msgspec.structs.replace(cell, problem="answers with something else: another release, or a stranger?")
    return msgspec.structs.replace(cell, supervisor=found, answered_ms=clock.now_ms())


def ask_all(cells: Sequence[Cell], ask_one: Callable[[Cell], Cell], clock: Clock) -> list[Cell]:
    """Answers in the order of `cells`; who has not answered within `ALL_TIMEOUT_S` has that as its problem."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Cell]] = queue.SimpleQueue()
    for number in range(len(cells)):
        todo.put(number)

    def work() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            done.put((number, ask_one(cells[number])))

    # Daemons, and not a pool: nobody waits at the end for one that still resolves a name.
    for _ in range(min(AT_A_TIME, len(cells))):
        threading.Thread(target=work, name="peers", daemon=True).start()
    late = f"no answer within {ALL_TIMEOUT_S:g} s"
    answers = [msgspec.structs.replace(cell, problem=late) for cell in cells]
    give_up_s = clock.monotonic_s() + ALL_TIMEOUT_S
    try:
        for _ in cells:
            number, answer = done.get(timeout=max(0.0, give_up_s - clock.monotonic_s()))
            answers[number] = answer
    except queue.Empty:
        pass
    return answers


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {ANSWER_TIMEOUT_S:g} s"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__
