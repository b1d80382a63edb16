"""How the hot loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

F = TypeVar("F", bound=Callable[..., object])

troubles: list[str] = []
"""What was wrong with the cache, in this process; `warm_up` tells."""


def compiled(function: F) -> F:
    """Compile by Numba, once per machine: the machine code lies in `NUMBA_CACHE_DIR`, or beside the module.

    Where neither can be written it is compiled in every process, which takes seconds: see `warm_up`. But a
    `NUMBA_CACHE_DIR` that was filled before, such as an image's, need only be readable.

    Without reference counts of arrays (`_nrt`), for the price that the function may not allocate: counting in every
    inner call took two thirds of the time. Integers wrap and indices are not checked, so the callers make room.

    The cache watches only the file that a function is in. So a module of compiled functions calls none of another, and
    takes from others no constant whose value might change.
    """
    machine: Any = numba.njit(_nrt=False)(function)
    try:
        machine._cache = _Cache(function)  # noqa: SLF001  what `cache=True` does, with a cache that forgives
    except RuntimeError as error:  # Numba's way to say that there is no place for it.
        troubles.append(str(error))
    compiled_function: F = machine
    return compiled_function


class _Locator(UserProvidedCacheLocator):  # type: ignore[misc]  # Numba has no types that we look at
    """Numba's for `NUMBA_CACHE_DIR`, which passes over a folder that it may not write to, however full it is."""

    def ensure_cache_path(self) -> None:
        """Raises `OSError` where there is no folder and none can be made."""
        if not Path(self.get_cache_path()).is_dir():
            super().ensure_cache_path()


class _Files(CompileResultCacheImpl):  # type: ignore[misc]  # likewise
    _locator_classes: ClassVar = [_Locator, *CompileResultCacheImpl._locator_classes]  # noqa: SLF001  Numba's way to say where


class _Cache(FunctionCache):  # type: ignore[misc]  # likewise
    """Numba's, but a full disk or a file that a power failure has cut short costs no more than time."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Machine code for a signature, or `None`."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001  a damaged pickle raises whatever it likes
            troubles.append(repr(error))
            self.save(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code for a signature."""
        self.save(lambda: super(_Cache, self).save_overload(sig, data))

    def save(self, write: Callable[[], None]) -> None:
        """Write to the cache, if that is possible."""
        try:
            write()
        except Exception as error:  # noqa: BLE001  see above
            troubles.append(repr(error))
