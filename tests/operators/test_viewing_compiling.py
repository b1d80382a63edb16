from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest
from numba.core.caching import FunctionCache, IndexDataCacheFile

from operators.viewing import compiling, warm

SOURCE = """
from operators.viewing.compiling import compiled

@compiled
def doubled(number):
    return 2 * number
"""


@pytest.fixture
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def troubles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(compiling, "troubles", found)
    return found


def loaded(path: Path) -> Callable[[int], int]:
    """The function, compiled as a process does that has just started."""
    if not path.exists():
        path.write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("a_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[int], int] = module.doubled
    return function


def hits(function: Callable[[int], int]) -> int:
    found: int = sum(function.stats.cache_hits.values())  # type: ignore[attr-defined]  # Numba's
    return found


@pytest.mark.usefixtures("cache_directory")
def test_second_process_compiles_nothing(troubles: list[str], tmp_path: Path) -> None:
    assert loaded(tmp_path / "a_module.py")(21) == 42
    again = loaded(tmp_path / "a_module.py")
    assert again(21) == 42
    assert hits(again) == 1
    assert troubles == []


def test_filled_cache_that_cannot_be_written_is_read(
    cache_directory: Path, troubles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a_module.py"
    loaded(path)(21)
    # Of files that root itself may not write there are none here: this is how Numba finds out, and how it writes.
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(IndexDataCacheFile, "_open_for_write", read_only)
    before = {file: file.read_bytes() for file in cache_directory.rglob("*.nb*")}
    again = loaded(path)
    assert again(21) == 42
    assert hits(again) == 1
    assert troubles == []
    assert again(0.5) == 1.0  # type: ignore[arg-type]  # what it was not filled with is compiled, and told
    assert troubles == [repr(PermissionError(13, "Permission denied"))]
    assert before == {file: file.read_bytes() for file in cache_directory.rglob("*.nb*")}


def read_only(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_cache_that_a_power_failure_has_emptied_is_made_anew(
    suffix: str, cache_directory: Path, troubles: list[str], tmp_path: Path
) -> None:
    loaded(tmp_path / "a_module.py")(21)
    (cut,) = cache_directory.rglob(f"*.{suffix}")
    cut.write_bytes(b"")
    assert loaded(tmp_path / "a_module.py")(21) == 42
    assert len(troubles) == 1
    again = loaded(tmp_path / "a_module.py")
    assert again(21) == 42
    assert hits(again) == 1


@pytest.mark.usefixtures("cache_directory")
def test_disk_that_is_full_costs_only_time(
    troubles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FunctionCache, "save_overload", full)
    assert loaded(tmp_path / "a_module.py")(21) == 42
    assert troubles == ["OSError(28, 'No space left on device')"]


def test_place_without_any_cache_costs_only_time(troubles: list[str]) -> None:
    namespace: dict[str, Callable[[int], int]] = {}
    exec(compile(SOURCE, "<nowhere>", "exec"), namespace)  # noqa: S102  a function whose file nobody can write beside
    assert namespace["doubled"](21) == 42
    assert len(troubles) == 1
    assert "no locator available" in troubles[0]


def test_trouble_with_the_cache_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(warm, "troubles", ["no place", "no place either"])
    monkeypatch.setattr(warm, "_log", SimpleNamespace(warning=lambda event, **fields: told.append({event: fields})))
    warm.warm_up.cache_clear()
    warm.warm_up()
    warm.warm_up()
    assert told == [{"viewing.compiler_cache_unusable": {"problem": "no place", "functions": 2}}]
