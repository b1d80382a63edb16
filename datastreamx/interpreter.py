"""Settings of the Python interpreter for a process that runs a flow."""

from __future__ import annotations

import gc
import sys

_YOUNG_OBJECTS = 50_000
_RARELY = 50
_OBJECTS_OF_A_START = 1_000_000
_SWITCH_S = 0.0005


def load_without_garbage_collection() -> None:
    """Look for no reference cycles while a program is loaded, until `spare_garbage_collection`. Call it first.

    What imports make stays: a quarter of a million objects, walked again and again, a sixth of the time of a start. Not
    switched off, but put off: a start may wait for a broker for hours.
    """
    gc.set_threshold(_OBJECTS_OF_A_START, _RARELY, _RARELY)


def spare_garbage_collection(*, is_fresh: bool = False) -> None:
    """Look for reference cycles seldom, and never among what is there now. Call it when everything is built.

    By default the collector walks the young objects after every 700 allocations, and all objects of the process every
    now and then: modules, configuration and metrics, again and again. An auction leaves no cycles behind, so nearly all
    of that finds nothing; it took a fifth of the time of a call. Reference counts go on freeing what is not cyclic.

    Args:
        is_fresh: The process has done nothing but start: what little garbage that left may stay, and is not looked for.
    """
    if not is_fresh:
        gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _RARELY, _RARELY)


def share_the_interpreter() -> None:
    """Let the thread of the auctions have its turn after half a millisecond instead of five.

    It talks to sockets, and at each word it lets go of the interpreter; the worker, when it catches up after a
    snapshot, does not until it is asked to. So an exchange of a dozen words took 60 ms, and auctions queued up.
    """
    sys.setswitchinterval(_SWITCH_S)
