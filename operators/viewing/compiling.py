"""How the hot loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numba

from datastreamx.log import get_logger

_log = get_logger("viewing")

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile by Numba, once per machine: the machine code lies in `NUMBA_CACHE_DIR`, or beside the module.

    Where neither can be written it is compiled in every process, which takes seconds: see `warm_up`.

    Without reference counts of arrays (`_nrt`), for the price that the function may not allocate: counting in every
    inner call took two thirds of the time. Integers wrap and indices are not checked, so the callers make room.

    The cache watches only the file that a function is in. So a module of compiled functions calls none of another, and
    takes from others no constant whose value might change.
    """
    machine: F
    try:
        machine = numba.njit(cache=True, _nrt=False)(function)
    except RuntimeError as error:  # Numba's way to say that there is no place for the cache.
        _warn(str(error))
        machine = numba.njit(_nrt=False)(function)
    return machine


@cache
def _warn(problem: str) -> None:
    _log.warning("compiler_cache_unusable", problem=problem, remedy="set NUMBA_CACHE_DIR to a writable folder")
